"""Fixtures of the innocent that live longer than a test."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.managers import SharedMemoryManager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from tests.plugin.innocent import bodies
from tests.plugin.innocent.owners import Cache, Finalized, Lazily, Replacing, Rolling, Server, Service, allocate
from tests.plugin.innocent.parts import FORK, SPAWN, Pool, attached


@pytest.fixture(scope="session")
def session_pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture(scope="session", params=[1, 5000], ids=["small", "large"])
def parametrized_pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    pool = Pool()
    pool.grow(request.param)
    yield pool
    pool.close()


@pytest.fixture(scope="package")
def package_pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def late_pool(request: pytest.FixtureRequest) -> Pool:
    """Asked for in the middle of tests; closed by a finalizer."""
    pool = Pool()
    request.addfinalizer(pool.close)  # noqa: PT021 - another way than all the others
    pool.grow()
    return pool


@pytest.fixture(scope="session")
def replacing() -> Iterator[Replacing]:
    replacing = Replacing()
    yield replacing
    replacing.segment.close()
    replacing.segment.unlink()


@pytest.fixture(scope="session")
def remade() -> Iterator[str]:
    """A name whose segment tests remove and make anew."""
    segment = SharedMemory(create=True, size=16)
    segment.close()
    yield segment.name
    last = SharedMemory(segment.name)
    last.close()
    last.unlink()


@pytest.fixture(scope="session")
def untracked_names() -> Iterator[List[str]]:
    """Names of segments that children make, and that are removed with the session."""
    names: List[str] = []
    yield names
    for name in names:
        segment = attached(name)
        segment.close()
        os.unlink(f"/dev/shm/{name}")


@pytest.fixture(scope="session")
def spawning_executor() -> Iterator[ProcessPoolExecutor]:
    """Its processes start when tests first submit something."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as executor:
        yield executor
        executor.submit(bodies.drop_all).result()


@pytest.fixture(scope="session")
def forking_pool() -> Iterator[Any]:
    with FORK.Pool(1) as pool:
        yield pool
        pool.apply(bodies.drop_all)


@pytest.fixture(scope="session")
def lazy_manager() -> Iterator[Lazily]:
    lazily = Lazily()
    yield lazily
    lazily.close()


@pytest.fixture(scope="session")
def memory_manager() -> Iterator[SharedMemoryManager]:
    """Removes at its end what tests made through it."""
    with SharedMemoryManager() as manager:
        yield manager


@pytest.fixture(scope="session")
def early_server() -> Iterator[Server]:
    server = Server()
    server.ask()
    yield server
    server.close()


@pytest.fixture(scope="session")
def late_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def rolling() -> Iterator[Rolling]:
    rolling = Rolling()
    yield rolling
    rolling.stop()


@pytest.fixture(scope="session")
def allocator() -> Iterator[Iterator[str]]:
    """A generator is the pool; what it made goes when it is closed."""
    generator = allocate()
    yield generator
    generator.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def finalized() -> Iterator[Finalized]:
    finalized = Finalized()
    yield finalized
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        found = finalizer.peek()
        if found is not None and found[0] is finalized:
            finalizer()


@pytest.fixture(scope="session")
def cache() -> Iterator[Cache]:
    cache = Cache()
    yield cache
    cache.close()


@pytest.fixture(scope="session")
def pool_class() -> Iterator[Any]:
    """A class of which there are no objects: what it made, it keeps itself."""

    class Segments:
        pool = Pool()

        @classmethod
        def grow(cls) -> SharedMemory:
            return cls.pool.grow()

    yield Segments
    Segments.pool.close()


@pytest.fixture(scope="session")
def pool_function() -> Iterator[Any]:
    pool = Pool()
    yield lambda size=64: pool.grow(size)
    pool.close()


@pytest.fixture
def worker_id_name() -> str:
    """The same in all tests of a worker, and in no other worker or run."""
    return f"innocent-{os.environ.get('INNOCENT_RUN', '0')}-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"


@pytest.fixture
def unlimited_recursion() -> Iterator[None]:
    before = sys.getrecursionlimit()
    gc.disable()  # before 3.10 a finalizer that runs when the stack is used up ends the process: "Cannot recover"
    yield
    gc.enable()
    sys.setrecursionlimit(before)


@pytest.fixture
def over(tmp_path: Path) -> Iterator[Path]:
    """A file that comes when the test is over: what waits for it ends shortly after."""
    yield tmp_path / "over"
    (tmp_path / "over").touch()
