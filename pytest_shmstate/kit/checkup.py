"""All engines on one structure: what a test calls, and what ``python -m pytest_shmstate.kit check`` prints.

def test_my_structure():
    check(MyAdapter()).require()
"""

from __future__ import annotations

import pickle
import time
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from hypothesis import Phase
from hypothesis import settings as Settings  # noqa: N812 - a class
from hypothesis.errors import Flaky

from pytest_shmstate.kit import again
from pytest_shmstate.kit.again import replay, replay_line
from pytest_shmstate.kit.exploring.explored import QUICK, certify
from pytest_shmstate.kit.exploring.others import explored, scenarios
from pytest_shmstate.kit.oracle.history import PUBLISH, READ, Path
from pytest_shmstate.kit.oracle.verdict import OK, UNKNOWN, VIOLATED
from pytest_shmstate.kit.seams.adapter import Adapter, ShmstateAdapter
from pytest_shmstate.kit.stepping.encounters import with_operations
from pytest_shmstate.kit.stepping.machines import DISTURBANCES, run_machine
from pytest_shmstate.kit.stepping.nursery import StepperFailed
from pytest_shmstate.kit.stepping.schedules import Diverged, to_text
from pytest_shmstate.kit.stepping.shorten import bound_of, shortened, taken
from pytest_shmstate.kit.stepping.stepper import Stepper, Violated
from pytest_shmstate.kit.stress.stress import stress

__all__ = ["ENGINES", "Broken", "Finding", "Report", "check", "replay"]

ENGINES = ("explorer", "stepper", "stress")
#: Of one process under stress, at most: its log is judged in memory.
_OPERATIONS, _OPERATIONS_PER_SECOND = 100_000, 20_000
#: Turns of one example.
_TURNS = 30
#: What a structure is not asked for that does not survive the death of its writer: an exception is one, half-way.
_DEADLY = ("throw",)
_HAND_OVER = "hand over"
_WAITS_IN_C = (
    "It waited where there is no gate, in a lock of C: nobody can tell whether for long. Have nobody disturbed"
    " (disturbed=False), or leave such a structure to stress."
)


class Finding(NamedTuple):
    """What one engine has to say of one scenario. ``told``: in full, with the schedule if there is one."""

    engine: str
    scenario: str
    outcome: str
    seconds: float
    told: str

    def __str__(self) -> str:
        return f"---- {self.engine}: {self.outcome}, {self.seconds:.1f} s\n{self.told}\n"


class Broken(AssertionError):
    """The structure is not what it promises to be, or that could not be shown. The text is the report."""


class Report(NamedTuple):
    """What all engines found."""

    title: str
    findings: Sequence[Finding]

    @property
    def outcome(self) -> str:
        """VIOLATED if anything was; otherwise UNKNOWN if anything was, or nothing was done; otherwise OK."""
        outcomes = {finding.outcome for finding in self.findings}
        if VIOLATED in outcomes:
            return VIOLATED
        return UNKNOWN if UNKNOWN in outcomes or not outcomes else OK

    @property
    def summary(self) -> str:
        """One line."""
        ended: Dict[str, List[str]] = {}
        for finding in self.findings:
            ended.setdefault(finding.engine, []).append(finding.outcome)
        by_engine = ", ".join(
            f"{engine} {next(outcome for outcome in (VIOLATED, UNKNOWN, OK) if outcome in outcomes)}"
            for engine, outcomes in ended.items()
        )
        return f"{self.title}: {self.outcome} ({by_engine})"

    def require(self) -> None:
        """Raises Broken unless it is OK."""
        if self.outcome != OK:
            raise Broken(f"\n{self}")

    def __str__(self) -> str:
        return "\n".join([*map(str, self.findings), self.summary])


def check(
    adapter: Adapter,
    *,
    engines: Sequence[str] = ENGINES,
    examples: int = 100,
    seconds: float = 5.0,
    by_line: Sequence[str] = (),
    waits_for_writers: bool = False,
    disturbed: bool = True,
    folder: Optional[Path] = None,
    note: Optional[Callable[[Finding], object]] = None,
) -> Report:
    """Look for a schedule under which a structure breaks: explore, step through, and stress it.

    ``examples``  of the stepper, each a schedule of some dozen turns in real processes
    ``seconds``   of stress
    ``by_line``   modules that hand ``shm.buf`` to C, which the stepper then takes line by line
    ``waits_for_writers``  reads may wait for a writer that stands still; without it that is a violation
    ``disturbed`` whether the stepper stops, kills, interrupts and replaces processes as well, beside having them take turns
    ``folder``    where stress saves a history that is wrong; by default a new one in the temporary directory
    ``note``      called with each finding as it comes

    An engine stops at the first thing that it finds. A structure is asked for what its adapter says that it can do: a
    writer is killed, or interrupted by an exception, if it ``survives_death``; it hands over if it does, or if
    ``hand_over`` is defined; it is resized if ``resize`` is. Raises ValueError for engines that there are not, and for
    an adapter that other processes cannot have.
    """
    _refuse_what_cannot_be(adapter, engines)
    found: List[Finding] = []
    ways: Dict[str, Callable[[], Iterator[Finding]]] = {
        "explorer": lambda: _explore(adapter, waits_for_writers),
        "stepper": _Stepping(
            adapter, examples, tuple(by_line), waits_for_writers, _disturbances(adapter, disturbed)
        ).findings,
        "stress": lambda: _stress(adapter, seconds, folder),
    }
    for engine in engines:
        for finding in ways[engine]():
            found.append(finding)
            if note is not None:
                note(finding)
            if finding.outcome == VIOLATED:
                break
    return Report(adapter.title, tuple(found))


