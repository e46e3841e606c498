"""Tests that use pools in globals which nothing closes: the first test leaks, and the later ones can still use them."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Dict

import pytest

from tests.plugin.innocent import bodies
from tests.plugin.innocent.parts import FORK

KEPT: Dict[str, Any] = {}


@pytest.mark.parametrize("number", range(3))
def test_uses_a_pool_that_stays(number: int) -> None:
    if "pool" not in KEPT:
        KEPT["pool"] = FORK.Pool(1)
    assert KEPT["pool"].apply(bodies.make_and_remove) != os.getpid()


@pytest.mark.parametrize("number", range(3))
def test_uses_an_executor_that_stays(number: int) -> None:
    if "executor" not in KEPT:
        KEPT["executor"] = ProcessPoolExecutor(1, mp_context=FORK)
    assert KEPT["executor"].submit(bodies.make_and_remove).result() != os.getpid()
