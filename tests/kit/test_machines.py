"""The state machines: they pass on what is right, fail on what is not, and say it in few steps, the same every time."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, Dict, Iterator, List, Tuple, Type
from typing import Counter as Counted

import pytest
from hypothesis import Phase, reproduce_failure, seed, settings
from hypothesis.database import InMemoryExampleDatabase
from hypothesis.reporting import with_reporter
from hypothesis.stateful import run_state_machine_as_test

from pytest_shmstate.kit.seams.adapter import Adapter, ShmstateAdapter
from pytest_shmstate.kit.stepping.machines import Machine, machine_for, run_machine
from pytest_shmstate.kit.stepping.stepper import Stepper, Violated
from tests.kit.broken_structures import Barred, Flag, Locked, Refuses, Ring, Seqlock

IS_THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
EXAMPLES = 500 if IS_THOROUGH else 30
GROWING: Dict[str, Any] = {"size": 4096, "sizes": (24, 5000, 9000)}


@pytest.fixture
def stepper(shmstate_stepper: Stepper) -> Iterator[Stepper]:
    yield shmstate_stepper
    assert shmstate_stepper.reset(ShmstateAdapter()) == []


def quickly(examples: int = EXAMPLES, **more: Any) -> settings:
    """No database: what was found yesterday is not to be found again today."""
    return settings(max_examples=examples, database=None, stateful_step_count=30, report_multiple_bugs=False, **more)


# ---- what is right passes, and what it took is counted


def keeps_its_promises(adapter: Adapter, stepper: Stepper, *what: str, **options: Any) -> None:
    """What a machine did not meet it has proved nothing about; there is more to draw."""
    seen: Counted[str] = Counter()
    for _ in range(5):
        seen.update(run_machine(adapter, stepper=stepper, settings=quickly(), **options))
        if all(seen[name] for name in what):
            break

    assert [name for name in what if not seen[name]] == []
    assert seen["reads that met a publish"] > EXAMPLES


def test_shmstate_keeps_its_promises_with_two_slots(stepper: Stepper) -> None:
    met = ("kills in a publish", "stops in a publish", "exceptions in a publish")

    keeps_its_promises(ShmstateAdapter(slots=2), stepper, *met)


def test_shmstate_keeps_its_promises_as_it_grows_and_shrinks(stepper: Stepper) -> None:
    met = ("publishes that moved", "reads that saw a move", "kills in a publish")

    keeps_its_promises(ShmstateAdapter(slots=4), stepper, *met, **GROWING)


def test_shmstate_keeps_its_promises_with_many_writers(stepper: Stepper) -> None:
    met = ("publishes that moved", "reads that saw a move", "waits", "kills in a publish", "stops in a publish")

    adapter = ShmstateAdapter(slots=2, shared=True)

    keeps_its_promises(adapter, stepper, *met, **GROWING)


@pytest.mark.parametrize(
    ("adapter", "options"),
    [
        (Ring(), {}),
        (Ring(slots=3), {}),
        (Seqlock(), {"waits_for_writers": True, "disturbances": ["detach", "stop", "hand over"]}),
        (Locked(), {"waits_for_writers": True, "disturbances": ["detach", "stop", "hand over"]}),
    ],
    ids=["two slots", "three slots", "a seqlock, nobody killed", "a lock, nobody killed"],
)
def test_other_structures_that_are_right_pass(stepper: Stepper, adapter: Adapter, options: Dict[str, Any]) -> None:
    run_machine(adapter, stepper=stepper, settings=quickly(EXAMPLES // 2), **options)


# ---- what is not is found

ONLY_THROWS: Dict[str, Any] = {"disturbances": ["throw"], "waits_for_writers": True}
TWINS: Dict[str, Tuple[Adapter, Dict[str, Any], str]] = {
    "early publish": (Ring(early=True), {}, "VIOLATED"),
    "no second look": (Ring(checks=False), {}, "VIOLATED"),
    "one slot": (Ring(slots=1), {}, "VIOLATED|liveness"),
    "flag before payload": (Flag(early=True), {}, "VIOLATED"),
    "flag and nothing else": (Flag(early=False), {}, "VIOLATED"),
    "one buffer": (Flag(early=False, buffers=1), {}, "VIOLATED"),
    "no odd mark": (Seqlock(marks=False), {}, "VIOLATED"),
    "readers wait for a frozen writer": (Seqlock(), {"disturbances": []}, "liveness"),
    "readers wait for a dead writer": (Barred(), {"waits_for_writers": True}, "liveness"),
    "a death between the marks": (
        Seqlock(),
        {"waits_for_writers": True, "disturbances": ["kill"]},
        "VIOLATED|liveness",
    ),
    "readers wait for a stopped writer's lock": (Locked(), {"disturbances": ["stop"]}, "liveness"),
    "a lock that an exception leaves behind": (Locked(leaks=True), ONLY_THROWS, "liveness: .* wait for each other"),
    "an heir that is refused": (Refuses(), {}, "raised RuntimeError"),
    "a recovery too many": (Seqlock(recovery="bump"), {"waits_for_writers": True}, "VIOLATED|liveness"),
}


def test_what_was_met_is_told_of_a_machine_that_fails_too(stepper: Stepper) -> None:
    met: Counted[str] = Counter()

    with pytest.raises(Violated):
        run_machine(Ring(early=True), stepper=stepper, settings=quickly(100, phases=[Phase.generate]), met=met)

    assert met["examples"] > 0
    assert met["reads"] > 0


def test_what_breaks_two_rules_is_told_by_one_of_them(stepper: Stepper) -> None:
    machine = machine_for(Seqlock(recovery="bump"), stepper=stepper, waits_for_writers=True)
    adapter, how = Seqlock(recovery="bump"), quickly(1000, phases=[Phase.generate, Phase.shrink])

    assert not machine.TestCase.settings.report_multiple_bugs
    with pytest.raises(Violated):
        run_machine(adapter, stepper=stepper, waits_for_writers=True, settings=settings(how, report_multiple_bugs=True))


def test_machines_of_different_structures_have_different_names() -> None:
    assert [machine_for(one).__name__ for one in (Ring(), ShmstateAdapter())] == ["RingMachine", "ShmstateMachine"]


@pytest.mark.parametrize("twin", TWINS)
def test_a_structure_that_is_nearly_right_is_found(stepper: Stepper, twin: str) -> None:
    adapter, options, rule = TWINS[twin]
    phases = [Phase.generate, Phase.shrink] if IS_THOROUGH else [Phase.generate]
    machine = seed(1)(machine_for(adapter, stepper=stepper, **options))

    with pytest.raises(Violated, match=rule) as found:
        run(machine, quickly(1000, phases=phases))

    told = str(found.value)
    stepper.reset(adapter)
    with pytest.raises(Violated) as again:
        stepper.replay(told.rpartition("Stepper(adapter).replay('")[2].rstrip("')"))
    assert str(again.value) == told


# ---- and told in few steps, the same every time


def run(machine: Type[Machine], how: settings) -> None:
    run_state_machine_as_test(machine, settings=how)  # type: ignore[no-untyped-call]


def failure_of(machine: Type[Machine], how: settings) -> Tuple[Violated, List[str]]:
    """What it raises, and what Hypothesis says of it."""
    lines: List[str] = []
    with with_reporter(lines.append), pytest.raises(Violated) as caught:  # type: ignore[no-untyped-call]
        run(machine, how)
    return caught.value, "\n".join([*lines, *getattr(caught.value, "__notes__", [])]).splitlines()


def test_a_torn_read_across_processes_shrinks_to_few_steps_and_replays_twenty_times_of_twenty(stepper: Stepper) -> None:
    adapter = Seqlock(marks=False)
    # More that may be left out takes longer to be left out.
    disturbances = ["kill", "stop", "throw"] if IS_THOROUGH else []
    options: Dict[str, Any] = {"stepper": stepper, "disturbances": disturbances, "waits_for_writers": True}
    machine = seed(1)(machine_for(adapter, **options))

    found, said = failure_of(machine, quickly(300, print_blob=True, phases=[Phase.generate, Phase.shrink]))

    steps = [line for line in said if line.startswith("state.turn(")]
    assert 1 <= len(steps) <= 20
    assert len(found.turns) <= 20
    (blob,) = [line for line in said if "reproduce_failure(" in line]
    version, told = eval(blob.partition("reproduce_failure")[2].partition(")")[0] + ")")
    for _ in range(20):
        again, _ = failure_of(reproduce_failure(version, told)(machine_for(adapter, **options)), quickly())
        assert (again.turns, str(again)) == (found.turns, str(found))
        with pytest.raises(Violated):
            stepper.replay(found.turns)


def test_the_database_brings_it_back(stepper: Stepper) -> None:
    database = InMemoryExampleDatabase()  # type: ignore[no-untyped-call]
    machine = machine_for(Ring(early=True), stepper=stepper)
    how = settings(quickly(100, phases=[Phase.generate]), database=database)
    found, _ = failure_of(machine, how)

    again, _ = failure_of(machine, settings(how, phases=[Phase.reuse]))

    assert again.turns == found.turns


# ---- without a stepper that is lent


class Forgets(Ring):
    def remove(self, name: str) -> None:
        pass


def test_each_example_may_have_processes_of_its_own_and_leaves_nothing() -> None:
    machine = machine_for(Ring())
    run(machine, quickly(20))
    assert machine.seen["reads"] > 0

    with pytest.raises(Violated, match="left in /dev/shm"):
        run_machine(Forgets(), settings=quickly(20, phases=[Phase.generate]))
