from __future__ import annotations

import inspect
import signal
import sys
import threading
import types
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Set, Tuple, Type

import pytest

from shmstate import publishing, reading
from shmstate.errors import (
    CorruptSegment,
    InvalidOption,
    NotPublished,
    Overwritten,
    ReadTimeout,
    ReentrantPublish,
    StateTooLarge,
)
from shmstate.layout import HEARTBEAT, INTENT, LATEST, NEVER_WRITTEN, PAGE
from shmstate.protocol import Publishing
from shmstate.reading import Reading, live
from tests.core.stand_in import STRIDE, Bytes, Names, Owner, Stopped, View, Visitor, layout

NAME = "stand-in"
SLOTS = [2, 3, 4]


def payload_of(version: int) -> bytes:
    """What a writer here publishes as ``version``: neighbours differ in every byte and in length."""
    return bytes([version % 251 + 1]) * (9 + 3 * (version % 3))


class Code(NamedTuple):
    """The steps of both sides, as they are or changed."""

    open_publishing: Callable[..., Publishing]
    open_reading: Callable[..., Reading]


PROTOCOL = Code(publishing.open_publishing, reading.open_reading)


class Scene(NamedTuple):
    """One writer and one reader of one state, with the hooks of each."""

    names: Names
    owner: Owner
    visitor: Visitor
    writer: Publishing
    reader: Reading
    publish_bytes: Callable[[bytes], int]

    @property
    def shared(self) -> Bytes:
        """Where the name leads."""
        return self.names.named

    @property
    def writing(self) -> View:
        return self.owner.segment

    @property
    def reading(self) -> View:
        return self.visitor.segment

    def publish(self, times: int = 1) -> None:
        for _ in range(times):
            self.publish_bytes(payload_of(self.shared.words[LATEST] + 1))


def as_it_is(payload: bytes) -> bytes:
    return payload


def unchanged(payload: bytes, error: Exception) -> Exception:
    return error


def scene(
    slots: int = 4,
    *,
    checksum: bool = False,
    weak: bool = False,
    tries: int = 5,
    code: Code = PROTOCOL,
    grows: bool = True,
) -> Scene:
    shape = layout(slots, checksum)
    names = Names(Bytes(shape))
    owner, visitor = Owner(names, View(names.named, weak)), Visitor(names, View(names.named, weak))
    writer, reader = code.open_publishing(owner, NAME, grows=grows), code.open_reading(visitor, NAME, tries)
    owner.segment.go_on()
    return Scene(names, owner, visitor, writer, reader, writer.through(as_it_is, unchanged))


def snapshot_of(reader: Reading) -> Tuple[bytes, int]:
    payload, version, _ = reader.snapshot()
    return payload, version


# The order of accesses: what the argument in protocol.py rests on.


def without_repeats(accesses: List[str]) -> List[str]:
    """The pieces of one copy as one access."""
    return [now for before, now in zip([""], accesses)] + [
        now for before, now in zip(accesses, accesses[1:]) if now != before
    ]


@pytest.mark.parametrize(
    ("checksum", "weak", "expected"),
    [
        (False, False, "commit 1|store INTENT|fill 1|store LENGTH 1|store PUBLISHED 1|store LATEST"),
        (True, False, "commit 1|store INTENT|fill 1|store LENGTH 1|store PUBLISHED 1|store CHECKSUM 1|store LATEST"),
        (
            True,
            True,
            "commit 1|fence|store INTENT|fence|fill 1|store LENGTH 1|store PUBLISHED 1|store CHECKSUM 1|fence|store LATEST",
        ),
    ],
)
def test_publish_commits_then_takes_the_steps_w1_w2_w3(checksum: bool, weak: bool, expected: str) -> None:
    play = scene(checksum=checksum, weak=weak)

    play.publish()

    commit, *steps = expected.split("|")
    assert without_repeats(play.writing.accesses) == ["load LATEST", commit, "load LATEST", *steps]


