"""The oracle's verdicts: every history that is right has a twin that is wrong, one field apart."""

from __future__ import annotations

import random
import re
import time
from typing import List, NamedTuple, Optional

import pytest

from pytest_shmstate.kit.oracle.checkers import check
from pytest_shmstate.kit.oracle.history import PUBLISH, READ, Event
from pytest_shmstate.kit.oracle.minimise import Unit, _least, minimise
from pytest_shmstate.kit.oracle.vacuity import require, what_was_met
from pytest_shmstate.kit.oracle.verdict import (
    ATOMIC,
    FUTURE,
    INTEGRITY,
    INVERSION,
    LEVELS,
    MALFORMED,
    NEVER_PUBLISHED,
    OK,
    ORDER,
    REGULAR,
    SAFE,
    STALE,
    UNKNOWN,
    VACUOUS,
    VIOLATED,
    Verdict,
)

_EVENT = re.compile(r"(\w+) ([wr])(-?\d+)(#\d+)? (\d+)-(\d*)(!?)(\??)")


def history(text: str) -> List[Event]:
    """``a w1 0-4``: process a publishes version 1 from 0 to 4. ``#7`` is its rank, ``!`` is wrong, ``?`` was refused."""
    events = []
    for one in text.split(", "):
        found = _EVENT.fullmatch(one)
        assert found, one
        process, operation, version, rank, began, ended, wrong, refused = found.groups()
        kind = PUBLISH if operation == "w" else READ
        until = int(ended) if ended else None
        told = "byte 9" if wrong else "", "Later" if refused else ""
        events.append(Event(process, kind, int(began), until, int(version), int((rank or "#0")[1:]), *told))
    return events


class Twins(NamedTuple):
    """A history that is right, one that is not, and what is said of it."""

    title: str
    right: str
    wrong: str
    rule: str
    sentence: str
    shared: Optional[bool] = None


