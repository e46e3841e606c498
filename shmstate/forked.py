"""What a forked child does with a map of its parent's that something there still refers to: a loan's bytes, an array."""

from __future__ import annotations

import mmap
import os
from contextlib import contextmanager, suppress
from typing import ContextManager, Iterator, List, Tuple

#: Descriptors that are locked, or will be, while no segment has them yet, with device and inode of the file.
_noted: List[Tuple[int, int, int]] = []


def note(fd: int) -> int:
    """Have children that are forked from now on let go of the file of ``fd``, until ``close(fd)``. Returns ``fd``.

    Raises OSError; ``fd`` is closed then.
    """
    try:
        _noted.append(_described(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def noted(fd: int) -> ContextManager[None]:
    """As ``note(fd)`` until the block ends, which leaves it open. Raises OSError at once."""
    return _noted_during(_described(fd))


@contextmanager
def _noted_during(described: Tuple[int, int, int]) -> Iterator[None]:
    _noted.append(described)
    try:
        yield
    finally:
        with suppress(ValueError):  # a forked child has forgotten it
            _noted.remove(described)


def close(fd: int) -> None:
    """Close a descriptor that was noted."""
    noted = [one for one in _noted if one[0] == fd]
    os.close(fd)
    for one in noted:
        with suppress(ValueError):  # a forked child has forgotten it
            _noted.remove(one)


def _described(fd: int) -> Tuple[int, int, int]:
    stat = os.fstat(fd)
    return fd, stat.st_dev, stat.st_ino


def let_go_of_noted() -> None:
    """Let go of what other threads were about to lock or to map, in a forked child, where they do not exist."""
    while _noted:
        noted = _noted.pop()
        with suppress(OSError):
            if _described(noted[0]) == noted:
                for start, nbytes in _writable_maps(*noted[1:]):
                    _map_anew(start, nbytes, -1)
                _close_descriptors(noted[2])


def _writable_maps(device: int, inode: int) -> List[Tuple[int, int]]:
    found = []
    with open("/proc/self/maps") as file:
        lines = file.readlines()
    for line in lines:
        addresses, kind, _, where, number = line.split()[:5]
        if kind == "rw-s" and (where, number) == (f"{os.major(device):02x}:{os.minor(device):02x}", str(inode)):
            start, stop = (int(address, 16) for address in addresses.split("-"))
            found.append((start, stop - start))
    return found


def replace(mapped: mmap.mmap, path: str, inode: int) -> None:
    """Put a private copy in the place of a map, and close the descriptors of its file.

    The lock of the file's owner lives as long as any map or descriptor that was there when it was taken. So a child that
    kept one would have its dead parent look alive. What the child stores in the copy, it alone sees. The bytes are those
    of the file, or zeros if it has lost its name.
    """
    import ctypes  # only where it is needed: it takes a while to import

    file = _opened_anew(path, inode)
    _map_anew(ctypes.addressof(ctypes.c_char.from_buffer(mapped)), len(mapped), file)
    if file >= 0:
        os.close(file)
    _close_descriptors(inode)


def _map_anew(address: int, nbytes: int, file: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    flags = mmap.MAP_PRIVATE | _MAP_FIXED | _MAP_NORESERVE | (mmap.MAP_ANONYMOUS if file < 0 else 0)
    libc.mmap(address, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, flags, file, 0)


def _opened_anew(path: str, inode: int) -> int:
    """A descriptor of the file that shares no lock with the parent's; -1 if the name does not lead there."""
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        if os.fstat(file).st_ino == inode:
            return file
        os.close(file)
    return -1


# The same on every Linux that is supported; not in Python's mmap module before 3.13, or not at all.
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000


def _close_descriptors(inode: int) -> None:
    # Before Python 3.13 the map has one of its own, which it closes when it goes. Its number stays taken until then.
    with suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            for number in map(int, os.listdir("/proc/self/fd")):
                with suppress(OSError):
                    if number != nothing and os.fstat(number).st_ino == inode:
                        os.dup2(nothing, number, inheritable=False)
        finally:
            os.close(nothing)
