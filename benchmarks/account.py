"""What a process takes, by the kernel's own account. All sizes are bytes."""

from __future__ import annotations

import gc
import os
import resource
from typing import Dict, NamedTuple, Set

from shmstate.layout import SHM_DIR


class Account(NamedTuple):
    """Of one process, or the sum of several.

    ``pss``: its memory, of what is shared its share; ``private``: what nobody else has; ``anonymous``: what is no file's and
    no shared memory. ``page_tables`` are the kernel's, and in none of these. Files that are mapped, as Python itself, are
    left out of ``pss``: its share depends on what else runs on the machine.
    """

    pss: int = 0
    private: int = 0
    anonymous: int = 0
    page_tables: int = 0
    virtual: int = 0
    threads: int = 0
    descriptors: int = 0

    def plus(self, other: Account) -> Account:
        """Both together."""
        return Account(*(mine + theirs for mine, theirs in zip(self, other)))

    def each(self, before: Account, count: int) -> Dict[str, float]:
        """What came since then, for each of so many things."""
        sizes = ("pss", "private", "anonymous", "page_tables", "virtual")
        told = {}
        for name, now, was in zip(self._fields, self, before):
            told[f"{name}_bytes_each" if name in sizes else f"{name}_each"] = round((now - was) / count, 3)
        return told


def of(pid: int) -> Account:
    """Of that process, at the moment."""
    memory = _kilobytes(f"/proc/{pid}/smaps_rollup")
    status = _kilobytes(f"/proc/{pid}/status")
    return Account(
        pss=memory["Pss"] - memory.get("Pss_File", 0),
        private=memory["Private_Clean"] + memory["Private_Dirty"],
        anonymous=memory["Anonymous"],
        page_tables=status["VmPTE"],
        virtual=status["VmSize"],
        threads=status["Threads"],
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
    )


def own() -> Account:
    """Of this process, without its garbage."""
    gc.collect()
    return of(os.getpid())


def of_machine() -> Dict[str, int]:
    """All memory there is, by what it is used for."""
    return _kilobytes("/proc/meminfo")


def of_kernel() -> int:
    """What the kernel keeps for all processes of the machine: page tables, stacks, and its own objects."""
    memory = of_machine()
    return memory["PageTables"] + memory["KernelStack"] + memory["SUnreclaim"]


def _kilobytes(path: str) -> Dict[str, int]:
    """The numbers of ``Name:  123 kB``, in bytes, and of ``Name: 123``, as they are."""
    found = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, rest = line.partition(":")
            words = rest.split()
            if words and words[0].isdigit():
                found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found


class SharedMemory(NamedTuple):
    """What this process has mapped of ``/dev/shm``: files, those of them that have a name, and bytes behind them."""

    files: int
    named: int
    nbytes: int


def shared_memory() -> SharedMemory:
    """At the moment. Of a file that has lost its name it counts what is mapped."""
    # By inode: what got its name after it was mapped is told by the name that it had then.
    names = {entry.inode(): entry.path for entry in os.scandir(SHM_DIR)}
    seen: Set[int] = set()
    named = nbytes = 0
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            if f" {SHM_DIR}/" not in line:
                continue
            addresses, _, _, _, number = line.split()[:5]
            inode = int(number)
            if inode in seen:
                continue
            seen.add(inode)
            if inode in names:
                named += 1
                nbytes += os.stat(names[inode]).st_blocks * 512
            else:
                start, stop = (int(address, 16) for address in addresses.split("-"))
                nbytes += stop - start
    return SharedMemory(len(seen), named, nbytes)


def raise_limits() -> None:
    """As many descriptors as this user may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
