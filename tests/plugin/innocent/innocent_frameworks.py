"""Tests by other frameworks and of other shapes: unittest, asyncio, Hypothesis, pytest inside pytest.

a module is set up and torn down: setup_module and teardown_module, about a global that tests grow
a class is set up and torn down
a case grows the pool of its class
a case grows its own pool
a case has sub tests
a case fails as expected
a case skips
a case is a coroutine
a coroutine makes and removes
a coroutine starts a program
a coroutine serves at a socket
each example makes a segment
each example grows the sessions pool
each example leaves a lock to the collector
a run inside judges its own leak
a run in this process judges its own leak
a run in this process is clean
a run without the plugin is inside
temporary folders of a run inside are here
a marker makes no leak
an allowance makes no leak
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any, List

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.plugin.innocent import bodies
from tests.plugin.innocent.parts import PYTHON, SPAWN, Pool, is_there, new_path

POOL = Pool()


def setup_module() -> None:
    POOL.grow()


def teardown_module() -> None:
    POOL.grow()
    POOL.close()


def test_a_module_is_set_up_and_torn_down() -> None:
    assert is_there(POOL.grow().name)


class TestClassSetUp:
    pool: Pool

    @classmethod
    def setup_class(cls) -> None:
        cls.pool = Pool()
        cls.pool.grow()

    @classmethod
    def teardown_class(cls) -> None:
        cls.pool.close()

    def test_a_class_is_set_up_and_torn_down(self) -> None:
        assert is_there(self.pool.segments[0].name)


class Case(unittest.TestCase):
    pool: Pool

    @classmethod
    def setUpClass(cls) -> None:
        cls.pool = Pool()
        cls.addClassCleanup(cls.pool.close)
        cls.pool.grow()

    def setUp(self) -> None:
        self.own = Pool()
        self.addCleanup(self.own.close)
        self.lock = SPAWN.Lock()

    def test_a_case_grows_the_pool_of_its_class(self) -> None:
        Case.pool_of_the_class(self).grow()

    def test_a_case_grows_its_own_pool(self) -> None:
        assert is_there(self.own.grow().name)

    def test_a_case_has_sub_tests(self) -> None:
        for number in range(3):
            with self.subTest(number=number):
                pool = Pool()
                assert is_there(pool.grow().name)
                pool.close()

    @unittest.expectedFailure
    def test_a_case_fails_as_expected(self) -> None:
        self.own.grow()
        self.another = SPAWN.Lock()
        self.fail("as expected")

    def test_a_case_skips(self) -> None:
        self.own.grow()
        self.skipTest("after it made a segment")

    def pool_of_the_class(self) -> Pool:
        return type(self).pool


class AsyncCase(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.pool = Pool()
        self.addAsyncCleanup(self.close)

    async def close(self) -> None:
        self.pool.close()

    async def test_a_case_is_a_coroutine(self) -> None:
        loop = asyncio.get_running_loop()
        segment = await loop.run_in_executor(None, self.pool.grow)
        assert is_there(segment.name)


def test_a_coroutine_makes_and_removes() -> None:
    async def main() -> None:
        pools = [Pool() for _ in range(5)]

        async def grow(pool: Pool) -> None:
            pool.grow()
            await asyncio.sleep(0)
            pool.close()

        await asyncio.gather(*map(grow, pools))

    asyncio.run(main())


def test_a_coroutine_starts_a_program() -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec(*PYTHON, bodies.MAKE_AND_REMOVE)
        assert await process.wait() == 0

    asyncio.run(main())


def test_a_coroutine_serves_at_a_socket() -> None:
    async def main() -> None:
        path = new_path("served")
        server = await asyncio.start_unix_server(lambda *_: None, path)
        server.close()
        await server.wait_closed()
        if is_there(path):  # until 3.13 asyncio leaves that to us
            os.unlink(path)

    asyncio.run(main())


@settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 10_000))
def test_each_example_makes_a_segment(size: int) -> None:
    assert bodies.make_and_remove(size) == os.getpid()


@settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=10))
def test_each_example_grows_the_sessions_pool(session_pool: Pool, content: bytes) -> None:
    session_pool.grow(len(content) + 1)


@settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers())
def test_each_example_leaves_a_lock_to_the_collector(number: int) -> None:
    cycle: List[Any] = [SPAWN.Lock()]
    cycle.append(cycle)


INSIDE = ["-p", "pytest_shmstate", "-p", "no:cacheprovider", "--shmstate-grace=0"]
LEAKS = """
from multiprocessing.shared_memory import SharedMemory
def test_leaks():
    SharedMemory(create=True, size=10).close()
"""
CLEAN = """
from multiprocessing.shared_memory import SharedMemory
import pytest
@pytest.fixture(scope="session")
def segment():
    segment = SharedMemory(create=True, size=10)
    yield segment
    segment.close()
    segment.unlink()
def test_uses(segment): pass
"""


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run inside is none of this worker's."""
    for name in list(os.environ):
        if name.startswith("PYTEST_XDIST") or name in ("PYTEST_CURRENT_TEST", "INNOCENT_SEED", "INNOCENT_EYES"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.mark.usefixtures("no_worker")
def test_a_run_inside_judges_its_own_leak(tmp_path: Path) -> None:
    file = tmp_path / "test_inside.py"
    file.write_text(LEAKS, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *INSIDE, str(file)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.returncode == 1, run.stdout
    assert "test_leaks" in run.stdout


@pytest.mark.usefixtures("no_worker")
def test_a_run_in_this_process_judges_its_own_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "test_inside_leaks.py"
    file.write_text(LEAKS, encoding="utf-8")
    status = pytest.main([*INSIDE, "--rootdir", str(tmp_path), str(file)])
    assert status == 1
    assert "left behind" in capsys.readouterr().out


@pytest.mark.usefixtures("no_worker")
def test_a_run_in_this_process_is_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "test_inside_clean.py"
    file.write_text(CLEAN, encoding="utf-8")
    status = pytest.main([*INSIDE, "--rootdir", str(tmp_path), str(file)])
    assert status == 0, capsys.readouterr().out


@pytest.mark.usefixtures("no_worker")
def test_a_run_without_the_plugin_is_inside(tmp_path: Path) -> None:
    file = tmp_path / "test_inside_plain.py"
    file.write_text(CLEAN, encoding="utf-8")
    status = subprocess.call(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file), f"--basetemp={new_path('base')}"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    assert status == 0


@pytest.mark.usefixtures("no_worker")
def test_temporary_folders_of_a_run_inside_are_here(tmp_path: Path) -> None:
    file = tmp_path / "test_inside_tmp.py"
    file.write_text("def test_it(tmp_path): (tmp_path / 'file').write_text('text')", encoding="utf-8")
    base = new_path("base")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file), f"--basetemp={base}"]
    assert subprocess.call(command, cwd=tmp_path, stdout=subprocess.DEVNULL) == 0
    assert subprocess.call(["rm", "-r", base]) == 0


@pytest.mark.shmstate(leaks="warn")
def test_a_marker_makes_no_leak() -> None:
    bodies.make_and_remove()


@pytest.mark.shmstate(allow=["innocent-allowed-*"], reason="there is none")
def test_an_allowance_makes_no_leak() -> None:
    bodies.make_and_remove()
