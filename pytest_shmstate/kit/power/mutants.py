"""Mutants of the protocol, which the explorer has to kill: what may go wrong with each invariant, done on purpose.

Each names the invariant that it breaks, and the scenario in which that has to be found. One that survives is a hole in
the kit.
"""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple

from pytest_shmstate.kit.power.mutation import Edit

W1 = "words[intent_at] = version  # W1"
W3 = "words[latest_at] = version  # W3"
R4_LOAD, R4_QUICK = "intent: int = these[intent_at]", "intent == version or intent - version < slots"
R4_FULL = "return intent - version < slots"
S1 = "title.prepare(layout, Content(version, payload, published, checksum, words[HEARTBEAT], words[wake_at]))  # S1"
S2, S3 = "words[intent_at] = RETIRED  # S2", "title.take_name()  # S3"
_AHEAD = "ahead[:] = [steps.words[slot.length] for slot in steps.layout.where]"


class Mutant(NamedTuple):
    """``guards``: the invariant that it breaks. ``stage``: the key of the scenario that has to find it."""

    about: str
    guards: str
    stage: str
    edits: Tuple[Edit, ...]


def _writer(old: str, new: str, times: int = 1) -> Edit:
    return Edit("publishing", old, new, times)


def _reader(old: str, new: str, times: int = 1) -> Edit:
    return Edit("reading", old, new, times)


