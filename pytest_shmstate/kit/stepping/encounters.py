"""What a run met: a schedule in which nobody met anybody proves nothing, however it was judged."""

from __future__ import annotations

from collections import Counter
from typing import Counter as Counted
from typing import Dict, Iterator, List, Sequence, Tuple

from pytest_shmstate.kit.oracle.history import PUBLISH, READ, Event
from pytest_shmstate.kit.stepping.schedules import BEGIN, KILL, STOP, THROW, Turn

_INTERRUPTED = {KILL: "kills", STOP: "stops", THROW: "exceptions"}


def encounters(turns: Sequence[Turn], history: Sequence[Event]) -> Counted[str]:
    """How often what happened in a run.

    ``reads``, ``reads that met a publish``, ``reads that saw a move`` (they opened another file), ``publishes that
    moved`` (they gave a name to another file); ``kills``, ``stops``, ``exceptions``, and each of these ``in a`` publish, a
    read, ...; ``waits`` for a lock.
    """
    seen: Counted[str] = Counter(_interruptions(turns))
    seen["waits"] = sum(turn.outcome == "blocked" for turn in turns)
    publishes = [event for event in history if event.operation == PUBLISH]
    reads = [event for event in history if event.operation == READ and event.ended is not None]
    seen["reads"] = len(reads)
    seen["reads that met a publish"] = sum(any(_overlap(read, publish) for publish in publishes) for read in reads)
    return seen


def _overlap(read: Event, publish: Event) -> bool:
    ended = publish.began if publish.ended is None else publish.ended  # killed: it overlaps nothing for certain
    return publish.began <= (read.ended or 0) and read.began <= ended


def _interruptions(turns: Sequence[Turn]) -> Counted[str]:
    seen: Counted[str] = Counter()
    for operation, turn in with_operations(turns):
        if turn.action in _INTERRUPTED:
            what = _INTERRUPTED[turn.action]
            seen[what] += 1
            if operation:
                seen[f"{what} in a {operation}"] += 1
        seen["reads that saw a move"] += operation == READ and any(gate.startswith("open ") for gate in turn.passed)
        seen["publishes that moved"] += operation == PUBLISH and any(gate.startswith("rename ") for gate in turn.passed)
    return seen


def gates_passed(turns: Sequence[Turn], operation: str) -> List[str]:
    """The gates that were passed in operations of that kind, each once, in the order in which they were first met."""
    return list(dict.fromkeys(gate for at, turn in with_operations(turns) if at == operation for gate in turn.passed))


def with_operations(turns: Sequence[Turn]) -> Iterator[Tuple[str, Turn]]:
    """Each turn, and what its process was at then; empty if nothing."""
    at: Dict[str, str] = {}
    for turn in turns:
        if turn.action == BEGIN:
            at[turn.process] = turn.arguments[0]
        yield at.get(turn.process, ""), turn
        if turn.action == KILL or turn.outcome in ("done", "refused", "raised"):
            at.pop(turn.process, None)
