"""The least of a history that still breaks the same rule."""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Sequence, Tuple

from pytest_shmstate.kit.oracle.checkers import check, is_shared
from pytest_shmstate.kit.oracle.history import PUBLISH, Event, History
from pytest_shmstate.kit.oracle.row import by_time
from pytest_shmstate.kit.oracle.verdict import ATOMIC, VIOLATED

#: Events that stay or go together.
Unit = Tuple[Event, ...]


def minimise(history: History, level: str = ATOMIC, *, shared: Optional[bool] = None) -> List[Event]:
    """A part of the history, by time, that breaks the rule that all of it breaks; without any part of it, it does not.

    Delta debugging (Zeller and Hildebrandt, 2002), but for its first guess: the events that the verdict names. A
    publish goes only together with what was read of it, or its reads would be of something that nobody published.
    Deterministic. A history that breaks no rule is returned as it is.
    """
    verdict = check(history, level, shared=shared)
    if verdict.outcome != VIOLATED:
        return list(history)
    several = is_shared(history) if shared is None else shared

    def still_breaks(events: Sequence[Event]) -> bool:
        return check(events, level, shared=several).rule == verdict.rule

    named = _with_publishes(verdict.events, history)
    start = named if still_breaks(named) else list(history)
    reads = [event for event in start if event.operation != PUBLISH]
    kept = _least([(event,) for event in reads], lambda units: still_breaks(_joined(start, reads, units)))
    left = _joined(start, reads, kept)
    units = _together(left)
    return sorted(_flat(_least(units, lambda some: still_breaks(_flat(some)))), key=by_time)


def _with_publishes(events: Sequence[Event], history: History) -> List[Event]:
    named = set(events)
    versions = {event.version for event in events}
    return [event for event in history if event in named or (event.operation == PUBLISH and event.version in versions)]


def _joined(start: Sequence[Event], reads: Sequence[Event], units: Sequence[Unit]) -> List[Event]:
    gone = set(reads) - set(_flat(units))
    return [event for event in start if event not in gone]


def _together(events: Sequence[Event]) -> List[Unit]:
    by_version: Dict[int, List[Event]] = {}
    for event in events:
        by_version.setdefault(event.version, []).append(event)
    return [tuple(unit) for unit in by_version.values()]


def _flat(units: Sequence[Unit]) -> List[Event]:
    return [event for unit in units for event in unit]


def _least(units: List[Unit], holds: Callable[[List[Unit]], bool]) -> List[Unit]:
    """Leave out what can be left out, in ever smaller pieces."""
    size = max(len(units) // 2, 1)
    while units:
        start, has_shrunk = 0, False
        while start < len(units):
            fewer = units[:start] + units[start + size :]
            if holds(fewer):
                units, has_shrunk = fewer, True
            else:
                start += size
        if size == 1 and not has_shrunk:
            break
        size = max(size // 2, 1)
    return units
