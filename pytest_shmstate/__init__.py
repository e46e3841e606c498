"""Leak detection and worker processes for tests of anything that uses shared memory.

PYTEST_DONT_REWRITE: there is nothing to rewrite, and importing this first is no reason to warn.

``pytest -p pytest_shmstate`` loads the plugin. What it is made of works without pytest:

    with pytest_shmstate.Workers() as workers: ...         processes that no block outlives
    with pytest_shmstate.States() as states: ...           writers and readers, closed for you
    with pytest_shmstate.check_leaks(): ...                nothing may be left behind
    pytest_shmstate.unique_prefix()                        names that nobody else has
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: What pytest loads with this package. Nothing of pytest is imported before.
pytest_plugins = ["pytest_shmstate.plugin"]

_HOMES = {
    "check_leaks": "check",
    "LeakError": "check",
    "ready": "workers",
    "ShmstateLeakWarning": "plugin",
    "States": "states",
    "unique_prefix": "prefixes",
    "Worker": "workers",
    "WorkerFailed": "workers",
    "Workers": "workers",
    "WorkerTimeout": "workers",
}
__all__ = [
    "check_leaks",
    "LeakError",
    "ready",
    "ShmstateLeakWarning",
    "States",
    "unique_prefix",
    "Worker",
    "WorkerFailed",
    "Workers",
    "WorkerTimeout",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