def test_publish_into_a_slot_that_is_committed_commits_nothing() -> None:
    play = scene(2)
    play.publish(2)
    play.writing.go_on()

    play.publish()

    assert without_repeats(play.writing.accesses)[:2] == ["load LATEST", "store INTENT"]


def test_read_bytes_takes_the_steps_r1_to_r4_and_loads_nothing_else() -> None:
    play = scene()
    play.publish()

    play.reader.read_bytes()

    assert without_repeats(play.reading.accesses) == ["load LATEST", "load LENGTH 1", "copy 1", "load INTENT"]


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize(
    ("weak", "expected"),
    [
        (False, "load LATEST|load LENGTH 1|load PUBLISHED 1|load CHECKSUM 1|copy 1|load INTENT"),
        (True, "load LATEST|fence|load LENGTH 1|load PUBLISHED 1|load CHECKSUM 1|copy 1|fence|load INTENT"),
    ],
)
def test_snapshot_takes_the_steps_r1_to_r4(checksum: bool, weak: bool, expected: str) -> None:
    play = scene(checksum=checksum, weak=weak)
    play.publish()

    play.reader.snapshot()

    # First it looks whether the state has moved (R5).
    assert without_repeats(play.reading.accesses) == ["load INTENT", *expected.split("|")]


def test_read_bytes_has_the_fences_too_where_the_machine_is_weak() -> None:
    play = scene(weak=True)
    play.publish()

    play.reader.read_bytes()

    steps = [access for access in without_repeats(play.reading.accesses)[2:] if "PUBLISHED" not in access]
    assert [s for s in steps if "CHECKSUM" not in s] == [
        "load INTENT",
        "load LATEST",
        "fence",
        "load LENGTH 1",
        "copy 1",
        "fence",
        "load INTENT",
    ]


def test_a_reader_stores_nothing() -> None:
    play = scene()
    play.publish()
    before = bytes(play.shared.data)

    play.reader.read_bytes()
    play.reader.snapshot()

    assert bytes(play.shared.data) == before
    assert [access for access in play.reading.accesses if access.startswith(("store", "fill"))] == []


def test_take_is_given_the_payloads_range_and_may_copy_it_anywhere() -> None:
    play = scene()
    play.publish()

    taken, version, _ = play.reader.snapshot(lambda _view, start, stop: (start, stop))

    assert taken == (PAGE + STRIDE, PAGE + STRIDE + len(payload_of(1)))
    assert version == 1


# What is published and read.


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("slots", SLOTS)
def test_versions_count_up_from_1_and_each_is_read_back(slots: int, checksum: bool) -> None:
    play = scene(slots, checksum=checksum)

    for version in range(1, 3 * slots):
        assert play.publish_bytes(payload_of(version)) == version
        assert play.reader.read_bytes() == payload_of(version)
        assert snapshot_of(play.reader) == (payload_of(version), version)
        assert play.reader.latest() == play.writer.latest() == version


@pytest.mark.parametrize("payload", [b"", b"x", bytes(STRIDE)], ids=len)
def test_a_payload_may_have_any_length_up_to_the_stride(payload: bytes) -> None:
    play = scene()

    play.publish_bytes(payload)

    assert play.reader.read_bytes() == payload


def test_a_longer_payload_is_refused_if_it_may_not_grow_and_the_last_state_stands() -> None:
    play = scene(grows=False)
    play.publish()
    before = bytes(play.shared.data)

    with pytest.raises(StateTooLarge, match=f"'{NAME}': 8193 bytes are more than its max_size of 8192"):
        play.publish_bytes(bytes(STRIDE + 1))

    assert bytes(play.shared.data) == before


def test_growth_commits_the_new_length_once_a_slot() -> None:
    play = scene(2)
    play.publish(2)
    play.writing.commits.clear()

    for length in (100, 100, STRIDE, STRIDE, STRIDE, 5, 5, STRIDE):
        play.publish_bytes(bytes(length))

    # What is smaller lies in the page that was committed as a whole.
    assert play.writing.commits == [(PAGE + STRIDE, STRIDE), (PAGE, STRIDE)]


