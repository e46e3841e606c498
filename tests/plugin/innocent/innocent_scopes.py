"""What fixtures own goes with them, not with the tests that had them make it.

a session pool grows in each test: removed by the session's fixture
a parametrized session pool grows
a package pool grows
a module pool grows
a fixture is made again for another module: module fixtures come and go, as the order has it
one
another
a fixture that is asked for in the middle of a fixture
a fixture that is asked for in the middle of a test
a fixture replaces its segment
a fixtures segment is made anew
a fixtures teardown makes and removes
a generator is the pool: segments are in a frame's locals alone
a class is the pool: a fixture's value is a class
a function is the pool: a fixture's value is a function with a closure
a finalizer knows the file: `weakref.finalize(the fixture's value, os.unlink, path)`
a cache makes its folder late: the fixture's value knows paths inside the folder alone
a thread of a fixture makes a segment: it is in the locals of the thread
a thread of a fixture replaces its segment: all the time, also while tests are judged
a module has a segment: made at import, removed at exit
a module has a lock: made at import, freed when Python ends
a class has a lock
a parameter is a lock
a fixture has a lock made late
a fixture skips after it made a segment
a test skips after it made a segment
"""

from __future__ import annotations

import atexit
import os
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Iterator

import pytest

from tests.core.children import until
from tests.plugin.innocent.owners import Cache, Finalized, Replacing, Rolling, Service
from tests.plugin.innocent.parts import SPAWN, Pool, is_there

SEGMENT = SharedMemory(create=True, size=100)
LOCK = SPAWN.Lock()


@atexit.register
def _remove_segment() -> None:
    # In forks too, at their end: but this one is the worker's.
    if os.getpid() == _PID:
        SEGMENT.close()
        SEGMENT.unlink()


_PID = os.getpid()


@pytest.mark.parametrize("number", range(4))
def test_a_session_pool_grows_in_each_test(session_pool: Pool, number: int) -> None:
    assert is_there(session_pool.grow().name)


@pytest.mark.parametrize("number", range(2))
def test_a_parametrized_session_pool_grows(parametrized_pool: Pool, number: int) -> None:
    assert is_there(parametrized_pool.grow().name)


@pytest.mark.parametrize("number", range(2))
def test_a_package_pool_grows(package_pool: Pool, number: int) -> None:
    assert is_there(package_pool.grow().name)


@pytest.fixture(scope="module")
def module_pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.grow()
    pool.close()


@pytest.mark.parametrize("number", range(3))
def test_a_module_pool_grows(module_pool: Pool, number: int) -> None:
    assert is_there(module_pool.grow().name)


def test_a_fixture_is_made_again_for_another_module(module_pool: Pool) -> None:
    module_pool.close()


@pytest.fixture(scope="class")
def class_pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.close()


class TestClassPool:
    def test_one(self, class_pool: Pool) -> None:
        assert is_there(class_pool.grow().name)

    def test_another(self, class_pool: Pool) -> None:
        assert is_there(class_pool.grow().name)


@pytest.fixture
def asks_for_more(request: pytest.FixtureRequest) -> Pool:
    pool = request.getfixturevalue("late_pool")
    assert isinstance(pool, Pool)
    return pool


def test_a_fixture_that_is_asked_for_in_the_middle_of_a_fixture(asks_for_more: Pool) -> None:
    assert is_there(asks_for_more.grow().name)


def test_a_fixture_that_is_asked_for_in_the_middle_of_a_test(request: pytest.FixtureRequest) -> None:
    assert is_there(request.getfixturevalue("late_pool").grow().name)


@pytest.mark.parametrize("number", range(3))
def test_a_fixture_replaces_its_segment(replacing: Replacing, number: int) -> None:
    replacing.replace()


@pytest.mark.parametrize("number", range(2))
def test_a_fixtures_segment_is_made_anew(remade: str, number: int) -> None:
    old = SharedMemory(remade)
    old.close()
    old.unlink()

    SharedMemory(remade, create=True, size=old.size + 1).close()


@pytest.fixture
def busy_teardown() -> Iterator[None]:
    yield
    pool = Pool()
    pool.grow()
    pool.close()


@pytest.fixture(scope="module")
def busy_module_teardown() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    names = [pool.grow().name for _ in range(3)]
    pool.close()
    assert not any(map(is_there, names))


@pytest.mark.usefixtures("busy_teardown")
def test_a_fixtures_teardown_makes_and_removes(busy_module_teardown: Pool) -> None:
    busy_module_teardown.grow()


@pytest.mark.parametrize("number", range(2))
def test_a_generator_is_the_pool(allocator: Iterator[str], number: int) -> None:
    assert is_there(next(allocator))


@pytest.mark.parametrize("number", range(2))
def test_a_class_is_the_pool(pool_class: Any, number: int) -> None:
    assert is_there(pool_class.grow().name)


@pytest.mark.parametrize("number", range(2))
def test_a_function_is_the_pool(pool_function: Any, number: int) -> None:
    assert is_there(pool_function().name)


@pytest.mark.parametrize("number", range(2))
def test_a_finalizer_knows_the_file(finalized: Finalized, number: int) -> None:
    assert os.path.exists(finalized.add())


@pytest.mark.parametrize("key", ["one", "two"])
def test_a_cache_makes_its_folder_late(cache: Cache, key: str) -> None:
    assert os.path.isdir(cache.put(key))


@pytest.mark.parametrize("number", range(2))
def test_a_thread_of_a_fixture_makes_a_segment(service: Service, number: int) -> None:
    assert is_there(service.ask())


@pytest.mark.parametrize("number", range(3))
def test_a_thread_of_a_fixture_replaces_its_segment(rolling: Rolling, number: int) -> None:
    turns = rolling.turns
    until(lambda: rolling.turns > turns + 1)


def test_a_module_has_a_segment() -> None:
    assert is_there(SEGMENT.name)


def test_a_module_has_a_lock() -> None:
    with LOCK:
        assert is_there("sem." + LOCK._semlock.name.lstrip("/"))


class TestClassLock:
    lock = SPAWN.Lock()

    def test_a_class_has_a_lock(self) -> None:
        with self.lock:
            pass


@pytest.mark.parametrize("lock", [SPAWN.Lock(), SPAWN.RLock()], ids=["lock", "rlock"])
def test_a_parameter_is_a_lock(lock: Any) -> None:
    with lock:
        pass


class HasLock:
    def __init__(self) -> None:
        self.lock: Any = None


@pytest.fixture(scope="module")
def has_lock() -> HasLock:
    return HasLock()


@pytest.mark.parametrize("number", range(2))
def test_a_fixture_has_a_lock_made_late(has_lock: HasLock, number: int) -> None:
    if has_lock.lock is None:
        has_lock.lock = SPAWN.Lock()
    with has_lock.lock:
        pass


@pytest.fixture
def skips() -> None:
    pool = Pool()
    pool.grow()
    try:
        pytest.skip("after it made a segment")
    finally:
        pool.close()


@pytest.mark.usefixtures("skips")
def test_a_fixture_skips_after_it_made_a_segment() -> None:
    raise AssertionError


def test_a_test_skips_after_it_made_a_segment() -> None:
    pool = Pool()
    pool.grow()
    try:
        pytest.skip("after it made a segment")
    finally:
        pool.close()
