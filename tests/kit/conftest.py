"""Processes that stay from test to test: to start them takes longer than most of what is done with them."""

from __future__ import annotations

from typing import Iterator

import pytest

from pytest_shmstate.kit.adapter import ShmstateAdapter
from pytest_shmstate.kit.stepper import Stepper


@pytest.fixture(scope="session")
def shmstate_stepper() -> Iterator[Stepper]:
    with Stepper(ShmstateAdapter()) as stepper:
        yield stepper
