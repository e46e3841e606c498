"""How strong the kit is: each mutant against the engine that has to kill it, in a table."""

from __future__ import annotations

import time
from typing import Any, Callable, Iterator, List, NamedTuple, Sequence, Tuple

from pytest_shmstate.kit import explored
from pytest_shmstate.kit.explorer import hunt
from pytest_shmstate.kit.mutants import MUTANTS
from pytest_shmstate.kit.mutation import Edit, mutated
from pytest_shmstate.kit.scenarios import Code
from pytest_shmstate.kit.verdict import VIOLATED
from shmstate import publishing, reading

_BUDGET = 100_000


class Kill(NamedTuple):
    """What an engine made of a mutant. ``steps`` and ``switches``: of the schedule under which it fails."""

    mutant: str
    about: str
    guards: str
    engine: str
    where: str
    outcome: str
    schedules: int
    seconds: float
    steps: int
    switches: int
    sentence: str

    def __str__(self) -> str:
        ended = f"killed by {self.engine}" if self.outcome == VIOLATED else f"SURVIVES {self.engine} ({self.outcome})"
        effort = f"{self.schedules:,} schedules, {self.seconds:.1f} s, {self.steps} steps, {self.switches} switches"
        return f"{self.mutant:34} {self.guards:3} {ended} in {self.where}: {effort}"


def code_of(edits: Sequence[Edit]) -> Tuple[Callable[..., Any], Callable[..., Any]]:
    """The steps of both sides, mutated."""
    return mutated(publishing, edits).open_publishing, mutated(reading, edits).open_reading


def explore_mutant(name: str) -> Kill:
    """Hunt one in the scenario that has to find it, with as few preemptions as will do."""
    mutant = MUTANTS[name]
    stage = explored.QUICK[mutant.stage]
    began = time.perf_counter()
    certificate = hunt(stage.build(Code(*code_of(mutant.edits))), stage.model, budget=_BUDGET)
    failure = certificate.failure
    return Kill(
        name,
        mutant.about,
        mutant.guards,
        "explorer",
        f"{mutant.stage} ({stage.model.title.split()[0]})",
        certificate.outcome,
        certificate.schedules,
        time.perf_counter() - began,
        len(failure.steps) if failure else 0,
        failure.switches if failure else 0,
        failure.sentence if failure else "survives",
    )


#: All mutants, in the order of the catalogue.
NAMES: Tuple[str, ...] = tuple(MUTANTS)


def hunt_all(names: Sequence[str] = NAMES) -> Iterator[Kill]:
    """Hunt them one after the other, each with the engine that has to kill it."""
    for name in names:
        yield explore_mutant(name)


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
