"""The explorer: what its certificates say, how it ends, and that what it finds can be had again."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Callable, List, Sequence, Tuple

import pytest

from pytest_shmstate.kit.exploring.actors import KILL, Actor, Run, Violation
from pytest_shmstate.kit.exploring.explorer import Play, Scenario, explore, hunt, replay
from pytest_shmstate.kit.exploring.models import MODELS, SEQUENTIAL, Model


class Lines(Play):
    """Processes that do some lines each; ``judge`` is asked in the end."""

    def __init__(self, programs: Sequence[Callable[[], None]], judge: Callable[[], None]) -> None:
        self.met: Counter[str] = Counter()
        self.programs = programs
        self._judge = judge
        self.mourned: List[str] = []

    def key(self) -> Tuple[str, ...]:
        return tuple(self.mourned)

    def mourn(self, process: str) -> None:
        self.mourned.append(process)

    def conclude(self) -> None:
        self._judge()


class Counting(Scenario):
    """Two processes that each add 1 to a cell, in two steps. Nothing must be lost; something can."""

    title = "two that count"
    processes = ("first", "second")
    must_meet: Tuple[str, ...] = ("additions",)

    def __init__(self, in_turns: bool = False) -> None:
        self._in_turns = in_turns

    def begin(self, run: Run) -> Play:
        cell = run.cells.number("count")
        turn: List[str] = []

        def add(actor: Actor) -> None:
            if self._in_turns:
                actor.system_call("take the turn", lambda: not turn)
                turn.append(actor.name)
            actor.store(cell, actor.load(cell, "load count") + 1, "store count")
            play.met["additions"] += 1
            if self._in_turns:
                actor.system_call("end the turn")
                turn.clear()

        def judge() -> None:
            if run.cells.load(0, cell, -1) != 2:
                raise Violation("an addition was lost")

        play = Lines([partial(add, actor) for actor in run.actors], judge)
        return play


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.title.split()[0])
def test_a_lost_update_is_found_and_replays(model: Model) -> None:
    certificate = hunt(Counting(), model)

    assert certificate.outcome == "VIOLATED"
    assert certificate.preemptions == 1 if model is SEQUENTIAL else certificate.preemptions is not None
    assert certificate.failure is not None
    assert certificate.failure.sentence == "an addition was lost"
    steps, sentence = replay(Counting(), model, certificate.failure.schedule)
    assert tuple(steps) == certificate.failure.steps
    assert sentence is None  # it is lost only when all have ended


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.title.split()[0])
def test_what_cannot_be_lost_is_certified(model: Model) -> None:
    certificate = explore(Counting(in_turns=True), model)

    assert certificate.outcome == "OK"
    assert certificate.is_complete
    assert certificate.met["additions"] > 2
    assert str(certificate).startswith(f"two that count, memory {model.title}: OK\n  every schedule; ")


def test_a_budget_that_is_used_up_is_no_pass() -> None:
    certificate = explore(Counting(in_turns=True), SEQUENTIAL, budget=1)

    assert certificate.outcome == "UNKNOWN"
    assert "NOT every schedule" in str(certificate)


def test_what_was_never_met_is_no_pass() -> None:
    class Idle(Counting):
        must_meet = ("additions", "eclipses")

    certificate = explore(Idle(in_turns=True), SEQUENTIAL)

    assert certificate.outcome == "UNKNOWN"
    assert certificate.unmet == ("eclipses",)
    assert "NEVER MET: eclipses" in str(certificate)


def test_a_bound_is_named_by_the_certificate() -> None:
    certificate = explore(Counting(), SEQUENTIAL, preemptions=0)

    assert certificate.outcome == "OK"  # without a preemption nothing is lost
    assert "every schedule with 0 preemptions at most" in str(certificate)


class Waiting(Scenario):
    """Each waits for the other's turn."""

    title = "two that wait"
    processes = ("first", "second")

    def begin(self, run: Run) -> Play:
        def wait(actor: Actor) -> None:
            actor.system_call("wait for ever", lambda: False)

        return Lines([partial(wait, actor) for actor in run.actors], lambda: None)


def test_that_nobody_can_go_on_is_a_violation() -> None:
    certificate = explore(Waiting(), SEQUENTIAL)

    assert certificate.failure is not None
    assert certificate.failure.sentence == ("nobody can go on: first at 'wait for ever', second at 'wait for ever'")


class Breaking(Counting):
    """A process with a bug of its own."""

    def begin(self, run: Run) -> Play:
        cell = run.cells.number("count")

        def divide(actor: Actor) -> None:
            actor.store(cell, 1 // actor.load(cell, "load count"), "store count")

        return Lines([partial(divide, actor) for actor in run.actors], lambda: None)


def test_an_exception_is_a_violation_and_names_itself() -> None:
    certificate = explore(Breaking(), SEQUENTIAL)

    assert certificate.failure is not None
    assert certificate.failure.sentence.startswith("raised ZeroDivisionError: ")


class Dying(Scenario):
    """A process that stores three times and may be killed before each; what it leaves is collected."""

    title = "one that may die"
    processes = ("mortal", "witness")

    def __init__(self) -> None:
        self.kills = {"mortal": 1}
        #: What is there in the end, how many stores were made, whether it died.
        self.left: List[Tuple[int, int, bool]] = []

    def begin(self, run: Run) -> Play:
        cell = run.cells.number("progress")
        mortal, witness = run.actors
        made = [0]

        def go() -> None:
            for number in (1, 2, 3):
                mortal.store(cell, number, f"store {number}")
                made.append(number)

        def look() -> None:
            witness.system_call("wait for its end", lambda: mortal.is_over)
            self.left.append((witness.load(cell, "load progress"), made[-1], mortal.is_dead))

        return Lines([go, look], lambda: None)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.title.split()[0])
def test_a_kill_comes_before_each_step_and_loses_no_store_that_was_made(model: Model) -> None:
    scenario = Dying()

    certificate = explore(scenario, model)

    assert certificate.outcome == "OK"
    assert {(left, died) for left, _, died in scenario.left} >= {(0, True), (1, True), (2, True), (3, False)}
    if not model.is_stale:  # what was stored may not be loaded yet
        assert [(left, made) for left, made, died in scenario.left if died and left != made] == []


def test_a_kill_is_told_where_it_happened() -> None:
    class Immortal(Dying):
        def begin(self, run: Run) -> Play:
            play = super().begin(run)

            def judge() -> None:
                if run.actors[0].is_dead:
                    raise Violation("it died")

            return Lines(play.programs, judge)

    certificate = hunt(Immortal(), SEQUENTIAL)

    assert certificate.failure is not None
    assert [step.process for step in certificate.failure.steps if step.kind == KILL] == ["mortal"]
    assert certificate.failure.sentence == "it died"
