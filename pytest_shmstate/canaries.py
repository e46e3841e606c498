"""Tests that leak on purpose: ``--shmstate-selftest`` runs them, and each has to be named for what it left.

A canary's name says what it leaves and where: ``test_KIND_in_PLACE``. Beside each stands a neighbour that leaves nothing.
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

HOLD = 1 << 16
IPC_PRIVATE, IPC_CREAT = 0, 0o1000
_kept: List[Any] = []


def leave_segment() -> None:
    SharedMemory(create=True, size=4096).close()


def leave_semaphore() -> None:
    _kept.append(multiprocessing.get_context("spawn").Semaphore(1))


def leave_file() -> None:
    with open(_path(), "wb") as file:
        file.write(b"left")


def leave_directory() -> None:
    os.mkdir(_path())


def leave_sysv() -> None:
    if ctypes.CDLL(None, use_errno=True).shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0o600) < 0:
        raise OSError(ctypes.get_errno(), "shmget")


def leave_process() -> None:
    # It ends by itself, should nobody look for it.
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.DEVNULL)


def leave_segment_by_c() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.shm_open(os.path.basename(_path()).encode(), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "shm_open")
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
