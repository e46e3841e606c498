"""Verdicts: what a history proves, what it disproves, and what it leaves open."""

from __future__ import annotations

from typing import NamedTuple, Tuple

from pytest_shmstate.kit.oracle.history import PUBLISH, Event

#: Nothing in the history is wrong; it is wrong, and the verdict says what; or nobody can tell, which is no pass.
OK, VIOLATED, UNKNOWN = "OK", "VIOLATED", "UNKNOWN"

#: What a reader may rely on, each with all of what stands before it. ``checkers`` says what each asks.
SAFE, REGULAR, ATOMIC = "safe", "regular", "atomic"
LEVELS = (SAFE, REGULAR, ATOMIC)

#: The rules, as verdicts name them.
INTEGRITY = "integrity"
NEVER_PUBLISHED = "never published"
FUTURE = "from the future"
STALE = "stale"
INVERSION = "new-old inversion"
ORDER = "order of publishes"
#: Why a history could not be judged.
MALFORMED = "malformed"
VACUOUS = "vacuous"


class Verdict(NamedTuple):
    """What came of judging a history. True only if it is OK: what is UNKNOWN has not passed.

    ``rule``: the one that broke, or why nothing is known; empty if OK. ``sentence``: what was seen, in words and
    numbers. ``events``: those that it speaks of, in its order. ``level``: what was asked of the history.
    """

    outcome: str
    rule: str
    sentence: str
    events: Tuple[Event, ...] = ()
    level: str = ATOMIC

    def __bool__(self) -> bool:
        return self.outcome == OK

    def __str__(self) -> str:
        return f"{self.outcome} ({self.rule}): {self.sentence}" if self.rule else f"{self.outcome}: {self.sentence}"


def told(event: Event) -> str:
    """An event as sentences name it: what, by whom, from when to when."""
    what = f"version {event.version}" if event.version else "nothing published yet"
    return f"{event.operation} of {what} by {event.process} ({span(event)})"


def span(event: Event) -> str:
    """From when to when."""
    until = "never returned" if event.ended is None else f"to {event.ended}"
    return f"from {event.began}, {until}" if event.ended is None else f"{event.began} {until}"


def is_seen(event: Event) -> bool:
    """Whether it is a read that brought back a state, or that there was none."""
    return event.operation != PUBLISH and event.ended is not None and not event.error
