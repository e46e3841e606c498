"""Pools in globals of a module: the first test that needs one makes it, later tests use it, the module closes it.

a global pool is used
a global executor is used
a global pool keeps a segment
a global executor keeps a segment
a global manager is used: the server is a process, too
a test closes the global pool: and the next one makes another
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.managers import SharedMemoryManager
from typing import Any, Dict

import pytest

from tests.plugin.innocent import bodies
from tests.plugin.innocent.parts import FORK, SPAWN, is_there

KEPT: Dict[str, Any] = {}


def pool() -> Any:
    if "pool" not in KEPT:
        KEPT["pool"] = FORK.Pool(1)
    return KEPT["pool"]


def executor() -> ProcessPoolExecutor:
    if "executor" not in KEPT:
        KEPT["executor"] = ProcessPoolExecutor(1, mp_context=SPAWN)
    kept: ProcessPoolExecutor = KEPT["executor"]
    return kept


def close_pool() -> None:
    if "pool" in KEPT:
        kept = KEPT.pop("pool")
        kept.apply(bodies.drop_all)
        kept.close()
        kept.join()


def teardown_module() -> None:
    close_pool()
    if "executor" in KEPT:
        kept = KEPT.pop("executor")
        kept.submit(bodies.drop_all).result()
        kept.shutdown()
    if "manager" in KEPT:
        KEPT.pop("manager").shutdown()


@pytest.mark.parametrize("number", range(3))
def test_a_global_pool_is_used(number: int) -> None:
    assert pool().apply(bodies.make_and_remove) != os.getpid()


@pytest.mark.parametrize("number", range(3))
def test_a_global_executor_is_used(number: int) -> None:
    assert executor().submit(bodies.make_and_remove).result() != os.getpid()


@pytest.mark.parametrize("number", range(2))
def test_a_global_pool_keeps_a_segment(number: int) -> None:
    assert is_there(pool().apply(bodies.keep))


@pytest.mark.parametrize("number", range(2))
def test_a_global_executor_keeps_a_segment(number: int) -> None:
    assert is_there(executor().submit(bodies.keep).result())


@pytest.mark.parametrize("number", range(2))
def test_a_global_manager_is_used(number: int) -> None:
    if "manager" not in KEPT:
        KEPT["manager"] = SharedMemoryManager()
        KEPT["manager"].start()
    segment = KEPT["manager"].SharedMemory(100)
    assert is_there(segment.name)
    segment.close()


def test_a_test_closes_the_global_pool() -> None:
    pool().apply(bodies.make_and_remove)
    close_pool()
