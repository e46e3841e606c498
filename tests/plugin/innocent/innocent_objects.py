"""What goes with the object that holds it, once somebody collects the garbage.

a lock is in a cycle: a spawn context's keep their names until they are freed
a lock is in a closure: of a function that refers to itself
a lock is a default argument
a lock is a fixtures value: pytest keeps a test's arguments
a lock is in an attribute
locks of all kinds are left to the collector
a barrier is left to the collector
a queue is left with its feeder thread
a value is left to the collector
an object unlinks in del
an object unlinks in del in a cycle
an object unlinks by weakref
a generator unlinks when it is closed
a del that raises after it unlinked
the collector is off: the test turned it off
a pool is left without close: with its ResourceWarning, which refers to it
a pool is left without close in a cycle
an executor is left without shutdown
a pools processes end after shutdown
a temporary folder is left to the collector
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import weakref
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from tests.plugin.innocent import bodies
from tests.plugin.innocent.parts import FORK, SHM, SPAWN, is_there


def lock_in_a_cycle() -> List[Any]:
    lock = SPAWN.Lock()
    assert is_there("sem." + lock._semlock.name.lstrip("/"))
    cycle: List[Any] = [lock]
    cycle.append(cycle)
    return cycle


def test_a_lock_is_in_a_cycle() -> None:
    lock_in_a_cycle()


def test_a_lock_is_in_a_closure() -> None:
    lock = SPAWN.Lock()

    def again(times: int) -> None:
        with lock:
            pass
        if times:
            again(times - 1)

    again(2)


def test_a_lock_is_a_default_argument() -> None:
    def inner(lock: Any = SPAWN.Lock()) -> Any:  # noqa: B008 - the point of it
        return inner, lock

    with inner()[1]:
        pass


@pytest.fixture
def lock() -> Any:
    return SPAWN.Lock()


def test_a_lock_is_a_fixtures_value(lock: Any) -> None:
    with lock:
        pass


class TestSelf:
    def setup_method(self) -> None:
        self.lock = SPAWN.Lock()
        self.itself = self

    def test_a_lock_is_in_an_attribute(self) -> None:
        self.another = SPAWN.Lock()
        with self.lock, self.another:
            pass


@pytest.mark.parametrize("context", [SPAWN, FORK], ids=["spawn", "fork"])
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Event", "Condition"])
def test_locks_of_all_kinds_are_left_to_the_collector(context: Any, kind: str) -> None:
    cycle: List[Any] = [getattr(context, kind)()]
    cycle.append(cycle)


def test_a_barrier_is_left_to_the_collector() -> None:
    cycle: List[Any] = [SPAWN.Barrier(1)]
    cycle.append(cycle)
    cycle[0].wait()


@pytest.mark.parametrize("context", [SPAWN, FORK], ids=["spawn", "fork"])
def test_a_queue_is_left_with_its_feeder_thread(context: Any) -> None:
    queue = context.Queue()
    queue.put("a")
    queue.put("b")
    assert queue.get() == "a"


def test_a_value_is_left_to_the_collector() -> None:
    value, array = SPAWN.Value("i", 7), SPAWN.Array("d", 1000)
    with value, array:
        value.value += 1


class Unlinks:
    def __init__(self) -> None:
        self.segment = SharedMemory(create=True, size=10)

    def __del__(self) -> None:
        self.segment.close()
        self.segment.unlink()


def test_an_object_unlinks_in_del() -> None:
    name = Unlinks().segment.name
    assert not is_there(name)


def test_an_object_unlinks_in_del_in_a_cycle() -> None:
    unlinks = Unlinks()
    unlinks.itself = unlinks  # type: ignore[attr-defined]


class Named:
    itself: Any = None


def test_an_object_unlinks_by_weakref() -> None:
    segment = SharedMemory(create=True, size=10)
    segment.close()
    owner = Named()
    owner.itself = owner
    weakref.finalize(owner, segment.unlink)


def test_a_generator_unlinks_when_it_is_closed() -> None:
    def generate() -> Iterator[Any]:
        segment = SharedMemory(create=True, size=10)
        try:
            while True:
                yield itself
        finally:
            segment.close()
            segment.unlink()

    itself: List[Any] = []
    itself.append(generate())
    next(itself[0])


class Raises(Unlinks):
    def __del__(self) -> None:
        super().__del__()
        raise LookupError("in __del__")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_del_that_raises_after_it_unlinked() -> None:
    raises = Raises()
    raises.itself = raises  # type: ignore[attr-defined]


@pytest.fixture
def collector_off() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("collector_off")
def test_the_collector_is_off() -> None:
    lock_in_a_cycle()
    unlinks = Unlinks()
    unlinks.itself = unlinks  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("always::ResourceWarning")
def test_a_pool_is_left_without_close() -> None:
    pool = FORK.Pool(1)
    assert pool.apply(bodies.make_and_remove) != os.getpid()


def test_a_pool_is_left_without_close_in_a_cycle() -> None:
    pool = FORK.Pool(1)
    pool.itself = pool
    assert pool.apply(bodies.make_and_remove) != os.getpid()


def test_an_executor_is_left_without_shutdown() -> None:
    executor = ProcessPoolExecutor(1, mp_context=SPAWN)
    assert executor.submit(bodies.make_and_remove).result() != os.getpid()


@pytest.mark.skipif(sys.version_info < (3, 9), reason="there the processes of such an executor may never end")
def test_a_pools_processes_end_after_shutdown(over: Path) -> None:
    executor = ProcessPoolExecutor(1, mp_context=FORK)
    executor.submit(bodies.make_and_remove)
    executor.submit(bodies.linger, over)
    executor.shutdown(wait=False)


def test_a_temporary_folder_is_left_to_the_collector() -> None:
    folder = tempfile.TemporaryDirectory(dir=SHM)
    folder.itself = folder  # type: ignore[attr-defined]
    with open(os.path.join(folder.name, "file"), "w", encoding="utf-8") as file:
        file.write("text")
