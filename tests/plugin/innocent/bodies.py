"""Functions that processes of the innocent run."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Dict, NoReturn

import shmstate
from pytest_shmstate import ready
from tests.core.children import until
from tests.plugin.innocent.parts import PYTHON, untracked

#: What this process keeps from one call to the next.
KEPT: Dict[str, SharedMemory] = {}

#: Programs for `python -c`.
MAKE_AND_REMOVE = """
from multiprocessing.shared_memory import SharedMemory
segment = SharedMemory(create=True, size=10)
segment.close()
segment.unlink()
"""
MAKE = """
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
segment = SharedMemory(sys.argv[1], create=True, size=10)
resource_tracker.unregister("/" + sys.argv[1], "shared_memory")
segment.close()
"""
MAKE_AND_REMOVE_AT_EXIT = """
import atexit, os, sys
from multiprocessing.shared_memory import SharedMemory
from tests.core.children import until
segment = SharedMemory(create=True, size=10)
atexit.register(segment.unlink)
atexit.register(segment.close)
atexit.register(until, lambda: os.path.exists(sys.argv[1]))
"""
#: Makes a segment for each line it reads, and removes them at an empty one: forks of others may keep its input open.
SERVE = """
import sys
from multiprocessing.shared_memory import SharedMemory
made = []
while sys.stdin.readline().strip():
    made.append(SharedMemory(create=True, size=10))
    print(made[-1].name, flush=True)
for segment in made:
    segment.close()
    segment.unlink()
"""


def make_and_remove(size: int = 64) -> int:
    segment = SharedMemory(create=True, size=size)
    segment.close()
    segment.unlink()
    return os.getpid()


def make(name: str, size: int = 64) -> str:
    """Make a segment that the caller will remove."""
    segment = SharedMemory(name, create=True, size=size)
    segment.close()
    return name


def make_untracked(name: str) -> None:
    untracked(SharedMemory(name, create=True, size=64)).close()


def keep(size: int = 64) -> str:
    """Make a segment and keep it in this process."""
    segment = SharedMemory(create=True, size=size)
    KEPT[segment.name] = segment
    return segment.name


def drop_all() -> int:
    """Remove what ``keep`` made."""
    for segment in KEPT.values():
        segment.close()
        segment.unlink()
    count = len(KEPT)
    KEPT.clear()
    return count


def make_into(pipe: Any) -> None:
    """Make a segment and pass its name on."""
    segment = SharedMemory(create=True, size=64)
    segment.buf[0] = 7
    pipe.send(segment.name)
    segment.close()


def remove_at_exit(over: Path) -> None:
    """Make a segment that goes when this process ends, which takes its time."""
    segment = SharedMemory(create=True, size=64)

    def slowly() -> None:
        until(over.exists)
        segment.close()
        segment.unlink()

    atexit.register(slowly)


def linger(over: Path) -> None:
    """Wait until the test is over."""
    until(over.exists)


def put_and_take(queue: Any) -> None:
    queue.put(queue.get() + 1)


def acquire(lock: Any) -> None:
    with lock:
        make_and_remove()


def exit_early() -> NoReturn:
    make_and_remove()
    sys.exit(0)


def be_killed() -> NoReturn:
    make_and_remove()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def become_another_program() -> NoReturn:
    os.execv(sys.executable, [*PYTHON, MAKE_AND_REMOVE])


def publish_and_wait(name: str) -> NoReturn:
    with shmstate.StateWriter(name) as writer:
        writer.publish("until it is killed")
        ready()
        while True:
            signal.pause()


def keep_and_wait() -> None:
    """Keep a segment until the worker is told to end."""
    segment = SharedMemory(create=True, size=64)
    try:
        ready(segment.name)
        while True:
            signal.pause()
    finally:
        segment.close()
        segment.unlink()
