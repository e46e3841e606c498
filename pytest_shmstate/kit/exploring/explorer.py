"""Every schedule of a small scenario, or every one with few preemptions: depth first, each state gone into once.

A schedule is a sequence of choices. There is no way to go back but to begin anew and make the same choices again. What
makes that affordable, and loses nothing:

    a state that was met before is left: the memory, what each process remembers, and what the scenario still has to
    judge by decide everything that can follow
    where there is one choice, it is made
    nobody stops before an access to a cell that is one process's alone

The certificate says what was done: how many schedules, whether to the end or up to which bound, and what was met.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from typing import Callable, Dict, Hashable, List, NamedTuple, Optional, Sequence, Set, Tuple

from pytest_shmstate.kit.columns import Row, columns
from pytest_shmstate.kit.exploring.actors import GO, KILL, Choice, NotPrivate, Run, Shared, Step, Violation
from pytest_shmstate.kit.exploring.models import Model
from pytest_shmstate.kit.oracle.verdict import OK, UNKNOWN, VIOLATED

#: How many schedules are run at most, unless told.
BUDGET = 1_000_000
_SCOUTS = 100


class Play(ABC):
    """A scenario once begun: what its processes do, and what is judged. What has no body here may have none."""

    #: How often things happened that show that something was tested: reads that overlapped, retries, moves ...
    met: Counter[str]
    programs: Sequence[Callable[[], None]]

    @abstractmethod
    def key(self) -> Hashable:
        """What there is besides memory and programs: names, locks, and what later operations are judged by."""

    def mourn(self, process: str) -> None:  # noqa: B027
        """A process was killed: the kernel takes its locks away."""

    def note_drained(self) -> None:  # noqa: B027
        """A store that waited has been seen."""

    def conclude(self) -> None:  # noqa: B027
        """All have ended. Raises Violation if that cannot be how it ends."""


class Scenario(ABC):
    """Who takes part, and how it begins."""

    title: str
    processes: Tuple[str, ...]
    #: How often each may be killed, wherever it is; none unless listed.
    kills: Dict[str, int] = {}  # noqa: RUF012
    #: What must have been met for a pass to say anything.
    must_meet: Tuple[str, ...] = ()
    #: What values are called in reports.
    called: Dict[int, str] = {}  # noqa: RUF012

    @abstractmethod
    def begin(self, run: Run) -> Play:
        """Set it up. What is loaded and stored here, nobody comes in between."""


class Failure(NamedTuple):
    """A schedule under which the property does not hold. ``table``: its steps, a column a process."""

    sentence: str
    schedule: Tuple[Choice, ...]
    steps: Tuple[Step, ...]
    table: str

    @property
    def switches(self) -> int:
        """How often another process goes on than before."""
        return sum(now.process != before.process for before, now in zip(self.steps, self.steps[1:]))


class Certificate(NamedTuple):
    """What an exploration did. ``preemptions``: None if it was without bound. ``failure``: None if there was none."""

    scenario: str
    model: str
    preemptions: Optional[int]
    schedules: int
    states: int
    deepest: int
    is_complete: bool
    met: Dict[str, int]
    unmet: Tuple[str, ...]
    failure: Optional[Failure]

    @property
    def outcome(self) -> str:
        """OK, VIOLATED or UNKNOWN: not to the end, or nothing was met that could have gone wrong."""
        if self.failure is not None:
            return VIOLATED
        return OK if self.is_complete and not self.unmet else UNKNOWN

    def __str__(self) -> str:
        how = (
            "every schedule"
            if self.preemptions is None
            else f"every schedule with {self.preemptions} preemptions at most"
        )
        reach = (
            how
            if self.is_complete
            else f"NOT every schedule: stopped at its budget, or at the violation; {how} was meant"
        )
        met = ", ".join(f"{name} {times}" for name, times in sorted(self.met.items())) or "nothing"
        lines = [
            f"{self.scenario}, memory {self.model}: {self.outcome}",
            f"  {reach}; {self.schedules:,} run, {self.states:,} states, {self.deepest} steps at most",
            f"  met: {met}" + (f"; NEVER MET: {', '.join(self.unmet)}" if self.unmet else ""),
        ]
        if self.failure is not None:
            lines += ["", self.failure.table, "", f"  {self.failure.sentence}"]
        return "\n".join(lines)


class _Node(NamedTuple):
    """The end of a sequence of choices, which shares its beginning with others."""

    before: Optional[_Node]
    choice: Choice


def explore(
    scenario: Scenario, model: Model, *, preemptions: Optional[int] = None, budget: int = BUDGET
) -> Certificate:
    """Run the schedules of a scenario until one fails, or there are no more, or ``budget`` of them were run.

    ``preemptions``: how often in a schedule another process may go on though the last one could have.
    """
    shared = Shared()
    shared.called.update(scenario.called)
    _Search(scenario, model, shared, preemptions, 1).scout()
    while True:
        search = _Search(scenario, model, shared, preemptions, budget)
        try:
            return search.certificate()
        except NotPrivate:
            continue


def hunt(scenario: Scenario, model: Model, *, most: int = 3, budget: int = BUDGET) -> Certificate:
    """Explore with no preemption, with one, ... with ``most``, then without bound; stop at the first violation.

    What fails with few preemptions is easiest to understand.
    """
    for preemptions in range(most + 1):
        certificate = explore(scenario, model, preemptions=preemptions, budget=budget)
        if certificate.failure is not None:
            return certificate
    return explore(scenario, model, budget=budget)


def replay(scenario: Scenario, model: Model, schedule: Sequence[Choice]) -> Tuple[List[Step], Optional[str]]:
    """Make these choices; returns what was done, and the sentence of the violation if there was one."""
    shared = Shared()
    shared.called.update(scenario.called)
    stage = _Stage(scenario, model, shared)
    try:
        for choice in schedule:
            if stage.step(choice):
                break
        return stage.steps, stage.sentence
    finally:
        stage.run.end()


class _Stage:
    """One schedule being run."""

    def __init__(self, scenario: Scenario, model: Model, shared: Shared) -> None:
        self.run = Run(scenario.processes, model, shared)
        self.kills = [scenario.kills.get(name, 0) for name in scenario.processes]
        self.play = scenario.begin(self.run)
        self.steps: List[Step] = []
        self.sentence: Optional[str] = None
        self.run.begin(self.play.programs)

    def choices(self) -> List[Choice]:
        """What can happen next."""
        return self.run.choices(self.kills)

    def step(self, choice: Choice) -> bool:
        """Make a choice. Returns whether that broke the property."""
        try:
            self.run.take(choice, self.steps)
            if choice.kind == KILL:
                self.kills[choice.process] -= 1
                self.play.mourn(self.run.actors[choice.process].name)
            elif self.run.model.buffers:
                self.play.note_drained()
        except NotPrivate:
            raise
        except Exception as error:
            self.sentence = _sentence_of(error)
        return self.sentence is not None

    def conclude(self) -> bool:
        """Nothing can happen any more. Returns whether that breaks the property."""
        waiting = [f"{a.name} at {a.pending.label!r}" for a in self.run.actors if a.pending is not None]
        if waiting:
            self.sentence = f"nobody can go on: {', '.join(waiting)}"
            return True
        try:
            self.play.conclude()
        except Violation as violation:
            self.sentence = str(violation)
        return self.sentence is not None


def _sentence_of(error: Exception) -> str:
    return str(error) if isinstance(error, Violation) else f"raised {type(error).__name__}: {error}"


class _Search:
    """One exploration."""

    def __init__(
        self, scenario: Scenario, model: Model, shared: Shared, preemptions: Optional[int], budget: int
    ) -> None:
        self._scenario, self._model, self._shared = scenario, model, shared
        self._preemptions, self._budget = preemptions, budget
        self._seen: Set[Hashable] = set()
        self._met: Counter[str] = Counter()
        self._left: List[Tuple[Optional[_Node], int]] = [(None, 0)]
        self._schedules = self._deepest = 0
        self._failure: Optional[Failure] = None

    def scout(self) -> None:
        """Run some schedules, drawn and always the same, to see which cells may be private."""
        draw = random.Random(0)  # noqa: S311
        for _ in range(_SCOUTS):
            stage = _Stage(self._scenario, self._model, self._shared)
            while stage.sentence is None:
                choices = stage.choices()
                if not choices:
                    break
                stage.step(draw.choice(choices))
            stage.run.end()
        self._shared.find_private()

    def certificate(self) -> Certificate:
        """Do it, and tell what was done."""
        while self._left and self._failure is None and self._schedules < self._budget:
            self._schedules += 1
            self._run_one(*self._left.pop())
        return Certificate(
            self._scenario.title,
            self._model.title,
            self._preemptions,
            self._schedules,
            len(self._seen),
            self._deepest,
            not self._left and self._failure is None,
            dict(self._met),
            tuple(what for what in self._scenario.must_meet if not self._met[what]),
            self._failure,
        )

    def _run_one(self, node: Optional[_Node], preempted: int) -> None:
        stage = _Stage(self._scenario, self._model, self._shared)
        try:
            failed = stage.sentence is not None
            last = None
            for choice in _choices_to(node):
                stage.play.met.clear()  # what is done over again was counted before
                failed = failed or stage.step(choice)
                last = choice.process
            while not failed:
                choices = self._within_bounds(stage, last, preempted)
                if not choices:
                    failed = stage.conclude()
                    break
                if len(choices) > 1:
                    key: Hashable = (stage.run.key(), stage.play.key())  # who is dead says who may not be killed again
                    if self._preemptions is not None:
                        key = (key, last, preempted)
                    if key in self._seen:
                        break
                    self._seen.add(key)
                    self._left += [(_Node(node, choice), price) for choice, price in reversed(choices[1:])]
                choice, preempted = choices[0]
                node, last = _Node(node, choice), choice.process
                failed = stage.step(choice)
            if failed:
                schedule, steps = tuple(_choices_to(node)), tuple(stage.steps)
                self._failure = Failure(stage.sentence or "", schedule, steps, self._table(steps))
        finally:
            self._deepest = max(self._deepest, len(stage.steps))
            self._met.update(stage.play.met)
            stage.run.end()

    def _table(self, steps: Sequence[Step]) -> str:
        rows = [
            Row(step.process, "", "KILLED here") if step.kind == KILL else Row(step.process, self._shared.text_of(step))
            for step in steps
        ]
        return columns(rows, [name for name in self._scenario.processes if any(row.process == name for row in rows)])

    def _within_bounds(self, stage: _Stage, last: Optional[int], preempted: int) -> List[Tuple[Choice, int]]:
        """The choices, those first that go on with who went on last, each with the preemptions that it comes to."""
        choices = stage.choices()
        could_go_on = any(choice.process == last and choice.kind == GO for choice in choices)
        priced = [
            (choice, preempted + (could_go_on and choice.kind == GO and choice.process != last)) for choice in choices
        ]
        priced.sort(key=lambda pair: (pair[0].process != last or pair[0].kind != GO, pair[0].kind == KILL))
        if self._preemptions is None:
            return [(choice, 0) for choice, _ in priced]
        return [(choice, price) for choice, price in priced if price <= self._preemptions]


def _choices_to(node: Optional[_Node]) -> List[Choice]:
    choices = []
    while node is not None:
        choices.append(node.choice)
        node = node.before
    return choices[::-1]
