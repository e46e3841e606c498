"""The oracle: whether what processes saw of a state fits one order of its publishes.

    level     what it asks of reads
    safe      one that met no publish returned the latest state, whole; the others may return anything
    regular   each returned a whole state that had been begun to be published, and none that was out of date: no later
              one had been published before the read began
    atomic    no read returned an older state than a read that had ended before it began: linearizability

One writer at a time: publishes are ordered by their beginnings. Several: by their ranks, where the structure gives
them, and these are held against the clock; without ranks any order will do that the clock allows, and "regular" asks of
each read by itself that it fits some such order.

A publish that never returned, or was refused, may have taken effect or not. If it was seen, it has, for good: with one
writer at a time, before the next publish did. A read that never returned, or was refused, says nothing.

Intervals are closed: operations that share an instant overlap. All of it is decided in O(n log n), also with several
writers: every version is published once, so each read says which publish it saw (order.py).
"""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence

from pytest_shmstate.kit.oracle.history import PUBLISH, READ, Event, History
from pytest_shmstate.kit.oracle.order import Publishes
from pytest_shmstate.kit.oracle.row import Fault, by_time, ends
from pytest_shmstate.kit.oracle.verdict import (
    ATOMIC,
    FUTURE,
    INTEGRITY,
    LEVELS,
    MALFORMED,
    NEVER_PUBLISHED,
    OK,
    SAFE,
    UNKNOWN,
    VIOLATED,
    Verdict,
    is_seen,
    span,
    told,
)


def check(history: History, level: str = ATOMIC, *, shared: Optional[bool] = None) -> Verdict:
    """Judge a history, whatever the order of its events. The module says what each level asks.

    ``shared``: whether several writers at a time were allowed; None: they were if two publishes that returned overlap.

    The verdict is UNKNOWN if the history is malformed: an operation that is neither a publish nor a read, that ended
    before it began, or began before another of the same process had ended; a version that was published twice, or is
    none; ranks of some publishes only; publishes that overlap with ``shared=False``. Raises ValueError for a level that
    there is not.
    """
    if level not in LEVELS:
        raise ValueError(f"level={level!r} is none of {', '.join(LEVELS)}")
    in_time = sorted(history, key=by_time)
    publishes = [event for event in in_time if event.operation == PUBLISH]
    fault = _unlike_operations(in_time) or _two_at_a_time(in_time) or _unlike_versions(publishes)
    overlap = _overlapping(publishes) if not shared else None
    if shared is False:
        fault = fault or overlap
    if fault:
        return Verdict(UNKNOWN, *fault, level)
    reads = [event for event in in_time if is_seen(event)]
    order = Publishes(publishes, several=bool(shared or overlap))
    if level == SAFE:
        reads = order.without_overlap(reads)
    fault = _one_by_one(order, reads) or order.against_the_clock() or order.stale(reads) or order.too_soon(reads)
    if not fault and level == ATOMIC:
        fault = order.contradicted(reads)
    if fault:
        return Verdict(VIOLATED, *fault, level)
    return Verdict(OK, "", f"{len(reads)} reads of {len(publishes)} publishes are {level}", (), level)


def is_shared(history: History) -> bool:
    """Whether several writers published at a time, as ``check`` finds it: two publishes that returned overlap."""
    return _overlapping(sorted((event for event in history if event.operation == PUBLISH), key=by_time)) is not None


def _unlike_operations(history: History) -> Optional[Fault]:
    for event in history:
        if event.operation != READ and event.operation != PUBLISH:  # noqa: PLR1714  # twice as fast as a tuple
            why = f"{event.operation!r} by {event.process} is neither {PUBLISH!r} nor {READ!r}"
        elif event.ended is not None and event.ended < event.began:
            why = f"the {event.operation} by {event.process} ended at {event.ended}, before it began at {event.began}"
        else:
            continue
        return Fault(MALFORMED, why, (event,))
    return None


def _two_at_a_time(in_time: Sequence[Event]) -> Optional[Fault]:
    last: Dict[str, Event] = {}
    for event in in_time:
        before = last.get(event.process)
        if before is not None and event.began < ends(before):
            why = f"the {told(event)} began before the same process's {told(before)} had ended"
            return Fault(MALFORMED, why, (before, event))
        last[event.process] = event
    return None


def _unlike_versions(publishes: Sequence[Event]) -> Optional[Fault]:
    first: Dict[int, Event] = {}
    for event in publishes:
        if event.version < 1:
            return Fault(MALFORMED, f"{event.process} published version {event.version}; they begin with 1", (event,))
        other = first.setdefault(event.version, event)
        if other is not event:
            why = f"version {event.version} was published twice: by {other.process} ({span(other)})"
            return Fault(MALFORMED, f"{why} and by {event.process} ({span(event)})", (other, event))
    # What went wrong in it is told by itself, and has no rank.
    returned = [event for event in publishes if event.ended is not None and not event.error and not event.problem]
    bare: List[Event] = [event for event in returned if not event.rank]
    if bare and len(bare) < len(returned):
        why = f"the {told(bare[0])} has no rank, though {len(returned) - len(bare)} others have"
        return Fault(MALFORMED, why, (bare[0],))
    return None


def _overlapping(publishes: Sequence[Event]) -> Optional[Fault]:
    """Two that more than one writer must have made. One that never returned had one that was gone when the next came."""
    for before, after in zip(publishes, publishes[1:]):
        if before.began == after.began or (before.ended is not None and before.ended > after.began):
            why = f"there was to be one writer at a time, but the {told(before)} and the {told(after)} overlap"
            return Fault(MALFORMED, why, (before, after))
    return None


def _one_by_one(order: Publishes, reads: Sequence[Event]) -> Optional[Fault]:
    """What a read proves by itself, together with its publish."""
    published = order.by_version
    for event in (*published.values(), *reads):
        if event.problem:
            why = f"what came of the {event.operation} by {event.process} ({span(event)}) is wrong: {event.problem}"
            return Fault(INTEGRITY, why, (event,))
    for read in reads:
        publish = published.get(read.version)
        if publish is None and read.version:
            why = f"{read.process} read version {read.version} ({span(read)}), which nobody published"
            return Fault(NEVER_PUBLISHED, why, (read,))
        if publish is not None and ends(read) < publish.began:
            why = f"the {told(read)} had ended before its publish by {publish.process} began at {publish.began}"
            return Fault(FUTURE, why, (read, publish))
    return None
