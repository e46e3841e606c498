"""Which pipes a process has open: what joins the programs of one pipeline."""

from __future__ import annotations

import os
import stat
from typing import Collection, Set, Tuple


def pipes(pid: int, access: int, only: Collection[int] = ()) -> Set[Tuple[int, int]]:
    """Return the pipes that a process has open for ``access`` (os.O_RDONLY or os.O_WRONLY), by device and inode.

    ``only``: look at these descriptors alone.
    """
    found: Set[Tuple[int, int]] = set()
    try:
        fds = [str(fd) for fd in only] or os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for fd in fds:
        try:
            # Not by a regular file's path: a network file system may take for ever to answer.
            with open(f"/proc/{pid}/fdinfo/{fd}", "rb") as info:
                flags = next(int(line.split()[1], 8) for line in info if line.startswith(b"flags:"))
            if flags & os.O_ACCMODE in (access, os.O_RDWR):
                file = os.stat(f"/proc/{pid}/fd/{fd}")
                if stat.S_ISFIFO(file.st_mode):
                    found.add((file.st_dev, file.st_ino))
        except (OSError, StopIteration, ValueError):
            continue
    return found
