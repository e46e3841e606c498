"""Histories: who did what, when it began and ended, and what came of it."""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

PUBLISH, READ = "publish", "read"


class Event(NamedTuple):
    """One operation of one process. Times are of one clock for all, in any unit: nanoseconds, or steps of a schedule.

    ``version`` is the number that the payload carries: of a publish, what was to be published, each number once; of a
    read, what came back. 0: nothing had been published yet. ``ended`` is None where it never returned: killed at it,
    or at it still. ``rank`` is the version that the structure itself gives, if it does, else 0: where several publish
    at a time it says in what order they took effect. ``problem``: what is wrong with the bytes that came back.
    ``error``: a documented error that came in place of a state.
    """

    process: str
    operation: str
    began: int
    ended: Optional[int]
    version: int = 0
    rank: int = 0
    problem: str = ""
    error: str = ""


History = Sequence[Event]
