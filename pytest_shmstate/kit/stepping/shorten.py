"""Schedules of real processes taken again: as they were, or without what they do not need to break the structure.

Hypothesis shrinks what it drew, and what it drew decides what can be drawn after it: it often ends at twice the turns that
it takes. Here turns are left out or made one, and the rest is taken again; all that counts is that the same kind of thing breaks.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from itertools import chain
from typing import Iterator, List, Optional, Sequence

from pytest_shmstate.kit.stepping import schedules
from pytest_shmstate.kit.stepping.encounters import with_operations
from pytest_shmstate.kit.stepping.nursery import StepperFailed
from pytest_shmstate.kit.stepping.process import OF_WRITERS
from pytest_shmstate.kit.stepping.schedules import BEGIN, GO, THROW, Turn
from pytest_shmstate.kit.stepping.stepper import Stepper, Violated

#: Steps in which an operation ends while all others stand still, and where each line is one.
_ACCESSES, _LINES = 200, 10_000
#: What only a writer is at, or who becomes one.
_WRITING = ("create", *OF_WRITERS)
#: What a structure is called in one run, and not in the next.
_NAME = re.compile(r"kit-\d+-\d+")


def bound_of(by_line: Sequence[str]) -> int:
    """Steps in which an operation ends while all others stand still."""
    return _LINES if by_line else _ACCESSES


def taken(
    stepper: Stepper, turns: Sequence[Turn], *, bound: int, waits: bool = False, exactly: bool = False
) -> Optional[Violated]:
    """What these turns come to in a new run; None if nothing breaks.

    ``bound``: see ``bound_of``. ``waits``: reads may wait for a writer that is in the middle of something. ``exactly``:
    raise Diverged where they go another way than they did. Raises StepperFailed if they cannot be taken.
    """
    stepper.reset()
    try:
        for number, turn in enumerate(turns, 1):
            _require_that_it_may_begin(stepper, turn)
            stepper.process(turn.process).take(turn.action, turn.arguments)
            if exactly:
                schedules.compare(number, _nameless(turn), _nameless(stepper.turns[-1]))
            sentence = _wrong_at_once(stepper, bound, waits)
            if sentence:
                return stepper.violated(sentence)
        stepper.judge()
    except Violated as violated:
        return violated
    return None


def shortened(
    stepper: Stepper, violated: Violated, *, bound: int, waits: bool = False, seconds: float = 10.0
) -> Violated:
    """The violation as the shortest schedule shows it that was found in so many seconds; at worst as it is."""
    deadline = time.monotonic() + seconds
    best, kind = violated, _kind_of(violated)

    def is_shorter(turns: Sequence[Turn]) -> bool:
        nonlocal best
        found = None
        with suppress(StepperFailed):
            found = taken(stepper, turns, bound=bound, waits=waits)
        if found is None or _kind_of(found) != kind or len(found.turns) >= len(best.turns):
            return False
        best = found
        return True

    size = max(len(best.turns) // 2, 1)
    while time.monotonic() < deadline:
        start, has_shrunk = 0, False
        while start < len(best.turns) and time.monotonic() < deadline:
            if is_shorter(best.turns[:start] + best.turns[start + size :]):
                has_shrunk = True
            else:
                start += 1
        if size == 1 and not has_shrunk:
            candidates = chain(_undivided(best.turns, bound), _joined(best.turns))
            has_shrunk = any(is_shorter(turns) for turns in candidates)
            if not has_shrunk:
                break
        size = size if has_shrunk else max(size // 2, 1)
    return best


def _undivided(turns: List[Turn], bound: int) -> Iterator[List[Turn]]:
    """The turns with one operation done in one go, of each that was done in several."""
    for at, turn in enumerate(turns):
        if turn.action == BEGIN and turn.outcome == "at":
            operation, size, version, _, _ = turn.arguments
            whole = turn._replace(arguments=(operation, size, version, bound, ""))
            rest = turns[at + 1 :]
            own = [index for index, later in enumerate(rest) if later.process == turn.process]
            gone = set()
            for index in own:
                if rest[index].action != GO:
                    break
                gone.add(index)
            yield [*turns[:at], whole, *(later for index, later in enumerate(rest) if index not in gone)]


def _joined(turns: List[Turn]) -> Iterator[List[Turn]]:
    """The turns with two that one process took in a row as one, of each such two."""
    for at, (turn, after) in enumerate(zip(turns, turns[1:])):
        if turn.process == after.process and turn.action in (BEGIN, GO) and after.action == GO:
            *before, steps, _ = turn.arguments
            more, until = after.arguments
            yield [*turns[:at], turn._replace(arguments=(*before, steps + more, until)), *turns[at + 2 :]]


def _kind_of(violated: Violated) -> str:
    """The rule that broke, or the error that came; not whose, nor when."""
    first = str(violated).partition("\n")[0]
    found = re.search(r"VIOLATED \([^)]*\)|liveness:| raised \w+", first)
    return found[0] if found else first


def _require_that_it_may_begin(stepper: Stepper, turn: Turn) -> None:
    """Nobody attaches to what was never created, nor creates while another writes: no structure is asked for that."""
    what = turn.arguments[0] if turn.action == BEGIN else ""
    if what == "attach":
        created = (at == "create" and done.outcome == "done" for at, done in with_operations(stepper.turns))
        if not any(created):
            raise StepperFailed("there is nothing to attach to")
    others = [one for one in stepper.processes.values() if one.name != turn.process and one.is_alive]
    writes = [one for one in others if one.has_writer or one.operation in _WRITING]
    if what == "create" and writes and not stepper.adapter.is_shared:
        raise StepperFailed("another writes")


def _wrong_at_once(stepper: Stepper, bound: int, waits: bool) -> str:
    """What a history does not show: that an operation failed, or does not end."""
    last = stepper.turns[-1]
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


def _nameless(turn: Turn) -> Turn:
    return turn._replace(told=_NAME.sub("NAME", turn.told)) if isinstance(turn.told, str) else turn
