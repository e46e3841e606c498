"""What anybody's structure is explored in, and how far: small scenarios, with ever more preemptions, to the end if it can be."""

from __future__ import annotations

from itertools import groupby
from typing import Dict, Optional, Sequence, Tuple

from pytest_shmstate.kit.exploring import explorer
from pytest_shmstate.kit.exploring.actors import GO, Choice
from pytest_shmstate.kit.exploring.adapted import Adapted, OutOfReach
from pytest_shmstate.kit.exploring.explorer import Certificate, explore
from pytest_shmstate.kit.exploring.models import SEQUENTIAL
from pytest_shmstate.kit.oracle.verdict import UNKNOWN, VIOLATED
from pytest_shmstate.kit.seams.adapter import Adapter

EXPLORED = "explored"
#: Schedules of one scenario and one bound on preemptions, and how many preemptions must have been gone through.
_BUDGET, _LEAST = 20_000, 2
_NOT_TWICE = (
    "the same steps do not lead to the same twice, so it cannot be explored: it depends on random numbers, or on something"
    " that it keeps from one schedule to the next"
)
#: What the explorer says when a schedule that it takes again is shorter than it was.
_STRAYED = "has ended, and cannot go on"


def scenarios(adapter: Adapter, waits_for_writers: bool = False) -> Dict[str, Adapted]:
    """By name; what a structure does not claim to do is not asked of it."""
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
    """One line that says it; see again.py."""
    tokens = []
    for (kind, process), same in groupby(schedule, lambda choice: (choice.kind, choice.process)):
        times = len(list(same))
        tokens += [f"{process}x{times}"] if kind == GO else [f"k{process}"] * times
    return f"{EXPLORED}:{scenario}:{','.join(tokens)}"


def explored(name: str, scenario: Adapted) -> Tuple[str, str, str]:
    """The outcome, what was done and found, and the schedule that failed; empty if none did."""
    try:
        with scenario.in_place():
            return _explored(name, scenario)
    except OutOfReach as why:
        scenario.out_of_reach = str(why)
    return UNKNOWN, f"{scenario.title}: {UNKNOWN}\n  {scenario.out_of_reach}", ""


def _explored(name: str, scenario: Adapted) -> Tuple[str, str, str]:
    certificate, further = _hunted(scenario)
    failure = certificate.failure
    if scenario.out_of_reach:
        raise OutOfReach(scenario.out_of_reach)
    if failure is None:
        return certificate.outcome, f"{certificate}{further}", ""
    sentence = explorer.replay(scenario, SEQUENTIAL, failure.schedule)[1]
    if sentence != failure.sentence or _STRAYED in failure.sentence:
        raise OutOfReach(_NOT_TWICE)
    return VIOLATED, str(certificate), to_text(name, failure.schedule)


def _hunted(scenario: Adapted) -> Tuple[Certificate, str]:
    """What fails is told with as few preemptions as it takes; what does not, without a bound if there is time for that."""

    def go(preemptions: Optional[int]) -> Certificate:
        return explore(scenario, SEQUENTIAL, preemptions=preemptions, budget=_BUDGET)

    best: Optional[Certificate] = None
    for preemptions, fewer in ((1, (0,)), (2, ()), (None, (3, 4)), (3, ()), (4, ())):
        certificate = go(preemptions)
        if certificate.failure is not None:
            with_fewer = (found for found in map(go, fewer) if found.failure is not None)
            return next(with_fewer, certificate), ""
        if certificate.is_complete and preemptions is None:
            return certificate, ""
        if certificate.is_complete:
            best = certificate
        elif preemptions is not None:
            break
    if best is None or (best.preemptions or 0) < _LEAST:
        return certificate, ""
    return best, f"\n  more preemptions: not all within {_BUDGET:,} schedules; none of those that were run failed"
