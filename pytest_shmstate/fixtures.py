"""The fixtures: with-blocks, opened for a test. With Hypothesis, open the blocks themselves, once an example.

What they need is imported when a test asks for it: most projects want the leak detector alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

import pytest

from pytest_shmstate.check import LeakChecks
from pytest_shmstate.prefixes import unique_prefix

if TYPE_CHECKING:
    from pytest_shmstate.states import States
    from pytest_shmstate.workers import Workers


@pytest.fixture
def shm_prefix(request: pytest.FixtureRequest) -> str:
    """A beginning for names of states that no other test, worker or run has."""
    return unique_prefix(request.node.name)


@pytest.fixture
def shm_state(shm_prefix: str) -> Iterator[States]:
    """Writers and readers of shared states: ``writer, reader = shm_state.pair()``. Closed with the test."""
    from pytest_shmstate.states import States

    with States(shm_prefix) as states:
        yield states


@pytest.fixture
def shm_workers(shm_state: States) -> Iterator[Workers]:  # noqa: ARG001 - states are reclaimed once workers are gone
    """Processes for functions: ``shm_workers.spawn(function, *args)``. None of them outlives the test."""
    from pytest_shmstate.workers import Workers

    with Workers() as workers:
        yield workers


@pytest.fixture
def shm_leaks() -> LeakChecks:
    """A leak check for a part of a test: ``with shm_leaks.check(): ...``."""
    return LeakChecks()
