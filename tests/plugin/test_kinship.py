"""Which processes are of a family, and that a pid which somebody else has by now is nobody of it."""

from __future__ import annotations

import builtins
import ctypes
import errno
import os
import signal
import subprocess
import threading
from typing import Any, Iterator, NoReturn

import pytest

from pytest_shmstate.kinship import Process, family, is_running, is_stopped, look_up, send
from tests.core.children import until


@pytest.fixture
def leader() -> Iterator[Process]:
    """A process that leads a session."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as program:
        row = look_up(program.pid)
        assert row is not None
        yield row.process
        program.kill()


def namesake(process: Process) -> Process:
    """One that had the pid before."""
    return process._replace(started=process.started - 1)


def test_a_process_runs_until_it_has_ended(leader: Process) -> None:
    assert is_running(leader)

    os.kill(leader.pid, signal.SIGKILL)
    until(lambda: not is_running(leader))

    row = look_up(leader.pid)
    assert row is not None
    assert row.state == "Z"


def test_another_process_of_the_same_pid_does_not_run(leader: Process) -> None:
    assert not is_running(namesake(leader))


def test_a_process_whose_first_thread_has_ended_runs() -> None:
    pid = os.fork()
    if not pid:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        ctypes.CDLL(None).pthread_exit(None)
        os._exit(1)
    try:
        until(lambda: getattr(look_up(pid), "state", None) == "Z")
        row = look_up(pid)

        assert row is not None
        assert is_running(row.process)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not is_running(row.process)


def test_a_process_that_does_not_exist_neither_runs_nor_stands_still() -> None:
    with subprocess.Popen(["true"]) as program:
        row = look_up(program.pid)
    assert row is not None

    assert look_up(program.pid) is None
    assert not is_running(row.process)
    assert not is_stopped(row.process)


def test_that_it_cannot_be_seen_does_not_pass_for_an_end(leader: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any) -> NoReturn:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(builtins, "open", refuse)

    with pytest.raises(OSError, match="too many"):
        is_running(leader)


def test_a_family_is_the_leader_its_session_and_what_came_from_these() -> None:
    script = "sleep 600 & setsid sleep 600 & echo $!; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as shell:
        row = look_up(shell.pid)
        assert row is not None
        assert shell.stdout is not None
        outside = int(shell.stdout.readline())
        until(lambda: getattr(look_up(outside), "session", None) == outside)

        members = family([row.process])

        assert len(members) == 3
        assert {row.process.pid, outside} <= {member.pid for member in members}
        for member in members:
            os.kill(member.pid, signal.SIGKILL)


def test_a_leader_that_died_has_a_family_still() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 600 & echo $!"], stdout=subprocess.PIPE, start_new_session=True) as shell:
        row = look_up(shell.pid)
        assert row is not None
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        shell.wait()

        assert [member.pid for member in family([row.process])] == [pid]
        os.kill(pid, signal.SIGKILL)


def test_a_pid_that_leads_to_another_process_has_no_family(leader: Process) -> None:
    assert family([leader]) == [leader]
    assert family([namesake(leader)]) == []


def test_nobody_is_of_their_own_family() -> None:
    row = look_up(os.getpid())
    assert row is not None

    assert os.getpid() not in [member.pid for member in family([row.process])]


def test_a_signal_is_sent_to_that_process_and_no_other_of_its_pid(leader: Process) -> None:
    send(namesake(leader), signal.SIGKILL)
    assert is_running(leader)

    send(leader, signal.SIGSTOP)
    until(lambda: is_stopped(leader))
    send(leader, signal.SIGKILL)
    until(lambda: not is_running(leader))
    send(leader, signal.SIGKILL)
