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
        new = {name: _inodes(name) for name, inode in set(_entries()) - self.entries}
        held = _held_by_others({os.getpid(), *below}) if new else set()
        left = sorted(name for name, inodes in new.items() if not inodes & held)
        return sorted(told) + [f"/dev/shm/{name}: {_size(name)} bytes" for name in left]


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


def _inodes(name: str) -> Set[int]:
    """Its own, and if it is a folder those of all that is in it."""
    inodes = {inode for path in (_SHM / name).rglob("*") for inode in _inode(str(path))}
    return inodes.union(_inode(str(_SHM / name)))


def _inode(path: str) -> Tuple[int, ...]:
    """One, or none: it is gone, or is another user's, or no file of /dev/shm at all."""
    with suppress(OSError):
        status = os.stat(path)
        if status.st_dev == _SHM.stat().st_dev:
            return (status.st_ino,)
    return ()


def _held_by_others(ours: Set[int]) -> Set[int]:
    """What processes that are not ours have open or mapped; by inode, as semaphores are mapped by another name."""
    held: Set[int] = set()
    for pid in _pids():
        if pid not in ours:
            with suppress(OSError):  # it ended, or is another user's
                held.update(_mapped(pid))
                for descriptor in os.listdir(f"/proc/{pid}/fd"):
                    held.update(_inode(f"/proc/{pid}/fd/{descriptor}"))
    return held


def _mapped(pid: int) -> Iterator[int]:
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[5].startswith("/dev/shm/"):
                yield int(fields[4])


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
