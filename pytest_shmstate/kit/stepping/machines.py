"""Hypothesis state machines over the stepper: the schedule is what Hypothesis draws, so it shrinks and replays.

    def test_my_structure():
        seen = run_machine(MyAdapter())
        assert seen["reads that met a publish"] > 100

What is judged: every read that ends, by the history so far; at the end of each example that every live reader comes to
the end of its read while all others stand still, that all who were stopped finish, that the structure still works and
all see it, and that nothing is left in ``/dev/shm``. What was met on the way is counted: a machine that never
interrupted a publish has proved nothing.

There is one rule, ``turn``. With a rule for each thing that a process may do, Hypothesis leaves out some of them in each
example, most of all examples then lack what it takes for a read to meet a publish, and disturbances outnumber work.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Type, Union
from typing import Counter as Counted

from hypothesis import HealthCheck, Phase
from hypothesis import settings as Settings  # noqa: N812 - a class
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from pytest_shmstate.kit.seams.adapter import Adapter
from pytest_shmstate.kit.stepping.encounters import encounters, gates_passed
from pytest_shmstate.kit.stepping.process import Done, Outcome, Process, Raised, StillRunning
from pytest_shmstate.kit.stepping.stepper import LEFT, Stepper

#: Who takes part. Fixed: that one more would find more is not worth the examples that it takes.
WRITERS = ("writer 1", "writer 2")
READERS = ("reader 1", "reader 2")
#: What happens to processes, or to the structure, now and then.
DISTURBANCES = ("resize", "hand over", "detach", "kill", "stop", "throw")
#: Of each, in one example: who is always disturbed meets nobody.
_MOST_DISTURBANCES = 2
#: One turn of so many is a disturbance.
_ONE_IN = 6
#: Gates that a process goes through at a time, unless it goes on to the end.
_MOST_STEPS = 8
_SIGNALS = ("kill", "stop", "throw", "cont")

#: How far to go: so many gates, to that gate, or (None) to the end.
Far = Union[None, int, str]
Choice = Tuple[str, str]


class Do(NamedTuple):
    """One turn: what a process does, or what is done to it."""

    process: str
    what: str
    size: int = 0
    far: Far = None


def machine_for(
    adapter: Adapter,
    *,
    stepper: Optional[Stepper] = None,
    size: int = 64,
    sizes: Sequence[int] = (16, 24, 40),
    bound: int = 200,
    disturbances: Sequence[str] = DISTURBANCES,
    waits_for_writers: bool = False,
    met: Optional[Counted[str]] = None,
    **options: Any,
) -> Type[Machine]:
    """A state machine that uses ``adapter`` from several processes, for ``run_state_machine_as_test`` or ``.TestCase``.

    ``stepper``  whose processes to use, again and again; it stays open. Without one each example starts its own, with
                 ``options``, which takes a good part of a second
    ``size``, ``sizes``  what the structure is created for, and what is published; more than it was created for only if
                 it grows
    ``bound``    steps in which every operation ends while all others stand still
    ``disturbances``  what happens now and then, some of it in each example
    ``waits_for_writers``  reads may wait for a writer that stands still, though not for one that is dead
    ``met``      where what happens is counted (encounters.py, and ``examples``), whether they fail or not
    """
    members: Dict[str, Any] = {
        "adapter": adapter,
        "lent": stepper,
        "options": options,
        "size": size,
        "sizes": tuple(sizes),
        "bound": bound,
        "disturbances": tuple(disturbances),
        "waits_for_writers": waits_for_writers,
        "seen": Counter() if met is None else met,
    }
    # By which Hypothesis tells the examples of one structure from those of another.
    title = "".join(word.capitalize() for word in re.findall(r"\w+", adapter.title))
    made: Type[Machine] = type(f"{title}Machine", (Machine,), members)
    made.TestCase.settings = _as_it_needs(Settings.default)
    return made


def run_machine(adapter: Adapter, *, settings: Optional[Settings] = None, **options: Any) -> Counted[str]:
    """Run ``machine_for(adapter, ...)``, whose options and a Stepper's these are; returns what it met. Raises Violated."""
    names = ("size", "sizes", "bound", "disturbances", "waits_for_writers", "met")
    of_machine = {name: options.pop(name) for name in names if name in options}
    with ExitStack() as stack:
        stepper = options.pop("stepper", None) or stack.enter_context(Stepper(adapter, **options))
        machine = machine_for(adapter, stepper=stepper, **of_machine)
        run_state_machine_as_test(machine, settings=_as_it_needs(settings))  # type: ignore[no-untyped-call]
        return machine.seen


