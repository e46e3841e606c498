"""Where mutants of ownership, moves and lifetime have to be found: hunts in real processes, step by step.

matrix    a writer killed, stopped, and given an exception before each access of an operation (crashes.py)
machine   Hypothesis draws who goes on (machines.py)
script    one schedule, written down: what takes two owners, or an outsider, and would be drawn once in a blue moon
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, Callable, Dict, NamedTuple, Optional, Protocol, Sequence, Tuple
from typing import Counter as Counted

from hypothesis import Phase
from hypothesis import settings as Settings  # noqa: N812 - a class

from pytest_shmstate.kit.oracle.verdict import VIOLATED
from pytest_shmstate.kit.power.mutation import Edit, Install, mutated
from pytest_shmstate.kit.seams.adapter import ShmstateAdapter
from pytest_shmstate.kit.stepping.crashes import Sizes, crash_matrix
from pytest_shmstate.kit.stepping.machines import run_machine
from pytest_shmstate.kit.stepping.process import Process, Raised
from pytest_shmstate.kit.stepping.stepper import Stepper, Violated
from pytest_shmstate.kit.stress.stress import stress
from shmstate import publishing, reading

Prepare = Optional[Callable[[], object]]
_GROWING = Sizes(made_for=4096, published=24, larger=9000)
#: The first example that fails will do; it need not be the least.
_EXAMPLES = 150


class Found(NamedTuple):
    """How a hunt ended: in how many schedules, with what report (empty if nothing was wrong), in how many turns.

    At full speed there are no schedules; reads are counted then.
    """

    schedules: int
    report: str
    turns: int


class Hunt(Protocol):
    """Looks for what is wrong with the mutant that ``prepare`` installs; with ``shrink``, for the least of it."""

    def __call__(self, prepare: Prepare, shrink: bool = False) -> Found:
        """Do it."""


def matrix(operations: Sequence[str], kinds: Sequence[str], **options: Any) -> Hunt:
    """Disturb a writer at these operations in these ways."""

    def hunt(prepare: Prepare, shrink: bool = False) -> Found:  # noqa: ARG001
        with Stepper(ShmstateAdapter(slots=2, **options), prepare=prepare) as stepper:
            cells = crash_matrix(stepper, operations=operations, kinds=kinds, sizes=_GROWING).cells
        failed = [cell for cell in cells if cell.failure]
        if not failed:
            return Found(len(cells), "", 0)
        return Found(cells.index(failed[0]) + 1, failed[0].failure, 0)

    return hunt


def machine(*, sizes: Sequence[int] = (16, 24, 40), **options: Any) -> Hunt:
    """Have Hypothesis draw, always the same."""

    def hunt(prepare: Prepare, shrink: bool = False) -> Found:
        phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
        settings = Settings(
            max_examples=_EXAMPLES, derandomize=True, database=None, report_multiple_bugs=False, phases=phases
        )
        met: Counted[str] = Counter()
        report, turns = "", 0
        try:
            adapter = ShmstateAdapter(slots=2, **options)
            run_machine(adapter, settings=settings, prepare=prepare, met=met, size=_GROWING.made_for, sizes=sizes)
        except Violated as violated:
            report, turns = str(violated), len(violated.turns)
        return Found(met["examples"], report, turns)

    return hunt


def script(play: Callable[[Stepper], None], **options: Any) -> Hunt:
    """Play it once."""

    def hunt(prepare: Prepare, shrink: bool = False) -> Found:  # noqa: ARG001
        with Stepper(ShmstateAdapter(slots=2, **options), prepare=prepare) as stepper:
            try:
                play(stepper)
                stepper.judge()
                left = stepper.clear_up()
                if left:
                    raise stepper.violated(f"left in /dev/shm: {', '.join(left)}")
            except Violated as violated:
                return Found(1, str(violated), len(violated.turns))
        return Found(1, "", 0)

    return hunt


class MutantAdapter(ShmstateAdapter):
    """shmstate, with its steps mutated in whatever process uses it."""

    def __init__(self, edits: Sequence[Edit], **options: Any) -> None:
        super().__init__(**options)
        self.edits = tuple(edits)

    def create(self, name: str, size: int) -> Any:
        """A mutant's StateWriter."""
        self._mutate()
        return super().create(name, size)

    def attach(self, name: str) -> Any:
        """A mutant's StateReader."""
        self._mutate()
        return super().attach(name)

    def _mutate(self) -> None:
        edits, self.edits = self.edits, ()
        if edits:
            publishing.open_publishing = mutated(publishing, edits).open_publishing
            reading.open_reading = mutated(reading, edits).open_reading


