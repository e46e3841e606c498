"""Processes that take part in a measurement do what they are told, say what went wrong, and are gone afterwards."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from benchmarks.remote import Remote, RemoteFailed, Stopped


class Counter:
    """What is made in the other process."""

    def __init__(self, start: int = 0, closed: str = "") -> None:
        if start < 0:
            raise ValueError(f"{start} is below zero")
        self._count = start
        self._closed = closed

    def add(self, number: int) -> int:
        self._count += number
        return self._count

    def fail(self) -> None:
        raise KeyError("nothing there")

    def end(self) -> None:
        os._exit(7)

    def count(self, stopped: Stopped, step: int) -> int:
        while not stopped():
            self._count += step
        return self._count

    def count_to(self, stopped: Stopped, limit: int) -> int:
        return limit

    def close(self) -> None:
        if self._closed:
            Path(self._closed).write_text(str(self._count), encoding="utf-8")


@pytest.fixture(params=["spawn", "fork"])
def method(request: pytest.FixtureRequest) -> str:
    """Both ways to start one."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def is_there(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def test_a_method_is_called_over_there_and_its_result_comes_back(method: str) -> None:
    with Remote(Counter, 5, method=method) as remote:
        assert remote.call("add", 2) == 7
        assert remote.call("add", 3) == 10
        assert remote.pid != os.getpid()


def test_an_error_comes_with_the_traceback_from_there_and_is_not_the_end() -> None:
    with Remote(Counter) as remote:
        with pytest.raises(RemoteFailed, match=r"(?s)Traceback.*in fail.*KeyError: 'nothing there'"):
            remote.call("fail")
        with pytest.raises(RemoteFailed, match="AttributeError"):
            remote.call("no_such_method")

        assert remote.call("add", 1) == 1


def test_what_cannot_be_made_says_why_and_leaves_no_process() -> None:
    with pytest.raises(RemoteFailed, match=r"(?s)Traceback.*ValueError: -1 is below zero"):
        Remote(Counter, -1)

    assert multiprocessing.active_children() == []


def test_one_that_goes_on_is_told_to_stop() -> None:
    with Remote(Counter) as remote:
        remote.start("count", 2)
        first = remote.finish()
        remote.start("count", 0)

        assert first % 2 == 0
        assert remote.finish() == first


def test_one_that_ends_by_itself_waits_with_its_result() -> None:
    with Remote(Counter) as remote:
        remote.start("count_to", 12)

        assert remote.finish() == 12
        assert remote.call("add", 1) == 1


def test_a_process_that_died_says_so() -> None:
    with Remote(Counter) as remote:
        with pytest.raises(RemoteFailed, match=f"process {remote.pid} ended by itself, 7"):
            remote.call("end")
        with pytest.raises(RemoteFailed):
            remote.call("add", 1)


def test_one_that_was_killed_by_others_says_so() -> None:
    with Remote(Counter) as remote:
        os.kill(remote.pid, signal.SIGKILL)

        with pytest.raises(RemoteFailed, match="-9"):
            remote.call("add", 1)


def test_who_says_nothing_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    with Remote(time.sleep, 0) as remote:
        monkeypatch.setattr("benchmarks.remote.PATIENCE", 0.05)
        os.kill(remote.pid, signal.SIGSTOP)

        with pytest.raises(RemoteFailed, match=f"process {remote.pid} said nothing for 0.05 s"):
            remote.call("anything")

        os.kill(remote.pid, signal.SIGCONT)


def test_kill_ends_it_wherever_it_is_and_waits(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    with Remote(Counter, 0, str(closed)) as remote:
        remote.start("count", 1)

        remote.kill()

        assert not is_there(remote.pid)
    assert not closed.exists()


def test_the_end_of_the_block_closes_the_object_and_leaves_no_process(tmp_path: Path, method: str) -> None:
    closed = tmp_path / "closed"
    with Remote(Counter, 3, str(closed), method=method) as remote:
        pass

    assert closed.read_text(encoding="utf-8") == "3"
    assert not is_there(remote.pid)


def test_close_can_be_called_twice() -> None:
    remote = Remote(Counter)

    remote.close()
    remote.close()

    assert not is_there(remote.pid)


def test_the_end_of_the_block_ends_one_that_goes_on_too(tmp_path: Path) -> None:
    closed = tmp_path / "closed"

    def interrupted() -> Any:
        with Remote(Counter, 0, str(closed)) as remote:
            remote.start("count", 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert closed.exists()