def test_the_live_bytes_of_a_checked_state_are_given_unchecked() -> None:
    play = scene(checksum=True)
    play.publish()
    play.shared.data[PAGE + STRIDE] ^= 1

    taken, version, _ = play.reader.snapshot(live)

    assert (bytes(taken[1:]), version) == (payload_of(1)[1:], 1)


def test_a_beat_is_seen_by_the_reader() -> None:
    play = scene()
    was = play.reader.heartbeat()

    play.writer.beat()

    assert was == 0
    assert play.reader.heartbeat() == play.shared.words[HEARTBEAT] > 0


def test_the_time_of_publishing_is_part_of_the_snapshot() -> None:
    play = scene()
    play.publish()
    _, _, first = play.reader.snapshot()

    play.publish()

    assert play.reader.snapshot()[2] > first > 0


def test_a_side_whose_segment_is_closed_raises_what_it_was_given_for_that() -> None:
    play = scene()
    play.publish()
    side = PROTOCOL.open_reading(play.visitor, NAME, closed=lambda: LookupError("reader"))
    kept = side.read_bytes

    play.writer.retire(lambda: LookupError("writer"))
    for callback in play.reading.closing:
        callback()

    writers: List[Callable[[], object]] = [lambda: play.publish_bytes(b""), play.writer.beat, play.writer.latest]
    for call in writers:
        with pytest.raises(LookupError, match="writer"):
            call()
    readers: List[Callable[[], object]] = [
        kept,
        side.read_bytes,
        side.whole,
        side.snapshot,
        side.latest,
        side.heartbeat,
    ]
    readers += [partial(side.of_version, 1), side.view]
    for read in readers:
        with pytest.raises(LookupError, match="reader"):
            read()


# Death and errors at every access of a publish.


def accesses_of_a_publish(published: int, slots: int, checksum: bool = False, weak: bool = False) -> int:
    """How many it takes to publish once more."""
    play = scene(slots, checksum=checksum, weak=weak)
    play.publish(published)
    play.writing.go_on()
    play.publish()
    return len(play.writing.accesses)


VARIANTS = [(slots, checksum, weak) for slots in SLOTS for checksum in (False, True) for weak in (False, True)]


@pytest.mark.parametrize(("slots", "checksum", "weak"), VARIANTS)
def test_a_writer_that_dies_at_any_access_leaves_the_last_state_to_readers(
    slots: int, checksum: bool, weak: bool
) -> None:
    for published in range(2 * slots):
        for number in range(accesses_of_a_publish(published, slots, checksum, weak)):
            play = scene(slots, checksum=checksum, weak=weak)
            play.publish(published)
            play.writing.stop_before(number)

            with pytest.raises(Stopped):
                play.publish()

            if published:
                assert play.reader.read_bytes() == payload_of(published)
                assert snapshot_of(play.reader) == (payload_of(published), published)
                assert play.reader.retries() == 0
            else:
                with pytest.raises(NotPublished):
                    play.reader.read_bytes()


@pytest.mark.parametrize(("slots", "checksum", "weak"), VARIANTS)
def test_the_owner_after_a_death_at_any_access_publishes_the_same_version_anew(
    slots: int, checksum: bool, weak: bool
) -> None:
    for number in range(accesses_of_a_publish(slots + 1, slots, checksum, weak)):
        play = scene(slots, checksum=checksum, weak=weak)
        play.publish(slots + 1)
        play.writing.stop_before(number)
        with pytest.raises(Stopped):
            play.publish()

        heir = publishing.open_publishing(Owner(play.names, View(play.shared, weak)), NAME)
        version = heir.through(as_it_is, unchanged)(b"of the heir")

        assert version == slots + 2
        assert snapshot_of(play.reader) == (b"of the heir", version)


