from __future__ import annotations

import os
import signal
import subprocess
from typing import Any, Callable, Iterator

import pytest

from shmstate import lifeline
from shmstate.lifeline import Lifeline
from tests.core import children
from tests.core.children import Child, has_ended, until

Start = Callable[..., Child]


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The pid of a child that sleeps."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    yield pid
    if os.path.exists(f"/proc/{pid}"):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def line_to(pid: int) -> Lifeline:
    with open(f"/proc/{pid}/stat", "rb") as file:
        started = int(file.read().rpartition(b")")[2].split()[19])
    return Lifeline.of_this_process()._replace(pid=pid, started=started)


def test_a_process_that_runs_has_not_ended(sleeper: int) -> None:
    assert not line_to(sleeper).has_ended()
    assert not Lifeline.of_this_process().has_ended()
    os.kill(sleeper, signal.SIGSTOP)
    assert not line_to(sleeper).has_ended()


@pytest.mark.parametrize("is_collected", [False, True])
def test_a_process_that_was_killed_has_ended_whether_it_was_waited_for_or_not(sleeper: int, is_collected: bool) -> None:
    line = line_to(sleeper)
    os.kill(sleeper, signal.SIGKILL)
    until(lambda: has_ended(sleeper))
    if is_collected:
        os.waitpid(sleeper, 0)

    assert line.has_ended()


def test_another_process_with_the_same_pid_is_not_it(sleeper: int) -> None:
    line = line_to(sleeper)

    assert line._replace(started=line.started - 1).has_ended()


def test_a_process_whose_first_thread_has_ended_still_runs(start: Start) -> None:
    child = start(children.end_the_first_thread)
    child.line()
    until(lambda: has_ended(child.pid))  # that is how it looks

    assert not line_to(child.pid).has_ended()

    child.kill()
    assert line_to_the_dead(child.pid).has_ended()


def line_to_the_dead(pid: int) -> Lifeline:
    return Lifeline.of_this_process()._replace(pid=pid, started=1)


@pytest.mark.parametrize("namespaces", [(), ("pid:[1]", "time:[1]"), (None, None)])
def test_from_other_namespaces_a_process_counts_as_running(namespaces: Any) -> None:
    line = Lifeline.of_this_process()

    assert not line._replace(namespaces=namespaces, started=1).has_ended()
    assert line._replace(started=1).has_ended()


@pytest.mark.parametrize("error", [OSError, PermissionError, ValueError])
def test_a_look_that_fails_is_no_end(monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    line = Lifeline.of_this_process()._replace(started=1)

    def fail(_: int) -> Any:
        raise error

    monkeypatch.setattr(lifeline, "_look", fail)

    assert not line.has_ended()


def test_a_process_that_proc_hides_counts_as_running(monkeypatch: pytest.MonkeyPatch) -> None:
    def hide(_: int) -> Any:
        raise FileNotFoundError

    line = Lifeline.of_this_process()
    monkeypatch.setattr(lifeline, "_look", hide)

    assert not line.has_ended()


def test_without_a_proc_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> str:
        raise FileNotFoundError

    with monkeypatch.context() as patched:
        patched.setattr(os, "readlink", fail)
        line = Lifeline.of_this_process()

    assert not line.has_ended()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may unshare a pid namespace")
def test_workers_in_a_pid_namespace_of_their_own_are_not_ended_falsely(prefix: str) -> None:
    done = subprocess.run(
        children.python(children.run_a_pool_in_a_namespace, prefix),
        cwd=children.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.stdout.startswith("not permitted"):
        pytest.skip("no pid namespace can be made here")

    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")