TWINS = [
    # ---- one writer at a time
    Twins(
        "what came is whole",
        "a w1 0-4, b r1 5-6",
        "a w1 0-4, b r1 5-6!",
        INTEGRITY,
        "what came of the read by b (5 to 6) is wrong: byte 9",
    ),
    Twins("a publish may not raise", "a w1 0-4", "a w1 0-4!", INTEGRITY, "the publish by a (0 to 4) is wrong: byte 9"),
    Twins(
        "somebody published it",
        "a w1 0-4, b r1 5-6",
        "a w1 0-4, b r2 5-6",
        NEVER_PUBLISHED,
        "b read version 2 (5 to 6), which nobody published",
    ),
    Twins("no version is negative", "a w1 0-4, b r1 5-6", "a w1 0-4, b r-1 5-6", NEVER_PUBLISHED, "read version -1"),
    Twins(
        "a read may end as its publish begins",
        "a w1 5-9, b r1 2-5",
        "a w1 5-9, b r1 2-4",
        FUTURE,
        "the read of version 1 by b (2 to 4) had ended before its publish by a began at 5",
    ),
    Twins(
        "a read may begin as the next publish ends",
        "a w1 0-2, a w2 4-6, b r1 6-7",
        "a w1 0-2, a w2 4-6, b r1 7-7",
        STALE,
        "the read of version 1 by b (7 to 7) began after version 2 had been published, by a (4 to 6): it is stale",
    ),
    Twins(
        "there is nothing until something is there",
        "a w1 0-4, b r0 4-5",
        "a w1 0-4, b r0 5-5",
        STALE,
        "the read of nothing published yet by b (5 to 5) began after version 1",
    ),
    Twins(
        "reads that share an instant may differ",
        "a w1 0-9, b r1 1-4, c r0 4-6",
        "a w1 0-9, b r1 1-4, c r0 5-6",
        INVERSION,
        "the read of nothing published yet by c (5 to 6) began after the read of version 1 by b (1 to 4) had ended",
    ),
    Twins(
        "one process does not go back",
        "a w1 0-1, a w2 2-9, b r2 3-4, b r2 5-6",
        "a w1 0-1, a w2 2-9, b r2 3-4, b r1 5-6",
        INVERSION,
        "the state went back",
    ),
    Twins(
        "a refused read says nothing",
        "a w1 0-9, b r1 1-2, c r0 5-6?",
        "a w1 0-9, b r1 1-2, c r0 5-6",
        INVERSION,
        "the state went back",
    ),
    Twins("nor does one that never returned", "a w1 0-1, b r0 5-", "a w1 0-1, b r0 5-9", STALE, "it is stale"),
    # ---- killed, one at a time
    Twins(
        "a killed publish that was seen is seen for ever",
        "a w1 0-1, a w2 2-, b r1 3-4, b r2 5-6, b r2 7-8",
        "a w1 0-1, a w2 2-, b r1 3-4, b r2 5-6, b r1 7-8",
        INVERSION,
        "the read of version 1 by b (7 to 8) began after the read of version 2 by b (5 to 6) had ended",
    ),
    Twins(
        "a killed publish that is never seen is forgotten",
        "a w1 0-1, a w2 2-, b r1 3-4, c w3 5-6, d r1 6-9",
        "a w1 0-1, a w2 2-, b r1 3-4, c w3 5-6, d r1 7-9",
        STALE,
        "after version 3 had been published",
    ),
    Twins(
        "a killed publish gives way to its successor's",
        "a w1 0-, c w2 5-6, b r1 6-7",
        "a w1 0-, c w2 5-6, b r1 7-7",
        STALE,
        "after version 2 had been published",
    ),
    Twins(
        "what was acknowledged before the kill stays",
        "a w1 0-1, a w2 2-, b r1 9-9",
        "a w1 0-1, a w2 2-, b r0 9-9",
        STALE,
        "the read of nothing published yet",
    ),
    Twins(
        "a refused publish may take effect late",
        "a w1 0-1, a w2 2-3?, b r1 4-5, b r2 6-7",
        "a w1 0-1, a w2 2-3, b r1 4-5, b r2 6-7",
        STALE,
        "after version 2 had been published",
    ),
    # ---- several at a time, ranked
    Twins(
        "ranks are the order",
        "a w1#2 0-9, b w2#1 0-9, c r1 20-21",
        "a w1#2 0-9, b w2#3 0-9, c r1 20-21",
        STALE,
        "after version 2 had been published",
    ),
    Twins(
        "ranks follow the clock",
        "a w1#2 0-4, b w2#1 4-9",
        "a w1#2 0-4, b w2#1 5-9",
        ORDER,
        "the publish of version 1 by a (0 to 4) has rank 2, and the publish of version 2 by b (5 to 9), begun after it",
        shared=True,
    ),
    Twins(
        "no rank is given twice", "a w1#1 0-4, b w2#2 4-9", "a w1#1 0-4, b w2#1 4-9", ORDER, "both have rank 1", True
    ),
    Twins(
        "what was seen ranks below what begins later",
        "a w1#2 0-9, b w2#1 5-9, c r1 2-5",
        "a w1#2 0-9, b w2#1 5-9, c r1 2-4",
        ORDER,
        "the read of version 1 by c (2 to 4) had ended when the publish of version 2 by b (5 to 9) began, which has"
        " the lower rank, 1 to 2",
    ),
    Twins(
        "reads follow the ranks",
        "a w1#1 0-9, b w2#2 0-9, c r1 1-2, c r2 3-4",
        "a w1#3 0-9, b w2#2 0-9, c r1 1-2, c r2 3-4",
        INVERSION,
        "the read of version 2 by c (3 to 4) began after the read of version 1 by c (1 to 2) had ended",
    ),
    Twins(
        "a killed one stands where it fits",
        "a w1#1 0-3, b w2 0-, c r2 4-5, d r2 8-9",
        "a w1#1 0-3, b w2 0-, c r2 4-5, d r1 8-9",
        INVERSION,
        "no order of versions 2 and 1 explains what was read",
        shared=True,
    ),
    Twins(
        "a killed one stands behind another",
        "a w1#1 0-9, b w2#2 0-9, k w3 0-, c r2 1-2, d r3 3-4, e r2 4-5",
        "a w1#1 0-9, b w2#2 0-9, k w3 0-, c r2 1-2, d r3 3-4, e r2 5-5",
        INVERSION,
        "the read of version 3 by d (3 to 4) had ended when the read of version 2 by e (5 to 5) began",
    ),
    Twins(
        "before the first, or behind the second, but not both",
        "a w1#1 0-20, b w2#2 0-20, k w3 0-, c r3 1-2, d r1 4-30, e r2 3-5, f r3 5-10",
        "a w1#1 0-20, b w2#2 0-20, k w3 0-, c r3 1-2, d r1 4-30, e r2 3-5, f r3 6-10",
        INVERSION,
        "version 1 was published first, with rank 1 to 2",
    ),
    # ---- several at a time, in an order that nobody knows
    Twins(
        "either order will do, but one",
        "a w1 0-9, b w2 0-9, c r1 20-21, d r1 22-23",
        "a w1 0-9, b w2 0-9, c r1 20-21, d r2 22-23",
        ORDER,
        "no order of versions 2 and 1 explains what was read",
    ),
    Twins(
        "the clock orders publishes",
        "a w1 0-4, b w2 4-9, x w3 0-9, c r1 20-21",
        "a w1 0-3, b w2 4-9, x w3 0-9, c r1 20-21",
        STALE,
        "after version 2 had been published",
    ),
    Twins(
        "a killed one may come late",
        "a w1 0-, b w2 2-3, c r2 5-6, c r1 8-9",
        "a w1 0-1, b w2 2-3, c r2 5-6, c r1 8-9",
        STALE,
        "after version 2 had been published",
        shared=True,
    ),
    Twins(
        "a killed one comes once",
        "a w1 0-, b w2 2-3, c r1 4-5, c r1 8-9",
        "a w1 0-, b w2 2-3, c r1 4-5, c r2 8-9",
        INVERSION,
        "the read of version 1 by c (4 to 5) had ended when the read of version 2 by c (8 to 9) began",
        shared=True,
    ),
    # ---- registers of the literature, in our words: Porcupine's gets, zones as Gibbons and Korach draw them
    Twins(
        "two gets, one of them early, while a put is under way",
        "a w1 0-100, b r1 25-75, c r0 30-60",
        "a w1 0-100, b r1 25-29, c r0 30-60",
        INVERSION,
        "the state went back",
    ),
    Twins(
        "a get of the old may begin as the new is seen",
        "a w1 0-100, b r1 10-30, c r0 30-90",
        "a w1 0-100, b r1 10-30, c r0 40-90",
        INVERSION,
        "the state went back",
    ),
    Twins(
        "two forward zones may not overlap",
        "a w1 0-9, b w2 0-30, c r1 10-12, d r2 12-13",
        "a w1 0-9, b w2 0-9, c r1 10-12, d r2 12-13",
        ORDER,
        "no order of versions",
    ),
    Twins(
        "no backward zone lies within a forward one",
        "a w1 0-4, b w2 5-9, x w3 0-9, c r1 9-12",
        "a w1 0-4, b w2 5-9, x w3 0-9, c r1 10-12",
        STALE,
        "after version 2 had been published",
    ),
    Twins(
        "seen, published over, seen again",
        "a w1 0-30, b w2 5-10, c r1 2-3, c r2 11-12",
        "a w1 0-30, b w2 5-10, c r1 2-3, c r1 11-12",
        ORDER,
        "the read of version 1 by c (2 to 3) had ended when the publish of version 2 by b (5 to 10) began",
    ),
    Twins(
        "the first is read no more once the second was",
        "a w1 0-30, b w2 5-10, c r2 19-25, d r1 20-21",
        "a w1 0-30, b w2 5-10, c r2 22-25, d r1 20-21",
        INVERSION,
        "the read of version 1 by d (20 to 21) had ended when the read of version 2 by c (22 to 25) began",
    ),
]
PAIRS = pytest.mark.parametrize("twins", TWINS, ids=lambda twins: twins.title)