def _as_it_needs(settings: Optional[Settings]) -> Settings:
    # To explain a failure Hypothesis traces every line of the driver, which tells nothing about the structure.
    phases = [phase for phase in (settings or Settings()).phases if phase is not Phase.explain]
    return Settings(
        settings,
        phases=phases,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,  # several would come as a group of exceptions, not as Violated
    )


# Strategies are kept: to make one, and have it validated, takes longer than to draw from it.
_RARELY = st.integers(1, _ONE_IN)
_RUNNER = st.runner()


@lru_cache(maxsize=1024)
def _one_of(options: Tuple[Any, ...]) -> st.SearchStrategy[Any]:
    return st.sampled_from(options)


def _some_of(options: Sequence[str]) -> st.SearchStrategy[Set[str]]:
    return st.sets(_one_of(tuple(options))) if options else st.just(set())


@lru_cache(maxsize=1024)
def _far(gates: Tuple[str, ...]) -> st.SearchStrategy[Far]:
    far = st.none() | st.integers(0, _MOST_STEPS)
    return far | st.sampled_from(gates) if gates else far


@st.composite
def _turns(draw: Callable[[Any], Any]) -> Do:
    machine: Machine = draw(_RUNNER)
    moves, disturbances = machine.moves(), machine.possible_disturbances()
    rarely = disturbances and (not moves or draw(_RARELY) == _ONE_IN)
    if rarely:  # the kind first: there are more who may be stopped than who may hand over
        kind = draw(_one_of(tuple(sorted({what for _, what in disturbances}))))
        disturbances = [choice for choice in disturbances if choice[1] == kind]
    process, what = draw(_one_of(tuple(disturbances if rarely else moves)))
    if what in _SIGNALS:
        return Do(process, what)
    size = draw(_one_of(tuple(machine.sizes))) if what == "publish" else 0
    gates = gates_passed(machine.stepper.turns, machine.stepper.process(process).operation or what)
    return Do(process, what, size, draw(_far(tuple(gates))))