def _refuse_what_cannot_be(adapter: Adapter, engines: Sequence[str]) -> None:
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown or not engines:
        raise ValueError(f"engines={tuple(engines)}: {', '.join(unknown) or 'nothing'} is none of {', '.join(ENGINES)}")
    if set(engines) == {"explorer"}:
        return
    kind = type(adapter)
    if kind.__module__ == "__main__":
        raise ValueError(
            f"{kind.__name__} is defined in the program that runs, from where other processes cannot import it: put it into"
            " a module of its own"
        )
    try:
        pickle.dumps(adapter)
    except Exception as error:
        raise ValueError(
            f"{kind.__name__} cannot be pickled ({type(error).__name__}: {error}): each process gets an adapter of its own,"
            " which holds no handle"
        ) from error


def _can_hand_over(adapter: Adapter) -> bool:
    return adapter.survives_death or type(adapter).hand_over is not Adapter.hand_over


def _disturbances(adapter: Adapter, disturbed: bool) -> List[str]:
    spared = [] if adapter.survives_death else [*_DEADLY]
    spared += [] if _can_hand_over(adapter) else [_HAND_OVER]
    return [what for what in DISTURBANCES if disturbed and what not in spared]


# ---- the explorer


def _explore(adapter: Adapter, waits: bool) -> Iterator[Finding]:
    if isinstance(adapter, ShmstateAdapter):
        for stage in QUICK.values():
            began = time.perf_counter()
            certificate = certify(stage)
            took = time.perf_counter() - began
            yield Finding("explorer", certificate.scenario, certificate.outcome, took, str(certificate))
        return
    for name, scenario in scenarios(adapter, waits).items():
        began = time.perf_counter()
        outcome, told, schedule = explored(name, scenario)
        if schedule:
            told += f"\n{again.replay_line(schedule, (), waits)}"
        yield Finding("explorer", scenario.title, outcome, time.perf_counter() - began, told)
        if scenario.out_of_reach:
            return


# ---- the stepper


class _Stepping(NamedTuple):
    """What the stepper is asked to do."""

    adapter: Adapter
    examples: int
    by_line: Tuple[str, ...]
    waits: bool
    disturbances: Sequence[str]

    def findings(self) -> Iterator[Finding]:
        """One."""
        began = time.perf_counter()
        try:
            with Stepper(self.adapter, by_line=self.by_line) as stepper:
                outcome, told = self._outcome(stepper)
        except StepperFailed as error:
            outcome, told = UNKNOWN, str(error)
        yield Finding("stepper", f"{self.examples} examples", outcome, time.perf_counter() - began, told)

    def _outcome(self, stepper: Stepper) -> Tuple[str, str]:
        # What it draws is found again by its schedule, and shortened by shorten.py.
        how = Settings(
            max_examples=self.examples,
            database=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            stateful_step_count=_TURNS,
        )
        try:
            met = run_machine(
                self.adapter,
                stepper=stepper,
                settings=how,
                bound=bound_of(self.by_line),
                disturbances=self.disturbances,
                waits_for_writers=self.waits,
            )
        except Violated as violated:
            return self._found(stepper, violated)
        except Flaky as error:
            inner = [one for one in getattr(error, "exceptions", ()) if isinstance(one, Violated)]
            if inner:
                return self._found(stepper, inner[0])
            return UNKNOWN, f"the same turns did not lead to the same twice: {error}"
        counted = ", ".join(f"{what} {times}" for what, times in sorted(met.items()) if times and what != "examples")
        if not met["reads that met a publish"]:
            return UNKNOWN, f"met: {counted}; no read met a publish, so nothing was shown"
        return OK, f"{self.examples} examples; met: {counted}"

    def _found(self, stepper: Stepper, violated: Violated) -> Tuple[str, str]:
        at = [operation for operation, turn in with_operations(violated.turns) if turn.outcome == "hang"]
        if at:  # each time that it is taken again it hangs for as long
            is_excused = self.waits or at[-1] not in (PUBLISH, READ)
            return (UNKNOWN, f"{violated}\n{_WAITS_IN_C}") if is_excused else (VIOLATED, str(violated))
        bound, waits = bound_of(self.by_line), self.waits
        violated = shortened(stepper, violated, bound=bound, waits=waits)
        told, _, _ = str(violated).rpartition("\n")
        line = replay_line(to_text(violated.turns), self.by_line, waits)
        try:
            taken(stepper, violated.turns, bound=bound, waits=waits, exactly=True)
        except Diverged as diverged:
            line = f"replay: no; taken again, it went another way: {diverged}"
        return VIOLATED, f"{told}\n{line}"


# ---- stress


def _stress(adapter: Adapter, seconds: float, folder: Optional[Path]) -> Iterator[Finding]:
    began = time.perf_counter()
    operations = max(_OPERATIONS, int(_OPERATIONS_PER_SECOND * seconds))
    result = stress(
        adapter, seconds=seconds, operations=operations, handovers=int(_can_hand_over(adapter)), folder=folder
    )
    yield Finding("stress", f"{seconds:g} s", result.verdict.outcome, time.perf_counter() - began, str(result))
