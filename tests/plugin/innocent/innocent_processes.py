"""Processes that make, pass on and remove segments, and those that take their time to end.

a child makes and removes
a child makes and the parent removes
a child makes and a fixture removes
a program makes and a fixture removes
a program makes and removes
a program without environment makes and removes
a shell makes and removes
a shell makes and the test removes
a child exits early
a child is killed
a child becomes another program
a fork raises system exit
a fork closes all descriptors
a fork clears its environment
a fork of a thread makes and removes
a fork drops its privileges
a child on a terminal makes and removes
a spawned program is waited for by pid
a lock is passed to a child
a queue is passed to a child
an executors process keeps a segment: the process was started by a test, the executor is the session's
an executors process removes what it kept
a pools process keeps a segment
a manager is started by the first who needs it
a sessions manager removes the tests segment: SharedMemoryManager, whose work that is
a sessions manager removes the tests list
a manager removes what its test made
a server that a fixture started keeps a segment
a server that a test started keeps a segment: the same for a program
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.managers import SharedMemoryManager
from multiprocessing.shared_memory import SharedMemory
from typing import Any, List

import pytest

from tests.plugin.innocent import bodies
from tests.plugin.innocent.owners import Lazily, Server
from tests.plugin.innocent.parts import FORK, FORKSERVER, PYTHON, SPAWN, in_a_fork, is_there, new_name, new_path

METHODS = pytest.mark.parametrize("context", [SPAWN, FORK, FORKSERVER], ids=["spawn", "fork", "forkserver"])


def run(context: Any, body: Any, *args: Any) -> Any:
    """Run it in a process to its end."""
    process = context.Process(target=body, args=args)
    process.start()
    process.join()
    return process.exitcode


@METHODS
def test_a_child_makes_and_removes(context: Any) -> None:
    assert run(context, bodies.make_and_remove) == 0


@METHODS
def test_a_child_makes_and_the_parent_removes(context: Any) -> None:
    ours, theirs = context.Pipe()
    process = context.Process(target=bodies.make_into, args=(theirs,))
    process.start()

    segment = SharedMemory(ours.recv())

    assert segment.buf[0] == 7
    segment.close()
    segment.unlink()
    process.join()


@METHODS
def test_a_child_makes_and_a_fixture_removes(context: Any, untracked_names: List[str]) -> None:
    untracked_names.append(new_name("child"))
    assert run(context, bodies.make_untracked, untracked_names[-1]) == 0
    assert is_there(untracked_names[-1])


def test_a_program_makes_and_a_fixture_removes(untracked_names: List[str]) -> None:
    untracked_names.append(new_name("program"))
    subprocess.run([*PYTHON, bodies.MAKE, untracked_names[-1]], check=True)
    assert is_there(untracked_names[-1])


@pytest.mark.parametrize("option", ["-I", "-S", "-E", "-sB"])
def test_a_program_makes_and_removes(option: str) -> None:
    subprocess.run([sys.executable, option, "-c", bodies.MAKE_AND_REMOVE], check=True)


def test_a_program_without_environment_makes_and_removes() -> None:
    subprocess.run([*PYTHON, bodies.MAKE_AND_REMOVE], env={}, check=True)


def test_a_shell_makes_and_removes() -> None:
    path = new_path("shell")
    subprocess.run(["sh", "-c", 'echo text > "$0" && test -s "$0" && rm "$0"', path], check=True)
    subprocess.run(["sh", "-c", 'mkdir "$0" && touch "$0/file" && rm -r "$0"', path], check=True)


def test_a_shell_makes_and_the_test_removes() -> None:
    path = new_path("shell")
    subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=4096", "count=4"], check=True, stderr=subprocess.DEVNULL)
    os.unlink(path)


def test_a_child_exits_early() -> None:
    assert run(FORK, bodies.exit_early) == 0


def test_a_child_is_killed() -> None:
    assert run(FORK, bodies.be_killed) < 0


def test_a_child_becomes_another_program() -> None:
    assert run(FORK, bodies.become_another_program) == 0


def test_a_fork_raises_system_exit() -> None:
    in_a_fork(exits)


def exits() -> None:
    with pytest.raises(SystemExit):
        bodies.exit_early()


def test_a_fork_closes_all_descriptors() -> None:
    in_a_fork(close_all_and_make)


def close_all_and_make() -> None:
    os.closerange(3, 4096)
    path = new_path("closed")
    with open(path, "wb") as file:
        file.truncate(100)
    os.unlink(path)


def test_a_fork_clears_its_environment() -> None:
    in_a_fork(clear_and_make)


def clear_and_make() -> None:
    os.environ.clear()
    bodies.make_and_remove()
    subprocess.run([*PYTHON, bodies.MAKE_AND_REMOVE], check=True)


def test_a_fork_of_a_thread_makes_and_removes() -> None:
    ended: List[int] = []
    thread = threading.Thread(target=lambda: ended.append(run(FORK, bodies.make_and_remove)))
    thread.start()
    thread.join()
    assert ended == [0]


def test_a_fork_drops_its_privileges() -> None:
    if os.getuid() != 0:
        pytest.skip("has none")
    in_a_fork(make_as_nobody)


def make_as_nobody() -> None:
    os.setgid(65534)
    os.setuid(65534)
    path = new_path("nobody")
    with open(path, "wb"):
        os.unlink(path)


def test_a_child_on_a_terminal_makes_and_removes() -> None:
    fds: List[int] = []

    def fork() -> int:
        pid, fd = pty.fork()
        fds.append(fd)
        return pid

    in_a_fork(bodies.make_and_remove, fork)
    os.close(fds[0])


def test_a_spawned_program_is_waited_for_by_pid() -> None:
    pid = os.posix_spawn(sys.executable, [*PYTHON, bodies.MAKE_AND_REMOVE], dict(os.environ))
    assert os.waitpid(pid, 0)[1] == 0


@METHODS
def test_a_lock_is_passed_to_a_child(context: Any) -> None:
    assert run(context, bodies.acquire, context.Lock()) == 0


@METHODS
def test_a_queue_is_passed_to_a_child(context: Any) -> None:
    queue = context.SimpleQueue()
    queue.put(1)
    assert run(context, bodies.put_and_take, queue) == 0
    assert queue.get() == 2


@pytest.mark.parametrize("number", range(3))
def test_an_executors_process_keeps_a_segment(spawning_executor: ProcessPoolExecutor, number: int) -> None:
    assert is_there(spawning_executor.submit(bodies.keep).result())


def test_an_executors_process_removes_what_it_kept(spawning_executor: ProcessPoolExecutor) -> None:
    spawning_executor.submit(bodies.drop_all).result()


@pytest.mark.parametrize("number", range(2))
def test_a_pools_process_keeps_a_segment(forking_pool: Any, number: int) -> None:
    assert is_there(forking_pool.apply(bodies.keep))


@pytest.mark.parametrize("number", range(2))
def test_a_manager_is_started_by_the_first_who_needs_it(lazy_manager: Lazily, number: int) -> None:
    proxy = lazy_manager.get().list([1, 2])
    proxy.append(3)
    assert len(proxy) == 3


@pytest.mark.parametrize("number", range(2))
def test_a_sessions_manager_removes_the_tests_segment(memory_manager: SharedMemoryManager, number: int) -> None:
    segment = memory_manager.SharedMemory(100)
    segment.buf[0] = 1
    assert is_there(segment.name)
    segment.close()


def test_a_sessions_manager_removes_the_tests_list(memory_manager: SharedMemoryManager) -> None:
    shared = memory_manager.ShareableList(["one", "two"])
    assert shared[1] == "two"
    shared.shm.close()


def test_a_manager_removes_what_its_test_made() -> None:
    with SharedMemoryManager() as manager:
        assert is_there(manager.SharedMemory(100).name)


@pytest.mark.parametrize("number", range(2))
def test_a_server_that_a_fixture_started_keeps_a_segment(early_server: Server, number: int) -> None:
    assert is_there(early_server.ask())


@pytest.mark.parametrize("number", range(2))
def test_a_server_that_a_test_started_keeps_a_segment(late_server: Server, number: int) -> None:
    assert is_there(late_server.ask())