@pytest.mark.parametrize(("slots", "checksum", "weak"), VARIANTS)
def test_a_publish_that_an_error_ended_at_any_access_can_be_made_again(slots: int, checksum: bool, weak: bool) -> None:
    for number in range(accesses_of_a_publish(3, slots, checksum, weak)):
        play = scene(slots, checksum=checksum, weak=weak)
        play.publish(3)
        play.writing.stop_before(number)
        with pytest.raises(Stopped):
            play.publish()
        play.writing.go_on()

        version = play.publish_bytes(b"the second time")

        assert version == 4
        assert play.reader.read_bytes() == b"the second time"


def test_memory_that_cannot_be_committed_changes_nothing() -> None:
    play = scene()
    play.publish()
    before = bytes(play.shared.data)
    play.writing.stop_before(1)

    with pytest.raises(Stopped, match="commit"):
        play.publish()

    assert bytes(play.shared.data) == before


def test_memory_that_could_not_be_committed_is_asked_for_again() -> None:
    play = scene(2)
    play.publish(2)

    for length in (STRIDE, STRIDE):
        play.writing.stop_before(1)
        with pytest.raises(Stopped, match="commit 1"):
            play.publish_bytes(bytes(length))
    play.writing.go_on()
    play.publish_bytes(bytes(STRIDE))

    assert play.writing.commits[-1] == (PAGE + STRIDE, STRIDE)


# Everything that can come in between: for each access of a read, publishes before it, the last cut short anywhere.


class Torn(AssertionError):
    """A reader got what was never published, or something older than it must."""


def judge(payload: bytes, version: Optional[int], not_before: int, latest: int) -> None:
    published = {payload_of(v): v for v in range(not_before, latest + 1)}
    if payload not in published or (version is not None and payload != payload_of(version)):
        raise Torn(f"{payload!r} as version {version}, while {not_before} to {latest} were published")


def read_bytes_of(play: Scene) -> Tuple[bytes, Optional[int]]:
    return play.reader.read_bytes(), None


def whole_snapshot_of(play: Scene) -> Tuple[bytes, Optional[int]]:
    return snapshot_of(play.reader)


def version_before_the_last_of(play: Scene) -> Tuple[bytes, Optional[int]]:
    """The oldest that K slots keep; that it is gone may only be said if it is."""
    version = play.shared.words[LATEST] - play.shared.shape.slots + 2
    try:
        payload, told = play.reader.of_version(version)[:2]
    except Overwritten as error:
        if play.shared.words[INTENT] - version < play.shared.shape.slots:
            raise Torn(f"version {version} is there") from error
        return payload_of(play.shared.words[LATEST]), None
    if (payload, told) != (payload_of(version), version):
        raise Torn(f"{payload!r} as version {version}")
    return payload_of(play.shared.words[LATEST]), None


def reads_with_one_interruption(
    read: Callable[[Scene], Tuple[bytes, Optional[int]]],
    slots: int,
    code: Code = PROTOCOL,
    checksum: bool = False,
) -> Iterator[Tuple[int, int]]:
    """Read once for each way to be interrupted, judge each, and yield the place and the retries it took."""
    began = slots + 1
    whole = scene(slots, code=code, checksum=checksum)
    whole.publish(began)
    read(whole)
    steps = max(accesses_of_a_publish(began + more, slots, checksum) for more in range(3))
    for place in range(len(whole.reading.accesses) + 1):
        for publishes in range(slots + 3):
            for last in range(steps + 1):
                play = scene(slots, code=code, checksum=checksum)
                play.publish(began)

                def interrupt(play: Scene = play, publishes: int = publishes, last: int = last) -> None:
                    play.publish(publishes)
                    play.writing.stop_before(last)
                    try:
                        play.publish()
                    except Stopped:
                        pass

                play.reading.once_before(place, interrupt)
                payload, version = read(play)
                judge(payload, version, began, play.shared.words[LATEST])
                yield place, play.reader.retries()


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("read", [read_bytes_of, whole_snapshot_of])
def test_no_publish_in_between_tears_a_read_or_makes_it_old(
    read: Callable[[Scene], Tuple[bytes, Optional[int]]], slots: int, checksum: bool
) -> None:
    interruptions = list(reads_with_one_interruption(read, slots, checksum=checksum))

    assert max(place for place, _ in interruptions) >= 6
    assert any(retries for _, retries in interruptions), "nothing ever got in the way, so nothing was shown"


