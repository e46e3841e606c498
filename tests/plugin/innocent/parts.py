"""What several of the innocent need: pools of segments, names, waiting."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Callable, List

SHM = "/dev/shm"
SPAWN: Any = multiprocessing.get_context("spawn")
FORK: Any = multiprocessing.get_context("fork")
FORKSERVER: Any = multiprocessing.get_context("forkserver")
#: For children that are no Python of multiprocessing's.
PYTHON = [sys.executable, "-c"]


def new_name(label: str) -> str:
    """A name that nobody else has."""
    return f"innocent-{label}-{secrets.token_hex(6)}"


def new_path(label: str) -> str:
    """The same, in /dev/shm."""
    return os.path.join(SHM, new_name(label))


def is_there(name: str) -> bool:
    """Whether /dev/shm has it."""
    return os.path.lexists(os.path.join(SHM, os.path.basename(name)))


def untracked(segment: SharedMemory) -> SharedMemory:
    """Tell the resource tracker of this process that the segment is somebody else's to remove."""
    resource_tracker.unregister("/" + segment.name.lstrip("/"), "shared_memory")
    return segment


def attached(name: str) -> SharedMemory:
    """Somebody else's segment: until 3.13, Python would remove it when this process ends."""
    if sys.version_info >= (3, 13):
        return SharedMemory(name, track=False)
    return untracked(SharedMemory(name))


def in_a_fork(act: Callable[[], object], fork: Callable[[], int] = os.fork, *, wait: bool = True) -> None:
    """Do it in a child of this process alone, and see that it went well."""
    pid = fork()
    if not pid:
        try:
            act()
            os._exit(7)
        finally:
            os._exit(8)
    if wait:
        assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 7


class Pool:
    """Makes segments one by one, and removes them all when it is closed."""

    def __init__(self) -> None:
        self.segments: List[SharedMemory] = []

    def grow(self, size: int = 64) -> SharedMemory:
        self.segments.append(SharedMemory(create=True, size=size))
        return self.segments[-1]

    def close(self) -> None:
        while self.segments:
            segment = self.segments.pop()
            segment.close()
            segment.unlink()
