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
from pathlib import Path

import pytest

from tests.core.children import until
from tests.plugin.innocent import bodies
from tests.plugin.innocent.parts import PYTHON, SPAWN, in_a_fork, new_path

#: For a shell: wait until the test is over, with the file that then comes as its last argument.
WAIT = 'until test -e "$1"; do sleep 0.01; done'


def test_a_child_ends_shortly_after(over: Path) -> None:
    subprocess.Popen(["sh", "-c", WAIT, "sh", str(over)])


def test_a_child_removes_its_segment_as_it_ends(over: Path) -> None:
    process = SPAWN.Process(target=bodies.remove_at_exit, args=(over,))
    process.start()


def test_a_program_removes_its_segment_as_it_ends(over: Path) -> None:
    subprocess.Popen([*PYTHON, bodies.MAKE_AND_REMOVE_AT_EXIT, str(over)])


def test_a_child_is_a_zombie() -> None:
    process = subprocess.Popen(["true"])
    until(lambda: os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT))
    process.returncode = 0  # its object does not wait for it either


def test_a_grandchild_ends_shortly_after(over: Path) -> None:
    def linger_and_make() -> None:
        bodies.linger(over)
        bodies.make_and_remove()

    in_a_fork(lambda: in_a_fork(linger_and_make, wait=False))


def test_a_shell_in_the_background_removes_shortly_after(over: Path) -> None:
    path = new_path("background")
    script = f'({WAIT}; rm "$0") & touch "$0"'
    subprocess.run(["sh", "-c", script, path, str(over)], check=True, stdout=subprocess.DEVNULL)
    assert os.path.exists(path)


def test_a_shell_in_another_session_removes_shortly_after(over: Path) -> None:
    path = new_path("background")
    subprocess.run(["setsid", "-f", "sh", "-c", f'touch "$0"; {WAIT}; rm "$0"', path, str(over)], check=True)
    until(lambda: os.path.exists(path))


@pytest.mark.parametrize("daemon", [True, False])
def test_a_thread_removes_shortly_after(daemon: bool, over: Path) -> None:
    segment = SharedMemory(create=True, size=10)
    segment.close()

    def remove() -> None:
        until(over.exists)
        segment.unlink()

    threading.Thread(target=remove, daemon=daemon).start()