@PAIRS
def test_what_is_right_is_ok(twins: Twins) -> None:
    verdict = check(history(twins.right), shared=twins.shared)

    assert verdict.outcome == OK, verdict
    assert verdict
    assert (verdict.rule, verdict.events, verdict.level) == ("", (), ATOMIC)


@PAIRS
def test_its_twin_breaks_the_rule_and_says_how(twins: Twins) -> None:
    events = history(twins.wrong)
    verdict = check(events, shared=twins.shared)

    assert (verdict.outcome, verdict.rule) == (VIOLATED, twins.rule), verdict
    assert not verdict
    assert twins.sentence in verdict.sentence
    assert verdict.events
    assert set(verdict.events) <= set(events)
    assert str(verdict) == f"VIOLATED ({twins.rule}): {verdict.sentence}"


@PAIRS
def test_twins_are_one_field_apart(twins: Twins) -> None:
    right, wrong = history(twins.right), history(twins.wrong)

    fields = [(one, other) for pair in zip(right, wrong) for one, other in zip(*pair) if one != other]
    assert len(right) == len(wrong)
    assert len(fields) == 1


@PAIRS
def test_the_order_of_events_in_a_list_is_of_no_account(twins: Twins) -> None:
    for text in (twins.right, twins.wrong):
        events = history(text)
        verdict = check(events, shared=twins.shared)

        random.Random(1).shuffle(events)

        assert check(events, shared=twins.shared)[:2] == verdict[:2]


