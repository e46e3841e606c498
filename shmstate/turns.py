"""Turns among processes that publish one state, and the sign that some of them live: locks on two bytes of its file.

    byte 0   whoever publishes has it for writing; the others wait for it, in the kernel
    byte 1   whoever may publish has it for reading, always; to ask for it takes no lock

They are open file description locks (fcntl(2), ``F_OFD_SETLK``): of a descriptor, not of a process, and they go with its
last copy, also on ``kill -9``. The lock of ownership.py, an ``flock``, is another kind and does not meet them.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from contextlib import suppress

from shmstate.oserrors import refusal

with suppress(ImportError):  # not on Windows, where require_platform() comes before its first use
    import fcntl

# Not in Python's fcntl before 3.9; the same on every Linux.
_GET, _SET, _SET_WAITING = 36, 37, 38
_FLOCK = struct.Struct("hhqqi4x")
_TURN, _PRESENCE = 0, 1
_ANOTHERS = (errno.EAGAIN, errno.EACCES)


def _lock(fd: int, command: int, kind: int, byte: int, *but: int) -> int:
    """Returns the kind of a lock that stands in the way, if asked for that."""
    try:
        told = fcntl.fcntl(fd, command, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno is None or error.errno in but:  # a signal handler's, or the caller's to handle
            raise
        file = f"descriptor {fd}"
        with suppress(OSError):
            file = os.readlink(f"/proc/self/fd/{fd}")
        raise refusal(error, f"{file}: byte {byte} cannot be locked") from error
    found: int = _FLOCK.unpack(told)[0]
    return found


def take(fd: int) -> None:
    """Wait for the turn and take it. ``fd`` is open for writing."""
    _lock(fd, _SET_WAITING, fcntl.F_WRLCK, _TURN)


def take_within(fd: int, seconds: float) -> bool:
    """Take the turn if it is free within that time; False if it is not. The kernel has no such wait, so this looks again."""
    due, pause = time.monotonic() + seconds, 50e-6
    while True:
        try:
            _lock(fd, _SET, fcntl.F_WRLCK, _TURN, *_ANOTHERS)
        except OSError as error:
            if error.errno not in _ANOTHERS:
                raise
            left = due - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, 0.01)
        else:
            return True


def end(fd: int) -> None:
    """Let the next one have it."""
    _lock(fd, _SET, fcntl.F_UNLCK, _TURN)


def appear(fd: int) -> None:
    """Be seen, until ``fd`` is closed."""
    _lock(fd, _SET, fcntl.F_RDLCK, _PRESENCE)


def vanish(fd: int) -> None:
    """Be seen no more, although ``fd`` or a map of it stays open."""
    _lock(fd, _SET, fcntl.F_UNLCK, _PRESENCE)


def is_anybody_there(fd: int) -> bool:
    """Whether others are seen."""
    return _lock(fd, _GET, fcntl.F_WRLCK, _PRESENCE) != fcntl.F_UNLCK
