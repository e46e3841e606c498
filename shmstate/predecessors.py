"""Segments that a shared state has moved from, and that some of its writers have not left yet.

A writer that shares a state moves it for all of them; the others follow when they publish next. Until then they hold
their locks on the segment that was left. So that segment keeps a second name, from before S3 of protocol.py on, and the
successor says which it is (PREDECESSOR): the state is owned as long as a writer is present in any of them.

    P1  The second name is given before the successor gets the first one, whoever is present. It is removed only when no
        writer is present (turns.py), and when no older one is left: then the newer ones lead to nothing that is missed.
    P2  A writer that follows is present in the successor before it leaves. So asking the oldest first, and the successor
        last, misses none.
    P3  A writer that joins is present before it looks whether the name still leads there (O3). So after S3 no other
        writer appears in the segment that was left.
    P4  A segment that still has the first name loses its second one in the turn there, or under the exclusive lock
        (ownership.py): otherwise another writer could move the state meanwhile, and leave some behind. A move that was
        cut short may leave the second name there; the next move uses it, and whatever removes the state removes it.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from stat import S_ISREG
from typing import Iterator, List, Tuple

from shmstate import memory, turns
from shmstate.layout import SHM_DIR, old_file
from shmstate.oserrors import translated

_MOST = 1000

#: What opening a link, a socket, a device, or another user's file with a lease fails with.
NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EAGAIN)


def second_name(created_ns: int, inode: int) -> str:
    """The path of a segment that the state has moved from."""
    return os.path.join(SHM_DIR, old_file(created_ns, inode))


def is_any_owned(fd: int) -> bool:
    """Whether a writer is present in a segment that led to the open one. A caller asks the open one again afterwards."""
    with _opened(fd) as older:
        return any(turns.is_anybody_there(one) for _, one in older)


def prune(fd: int) -> None:
    """Remove the second names of segments that every writer has left, oldest first (P1)."""
    with _opened(fd) as older:
        for path, one in older:
            if turns.is_anybody_there(one):
                return
            _unlink(path)


def forget(fd: int) -> None:
    """Remove the second name of the open segment, if it has one, which its owner has not left after all."""
    with translated("a segment cannot be looked at"):
        stat = os.fstat(fd)
    if stat.st_nlink:
        path = second_name(memory.predecessor(fd)[0], stat.st_ino)
        is_its_own = False
        with translated(f"{path} cannot be looked at", FileNotFoundError), suppress(FileNotFoundError):
            is_its_own = os.stat(path, follow_symlinks=False).st_ino == stat.st_ino
        if is_its_own:
            _unlink(path)


def give(path: str, second: str) -> None:
    """Give the segment at ``path`` its second name, if it has not got it from a move that was not completed."""
    with translated(f"{path} cannot be given a second name", FileExistsError), suppress(FileExistsError):
        os.link(path, second)


def _unlink(path: str) -> None:
    with translated(f"{path} cannot be removed", FileNotFoundError), suppress(FileNotFoundError):
        os.unlink(path)


def remove_if_left(path: str, dry_run: bool = False) -> bool:
    """Remove one second name if no writer is present, and no older segment is left. Returns whether it was removed.

    Raises FileNotFoundError if it is gone; AccessDenied, SystemRefused if it cannot be opened or removed.
    """
    try:
        with translated(f"{path} cannot be opened to see whether it is given up", FileNotFoundError, *NO_FILE):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        return False
    try:
        with translated(f"{path} cannot be looked at"):
            stat = os.fstat(fd)
        if not S_ISREG(stat.st_mode) or stat.st_uid != os.geteuid():
            return False
        if stat.st_nlink > 1 or turns.is_anybody_there(fd):  # P4: it has its first name
            return False
        with _opened(fd) as older:
            if older:
                return False
        if not dry_run:
            _unlink(path)
        return True
    finally:
        os.close(fd)


@contextmanager
def _opened(fd: int) -> Iterator[List[Tuple[str, int]]]:
    """Paths and descriptors of all that led to the open segment, oldest first."""
    with translated("a segment cannot be looked at"):
        uid = os.fstat(fd).st_uid
    older: List[Tuple[str, int]] = []
    try:
        created, inode = memory.predecessor(fd)
        while inode and len(older) < _MOST:
            path = second_name(created, inode)
            try:
                with translated(f"{path} cannot be opened to see whether a writer is there", FileNotFoundError):
                    one = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                break
            older.append((path, one))
            with translated(f"{path} cannot be looked at"):
                stat = os.fstat(one)
            if (stat.st_ino, stat.st_uid) != (inode, uid):  # another program's file; nothing of ours
                os.close(older.pop()[1])
                break
            created, inode = memory.predecessor(one)
        yield older[::-1]
    finally:
        for _, one in older:
            os.close(one)
