"""Schedules that were found, as text, and taken again: those of the explorer, and those of the stepper.

explored:NAME:1x7,0x9,1x1     of the scenario NAME: process 1 makes 7 steps, 0 makes 9, ...; k0: process 0 is killed
shmstate-schedule:...         schedules.py
"""

from __future__ import annotations

import re
from typing import List, Sequence, Tuple

from pytest_shmstate.kit.columns import Row, columns
from pytest_shmstate.kit.exploring import explorer
from pytest_shmstate.kit.exploring.actors import GO, KILL, Choice, Shared, Step
from pytest_shmstate.kit.exploring.adapted import Adapted
from pytest_shmstate.kit.exploring.models import SEQUENTIAL
from pytest_shmstate.kit.exploring.others import EXPLORED, scenarios
from pytest_shmstate.kit.seams.adapter import Adapter
from pytest_shmstate.kit.stepping.schedules import load
from pytest_shmstate.kit.stepping.shorten import bound_of, taken
from pytest_shmstate.kit.stepping.stepper import Stepper

STEPPED = "shmstate-schedule"
_TOKEN = re.compile(r"(\d+)x(\d+)|k(\d+)")


def from_text(text: str) -> Tuple[str, List[Choice]]:
    """The scenario's name, and the schedule. Raises ValueError."""
    kind, _, rest = text.partition(":")
    scenario, _, tokens = rest.rpartition(":")
    matches = [_TOKEN.fullmatch(token) for token in tokens.split(",")]
    if kind != EXPLORED or not all(matches):
        raise ValueError(f"{text[:40]!r} is no schedule: they begin with '{EXPLORED}:' or '{STEPPED}:'; copy all of it")
    schedule: List[Choice] = []
    for match in matches:
        if match is not None:
            process, times, killed = match.groups()
            schedule += [Choice(KILL, int(killed))] if killed else [Choice(GO, int(process))] * int(times)
    return scenario, schedule


def replay(
    adapter: Adapter, schedule: str, *, by_line: Sequence[str] = (), waits_for_writers: bool = False
) -> Tuple[bool, str]:
    """Take a schedule again that ``check`` printed, with the options that it had: whether it holds, and what was done.

    Raises ValueError for what is no schedule, and Diverged where it goes another way than it did.
    """
    if schedule.startswith(STEPPED):
        turns = load(schedule)
        with Stepper(adapter, by_line=by_line) as stepper:
            violated = taken(stepper, turns, bound=bound_of(by_line), waits=waits_for_writers, exactly=True)
            return violated is None, str(violated or stepper.report("nothing is wrong"))
    name, choices = from_text(schedule)
    known = scenarios(adapter, waits_for_writers)
    if name not in known:
        raise ValueError(f"{adapter.title} has no scenario {name!r}; there are {', '.join(known)}")
    scenario = known[name]
    with scenario.in_place():
        steps, sentence = explorer.replay(scenario, SEQUENTIAL, choices)
    return sentence is None, "\n".join([scenario.title, "", table(scenario, steps), "", sentence or "nothing is wrong"])


def replay_line(schedule: str, by_line: Sequence[str] = (), waits_for_writers: bool = False) -> str:
    """What takes it again."""
    options = [f"by_line={list(by_line)}"] if by_line else []
    options += ["waits_for_writers=True"] if waits_for_writers else []
    return f"replay: checkup.replay({', '.join(['adapter', repr(schedule), *options])})"


def table(scenario: Adapted, steps: Sequence[Step]) -> str:
    """A column a process."""
    shared = Shared()
    rows = [Row(s.process, "", "KILLED here") if s.kind == KILL else Row(s.process, shared.text_of(s)) for s in steps]
    return columns(rows, scenario.processes)