def mutant(*replacements: Tuple[str, str, int]) -> Code:
    """The steps with their text changed: ``(what, by what, how often it occurs)``."""
    texts = {module.__name__: inspect.getsource(module) for module in (publishing, reading)}
    for old, new, times in replacements:
        found = sum(text.count(old) for text in texts.values())
        assert found == times, f"{old!r} occurs {found} times: the mutant is out of date"
        texts = {name: text.replace(old, new) for name, text in texts.items()}
    module = types.ModuleType("mutant")
    sys.modules[module.__name__] = module
    try:
        for name, text in texts.items():
            exec(compile(text, f"mutant of {name}", "exec"), vars(module))
    finally:
        del sys.modules[module.__name__]
    return Code(module.open_publishing, module.open_reading)


W1, W3 = "words[intent_at] = version", "words[latest_at] = version"
R4_LOAD, R4_QUICK = "intent: int = these[intent_at]", "intent == version or intent - version < slots"
R4_FULL = "return intent - version < slots"
LOAD_AHEAD = "ahead[:] = [steps.words[slot.length] for slot in steps.layout.where]"
MUTANTS = {
    "R4 allows one publish too many": [("- version < slots", "- version <= slots", 2)],
    "R4 is skipped": [(R4_QUICK, "True", 1), (R4_FULL, "return True", 1)],
    "R4 looks at LATEST": [
        (R4_LOAD, "intent = these[LATEST]", 1),
        (R4_FULL, "return words[LATEST] - version < slots", 1),
    ],
    "W1 is dropped": [(W1, "pass", 1)],
    "W1 and W3 are swapped": [(W1, "W3", 1), (W3, W1, 1), ("W3  # W1", W3, 1)],
    "W3 comes before the payload": [(W1, f"{W1}; {W3}", 1)],
    "all versions in one slot": [
        ("slot = version % slots", "slot = 0", 2),
        ("places[version % slots]", "places[0]", 1),
        ("where[version % slots]", "where[0]", 1),
    ],
    "LENGTH is loaded before LATEST": [
        ("_MOST_MOVES = 1000", "_MOST_MOVES, ahead = 1000, [0]", 1),
        (
            "version: int = these[latest_at]  # R1",
            "ahead[:] = [these[n] for _, n in places]; version = these[LATEST]",
            1,
        ),
        ("version: int = steps.words[LATEST]  # R1", f"{LOAD_AHEAD}; version = steps.words[LATEST]", 1),
        ("latest_version = steps.words[LATEST]  # R1", f"{LOAD_AHEAD}; latest_version = steps.words[LATEST]", 1),
        ("length: int = these[length_at]", "length = ahead[version % slots]", 1),
        ("length: int = words[length_at]", "length = ahead[version % slots]", 1),
    ],
}
#: A version that was whole before the read began stays whatever these do to the next one.
HARMLESS_TO_OLD_VERSIONS = ("W3 comes before the payload", "LENGTH is loaded before LATEST")


@pytest.mark.parametrize("read", [read_bytes_of, whole_snapshot_of, version_before_the_last_of])
@pytest.mark.parametrize("mutation", MUTANTS)
def test_a_mutant_of_the_protocol_is_caught(
    mutation: str, read: Callable[[Scene], Tuple[bytes, Optional[int]]]
) -> None:
    if read is version_before_the_last_of and mutation in HARMLESS_TO_OLD_VERSIONS:
        pytest.skip("it spoils the next version alone")
    code = mutant(*MUTANTS[mutation])

    with pytest.raises((Torn, IndexError, KeyError)):
        for slots in SLOTS:
            list(reads_with_one_interruption(read, slots, code=code))


