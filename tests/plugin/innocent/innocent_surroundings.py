"""Tests that change what the detector stands on: time, signals, descriptors, patched functions, limits, the collector.

open is patched
a function of os is patched: and counts its calls
a function of os refuses
time stands still: as time-freezing libraries do it, at the beginning and in the far future
in each test
sleep is patched
a signal handler raises in the middle
a signal comes every millisecond
the stack is used up
descriptors run out
the current folder is gone
nobody may read new files
the environment is empty
a module is loaded again
a profiler and a tracer are set
standard output is captured
a folder is removed by a child
the resource tracker is told nothing
a segment is not tracked
"""

from __future__ import annotations

import builtins
import importlib
import multiprocessing.synchronize
import os
import resource
import shutil
import signal
import sys
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Iterator, List, NoReturn

import pytest

from tests.plugin.innocent import bodies
from tests.plugin.innocent.parts import SPAWN, Pool, in_a_fork, new_path


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("not while this test runs")


def test_open_is_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "open", refuse)
    bodies.make_and_remove()


@pytest.mark.parametrize("name", ["open", "write", "close", "readlink", "stat", "fstat", "lstat", "listdir", "getpid"])
def test_a_function_of_os_is_patched(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pool = Pool()
    segment = pool.grow()
    real = getattr(os, name)
    called: List[Any] = []

    def recorded(*args: Any, **options: Any) -> Any:
        called.append(args)
        return real(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, name, recorded)
        # Those of C, with no Python in between that might call what is patched.
        os.truncate(f"/dev/shm/{segment.name}", 10)
        os.mkdir(f"/dev/shm/{segment.name}-folder")
        os.rmdir(f"/dev/shm/{segment.name}-folder")
    pool.close()

    assert called == []


def test_a_function_of_os_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    path = new_path("refused")
    with monkeypatch.context() as patched:
        for name in ("open", "readlink", "lstat", "fsencode"):
            patched.setattr(os, name, refuse)
        os.mkdir(path)
    os.rmdir(path)


@pytest.fixture(params=[0.0, 10.0**9], ids=["the beginning", "the far future"])
def stopped_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As time-freezing libraries do it."""
    seconds = request.param
    monkeypatch.setattr(time, "time", lambda: seconds)
    monkeypatch.setattr(time, "monotonic", lambda: seconds)
    monkeypatch.setattr(time, "monotonic_ns", lambda: int(seconds * 10**9))
    monkeypatch.setattr(time, "perf_counter", lambda: seconds)


@pytest.fixture
def pool_in_stopped_time(stopped_clock: None) -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.close()


@pytest.mark.parametrize("number", range(2))
def test_time_stands_still(pool_in_stopped_time: Pool, session_pool: Pool, number: int) -> None:
    pool_in_stopped_time.grow()
    session_pool.grow()
    bodies.make_and_remove()


@pytest.fixture(scope="class")
def stopped_clock_of_a_class() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: 5.0)
        patched.setattr(time, "monotonic_ns", lambda: 5 * 10**9)
        yield


@pytest.mark.usefixtures("stopped_clock_of_a_class")
class TestTimeStandsStillForAClass:
    @pytest.mark.parametrize("number", range(2))
    def test_in_each_test(self, session_pool: Pool, number: int) -> None:
        session_pool.grow()
        cycle: List[Any] = [SPAWN.Lock()]
        cycle.append(cycle)


def test_sleep_is_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", refuse)
    bodies.make_and_remove()


def test_a_signal_handler_raises_in_the_middle() -> None:
    def raise_error(*_: object) -> NoReturn:
        raise InterruptedError("time is up")

    before = signal.signal(signal.SIGALRM, raise_error)
    pool = Pool()
    try:
        with pytest.raises(InterruptedError):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            while True:
                len(os.listdir("/dev/shm"))
        pool.grow()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        pool.close()


def test_a_signal_comes_every_millisecond() -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for _ in range(50):
            bodies.make_and_remove()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("unlimited_recursion")
def test_the_stack_is_used_up() -> None:
    def deeper() -> NoReturn:
        deeper()
        raise AssertionError

    sys.setrecursionlimit(300)
    pool = Pool()
    pool.grow()
    with pytest.raises(RecursionError):
        deeper()
    pool.close()


def test_descriptors_run_out() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pool = Pool()
    pool.grow()
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    files: List[int] = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                files.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(OSError, match="Too many open files"):
            pool.grow()
        # As many as it takes, and none for the plugin.
        os.close(files.pop())
        os.close(files.pop())
        pool.grow()
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    pool.close()


def test_the_current_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    bodies.make_and_remove()
    with pytest.raises(FileNotFoundError):
        open("relative", "w", encoding="utf-8").close()


def test_nobody_may_read_new_files() -> None:
    before = os.umask(0o777)
    try:
        path = new_path("umask")
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        os.unlink(path)
        os.mkdir(path)
        os.rmdir(path)
        bodies.make_and_remove()
    finally:
        os.umask(before)


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        for name in list(os.environ):
            patched.delenv(name)
        bodies.make_and_remove()
        process = SPAWN.Process(target=bodies.make_and_remove)
        process.start()
        process.join()
    assert process.exitcode == 0


def test_a_module_is_loaded_again() -> None:
    before = multiprocessing.synchronize
    del sys.modules["multiprocessing.synchronize"]
    try:
        again = importlib.import_module("multiprocessing.synchronize")
        cycle: List[Any] = [again.Lock(ctx=SPAWN)]
        cycle.append(cycle)
    finally:
        sys.modules["multiprocessing.synchronize"] = before


def test_a_profiler_and_a_tracer_are_set() -> None:
    trace, profile = sys.gettrace(), sys.getprofile()
    seen: List[str] = []
    sys.setprofile(lambda *_: seen.append("call"))
    sys.settrace(lambda *_: None)
    try:
        bodies.make_and_remove()
    finally:
        sys.settrace(trace)
        sys.setprofile(profile)
    assert seen


def test_standard_output_is_captured(capfd: pytest.CaptureFixture[str]) -> None:
    print("told", SPAWN.Lock())
    os.system("echo told > /dev/shm/innocent-$$ && cat /dev/shm/innocent-$$ && rm /dev/shm/innocent-$$")
    assert capfd.readouterr().out.count("told") == 2


def test_a_folder_is_removed_by_a_child() -> None:
    folder = new_path("folder")
    os.mkdir(folder)
    in_a_fork(lambda: shutil.rmtree(folder))


def test_the_resource_tracker_is_told_nothing() -> None:
    segment = SharedMemory(create=True, size=10)
    multiprocessing.resource_tracker.unregister("/" + segment.name.lstrip("/"), "shared_memory")
    segment.close()
    os.unlink(f"/dev/shm/{segment.name}")


@pytest.mark.skipif(sys.version_info < (3, 13), reason="there is no track= before")
def test_a_segment_is_not_tracked() -> None:
    if sys.version_info >= (3, 13):
        segment = SharedMemory(create=True, size=10, track=False)
        segment.close()
        segment.unlink()
