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
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Adapter": ("adapter", "Adapter"),
    "Broken": ("checkup", "Broken"),
    "check": ("checkup", "check"),
    "crash_matrix": ("crashes", "crash_matrix"),
    "Event": ("history", "Event"),
    "explore": ("explorer", "explore"),
    "hunt": ("explorer", "hunt"),
    "judge": ("checkers", "check"),
    "load": ("history", "load"),
    "machine_for": ("machines", "machine_for"),
    "run_machine": ("machines", "run_machine"),
    "run_stress": ("stress", "stress"),
    "ShmstateAdapter": ("adapter", "ShmstateAdapter"),
    "Stepper": ("stepper", "Stepper"),
    "Verdict": ("verdict", "Verdict"),
    "Violated": ("stepper", "Violated"),
}
__all__ = sorted(_HOMES, key=str.lower)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, its = _HOMES[name]
    return getattr(import_module(f"{__name__}.{module}"), its)