class Machine(RuleBasedStateMachine):
    """What processes may do, one at a time. What is drawn depends on what the driver knows, and on nothing else."""

    adapter: Adapter
    lent: Optional[Stepper]
    options: Dict[str, Any]
    size: int
    sizes: Sequence[int]
    bound: int
    disturbances: Sequence[str]
    waits_for_writers: bool
    #: What all examples met.
    seen: Counted[str]

    def __init__(self) -> None:
        super().__init__()
        self.stepper = self.lent or Stepper(self.adapter, **self.options)
        self.stepper.reset(self.adapter)
        self._allowed: Set[str] = set()
        self._disturbed: Counted[str] = Counter()

    @initialize(disturbances=_RUNNER.flatmap(lambda machine: _some_of(machine.disturbances)))
    def begin(self, disturbances: Set[str]) -> None:
        """A writer has created the structure and published, a reader has attached."""
        self._allowed = disturbances
        self._do(Do(WRITERS[0], "create"))
        self._do(Do(WRITERS[0], "publish", self.sizes[0]))
        self._do(Do(READERS[0], "attach"))

    @rule(do=_turns())
    def turn(self, do: Do) -> None:
        """One process does something, or something is done to it."""
        self._disturbed[do.what] += 1
        self._do(do)

    # ---- who may do what

    def _living(self, names: Sequence[str]) -> List[Process]:
        processes = (self.stepper.processes.get(name) for name in names)
        return [process for process in processes if process is not None and process.is_alive]

    def moves(self) -> List[Choice]:
        """What makes something happen: a writer publishes, a reader reads, one in the middle of something goes on."""
        found: List[Choice] = []
        for one in self._living(WRITERS + READERS):
            if one.is_stopped:
                found.append((one.name, "cont"))
            elif one.operation:
                found.append((one.name, "go on"))
            elif one.leaving:  # once more, as an exception cut it short
                found.append((one.name, one.leaving))
            elif one.has_writer or one.has_reader:
                found.append((one.name, "publish" if one.has_writer else "read"))
        return found + [(name, "create") for name in self._heirs()] + [(name, "attach") for name in self._newcomers()]

    def possible_disturbances(self) -> List[Choice]:
        """What disturbs, and may come now, in this example."""
        mortals = self._living(WRITERS + READERS if self.adapter.survives_death else READERS)
        in_the_middle = [one for one in mortals if one.operation]  # there are few such moments
        found = [(one.name, "kill") for one in in_the_middle or mortals if one.operation or one.has_writer]
        for one in self._living(WRITERS + READERS):
            if one.is_stopped:
                continue
            if one.operation:
                found += [(one.name, "stop"), (one.name, "throw")]
            elif one.has_writer and not one.leaving:
                found += [(one.name, "hand over"), (one.name, "resize")]
            elif one.has_reader:
                found.append((one.name, "detach"))
        return [(name, what) for name, what in found if self._may(what)]

    def _may(self, disturb: str) -> bool:
        if disturb == "resize" and not self.adapter.can_resize:
            return False
        return disturb in self._allowed and self._disturbed[disturb] < _MOST_DISTURBANCES

    def _heirs(self) -> List[str]:
        busy = [one.name for one in self._living(WRITERS) if one.has_writer or one.operation or one.is_stopped]
        if busy and not self.adapter.is_shared:
            return []
        return [name for name in WRITERS if name not in busy]

    def _newcomers(self) -> List[str]:
        busy = [one.name for one in self._living(READERS) if one.has_reader or one.operation or one.is_stopped]
        return [name for name in READERS if name not in busy]

    # ---- what they do

    def _do(self, do: Do) -> None:
        one = self.stepper.process(do.process)
        if do.what in _SIGNALS:
            outcome = {"kill": one.kill, "stop": one.stop, "cont": one.cont, "throw": one.throw}[do.what]()
            return self._judge(one, outcome) if do.what == "throw" else None
        size = do.size or (self.size if do.what in ("create", "resize") else 0)
        far: Dict[str, Any] = {"limit": self.bound, "until": do.far or ""}
        try:
            if isinstance(do.far, int):
                outcome = one.step(do.far) if do.what == "go on" else one.begin(do.what, size, steps=do.far)
            else:
                outcome = one.run(**far) if do.what == "go on" else one.do(do.what, size, **far)
        except StillRunning as error:
            if self.waits_for_writers and any(other.operation for other in self._living(WRITERS) if other is not one):
                return None
            raise self.stepper.violated(f"liveness: {error}") from None
        return self._judge(one, outcome)

    # ---- what is judged

    def _judge(self, one: Process, outcome: Optional[Outcome]) -> None:
        if isinstance(outcome, Raised) and not outcome.is_refusal and not one.was_thrown_at:
            raise self.stepper.violated(f"{one.label} raised {outcome.error}")
        if isinstance(outcome, Done) and isinstance(outcome.result, tuple):  # a read's
            self.stepper.judge()

    def teardown(self) -> None:
        """The end of an example: see the module."""
        try:
            if not self.stepper.has_failed:
                self._end()
        finally:
            self.seen["examples"] += 1
            self.seen.update(encounters(self.stepper.turns, self.stepper.history))
            has_failed, left = self.stepper.has_failed, self.stepper.clear_up()
        try:
            if left and not has_failed:
                raise self.stepper.violated(f"{LEFT}{', '.join(left)}")
        finally:
            if self.lent is None:
                self.stepper.close()

    def _end(self) -> None:
        if not self.waits_for_writers:
            self._read_all()  # while all others stand still
            waiting = [one.label for one in self._living(READERS) if one.is_blocked]
            if waiting:
                raise self.stepper.violated(f"liveness: {', '.join(waiting)} wait for the lock of who stands still")
        for one in self._living(WRITERS + READERS):
            if one.is_stopped:
                one.cont()
        self._finish_all()
        for one in self._living(WRITERS):
            if one.leaving:
                self._do(Do(one.name, one.leaving))
        owner = self._owner()
        if owner is None and self.adapter.survives_death:
            self._do(Do(self._heirs()[0], "create"))
            owner = self._owner()
        if owner is not None:
            self._do(Do(owner, "publish", self.sizes[0]))
        self._read_all()

    def _owner(self) -> Optional[str]:
        return next((one.name for one in self._living(WRITERS) if one.has_writer), None)

    def _read_all(self) -> None:
        for one in self._living(READERS):
            if not one.is_stopped and one.operation:
                self._do(Do(one.name, "go on"))
            if not one.is_stopped and one.has_reader and not one.operation:
                self._do(Do(one.name, "read"))

    def _finish_all(self) -> None:
        left = self._busy()
        while left:
            for one in left:
                self._do(Do(one.name, "go on"))
            still = self._busy()
            if still == left:
                names = ", ".join(one.name for one in left)
                raise self.stepper.violated(f"liveness: {names} wait for each other, or for the dead")
            left = still

    def _busy(self) -> List[Process]:
        return [one for one in self._living(WRITERS + READERS) if one.operation]