@PAIRS
def test_the_least_that_breaks_a_rule_breaks_it_and_nothing_can_go(twins: Twins) -> None:
    wrong = history(twins.wrong)
    reads = [event for event in wrong if event.operation == READ]
    beside = [event._replace(process=f"{event.process}{number}", problem="") for number, event in enumerate(reads)]
    rule = check([*wrong, *beside], shared=twins.shared).rule

    least = minimise([*wrong, *beside], shared=twins.shared)

    def breaks_it(events: List[Event]) -> bool:
        return check(events, shared=twins.shared).rule == rule

    assert breaks_it(least)
    assert len(least) <= len(wrong)
    assert [
        event for event in least if event.operation == READ and breaks_it([one for one in least if one != event])
    ] == []
    for version in {event.version for event in least}:
        assert not breaks_it([event for event in least if event.version != version])


def test_a_publish_goes_only_with_what_was_read_of_it() -> None:
    nobody = history("a w1 0-1, a w2 2-3, b r1 0-1, b r2 4-5, c r7 8-9")

    assert minimise(nobody) == history("c r7 8-9")


def test_whatever_can_be_left_out_is() -> None:
    units: List[Unit] = [(event,) for event in long(20, several=False, ranked=False)]
    needed = [units[3], units[4], units[31]]

    assert _least(units, lambda some: all(unit in some for unit in needed)) == needed
    assert _least(units, lambda _: True) == []


def test_minimising_takes_what_a_verdict_names_for_a_first_guess_only() -> None:
    circle = history("a w1 0-9, b w2 0-9, c r1 10-11, d r1 20-21, e r2 15-16, f r2 22-23, g r1 24-25")

    least = minimise(circle)

    assert check(least).rule == check(circle).rule
    assert len(least) == 4


# ---- levels ---------------------------------------------------------------------------------------------------------

LEVEL_OF = {
    "a w1 0-9, b r1 1-2, c r0 5-6": REGULAR,  # goes back
    "a w1 0-1, a w2 2-9, b r1 5-6!": SAFE,  # torn, while a publish is under way
    "a w1 0-1, a w2 2-5, b w3 4-9, b r7 9-9": SAFE,
    "a w1 0-1, a w2 2-3, a w3 4-9, b r1 5-6": SAFE,  # two behind
    "a w1 0-, b r0 5-6, b r1 7-8, b r0 9-9": REGULAR,  # a killed one that is and is not
    "a w1 0-1, a w2 2-3, b r1 4-5": "",
    "a w1 0-1, b r1 2-3!": "",
    "a w1 0-9, b w2 0-9, c r1 20-21, d r2 22-23": REGULAR,  # each by itself fits some order
    "a w1#1 0-9, b w2#2 0-9, c r1 20-21": "",
    "a w1 0-1, b r1 2-3": ATOMIC,
}


@pytest.mark.parametrize(("text", "level"), LEVEL_OF.items())
def test_a_history_has_all_levels_up_to_its_own(text: str, level: str) -> None:
    holds = {other: check(history(text), other).outcome == OK for other in LEVELS}

    assert holds == {other: level != "" and LEVELS.index(other) <= LEVELS.index(level) for other in LEVELS}
    assert check(history(text), REGULAR).level == REGULAR


def test_there_is_no_other_level() -> None:
    with pytest.raises(ValueError, match="'strong' is none of safe, regular, atomic"):
        check([], "strong")


# ---- what cannot be judged ------------------------------------------------------------------------------------------

MALFORMED_ONES = {
    "a w1 5-4": "the publish by a ended at 4, before it began at 5",
    "a w1 0-4, a w2 3-6": "the publish of version 2 by a (3 to 6) began before the same process's publish of version 1",
    "a w1 0-, a r1 3-6": "the read of version 1 by a (3 to 6) began before the same process's",
    "a w0 0-4": "a published version 0; they begin with 1",
    "a w1 0-4, b w1 5-6": "version 1 was published twice: by a (0 to 4) and by b (5 to 6)",
    "a w1#1 0-4, b w2 5-6": "the publish of version 2 by b (5 to 6) has no rank, though 1 others have",
}


def test_a_publish_that_went_wrong_needs_no_rank_to_be_told() -> None:
    verdict = check(history("a w1#1 0-4, b w2 5-9!"))

    assert (verdict.outcome, verdict.rule) == (VIOLATED, INTEGRITY)
    assert "what came of the publish by b (5 to 9) is wrong: byte 9" in verdict.sentence