def test_a_mutant_that_changes_nothing_is_not_caught() -> None:
    assert list(reads_with_one_interruption(read_bytes_of, 2, code=mutant()))


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("slots", SLOTS)
def test_a_version_is_whole_or_gone_whatever_is_published_in_between(slots: int, checksum: bool) -> None:
    interruptions = list(reads_with_one_interruption(version_before_the_last_of, slots, checksum=checksum))

    assert max(place for place, _ in interruptions) >= 6


@pytest.mark.parametrize("slots", SLOTS)
def test_a_version_is_whole_until_its_slot_is_taken_and_from_then_on_never_again(slots: int) -> None:
    steps = accesses_of_a_publish(slots, slots)
    seen = []
    for stop in range(steps + 1):
        play = scene(slots)
        play.publish(slots)
        play.writing.stop_before(stop)
        with suppress(Stopped):
            play.publish()

        start = PAGE + STRIDE * (1 % slots)
        is_untouched = play.shared.data[start : start + len(payload_of(1))] == payload_of(1)
        *_, here = play.reader.view()
        seen.append((here.is_whole(1), is_untouched))

    assert (True, False) not in seen
    assert {(True, True), (False, False)} <= set(seen)
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize(
    ("version", "error", "said"),
    [
        (0, InvalidOption, "version 0: the first is 1"),
        (6, NotPublished, "version 6 is not published yet; the latest is 5"),
        (1, Overwritten, "version 1 is gone, its slot is version 5's: the writer is at 5, and 4 slots keep 3 versions"),
    ],
)
def test_a_version_that_is_not_there_is_said_so(version: int, error: Type[Exception], said: str) -> None:
    play = scene(4)
    play.publish(5)

    with pytest.raises(error, match=f"'{NAME}': {said}"):
        play.reader.of_version(version)


def test_an_old_version_that_somebody_else_changed_is_corruption() -> None:
    play = scene(4, checksum=True)
    play.publish(3)
    play.shared.data[PAGE + 2 * STRIDE] ^= 1

    with pytest.raises(CorruptSegment, match=r"version 2 is not whole though nobody writes.*checksum differs"):
        play.reader.of_version(2)


@pytest.mark.parametrize("slots", SLOTS)
def test_a_reader_that_reads_on_never_goes_back(slots: int) -> None:
    play = scene(slots)
    play.publish()
    seen = []

    for place in range(40):
        play.reading.once_before(place, partial(play.publish, place % (2 * slots)))
        seen.append(snapshot_of(play.reader)[1])

    assert seen == sorted(seen)
    assert seen[-1] > 2 * slots


# Errors of readers.


def test_nothing_published_is_said_so() -> None:
    play = scene()

    for read in (play.reader.read_bytes, play.reader.snapshot):
        with pytest.raises(NotPublished, match=f"state '{NAME}': nothing has been published yet"):
            read()


@pytest.mark.parametrize("read", ["read_bytes", "snapshot"])
def test_a_read_that_is_spoilt_every_time_ends_after_its_tries(read: str) -> None:
    play = scene(2, tries=7)
    play.publish()

    def spoil(access: str) -> None:
        if access == "load INTENT":
            play.publish(2)

    play.reading.before = spoil

    with pytest.raises(ReadTimeout, match=r"'stand-in': no whole copy in 7 tries, from version \d+ to \d+.*2 slots"):
        getattr(play.reader, read)()
    assert play.reading.accesses.count("load INTENT") == 2 * 7 + (read == "read_bytes")
    assert play.reader.retries() == 7 + (read == "read_bytes")


@pytest.mark.parametrize("read", ["read_bytes", "snapshot"])
@pytest.mark.parametrize(
    ("word", "value", "said"),
    [
        ("LENGTH 1", STRIDE + 1, "LENGTH 8193 of 8192 at most"),
        ("LENGTH 1", NEVER_WRITTEN, "LENGTH 18446744073709551615"),
        ("INTENT", 5, "INTENT 5"),
    ],
)
def test_a_word_that_no_writer_could_have_left_is_corruption(read: str, word: str, value: int, said: str) -> None:
    play = scene(4)
    play.publish()
    (index,) = [index for index, name in play.shared.names.items() if name == word]
    play.shared.words[index] = value

    with pytest.raises(CorruptSegment, match=f"'{NAME}': version 1 is not whole though nobody writes.*{said}"):
        getattr(play.reader, read)()


