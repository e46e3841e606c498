"""Schedules that were found, as text, and taken again: those of the explorer, and those of the stepper.

explored:NAME:1x7,0x9,1x1     of the scenario NAME: process 1 makes 7 steps, 0 makes 9, ...; k0: process 0 is killed
shmstate-schedule:...         schedules.py
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Dict, List, Sequence, Tuple

from pytest_shmstate.kit import explorer
from pytest_shmstate.kit.actors import GO, KILL, Choice, Shared, Step
from pytest_shmstate.kit.adapted import Adapted
from pytest_shmstate.kit.adapter import Adapter
from pytest_shmstate.kit.columns import Row, columns
from pytest_shmstate.kit.models import SEQUENTIAL
from pytest_shmstate.kit.stepper import Stepper, Violated

EXPLORED, STEPPED = "explored", "shmstate-schedule"
_TOKEN = re.compile(r"(\d+)x(\d+)|k(\d+)")


def scenarios(adapter: Adapter, waits_for_writers: bool = False) -> Dict[str, Adapted]:
    """What anybody's structure is explored in, by name: what it does not claim to do is not asked of it."""
    waits = waits_for_writers
    found = {
        "one read": Adapted(adapter, reads=1, waits=waits),
        "two reads": Adapted(adapter, waits=waits),
        "three publishes": Adapted(adapter, publishes=(3,), reads=1, waits=waits),
        "five publishes": Adapted(adapter, publishes=(5,), reads=1, waits=waits),
        "downward": Adapted(adapter, reads=1, downward=True, waits=waits),
    }
    if adapter.is_shared:
        found["writers"] = Adapted(adapter, publishes=(1, 1), reads=1, waits=waits)
    if adapter.can_resize:
        found["resized"] = Adapted(adapter, resized=1, waits=waits)
        found["resized, late"] = Adapted(adapter, publishes=(1,), resized=0, reads=1, late=True, waits=waits)
    if adapter.survives_death and not adapter.is_shared:
        found["heir"] = Adapted(adapter, publishes=(1, 1), reads=1, waits=waits)
    return found


def to_text(scenario: str, schedule: Sequence[Choice]) -> str:
    """One line that says it."""
    tokens = []
    for (kind, process), same in groupby(schedule, lambda choice: (choice.kind, choice.process)):
        times = len(list(same))
        tokens += [f"{process}x{times}"] if kind == GO else [f"k{process}"] * times
    return f"{EXPLORED}:{scenario}:{','.join(tokens)}"


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
    """Take a schedule again that ``check`` printed, with the options that it had: whether it holds, and the table.

    Raises ValueError for what is no schedule, and Diverged where it goes another way than it did.
    """
    if schedule.startswith(STEPPED):
        with Stepper(adapter, by_line=by_line) as stepper:
            try:
                verdict = stepper.replay(schedule)
            except Violated as violated:
                return False, str(violated)
            return True, stepper.report(str(verdict))
    name, choices = from_text(schedule)
    known = scenarios(adapter, waits_for_writers)
    if name not in known:
        raise ValueError(f"{adapter.title} has no scenario {name!r}; there are {', '.join(known)}")
    with known[name].in_place():
        steps, sentence = explorer.replay(known[name], SEQUENTIAL, choices)
    return sentence is None, "\n".join(
        [known[name].title, "", table(known[name], steps), "", sentence or "nothing is wrong"]
    )


def table(scenario: Adapted, steps: Sequence[Step]) -> str:
    """A column a process."""
    shared = Shared()
    rows = [Row(s.process, "", "KILLED here") if s.kind == KILL else Row(s.process, shared.text_of(s)) for s in steps]
    return columns(rows, scenario.processes)