@pytest.mark.parametrize(("text", "why"), MALFORMED_ONES.items())
def test_a_malformed_history_is_unknown(text: str, why: str) -> None:
    verdict = check(history(text))

    assert (verdict.outcome, verdict.rule) == (UNKNOWN, MALFORMED)
    assert why in verdict.sentence
    assert not verdict, "what is unknown has not passed"


def test_an_operation_that_there_is_not_is_unknown() -> None:
    verdict = check([Event("a", "erase", 0, 4)])

    assert (verdict.outcome, verdict.sentence) == (UNKNOWN, "'erase' by a is neither 'publish' nor 'read'")


def test_two_at_a_time_where_one_was_promised_is_unknown() -> None:
    overlapping = history("a w1 0-4, b w2 3-6")

    assert check(overlapping).outcome == OK
    assert check(overlapping, shared=True).outcome == OK
    verdict = check(overlapping, shared=False)
    assert verdict.outcome == UNKNOWN
    assert "one writer at a time, but the publish of version 1 by a (0 to 4)" in verdict.sentence


def test_with_several_writers_a_killed_publish_may_come_at_any_time() -> None:
    killed = history("a w1 0-, b w2 2-3, c r2 5-6, c r1 8-9")

    assert check(killed).rule == STALE
    assert check(killed, shared=True).outcome == OK


def test_of_a_history_that_is_empty_nothing_is_wrong() -> None:
    assert check([]).outcome == OK
    assert minimise(history("a w1 0-1, b r1 2-3")) == history("a w1 0-1, b r1 2-3")


# ---- what was met ---------------------------------------------------------------------------------------------------


def test_it_counts_what_was_met() -> None:
    met = what_was_met(history("a w1 2-4, b r0 0-1, b r1 4-5, b r1 6-7, c r1 8-9?, a w2 10-, c r2 12-13, d w3 14-"))

    assert met == {
        "publishes": 3,
        "reads": 4,
        "overlaps": 1,
        "moves": 1,
        "writers": 2,
        "readers": 2,
        "unreturned": 2,
        "aftermath": 1,
        "refusals": 1,
        "nothing": 1,
    }


@pytest.mark.parametrize("text", ["a w1 2-4, b r1 5-6, b r1 7-8", "a w1 2-, b r1 5-6", "a w1 5-6, b r0 2-4"])
def test_reads_beside_publishes_met_none(text: str) -> None:
    assert what_was_met(history(text))["overlaps"] == 0


def test_a_verdict_over_nothing_is_no_pass() -> None:
    events = history("a w1 2-4, b r1 5-6")
    verdict = require(check(events), what_was_met(events), reads=1, overlaps=1, moves=2)

    assert (verdict.outcome, verdict.rule) == (UNKNOWN, VACUOUS)
    assert verdict.sentence.endswith("too little was met to prove anything: overlaps 0 of 1, moves 0 of 2")


def test_what_was_met_excuses_nothing_and_spoils_nothing() -> None:
    violated = Verdict(VIOLATED, STALE, "it is stale")
    passed = Verdict(OK, "", "fine")

    assert require(violated, {"reads": 0}, reads=1) is violated
    assert require(passed, {"reads": 1}, reads=1) is passed
    with pytest.raises(ValueError, match="nobody counts readings; there are reads"):
        require(passed, {"reads": 1}, readings=1)


# ---- how long it takes ----------------------------------------------------------------------------------------------


def long(number: int, several: bool, ranked: bool) -> List[Event]:
    """So many publishes by turns, each read twice, late. With several writers all overlap their neighbours."""
    longer = 15 if several else 0
    events = []
    for version in range(1, number + 1):
        began = 10 * version
        rank = version if ranked else 0
        events.append(Event(f"w{version % 3}", PUBLISH, began, began + 9 + longer, version, rank))
        events.append(Event(f"r{version % 5}", READ, began + 8, began + 9 + longer, version))
    return events


@pytest.mark.parametrize(("several", "ranked"), [(False, False), (True, True), (True, False)])
def test_a_long_history_takes_no_longer_by_the_event(several: bool, ranked: bool) -> None:
    def seconds(number: int) -> float:
        events = long(number, several, ranked)
        began = time.process_time()
        assert check(events).outcome == OK
        return time.process_time() - began

    short = min(seconds(1000) for _ in range(3))

    assert (
        min(seconds(16_000) for _ in range(3)) < 16 * 6 * short
    )  # in proportion, and some; with its square it would be 256 times as long