@pytest.mark.parametrize("read", ["read_bytes", "snapshot"])
def test_bytes_that_differ_from_their_checksum_are_corruption(read: str) -> None:
    play = scene(checksum=True)
    play.publish()
    play.shared.data[PAGE + STRIDE] ^= 1

    with pytest.raises(CorruptSegment, match="checksum differs"):
        getattr(play.reader, read)()


def test_bytes_that_were_changed_are_not_noticed_without_a_checksum() -> None:
    play = scene(checksum=False)
    play.publish()
    play.shared.data[PAGE + STRIDE] ^= 1

    assert play.reader.read_bytes() != payload_of(1)


@pytest.mark.parametrize("checksum", [False, True])
def test_a_checksum_notices_a_tear_that_r4_overlooked(checksum: bool) -> None:
    play = scene(2, checksum=checksum, code=mutant((R4_QUICK, "True", 1), (R4_FULL, "return True", 1)))
    play.publish()
    first_piece = len(["INTENT", "LATEST", "LENGTH", "PUBLISHED", "CHECKSUM"])
    play.reading.once_before(first_piece + 1, lambda: play.publish(2))

    payload, _ = snapshot_of(play.reader)

    assert play.reading.accesses[first_piece].startswith("copy")
    assert (payload == payload_of(3)) == checksum
    assert play.reader.retries() == checksum


@pytest.mark.parametrize("committed", [False, True])
def test_a_version_that_no_word_can_hold_is_corruption_and_the_writer_stays_usable(committed: bool) -> None:
    play = scene(2)
    play.publish(3 * committed)
    was = play.shared.words[LATEST]
    play.shared.words[LATEST] = 2**64 - 1

    moves = lambda: play.publish_bytes(bytes(STRIDE + 1))  # noqa: E731
    for use in (lambda: play.publish_bytes(b"x"), lambda: play.writer.lend(1, None), moves):
        with pytest.raises(CorruptSegment, match=f"'{NAME}': LATEST is 18446744073709551615, which no writer"):
            use()

    play.shared.words[LATEST] = was
    assert_still_usable(play)


