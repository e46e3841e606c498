"""Tests that leak on purpose: ``--shmstate-selftest`` runs them, and each has to be named for what it left.

A canary's name says what it leaves and where: ``test_KIND_in_PLACE``. Beside each stands a neighbour that leaves nothing.
What each leaves is written down in a file as well, which the environment names: what goes unseen must not stay either.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import secrets
import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Callable, Dict, List

import pytest

from pytest_shmstate import census

#: The variable that names the file; its lines are ``entry NAME``, ``sysv SHMID`` and ``process PID START``.
LEFT = "PYTEST_SHMSTATE_CANARIES"
IPC_PRIVATE, IPC_CREAT = 0, 0o1000
_kept: List[Any] = []


def _tell(*what: object) -> None:
    # One write, so that what others tell at the same time stands beside it, not in it.
    fd = os.open(os.environ[LEFT], os.O_WRONLY | os.O_APPEND)
    os.write(fd, (" ".join(map(str, what)) + "\n").encode())
    os.close(fd)


def leave_segment() -> None:
    segment = SharedMemory(create=True, size=4096)
    _tell("entry", segment.name)
    segment.close()


def leave_semaphore() -> None:
    semaphore: Any = multiprocessing.get_context("spawn").Semaphore(1)
    _tell("entry", "sem." + semaphore._semlock.name.lstrip("/"))  # noqa: SLF001 - it has no other
    _kept.append(semaphore)


def leave_file() -> None:
    path = _path()
    _tell("entry", os.path.basename(path))
    with open(path, "wb") as file:
        file.write(b"left")


def leave_directory() -> None:
    path = _path()
    _tell("entry", os.path.basename(path))
    os.mkdir(path)


def leave_sysv() -> None:
    shmid = ctypes.CDLL(None, use_errno=True).shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0o600)
    if shmid < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    _tell("sysv", shmid)


def leave_process() -> None:
    # It ends by itself, should nobody look for it.
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.DEVNULL)
    itself = census.process(process.pid)
    if itself is not None:
        _tell("process", itself.pid, itself.start)


def leave_segment_by_c() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    name = os.path.basename(_path())
    fd = libc.shm_open(name.encode(), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "shm_open")
    _tell("entry", name)
    os.close(fd)


def take_and_return() -> None:
    """Make one of each and remove it."""
    segment = SharedMemory(create=True, size=4096)
    segment.close()
    segment.unlink()
    path = _path()
    os.mkdir(path)
    os.rmdir(path)
    lock = multiprocessing.get_context("spawn").Lock()
    del lock


KINDS: Dict[str, Callable[[], None]] = {
    "segment": leave_segment,
    "semaphore": leave_semaphore,
    "file": leave_file,
    "directory": leave_directory,
    "sysv": leave_sysv,
    "process": leave_process,
}
#: A process goes with the parent that multiprocessing waits for, or is no child of it: only the test's own is seen.
IN_CHILDREN = [kind for kind in KINDS if kind != "process"]


def _path() -> str:
    return f"/dev/shm/shmstate-canary-{secrets.token_hex(6)}"


def _in_child(kind: str) -> None:
    (take_and_return if kind == "nothing" else KINDS[kind])()
    # As if killed: no finalizer of multiprocessing gets to clean up after it.
    os._exit(0)


@pytest.mark.parametrize("kind", [*KINDS, "nothing"])
def test_here(kind: str) -> None:
    (take_and_return if kind == "nothing" else KINDS[kind])()


@pytest.mark.parametrize("kind", [*IN_CHILDREN, "nothing"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_in_child(method: str, kind: str) -> None:
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=_in_child, args=(kind,))
    child.start()
    child.join()


@pytest.mark.parametrize("kind", ["file", "directory", "nothing"])
def test_in_subprocess(kind: str) -> None:
    program = f"import runpy; runpy.run_path({__file__!r})['_in_child']({kind!r})"
    subprocess.run([sys.executable, "-c", program], check=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def wide() -> None:
    leave_segment()


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("kind", ["segment", "nothing"])
def test_in_fixture(kind: str) -> None:
    """The fixture leaks; no test may be blamed for it."""


def test_by_c() -> None:
    leave_segment_by_c()