def at_full_speed(seconds: float) -> Hunt:
    """Stress it, for so long at most."""

    def hunt(prepare: Prepare, shrink: bool = False) -> Found:  # noqa: ARG001
        edits = prepare.edits if isinstance(prepare, Install) else ()
        result = stress(MutantAdapter(edits, slots=2), seconds=seconds, seed=1)
        reads = result.met.get("reads", 0)
        return Found(reads, str(result) if result.verdict.outcome == VIOLATED else "", 0)

    return hunt


def _with_a_state(stepper: Stepper) -> Tuple[Process, Process]:
    writer, reader = stepper.process("writer 1"), stepper.process("reader 1")
    writer.do("create", _GROWING.made_for)
    writer.do("publish", _GROWING.published)
    reader.do("attach")
    reader.do("read")
    return writer, reader


def a_second_owner(stepper: Stepper) -> None:
    """Somebody creates what a living writer owns, and is to be refused."""
    _with_a_state(stepper)
    outcome = stepper.process("writer 2").do("create", _GROWING.made_for)
    if not isinstance(outcome, Raised):
        raise stepper.violated("two writers own one state, and neither shares it")


def an_heir_that_comes_too_late(stepper: Stepper) -> None:
    """An heir has opened the segment when it is left for another; then the owner dies."""
    writer, _ = _with_a_state(stepper)
    heir = stepper.process("writer 2")
    heir.begin("create", _GROWING.made_for)
    while not heir.gate.startswith("try to lock"):
        heir.step()
    writer.do("publish", _GROWING.larger)
    writer.kill()
    heir.run()
    heir.do("publish", _GROWING.published)
    _read_anew(stepper)


def an_owner_whose_name_was_taken(stepper: Stepper) -> None:
    """An outsider removes the file, and somebody makes the state anew; then the first owner closes."""
    writer, _ = _with_a_state(stepper)
    os.unlink(f"/dev/shm/shmstate.{stepper.name}")
    stepper.begin_anew()
    other = stepper.process("writer 2")
    other.do("create", _GROWING.made_for)
    other.do("publish", _GROWING.published)
    writer.do("close")
    _read_anew(stepper)


def an_owner_that_closes(stepper: Stepper) -> None:
    """Its readers keep what they have; the name is gone."""
    writer, reader = _with_a_state(stepper)
    writer.do("close")
    reader.do("read")
    _require_no_file(stepper)


def an_owner_that_shares_closes(stepper: Stepper) -> None:
    """One of two who share a state closes; the other goes on, and readers still come to it."""
    writer, _ = _with_a_state(stepper)
    other = stepper.process("writer 2")
    other.do("create", _GROWING.made_for)
    writer.do("close")
    other.do("publish", _GROWING.published)
    _read_anew(stepper)
    other.do("close")
    _require_no_file(stepper)


def an_owner_that_shares_is_left_behind(stepper: Stepper) -> None:
    """One of two who share a state moves it; both publish by turns then."""
    writer, _ = _with_a_state(stepper)
    other = stepper.process("writer 2")
    other.do("create", _GROWING.made_for)
    writer.do("publish", _GROWING.larger)
    for one in (other, writer, other):
        outcome = one.do("publish", _GROWING.published)
        if one.operation:
            raise stepper.violated(f"liveness: {one.label} waits for the turn ({outcome}), and nobody has it")
    _read_anew(stepper)


def _require_no_file(stepper: Stepper) -> None:
    if os.path.exists(f"/dev/shm/shmstate.{stepper.name}"):
        raise stepper.violated("all writers have closed, and the state is in /dev/shm still")


def _read_anew(stepper: Stepper) -> None:
    late = stepper.process("reader 2")
    for what in ("attach", "read"):
        outcome = late.do(what)
        if isinstance(outcome, Raised):
            raise stepper.violated(f"{late.label} raised {outcome.error} at {what!r}")


HUNTS: Dict[str, Hunt] = {
    "matrix: create": matrix(["first create", "take over"], ["kill", "throw"]),
    "matrix: create, shared": matrix(["first create", "take over"], ["throw"], shared=True),
    "matrix: publish": matrix(["publish"], ["kill", "stop"]),
    "matrix: publish, shared": matrix(["publish"], ["stop"], shared=True),
    "matrix: a move": matrix(["growing publish"], ["kill", "throw"]),
    "machine": machine(),
    "machine: moves": machine(sizes=(24, 9000)),
    "machine: shared": machine(shared=True),
    "stress": at_full_speed(4.0),
    "a second owner": script(a_second_owner),
    "an heir that comes too late": script(an_heir_that_comes_too_late),
    "an owner whose name was taken": script(an_owner_whose_name_was_taken),
    "a writer closes": script(an_owner_that_closes),
    "one of two closes": script(an_owner_that_shares_closes, shared=True),
    "one of two moves the state": script(an_owner_that_shares_is_left_behind, shared=True),
}
