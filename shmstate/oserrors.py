"""What the operating system refuses, as errors of shmstate: the limit that was met, and what to do about it."""

from __future__ import annotations

import errno
import os
from typing import Optional, Type, Union

from shmstate.errors import AccessDenied, OutOfSharedMemory, ShmStateError, SystemRefused
from shmstate.layout import SHM_DIR

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_REMEDIES = {
    errno.EMFILE: "this process has as many files open as it may; close some, or raise the limit (ulimit -n)",
    errno.ENFILE: "this machine has as many files open as it may; raise the limit (sysctl fs.file-max)",
    errno.ENOMEM: "raise the limit on address space (ulimit -v) or on maps (sysctl vm.max_map_count), or free memory",
    errno.EAGAIN: "another process has a lease on the file, or the limit on locked memory is reached (ulimit -l)",
    errno.ENOLCK: "the kernel has no lock left; free memory, or raise the limit on locks (ulimit -x)",
    errno.EROFS: f"{SHM_DIR} is mounted read-only; mount it for writing (mount -o remount,rw {SHM_DIR})",
    errno.ENOSPC: f"{SHM_DIR} has no room left for bytes or files; free some (`shmstate reclaim`), or enlarge it",
    errno.EDQUOT: f"the quota of {SHM_DIR} is used up; free some (`shmstate reclaim`), or raise it",
}


def refusal(error: OSError, what: str) -> ShmStateError:
    """The typed error for a system call that failed. ``what`` names the object, and what could not be done."""
    number = error.errno or 0
    kind: Type[ShmStateError] = SystemRefused
    if number in _NO_ROOM:
        kind = OutOfSharedMemory
    elif number in _NOT_ALLOWED:
        kind = AccessDenied
    remedy = _REMEDIES.get(number, "try again; if that does not help, the kernel's log (dmesg) may say more")
    if number in (errno.EACCES, errno.EPERM):
        remedy = f"uid {os.geteuid()} may not do that; run as the user that owns the file, or as root"
    return kind(f"{what} ({errno.errorcode.get(number, number)}: {error.strerror}): {remedy}")


class translated:  # noqa: N801
    """Turns an OSError of a system call within the block into ``refusal(error, what)``.

    ``but`` are classes or numbers of errors that the caller handles. An OSError without a number is a signal handler's,
    and is let through.
    """

    __slots__ = ("_but", "_what")

    def __init__(self, what: str, *but: Union[Type[OSError], int]) -> None:
        self._what = what
        self._but = but

    def __enter__(self) -> None:
        """Begin a block of system calls."""

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: object) -> None:
        """End the block; raises SystemRefused, AccessDenied or OutOfSharedMemory."""
        if not isinstance(error, OSError) or error.errno is None:
            return
        if type(error) not in self._but and error.errno not in self._but:
            raise refusal(error, self._what) from error
