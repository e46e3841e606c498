"""The correctness kit: engines that look for schedules under which shared state breaks, and the oracle that judges them.

    explorer   in one process, every schedule of a small scenario, under three memory models
    stepper    real processes that stop before every shared access; Hypothesis, or an enumeration, says who goes on
    stress     real processes at full speed, which write down what they saw; judged afterwards

All three run an ``Adapter``: shmstate's own, or yours.

    from pytest_shmstate import kit
    kit.check(MyAdapter()).require()                  all engines; raises Broken, with the schedule
    kit.run_machine(MyAdapter())                      state machines of real processes, drawn by Hypothesis
    kit.crash_matrix(stepper).judge()                 a writer killed, stopped, interrupted before each access
    kit.run_stress(MyAdapter(), seconds=10)           full speed
    kit.judge(history)                                a history that you have

Where what is: ``seams`` is how the engines take hold of a structure (its adapter, each access, each system call);
``exploring``, ``stepping`` and ``stress`` are the engines; ``oracle`` is histories and verdicts; ``power`` breaks
shmstate on purpose and says which engine noticed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_shmstate.kit.extra import EXTRA, missing

if TYPE_CHECKING:
    from pytest_shmstate.kit.checkup import Broken, check
    from pytest_shmstate.kit.exploring.explorer import explore, hunt
    from pytest_shmstate.kit.oracle.checkers import check as judge
    from pytest_shmstate.kit.oracle.history import Event, load, save
    from pytest_shmstate.kit.oracle.verdict import Verdict
    from pytest_shmstate.kit.seams.adapter import Adapter, ShmstateAdapter
    from pytest_shmstate.kit.stepping.crashes import crash_matrix
    from pytest_shmstate.kit.stepping.machines import machine_for, run_machine
    from pytest_shmstate.kit.stepping.stepper import Stepper, Violated
    from pytest_shmstate.kit.stress.stress import stress as run_stress

#: Imported when first asked for: an engine needs libraries that the others do without.
_HOMES = {
    "Adapter": ("seams.adapter", "Adapter"),
    "Broken": ("checkup", "Broken"),
    "check": ("checkup", "check"),
    "crash_matrix": ("stepping.crashes", "crash_matrix"),
    "Event": ("oracle.history", "Event"),
    "explore": ("exploring.explorer", "explore"),
    "hunt": ("exploring.explorer", "hunt"),
    "judge": ("oracle.checkers", "check"),
    "load": ("oracle.history", "load"),
    "machine_for": ("stepping.machines", "machine_for"),
    "run_machine": ("stepping.machines", "run_machine"),
    "run_stress": ("stress.stress", "stress"),
    "save": ("oracle.history", "save"),
    "ShmstateAdapter": ("seams.adapter", "ShmstateAdapter"),
    "Stepper": ("stepping.stepper", "Stepper"),
    "Verdict": ("oracle.verdict", "Verdict"),
    "Violated": ("stepping.stepper", "Violated"),
}
__all__ = [
    "Adapter",
    "Broken",
    "check",
    "crash_matrix",
    "Event",
    "explore",
    "hunt",
    "judge",
    "load",
    "machine_for",
    "run_machine",
    "run_stress",
    "save",
    "ShmstateAdapter",
    "Stepper",
    "Verdict",
    "Violated",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, its = _HOMES[name]
    try:
        return getattr(import_module(f"{__name__}.{module}"), its)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise ModuleNotFoundError(missing(error.name), name=error.name) from error
