"""Processes that stay from test to test of a file: to start them takes longer than most of what is done with them.

Not to the end of the session: other files test what is said of processes that are there.
"""

from __future__ import annotations

from typing import Iterator

import pytest

from pytest_shmstate.kit.seams.adapter import ShmstateAdapter
from pytest_shmstate.kit.stepping.stepper import Stepper


@pytest.fixture(scope="module")
def shmstate_stepper() -> Iterator[Stepper]:
    with Stepper(ShmstateAdapter()) as stepper:
        yield stepper
