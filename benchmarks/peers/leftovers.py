"""What a trial left behind, and its removal: only what carries the trial's name, so nobody else's is touched."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import time
from contextlib import suppress
from multiprocessing import resource_tracker
from typing import Iterable, Iterator, List, Set, Tuple

SHM = "/dev/shm"
#: Set in the environment of whoever takes part, so that their own children are known too.
MARK = "SHMSTATE_BENCHMARK_TRIAL"


def left(marks: Iterable[str], folder: str, makers: Set[int], meant: Set[int]) -> List[str]:
    """What is there now: entries of /dev/shm, files of the folder, System V segments of these makers, and processes.

    ``meant``: processes that are meant to live on. What is another text every time is a ``*``.
    """
    marks = list(marks)
    entries = [path for name in _entries(marks) for path in _under(f"{SHM}/{name}")]
    files = [path for name in sorted(os.listdir(folder)) for path in _under(f"{folder}/{name}")]
    found = [*entries, *(path.replace(folder, "its folder") for path in files)]
    found += [f"System V segment with key {key}" for _, key in _system_v(makers)]
    found += [f"process {_command(pid)}" for pid in set(processes(marks[0])) - meant]
    return sorted({_steady(one, marks) for one in found})


def remove(marks: Iterable[str], folder: str, makers: Set[int]) -> None:
    """Everything of these, but for processes, which must be gone."""
    for name in _entries(list(marks)):
        path = f"{SHM}/{name}"
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
            continue
        with suppress(FileNotFoundError):
            os.unlink(path)
        # A process that was killed may have told multiprocessing's tracker of it, which would look for it at our end.
        # Telling twice is as good as once, so that this is right if nobody did.
        kind, known = ("semaphore", name[4:]) if name.startswith("sem.") else ("shared_memory", name)
        resource_tracker.register(f"/{known}", kind)
        resource_tracker.unregister(f"/{known}", kind)
    for segment, _ in _system_v(makers):
        ctypes.CDLL(None).shmctl(segment, 0, None)  # IPC_RMID
    shutil.rmtree(folder, ignore_errors=True)


def processes(mark: str) -> List[int]:
    """Those that live with this mark in their environment, but for this one."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):  # somebody else's, or gone
                with open(f"/proc/{name}/environ", "rb") as file:
                    if wanted in file.read().split(b"\0"):
                        found.append(int(name))
    return found


def end_all(mark: str, spared: Set[int]) -> None:
    """SIGKILL those, and wait until they are gone; not for ever."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        living = set(processes(mark)) - spared
        if not living:
            return
        for pid in living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def _entries(marks: List[str]) -> List[str]:
    return sorted(name for name in os.listdir(SHM) if any(mark in name for mark in marks))


def _under(path: str) -> Iterator[str]:
    """Itself, or if it is a folder the files in it; an empty one counts for itself."""
    if not os.path.isdir(path):
        yield path
        return
    files = [f"{folder}/{name}" for folder, _, names in os.walk(path) for name in names]
    yield from files or [path]


def _system_v(makers: Set[int]) -> Iterator[Tuple[int, str]]:
    """Identifier and key."""
    with suppress(FileNotFoundError):
        with open("/proc/sysvipc/shm", encoding="ascii") as file:
            head, *rows = (line.split() for line in file)
            identifier, creator = head.index("shmid"), head.index("cpid")
            yield from ((int(row[identifier]), row[0]) for row in rows if int(row[creator]) in makers)


def _command(pid: int) -> str:
    with suppress(OSError):
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            return file.read().strip()
    return "?"


def _steady(text: str, marks: List[str]) -> str:
    """Without what is another at every run."""
    for mark in marks:
        text = text.replace(mark, "NAME")
    return re.sub(r"(?<=NAME)[0-9a-f]{4}$|(?<=NAME-)[0-9a-z_]{8}$|[0-9a-f]{8,}|[0-9]{4,}", "*", text)
