"""How strong the kit is: each mutant against the engine that has to kill it, in a table."""

from __future__ import annotations

import time
from typing import Any, Callable, Iterator, List, NamedTuple, Sequence, Tuple

from pytest_shmstate.kit.exploring import explored
from pytest_shmstate.kit.exploring.explorer import hunt
from pytest_shmstate.kit.exploring.scenarios import Code
from pytest_shmstate.kit.oracle.verdict import OK, VIOLATED
from pytest_shmstate.kit.power.lifetime_mutants import LIFETIME, LifetimeMutant
from pytest_shmstate.kit.power.mutants import MUTANTS, Mutant
from pytest_shmstate.kit.power.mutation import Edit, Install, mutated
from pytest_shmstate.kit.power.stepped_hunts import HUNTS
from shmstate import publishing, reading

_BUDGET = 100_000
_SURVIVES = "survives"


class Kill(NamedTuple):
    """What an engine made of a mutant.

    ``steps``: of the schedule under which it fails, accesses in the explorer and turns of several accesses in the stepper
    (of its machine and its scripts). ``switches``: how often another process goes on.
    """

    mutant: str
    about: str
    guards: str
    engine: str
    where: str
    outcome: str
    schedules: int
    seconds: float = 0.0
    steps: int = 0
    switches: int = 0
    sentence: str = _SURVIVES

    def __str__(self) -> str:
        ended = f"killed by {self.engine}" if self.outcome == VIOLATED else f"SURVIVES {self.engine} ({self.outcome})"
        effort = f"{self.schedules:,} schedules, {self.seconds:.1f} s, {self.steps} steps, {self.switches} switches"
        return f"{self.mutant:34} {self.guards:3} {ended} in {self.where}: {effort}"


def code_of(edits: Sequence[Edit]) -> Tuple[Callable[..., Any], Callable[..., Any]]:
    """The steps of both sides, mutated."""
    return mutated(publishing, edits).open_publishing, mutated(reading, edits).open_reading


def hunt_mutant(name: str, *, shrink: bool = False) -> Kill:
    """Hunt one with the engine that has to kill it. ``shrink``: look for the least schedule, which takes longer."""
    began = time.perf_counter()
    kill = _explore(name, MUTANTS[name]) if name in MUTANTS else _step(name, LIFETIME[name], shrink)
    return kill._replace(seconds=time.perf_counter() - began)


def _explore(name: str, mutant: Mutant) -> Kill:
    stage = explored.QUICK[mutant.stage]
    certificate = hunt(stage.build(Code(*code_of(mutant.edits))), stage.model, budget=_BUDGET)
    where = f"{mutant.stage} ({stage.model.title.split()[0]})"
    kill = Kill(name, mutant.about, mutant.guards, "explorer", where, certificate.outcome, certificate.schedules)
    failure = certificate.failure
    if failure is None:
        return kill
    return kill._replace(steps=len(failure.steps), switches=failure.switches, sentence=failure.sentence)


def _step(name: str, mutant: LifetimeMutant, shrink: bool) -> Kill:
    found = HUNTS[mutant.hunt](Install(mutant.edits), shrink)
    outcome = VIOLATED if found.report else OK
    sentence = found.report.split("\n", maxsplit=1)[0] or _SURVIVES
    engine = "stress" if mutant.hunt == "stress" else "stepper"
    kill = Kill(name, mutant.about, mutant.guards, engine, mutant.hunt, outcome, found.schedules)
    return kill._replace(steps=found.turns, sentence=sentence)


#: All mutants, in the order of the catalogues.
NAMES: Tuple[str, ...] = (*MUTANTS, *LIFETIME)


def hunt_all(names: Sequence[str] = NAMES, *, shrink: bool = True) -> Iterator[Kill]:
    """Hunt them one after the other."""
    for name in names:
        yield hunt_mutant(name, shrink=shrink)


def survivors(kills: Sequence[Kill]) -> List[str]:
    """Those that nobody killed."""
    return [kill.mutant for kill in kills if kill.outcome != VIOLATED]


def markdown(kills: Sequence[Kill]) -> str:
    """The table for docs/mutants.md."""
    lines = [
        "| mutant | what is wrong | breaks | killed by | in | schedules | seconds | steps | switches | what was seen |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kill in kills:
        cells = [
            f"`{kill.mutant}`",
            kill.about,
            kill.guards,
            kill.engine if kill.outcome == VIOLATED else "**nobody**",
            kill.where,
            f"{kill.schedules:,}",
            f"{kill.seconds:.1f}",
            str(kill.steps),
            str(kill.switches),
            kill.sentence.replace("|", "\\|").split("\n")[0][:100],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
