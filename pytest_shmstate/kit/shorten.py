"""A schedule of real processes without what it does not need to break the structure.

Hypothesis shrinks what it drew, and what it drew decides what can be drawn after it: it often ends at twice the turns that
it takes. Here turns are left out, and the rest is taken again; all that counts is that something still breaks.
"""

from __future__ import annotations

import time
from typing import List, Optional, Sequence

from pytest_shmstate.kit.encounters import with_operations
from pytest_shmstate.kit.nursery import StepperFailed
from pytest_shmstate.kit.process import OF_WRITERS
from pytest_shmstate.kit.schedules import BEGIN, THROW, Turn
from pytest_shmstate.kit.stepper import Stepper, Violated

#: What only a writer is at, or who becomes one.
WRITING = ("create", *OF_WRITERS)


def shortened(
    stepper: Stepper, violated: Violated, *, bound: int, waits_for_writers: bool = False, seconds: float = 10.0
) -> Violated:
    """The violation as the shortest schedule shows it that was found in so many seconds; at worst as it is.

    ``bound``: steps in which an operation ends while all others stand still; ``waits_for_writers``: or are at nothing.
    """
    deadline = time.monotonic() + seconds
    best, size = violated, max(len(violated.turns) // 2, 1)
    kind = _kind_of(str(violated))
    while time.monotonic() < deadline:
        start, has_shrunk = 0, False
        while start < len(best.turns) and time.monotonic() < deadline:
            fewer = best.turns[:start] + best.turns[start + size :]
            found = _taken(stepper, fewer, bound, waits_for_writers)
            if found is not None and _kind_of(str(found)) == kind and len(found.turns) < len(best.turns):
                best, has_shrunk = found, True
            else:
                start += 1
        if size == 1 and not has_shrunk:
            break
        size = size if has_shrunk else max(size // 2, 1)
    return best


def _kind_of(told: str) -> str:
    """The rule that broke, without whose and when."""
    first = told.partition("\n")[0]
    for word in ("VIOLATED (", "liveness:", " raised "):
        if word in first:
            return word + first.partition(word)[2].split(")")[0].split(":")[0] if word != "liveness:" else word
    return first


def _taken(stepper: Stepper, turns: Sequence[Turn], bound: int, waits: bool) -> Optional[Violated]:
    """What these turns come to; None if to nothing, or if they cannot be taken."""
    stepper.reset()
    try:
        for turn in turns:
            if not _may_begin(stepper, turn):
                return None
            stepper.process(turn.process).take(turn.action, turn.arguments)
            sentence = _wrong_at_once(stepper, bound, waits)
            if sentence:
                return stepper.violated(sentence)
        stepper.judge()
    except Violated as violated:
        return violated
    except StepperFailed:
        return None
    return None


def _may_begin(stepper: Stepper, turn: Turn) -> bool:
    """Nobody attaches to what was never created, nor creates while another writes: no structure is asked for that."""
    what = turn.arguments[0] if turn.action == BEGIN else ""
    if what == "attach":
        return any(at == "create" and taken.outcome == "done" for at, taken in with_operations(stepper.turns))
    others = [one for one in stepper.processes.values() if one.name != turn.process and one.is_alive]
    writes = [one for one in others if one.has_writer or one.operation in WRITING]
    return what != "create" or stepper.adapter.is_shared or not writes


def _wrong_at_once(stepper: Stepper, bound: int, waits: bool) -> str:
    """What a history does not show: that an operation failed, or does not end."""
    turns: List[Turn] = stepper.turns
    last = turns[-1]
    process = stepper.processes[last.process]
    if last.outcome == "raised" and not process.was_thrown_at and last.action != THROW:
        return f"{process.label} raised {last.told}"
    others = [one for one in stepper.processes.values() if one is not process and one.operation]
    if last.outcome == "at" and len(last.passed) >= bound and not (waits and others):
        return (
            f"liveness: {process.name}: {process.operation!r} had not ended after {bound} steps of its own, and stands"
            f" before {last.told!r}, though nobody else moved meanwhile"
        )
    return ""
