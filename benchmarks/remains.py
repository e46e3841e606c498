"""What a part left behind: entries of /dev/shm, and processes below this one."""

from __future__ import annotations

import multiprocessing
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Set, Tuple

_SHM = Path("/dev/shm")
#: Seconds for what is about to go by itself: a process that was told to end, and what goes with it.
PATIENCE = 5.0
#: Processes that multiprocessing keeps until this one ends, for all who come.
_KEPT = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


class Before(NamedTuple):
    """What was there already."""

    entries: Set[Tuple[str, int]]
    processes: Set[int]

    @classmethod
    def now(cls) -> Before:
        """As it is at the moment."""
        return cls(set(_entries()), set(_below(os.getpid())))

    def left(self, patience: float = PATIENCE) -> List[str]:
        """What came since then and stays: a line each. Other programs' things are not told, if they have them open."""
        until = time.monotonic() + patience
        while True:
            found = self._found()
            if not found or time.monotonic() >= until:
                return found
            time.sleep(0.05)

    def _found(self) -> List[str]:
        multiprocessing.active_children()  # waits for those that have ended
        below = _below(os.getpid())
        told = [f"process {pid}: {command}" for pid, command in below.items() if pid not in self.processes]
        new = {name for name, inode in set(_entries()) - self.entries}
        if new:
            new -= _held_by_others(new, {os.getpid(), *below})
        return sorted(told) + [f"/dev/shm/{name}: {_size(name)} bytes" for name in sorted(new)]


def _entries() -> Iterator[Tuple[str, int]]:
    """Of this user."""
    with os.scandir(str(_SHM)) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if status.st_uid == os.geteuid():
                yield entry.name, status.st_ino


def _size(name: str) -> int:
    try:
        return (_SHM / name).lstat().st_size
    except FileNotFoundError:
        return 0


def _held_by_others(names: Set[str], ours: Set[int]) -> Set[str]:
    """Those of the names that a process which is not ours has open or mapped."""
    held: Set[str] = set()
    for pid in _pids():
        if pid not in ours:
            held.update(path[len("/dev/shm/") :] for path in _files_of(pid) if path.startswith("/dev/shm/"))
    return {name for name in names if any(path == name or path.startswith(f"{name}/") for path in held)}


def _files_of(pid: int) -> Set[str]:
    files: Set[str] = set()
    with suppress(OSError):  # it ended, or is another user's
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as maps:
            files.update(line.rstrip("\n").split(maxsplit=5)[5] for line in maps if "/dev/shm/" in line)
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                files.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    return files


def _below(top: int) -> Dict[int, str]:
    """Children, their children, and so on: what each is running. Without what multiprocessing keeps."""
    children: Dict[int, List[int]] = {}
    for pid in _pids():
        children.setdefault(_parent(pid), []).append(pid)
    below: Dict[int, str] = {}
    waiting = list(children.get(top, ()))
    while waiting:
        pid = waiting.pop()
        waiting.extend(children.get(pid, ()))
        command = _command(pid)
        if not any(kept in command for kept in _KEPT):
            below[pid] = command
    return below


def _pids() -> List[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent(pid: int) -> int:
    """0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read().replace("\0", " ").strip() or "has ended, and nobody waited for it"
    except OSError:
        return "gone"