# Who else may call.


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Sets what SIGUSR1 does, until the end of the test."""
    before = signal.getsignal(signal.SIGUSR1)

    def set_handler(action: Callable[[], None]) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: action())

    yield set_handler

    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("slots", SLOTS)
def test_a_signal_handler_that_publishes_in_the_middle_of_a_publish_is_refused(
    slots: int, on_signal: Callable[[Callable[[], None]], None]
) -> None:
    for number in range(accesses_of_a_publish(slots, slots)):
        play = scene(slots)
        play.publish(slots)
        refused: List[str] = []

        def publish_in_between(play: Scene = play, refused: List[str] = refused) -> None:
            try:
                play.publish_bytes(b"in between")
            except ReentrantPublish as error:
                refused.append(str(error))

        on_signal(publish_in_between)
        play.writing.once_before(number, lambda: signal.raise_signal(signal.SIGUSR1))

        play.publish()

        assert len(refused) == 1
        assert NAME in refused[0]
        assert "signal handler" in refused[0]
        assert snapshot_of(play.reader) == (payload_of(slots + 1), slots + 1)


def test_a_refusal_that_ends_the_publish_as_well_leaves_the_writer_usable(
    on_signal: Callable[[Callable[[], None]], None],
) -> None:
    play = scene()
    play.publish()
    on_signal(play.publish)
    play.writing.once_before(3, lambda: signal.raise_signal(signal.SIGUSR1))

    with pytest.raises(ReentrantPublish):
        play.publish()

    assert play.reader.read_bytes() == payload_of(1)
    play.publish()
    assert play.reader.read_bytes() == payload_of(2)


def at_instruction(number: int, action: Callable[[], None]) -> Callable[..., Any]:
    """A trace function that does ``action``, once, before an instruction of a publish: where signals come."""
    left = [number]

    def trace(frame: types.FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.endswith("publishing.py"):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] == -1:
                action()
        return trace

    return trace


def in_place() -> Scene:
    """A third publish to come, which stays where the state is."""
    play = scene(2)
    play.publish(2)
    return play


def in_another_segment() -> Scene:
    """A third publish to come, which moves the state."""
    play = in_place()
    writer = publishing.open_publishing(play.owner, NAME, wanted=layout(3))
    return play._replace(writer=writer, publish_bytes=writer.through(as_it_is, unchanged))


def instructions_of_a_publish(ready: Callable[[], Scene]) -> int:
    """How many instructions a publish is, on this Python."""
    play = ready()
    counted = []

    def trace(frame: types.FrameType, event: str, arg: object) -> Any:
        local = at_instruction(-1, lambda: None)(frame, event, arg)
        if local is not None and event == "opcode":
            counted.append(frame.f_lasti)
        return local and trace

    publish_traced(play, trace)
    assert len(counted) > 50
    return len(counted)


def publish_traced(play: Scene, trace: Callable[..., Any]) -> None:
    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # 3.12 takes notice of it only when a trace function is set after it
    sys.settrace(trace)
    try:
        play.publish()
    finally:
        sys.settrace(before)


def assert_still_usable(play: Scene) -> None:
    """By another thread, which could not if the turn were still taken."""
    was = play.shared.words[LATEST]
    thread = threading.Thread(target=play.publish, daemon=True)
    thread.start()
    thread.join(10)
    assert snapshot_of(play.reader) == (payload_of(was + 1), was + 1)
    assert play.publish_bytes(payload_of(was + 2)) == was + 2


@pytest.mark.parametrize("ready", [in_place, in_another_segment])
def test_an_exception_before_any_instruction_of_a_publish_leaves_the_writer_usable(ready: Callable[[], Scene]) -> None:
    def stop() -> None:
        raise Stopped

    stopped = 0
    for number in range(instructions_of_a_publish(ready)):
        play = ready()

        try:
            publish_traced(play, at_instruction(number, stop))
        except Stopped:
            stopped += 1

        assert snapshot_of(play.reader) in [(payload_of(2), 2), (payload_of(3), 3)]
        assert_still_usable(play)
    assert stopped > 50


@pytest.mark.parametrize("ready", [in_place, in_another_segment])
def test_a_publish_from_a_signal_before_any_instruction_of_a_publish_leaves_the_writer_usable(
    ready: Callable[[], Scene],
) -> None:
    refused = 0
    for number in range(instructions_of_a_publish(ready)):
        play = ready()

        try:
            publish_traced(play, at_instruction(number, play.publish))
        except ReentrantPublish:
            refused += 1

        _, version = snapshot_of(play.reader)
        assert version in (2, 3, 4)
        assert_still_usable(play)
    assert refused > 20


def test_threads_that_share_a_writer_take_turns() -> None:
    play = scene(2)
    versions: List[int] = []
    errors: List[Exception] = []
    interval = sys.getswitchinterval()

    def publish() -> None:
        try:
            for _ in range(100):
                versions.append(play.publish_bytes(b"0123456789abcdef"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert errors == []
    assert sorted(versions) == list(range(1, 401))
    assert play.writer.latest() == 400


def test_threads_that_share_a_reader_each_get_whole_states() -> None:
    play = scene(4, tries=1000)
    play.publish()
    done = threading.Event()
    errors: Set[str] = set()

    def read() -> None:
        last = 0
        while not done.is_set():
            payload, version = snapshot_of(play.reader)
            if payload != payload_of(version) or version < last:
                errors.add(f"{payload!r} as version {version} after {last}")
            last = version

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    play.publish(500)
    done.set()
    for thread in threads:
        thread.join()

    assert errors == set()
