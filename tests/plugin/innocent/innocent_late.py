"""What goes shortly after its test: the detector has to leave it the time.

a child ends shortly after
a child removes its segment as it ends
a program removes its segment as it ends
a child is a zombie
a grandchild ends shortly after
a shell in the background removes shortly after
a shell in another session removes shortly after
a thread removes shortly after
"""

from __future__ import annotations

import os
import subprocess
import threading
from multiprocessing.shared_memory import SharedMemory

import pytest

from tests.plugin.innocent import bodies
from tests.plugin.innocent.parts import PYTHON, SPAWN, in_a_fork, new_path, until


def test_a_child_ends_shortly_after() -> None:
    subprocess.Popen(["sleep", "0.4"])


def test_a_child_removes_its_segment_as_it_ends() -> None:
    process = SPAWN.Process(target=bodies.remove_at_exit_slowly, args=(0.5,))
    process.start()


def test_a_program_removes_its_segment_as_it_ends() -> None:
    subprocess.Popen([*PYTHON, bodies.MAKE_AND_REMOVE_AT_EXIT])


def test_a_child_is_a_zombie() -> None:
    process = subprocess.Popen(["true"])
    until(lambda: os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT))
    process.returncode = 0  # its object does not wait for it either


def test_a_grandchild_ends_shortly_after() -> None:
    in_a_fork(lambda: in_a_fork(linger_and_make, wait=False))


def linger_and_make() -> None:
    bodies.linger(0.4)
    bodies.make_and_remove()


def test_a_shell_in_the_background_removes_shortly_after() -> None:
    path = new_path("background")
    subprocess.run(["sh", "-c", '(sleep 0.4; rm "$0") & touch "$0"', path], check=True, stdout=subprocess.DEVNULL)
    assert os.path.exists(path)


def test_a_shell_in_another_session_removes_shortly_after() -> None:
    path = new_path("background")
    subprocess.run(["setsid", "-f", "sh", "-c", 'touch "$0"; sleep 0.4; rm "$0"', path], check=True)
    until(lambda: os.path.exists(path))


@pytest.mark.parametrize("daemon", [True, False])
def test_a_thread_removes_shortly_after(daemon: bool) -> None:
    segment = SharedMemory(create=True, size=10)
    segment.close()
    timer = threading.Timer(0.3, segment.unlink)
    timer.daemon = daemon
    timer.start()