MUTANTS: Dict[str, Mutant] = {
    "r4-one-too-many": Mutant(
        "R4 allows the version that is being overwritten",
        "I2",
        "one writer",
        (_reader("- version < slots", "- version <= slots", 2),),
    ),
    "r4-skipped": Mutant(
        "R4 is not asked", "I2", "one writer", (_reader(R4_QUICK, "True"), _reader(R4_FULL, "return True"))
    ),
    "r4-of-latest": Mutant(
        "R4 looks at LATEST, which moves too late",
        "I2",
        "one writer",
        (
            _reader(R4_LOAD, "intent = these[LATEST]"),
            _reader(R4_FULL, "return words[LATEST] - version < slots"),
        ),
    ),
    "r4-before-the-copy": Mutant(
        "R4 comes before R3",
        "I2",
        "one writer",
        (
            _reader(R4_QUICK, "whole"),
            _reader(
                "length: int = these[length_at]  # R2",
                f"intent = these[intent_at]; whole = {R4_QUICK}; length = these[length_at]",
            ),
        ),
    ),
    "w1-dropped": Mutant("INTENT is never stored", "I2", "one writer", (_writer(W1, "pass"),)),
    "w1-after-the-payload": Mutant(
        "INTENT is stored after the payload",
        "I2",
        "one writer",
        (
            _writer(W1, "pass"),
            _writer(
                "words[length_at] = length\n                words[published_at]",
                f"{W1[:-6]}; words[length_at] = length\n                words[published_at]",
            ),
        ),
    ),
    "w3-before-the-payload": Mutant(
        "LATEST is stored before the payload", "I2", "one writer", (_writer(W1, f"{W1[:-6]}; {W3[:-6]}"),)
    ),
    "length-after-latest": Mutant(
        "LENGTH is stored after LATEST",
        "I2",
        "one writer",
        (
            _writer("words[length_at] = length\n                words[published_at]", "words[published_at]"),
            _writer(W3, f"{W3[:-6]}; words[length_at] = length"),
        ),
    ),
    "length-before-latest": Mutant(
        "LENGTH is loaded before LATEST",
        "I2",
        "one writer",
        (
            _reader("_MOST_MOVES = 1000", "_MOST_MOVES, ahead = 1000, [0]"),
            _reader(
                "version: int = these[latest_at]  # R1",
                "ahead[:] = [these[n] for _, n in places]; version = these[LATEST]",
            ),
            _reader("version: int = steps.words[LATEST]  # R1", f"{_AHEAD}; version = steps.words[LATEST]"),
            _reader("length: int = these[length_at]", "length = ahead[version % slots]"),
            _reader("length: int = words[length_at]", "length = ahead[version % slots]"),
        ),
    ),
    "one-slot": Mutant(
        "all versions lie in one slot",
        "I2",
        "one writer",
        (
            _writer("slot = version % slots", "slot = 0", 2),
            _reader("places[version % slots]", "places[0]"),
            _reader("where[version % slots]", "where[0]"),
        ),
    ),
    "slot-too-early": Mutant(
        "a version lies in the slot of the one before it, and is read from there",
        "I2",
        "one writer, K = 4",
        (
            _writer("slot = version % slots", "slot = (version - version % 2) % slots", 2),
            _reader("places[version % slots]", "places[(version - version % 2) % slots]"),
            _reader("where[version % slots]", "where[(version - version % 2) % slots]"),
        ),
    ),
    "versions-wrap": Mutant(
        "versions wrap around: R4 compares their last bits",
        "I2",
        "one writer",
        (
            _reader(R4_QUICK, "(intent - version) % 2 < slots"),
            _reader(R4_FULL, "return (intent - version) % 2 < slots"),
        ),
    ),
    "heir-begins-anew": Mutant(
        "the next owner starts with version 1",
        "I1",
        "a kill and an heir",
        (_writer("words[WAKE] = words[WAKE] % MOST_WAKES + 1 if notify else 0", "words[WAKE] = 0; words[LATEST] = 0"),),
    ),
    "heir-takes-the-version-begun": Mutant(
        "the next owner takes what was begun for published",
        "I5",
        "a kill and an heir",
        (
            _writer(
                "words[WAKE] = words[WAKE] % MOST_WAKES + 1 if notify else 0",
                "words[WAKE] = 0; words[LATEST] = words[INTENT]",
            ),
        ),
    ),
    "successor-begins-anew": Mutant(
        "a state that moves starts with version 1 again",
        "I1",
        "a move, versions told",
        (_writer("Content(version, payload,", "Content(1, payload,"),),
    ),
    "s2-dropped": Mutant("the segment that is left is not retired", "I8", "a move", (_writer(S2, "pass"),)),
    "s2-after-s3": Mutant(
        "the segment that is left is retired after the name was given away",
        "I8",
        "a move, and a reader that comes",
        (_writer(S2, "pass"), _writer(S3, f"{S3[:-6]}; {S2[:-6]}")),
    ),
    "s3-dropped": Mutant("the successor never gets the name", "I8", "a move", (_writer(S3, "pass"),)),
    "s1-empty": Mutant(
        "the successor gets its name before there is a state in it",
        "I8",
        "a move",
        (
            _writer(
                "title.prepare(layout, Content(version, payload, published, checksum, words[HEARTBEAT], words[wake_at]))",
                "title.prepare(layout, None)",
            ),
        ),
    ),
    "settle-stays": Mutant(
        "a writer goes on in the segment that it has left",
        "I8",
        "a move",
        (_writer("            bound = bind_owned()\n            if wanted", "            if wanted"),),
    ),
    "r5-dropped": Mutant(
        "readers do not follow",
        "I8",
        "a move",
        (
            _reader(
                "            if steps.words[INTENT] != RETIRED:\n                return steps",
                "            return steps",
            ),
        ),
    ),
    "r4-of-a-retired-segment": Mutant(
        "R4 of a retired segment allows one publish too many",
        "I8",
        "a kill, and an heir that moves",
        (_reader("intent = words[LATEST] + 1  # I8", "intent = words[LATEST]"),),
    ),
    "r4-of-a-retired-segment-skipped": Mutant(
        "what is copied out of a retired segment is believed",
        "I8",
        "a kill, and an heir that moves",
        (_reader("intent = words[LATEST] + 1  # I8", "return True"),),
    ),
    "old-bytes-with-new-words": Mutant(
        "a reader that follows keeps the bytes of the segment that it left",
        "I8",
        "a move",
        (
            _reader(
                "    words, data, slots, latest_at, intent_at = memory.words, memory.data, layout.slots, LATEST, INTENT",
                "    words, slots, latest_at, intent_at = memory.words, layout.slots, LATEST, INTENT\n"
                "    data = _bytes.setdefault(id(spoilt), memory.data)",
            ),
            _reader("_MOST_MOVES = 1000", "_MOST_MOVES, _bytes = 1000, {}"),
        ),
    ),
    "no-turn": Mutant(
        "who shares a state does not wait for his turn",
        "O6",
        "writers in turns",
        (_writer("                title.take_turn()\n", "                pass\n"),),
    ),
    "turn-ends-early": Mutant(
        "the turn ends before the publish",
        "O6",
        "writers in turns",
        (
            _writer(
                "take_turn_among_all()\n                version = publish_payload(payload)",
                "take_turn_among_all(); title.end_turn()\n                version = publish_payload(payload)",
            ),
        ),
    ),
    "nobody-follows-in-turn": Mutant(
        "who shares a state publishes on where it was, after another has moved it",
        "O6",
        "writers in turns, and a move",
        (_writer("title.segment is segment and (bound[0][INTENT] != RETIRED or not title.follow())", "True"),),
    ),
    "w4-dropped": Mutant(
        "nobody is woken",
        "I9",
        "sleepers",
        (
            _writer(
                "                if ring is not None:\n                    words[wake_at] = words[wake_at] % MOST_WAKES + 1  # W4\n                    ring()\n                if moment",
                "                if moment",
            ),
        ),
    ),
    "w4-before-w3": Mutant(
        "readers are woken before there is something new",
        "I9",
        "sleepers",
        (
            _writer(W3, "pass"),
            _writer(
                "                publishing = False\n                end_turn()\n                return version\n            except",
                f"                {W3[:-6]}\n                publishing = False\n                end_turn()\n                return version\n            except",
            ),
        ),
    ),
    "w4-without-a-count": Mutant(
        "readers are woken, and WAKE stays as it was",
        "I9",
        "sleepers",
        (
            _writer(
                "                    words[wake_at] = words[wake_at] % MOST_WAKES + 1  # W4\n                    ring()\n                if moment",
                "                    ring()\n                if moment",
            ),
        ),
    ),
    "w4-not-in-the-old-segment": Mutant(
        "a move wakes nobody where they sleep",
        "I9",
        "sleepers, and a move",
        (
            _writer(
                "        if ring is not None:\n            words[wake_at] = words[wake_at] % MOST_WAKES + 1  # W4\n            ring()\n        settle()",
                "        settle()",
            ),
        ),
    ),
    "r6-counts-too-late": Mutant(
        "WAKE is loaded after LATEST was looked at",
        "I9",
        "sleepers",
        (
            _reader(
                "        count: int = steps.words[WAKE]\n        if weak:\n            fence()\n        if not count or latest() > version or here is not steps:",
                "        is_new = latest() > version\n        count: int = steps.words[WAKE]\n        if not count or is_new or here is not steps:",
            ),
        ),
    ),
    "r6-does-not-look": Mutant(
        "who goes to sleep does not look once more",
        "I9",
        "sleepers",
        (_reader("not count or latest() > version or", "not count or"),),
    ),
    "no-fence-w1-w2": Mutant(
        "no fence between W1 and W2",
        "I2",
        "reordering",
        (
            _writer(
                "                words[intent_at] = version  # W1\n                if weak:\n                    fence()\n",
                "                words[intent_at] = version  # W1\n",
            ),
        ),
    ),
    "no-fence-w2-w3": Mutant(
        "no fence between W2 and W3",
        "I2",
        "reordering",
        (
            _writer(
                "                if weak:\n                    fence()\n                words[latest_at]",
                "                words[latest_at]",
            ),
        ),
    ),
    "no-fence-w3-w1": Mutant(
        "no fence before W1",
        "I6",
        "reordering",
        (
            _writer(
                "                if weak:\n                    fence()\n                words[intent_at]",
                "                words[intent_at]",
            ),
        ),
    ),
    "no-fence-r1-r2": Mutant(
        "no fence between R1 and R2",
        "I2",
        "reordering",
        (_reader("        if fence:\n            fence()\n        start, length_at", "        start, length_at"),),
    ),
    "no-fence-r3-r4": Mutant(
        "no fence between R3 and R4",
        "I2",
        "reordering",
        (_reader("        if self._fence:\n            self._fence()\n        intent: int", "        intent: int"),),
    ),
}
