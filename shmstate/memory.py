"""Segments as memory: the one place that opens and maps them and touches their bytes.

A mapped segment offers three ways to its bytes, and the protocol uses no other:

    words[i]              one 8-byte load;  words[i] = v  one 8-byte store. A ``memoryview.cast("Q")`` does exactly
                          that. ``struct.pack_into`` clears the word first, a slice copies it in pieces of its own.
    data[a:b]             a copy of the bytes;  data[a:b] = payload  stores them. No order within, none promised.
    view[a:b]             the live bytes themselves, for those who copy them elsewhere.

Whatever else has these three, ``fence``, ``weak`` and ``commit`` can stand in for a segment.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
import threading
import time
import weakref
from contextlib import suppress
from multiprocessing import shared_memory
from stat import S_ISREG, filemode
from typing import Any, Callable, List, Optional, Tuple

from shmstate import forked
from shmstate.compat import STRONGLY_ORDERED, create_shared_memory, map_shared, run_in_forked_children
from shmstate.errors import CorruptSegment, OutOfSharedMemory, StateNotFound, UntrustedSegment
from shmstate.layout import (
    AT_CREATED,
    OWNER_PID,
    OWNER_STARTED,
    PAGE,
    SHM_DIR,
    WORD,
    Content,
    Identity,
    Layout,
    file_name,
    pack_header,
    parse_header,
    parse_predecessor,
)
from shmstate.oserrors import translated

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG)
_NO_ADDRESSES = (errno.ENOMEM, errno.EFBIG)
#: What ``open_existing`` tells of in words of its own.
_EXPLAINED = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENXIO)


def path_of(name: str) -> str:
    """The path of state ``name``. Raises InvalidName."""
    return os.path.join(SHM_DIR, file_name(name))


class Segment:
    """A mapped segment: the three ways to its bytes, and what it takes to commit and to let go.

    Holds one descriptor before Python 3.13 (the map's own) and none after. A lock taken on the descriptor that was
    mapped lives as long as the map does.
    """

    __slots__ = (
        "__weakref__",
        "_at_close",
        "_kept",
        "_map",
        "clock",
        "data",
        "fd",
        "give_way",
        "inode",
        "is_new",
        "layout",
        "name",
        "path",
        "view",
        "weak",
        "words",
    )

    def __init__(self, fd: int, name: str, layout: Layout, writable: bool) -> None:
        self.name = name
        self.path = path_of(name)
        self.layout = layout
        with translated(f"state {name!r}: its file cannot be looked at"):
            self.inode = os.fstat(fd).st_ino
        self.weak = not STRONGLY_ORDERED
        #: CLOCK_MONOTONIC in nanoseconds, one for all processes.
        self.clock: Callable[[], int] = time.monotonic_ns
        #: Lets others run between tries. ``time.sleep(0)`` would take fifty times as long, or more.
        self.give_way: Callable[[], object] = os.sched_yield
        self.is_new = False  # whether this process has made it
        #: A descriptor of the file, for who takes locks on it; see ``keep``.
        self.fd = -1
        self._kept: Optional[Callable[[], object]] = None
        try:
            with translated(f"state {name!r}: its segment cannot be mapped", *_NO_ADDRESSES):
                self._map: Optional[mmap.mmap] = map_shared(fd, layout.size, writable)
        except OSError as error:
            if error.errno is None:  # a signal handler's
                raise
            raise OutOfSharedMemory(
                f"state {name!r}: no room to map its {layout.size >> 20} MiB of address space ({error.strerror});"
                f" raise the limit on address space (ulimit -v) or on maps (sysctl vm.max_map_count), or make it with"
                f" a smaller max_size"
            ) from error
        self.data: Any = self._map
        self.view = memoryview(self._map)
        self.words = self.view[:PAGE].cast("Q")
        self._at_close: List[Callable[[], None]] = []
        if writable:
            _writable.add(self)

    @staticmethod
    def fence() -> None:
        """Order all earlier loads and stores before all later ones, where the machine would not."""
        # An acquire may let what came before it sink in, a release what comes after it rise in; a release followed
        # by an acquire lets nothing pass (both are sequentially consistent on ARMv8). Hence two turns.
        for _ in range(2):
            _fence.acquire()
            _fence.release()

    @staticmethod
    def bell(words: memoryview, index: int) -> Callable[[], object]:
        """A function that wakes all who sleep on a word of this segment, in any process."""
        from shmstate import futex  # ctypes takes a while to import, and most states wake nobody

        return futex.bell(words, index)

    @staticmethod
    def doze(words: memoryview, index: int, expected: int, seconds: float) -> bool:
        """Sleep while a word is as expected, so long at most. False, at once, if that cannot be done here."""
        from shmstate import futex

        return futex.wait(words, index, expected, seconds)

    def commit(self, start: int, nbytes: int) -> None:
        """Put memory behind ``nbytes`` from ``start``, so that no store or load there can fault.

        Raises OutOfSharedMemory (nothing is left behind), or StateNotFound if the file is no longer there.
        """
        try:
            with translated(f"state {self.name!r}: {self.path} cannot be opened to grow it", FileNotFoundError):
                fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            fd = -1
        try:
            with translated(f"state {self.name!r}: {self.path} cannot be looked at"):
                is_there = fd >= 0 and os.fstat(fd).st_ino == self.inode
            if not is_there:
                raise StateNotFound(
                    f"state {self.name!r}: {self.path} was removed or replaced by somebody else, so it cannot grow;"
                    f" close this writer and open a new one"
                )
            allocate(fd, start, nbytes, f"state {self.name!r}")
        finally:
            if fd >= 0:
                os.close(fd)

    def keep(self, fd: int) -> None:
        """Keep a copy of the descriptor that was mapped until ``close()``, or ``drop()``, or nobody has the segment."""
        with translated(f"state {self.name!r}: no descriptor for its turns"):
            self.fd = os.dup(fd)
        self._kept = kept = weakref.finalize(self, os.close, self.fd)
        kept.atexit = False

    def drop(self) -> None:
        """Close the descriptor that was kept. Idempotent."""
        kept, self._kept, self.fd = self._kept, None, -1  # before it is closed, and may be another file's
        if kept is not None:
            kept()

    def sign(self, identity: Identity) -> None:
        """Store who owns the segment from now on."""
        self.words[OWNER_PID] = identity.owner_pid
        self.words[OWNER_STARTED] = identity.owner_started

    def disclaim(self) -> None:
        """Store that no writer owns the segment from now on."""
        self.words[OWNER_PID] = 0

    def identity(self) -> Identity:
        """Who made the segment and who owned it last, as its words say now."""
        words = self.words
        return Identity(words[AT_CREATED], words[OWNER_PID], words[OWNER_STARTED])

    def committed(self) -> int:
        """Bytes of memory behind the segment, of all its address space; 0 if its file is gone."""
        try:
            with translated(f"state {self.name!r}: {self.path} cannot be looked at", FileNotFoundError):
                stat = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return 0
        return stat.st_blocks * 512 if stat.st_ino == self.inode else 0

    def at_close(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` run before the bytes go away: the place to stop using them."""
        self._at_close.append(callback)

    @property
    def is_open(self) -> bool:
        """Whether the bytes are still mapped."""
        return self._map is not None

    def close(self) -> None:
        """Unmap, releasing a lock held through the map. Idempotent. The file stays."""
        if self._map is None:
            return
        while self._at_close:
            self._at_close.pop()()
        # Neither released nor closed: it goes with the last reference. A thread in the middle of a load has one, and
        # ``numpy.ndarray(buffer=...)`` has one to the map alone.
        self._map = None
        self.words = self.view = self.data = _released
        self.drop()


_released: Any = memoryview(b"")
_released.release()
_fence = threading.Lock()
_writable: weakref.WeakSet[Segment] = weakref.WeakSet()


def _close_what_was_forked() -> None:
    for segment in list(_writable):
        mapped = segment._map  # noqa: SLF001
        segment.close()
        if mapped is not None and sys.getrefcount(mapped) > 2:
            forked.replace(mapped, segment.path, segment.inode)
    forked.let_go_of_noted()


run_in_forked_children(_close_what_was_forked)


def build(
    path: str,
    layout: Layout,
    identity: Identity,
    label: str,
    content: Optional[Content] = None,
    predecessor: int = 0,
    lock: Optional[Callable[[int], object]] = None,
) -> int:
    """Make a complete segment at ``path``: header written, ``content`` published, or nothing. Returns a descriptor of it.

    It goes to ``forked.close``. ``lock(descriptor)`` comes before all that takes time. Raises FileNotFoundError (removed
    before it had the lock), OutOfSharedMemory, SystemRefused; all leave nothing behind.
    """
    made = _create(os.path.basename(path), layout.size, label)
    try:
        with translated(f"{label}: its new file cannot be opened", FileNotFoundError):
            fd = forked.note(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
        try:
            if lock is not None:
                lock(fd)
            allocate(fd, 0, PAGE, label)
            _write_all(fd, pack_header(layout, identity, content, predecessor), 0, label)
            if content is not None and content.payload:
                start = layout.where[content.version % layout.slots].start
                allocate(fd, start, len(content.payload), label)
                _write_all(fd, content.payload, start, label)
        except BaseException:
            forked.close(fd)
            raise
        return fd
    except BaseException:
        with suppress(OSError):  # the first error says more
            made.unlink()
        raise
    finally:
        made.close()


def _write_all(fd: int, payload: Any, start: int, label: str) -> None:
    left = memoryview(payload)
    while left:  # one call writes 2 GiB at most
        with translated(f"{label}: its new file cannot be written"):
            written = os.pwrite(fd, left, start)
        start, left = start + written, left[written:]


def _create(file: str, size: int, label: str) -> shared_memory.SharedMemory:
    try:
        with translated(f"{label}: no file can be made in {SHM_DIR}", *_NO_ADDRESSES):
            return create_shared_memory(file, size)
    except OSError as error:
        if error.errno is None:  # a signal handler's
            raise
        raise OutOfSharedMemory(
            f"{label}: cannot reserve {size >> 20} MiB of address space in {SHM_DIR} ({error.strerror});"
            f" raise the limit on files (ulimit -f), or ask for a smaller max_size"
        ) from error


def allocate(fd: int, start: int, nbytes: int, label: str) -> None:
    """``posix_fallocate``, its failure told as OutOfSharedMemory."""
    try:
        with translated(f"{label}: no memory can be put behind it; nothing was published", *_NO_SPACE):
            os.posix_fallocate(fd, start, nbytes)
    except OSError as error:
        if error.errno is None:  # a signal handler's
            raise
        room = os.statvfs(SHM_DIR)
        raise OutOfSharedMemory(
            f"{label}: needs {nbytes} more bytes in {SHM_DIR}, which has {room.f_bavail * room.f_frsize} free"
            f" of {room.f_blocks * room.f_frsize} ({error.strerror}); nothing was published."
            f" Free some (`shmstate reclaim` removes what dead writers left), enlarge it"
            f" (docker: --shm-size), or publish less"
        ) from error


def open_existing(name: str, writable: bool) -> int:
    """A descriptor of the segment of state ``name``. Raises StateNotFound, UntrustedSegment."""
    path = path_of(name)
    mode = os.O_RDWR if writable else os.O_RDONLY
    try:
        # O_NONBLOCK: a pipe may be there, and to open one would wait for its other end.
        with translated(f"state {name!r}: {path} cannot be opened", *_EXPLAINED):
            return os.open(path, mode | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise StateNotFound(
            f"no state {name!r}: {path} does not exist. Its writer has not started or has closed it;"
            f" `shmstate ls` lists what is there, timeout= waits for it"
        ) from None
    except PermissionError as error:
        owner = "another user"
        with translated(f"{path} cannot be seen", FileNotFoundError), suppress(FileNotFoundError):  # gone by now
            owner = f"uid {os.stat(path, follow_symlinks=False).st_uid}"
        raise UntrustedSegment(
            f"state {name!r}: {path} belongs to {owner} and may not be opened by uid {os.geteuid()}"
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UntrustedSegment(f"state {name!r}: {path} is a symbolic link; remove it") from error
        if error.errno == errno.EISDIR:
            raise CorruptSegment(f"state {name!r}: {path} is a directory; remove it") from error
        if error.errno == errno.ENXIO:
            raise CorruptSegment(f"state {name!r}: {path} is a socket, not a file; remove it") from error
        raise


def require_own(fd: int, name: str, trust_uid: Optional[int] = None, may_trust: bool = False) -> int:
    """Check whose the open file is; returns its size. ``may_trust``: the caller's user can give a ``trust_uid``.

    Raises UntrustedSegment unless it belongs to this user or to ``trust_uid``; CorruptSegment if it is not a file.
    """
    with translated(f"state {name!r}: {path_of(name)} cannot be looked at"):
        stat = os.fstat(fd)
    if not S_ISREG(stat.st_mode):
        raise CorruptSegment(f"state {name!r}: {path_of(name)} is {filemode(stat.st_mode)}, not a file; remove it")
    if stat.st_uid != os.geteuid() and stat.st_uid != trust_uid:
        remedy = f"pass trust_uid={stat.st_uid} if you trust that user"
        if not may_trust:
            remedy = "a writer owns its own user's states alone; choose another name, or have that user remove it"
        raise UntrustedSegment(
            f"state {name!r}: {path_of(name)} belongs to uid {stat.st_uid}, this process is uid {os.geteuid()}; {remedy}"
        )
    return stat.st_size


def read_header(
    fd: int, name: str, trust_uid: Optional[int] = None, may_trust: bool = False
) -> Tuple[Layout, Identity]:
    """Check whose the open file is, as ``require_own`` does, and what it says it is.

    Raises UntrustedSegment; CorruptSegment unless its header holds.
    """
    size = require_own(fd, name, trust_uid, may_trust)
    with translated(f"state {name!r}: {path_of(name)} cannot be read"):
        header = os.pread(fd, PAGE, 0)
    return parse_header(header, size, f"state {name!r} ({path_of(name)})")


def predecessor(fd: int) -> Tuple[int, int]:
    """When an open segment's state was created, and the inode of the segment that it moved from; 0: none."""
    with translated("a segment's header cannot be read"):
        return parse_predecessor(os.pread(fd, PAGE, 0))


def disclaim(path: str, inode: int) -> None:
    """Store that no writer owns the segment ``inode`` at ``path``; nothing is done if it cannot be written to."""
    with suppress(OSError), open(
        os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb+"
    ) as file:
        if os.fstat(file.fileno()).st_ino == inode:
            os.pwrite(file.fileno(), bytes(WORD), OWNER_PID * WORD)


def attach(name: str, trust_uid: Optional[int] = None) -> Segment:
    """Map the segment of state ``name`` read-only. Raises StateNotFound, UntrustedSegment, OutOfSharedMemory."""
    fd = open_existing(name, writable=False)
    try:
        layout, _ = read_header(fd, name, trust_uid, may_trust=True)
        return Segment(fd, name, layout, writable=False)
    finally:
        os.close(fd)
