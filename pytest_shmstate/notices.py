"""What has come into /dev/shm since one last asked, from the kernel, at a cost that does not grow with what is there.

    fanotify   names, and who made each: any process for root, for others this very process or "not this one"
    inotify    names alone
    stat       that something changed, by the folder's times and size: then the listing is compared

Each is tried in turn. None needs a thread, and none holds a regular file open: the events wait in a queue of the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from time import monotonic  # by name: a test may put another clock into the module
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

AT_FDCWD = -100
FAN_CLOEXEC, FAN_NONBLOCK, FAN_UNLIMITED_QUEUE = 0x1, 0x2, 0x10
FAN_REPORT_DFID_NAME = 0x400 | 0x800
FAN_MARK_ADD = 0x1
FAN_CREATE, FAN_MOVED_TO, FAN_Q_OVERFLOW, FAN_ONDIR = 0x100, 0x80, 0x4000, 0x40000000
IN_CREATE, IN_MOVED_TO, IN_Q_OVERFLOW, IN_IGNORED = 0x100, 0x80, 0x4000, 0x8000

#: metadata of an event (length, version, its own length, mask, descriptor, pid); header of what follows it.
FAN_EVENT = struct.Struct("=IBBHQii")
FAN_INFO = struct.Struct("=BBH")
FAN_HANDLE = struct.Struct("=Ii")
FSID_SIZE = 8
IN_EVENT = struct.Struct("=iIII")

#: ``pid`` of a notice when the kernel says that it was not this process, but not who.
SOMEBODY_ELSE = 0
#: ``pid`` of a notice when the kernel says nothing of who.
UNSAID = -1

READ_SIZE = 1 << 16
#: The times of a folder are as coarse as the kernel's tick: so many seconds later a change would show.
SETTLED = 0.05


class Notice(NamedTuple):
    """Something called ``name`` came. ``pid``: who made it, SOMEBODY_ELSE or UNSAID."""

    name: str
    pid: int


class Notices:
    """Names that come into a folder, from the moment this is made. Belongs to the process that made it.

    Without the folder there are none, for ever.
    """

    def __init__(self, folder: str, sources: Tuple[str, ...] = ("fanotify", "inotify", "stat")) -> None:
        self._folder = folder
        self._fd = -1
        self._path = self._link = ""
        self._pid = os.getpid()
        #: Where notices come from: ``fanotify``, ``inotify``, ``stat``, or ``nowhere`` when the folder is missing.
        self.source = "nowhere"
        self._sources = sources
        #: Whether notices name the maker whoever it was, not only this process.
        self.names_everybody = False
        self._open()
        self._before = self._listing()
        self._stamp = self._stat()
        #: When the folder was first seen to say that, and when the queue was last read.
        self._changed = self._was_read = monotonic()

    def drain(self) -> List[Notice]:
        """What came since the last call, oldest first; it may be gone by now."""
        if self.source == "nowhere" or os.getpid() != self._pid:
            return []
        if self.source == "stat":
            return self._by_stat()
        if self._is_still():
            return []
        found: Dict[Notice, None] = {}
        try:
            # A test that closed every descriptor may have opened something else there: its data must not be taken.
            if os.readlink(self._path) != self._link:
                raise OSError(errno.EBADF, "not the descriptor that was opened")
            while True:
                read = self._read()
                if read is None:
                    break
                for notice in read:
                    found.pop(notice, None)  # again, and so last
                    found[notice] = None
        except _Lost:
            return [*found, *self._by_listing()]
        except OSError:
            self._fd = -1
            self._open()
            return [*found, *self._by_listing()]
        return list(found)

    def close(self) -> None:
        """Give the descriptor back; nothing comes any more."""
        if self._fd >= 0 and os.getpid() == self._pid:
            try:
                if os.readlink(self._path) == self._link:
                    os.close(self._fd)
            except OSError:  # somebody closed it for us
                pass
        self._fd = -1
        self.source = "nowhere"

    def _open(self) -> None:
        self.source = "nowhere"
        if not os.path.isdir(self._folder):
            return
        openers: Dict[str, Callable[[str], int]] = {"fanotify": _fanotify, "inotify": _inotify}
        for source in self._sources:
            if source == "stat":
                self.source = source
                return
            fd = openers[source](self._folder)
            if fd >= 0:
                self.source, self._fd, self._path = source, fd, f"/proc/self/fd/{fd}"
                self._link = os.readlink(self._path)
                self.names_everybody = source == "fanotify" and os.geteuid() == 0
                return

    def _read(self) -> Optional[List[Notice]]:
        try:
            data = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return None
        parse = _fanotify_events if self.source == "fanotify" else _inotify_events
        return list(parse(data))

    def _listing(self) -> Set[str]:
        try:
            return set(os.listdir(self._folder))
        except OSError:
            return set()

    def _is_still(self) -> bool:
        """Whether nothing came or went since the queue was last read: the folder says so in one system call."""
        stamp, now = self._stat(), monotonic()
        if stamp != self._stamp:
            self._stamp, self._changed = stamp, now
        elif self._was_read > self._changed + SETTLED:
            return True
        self._was_read = now
        return False

    def _stat(self) -> Tuple[int, int]:
        try:
            stat = os.stat(self._folder)
        except OSError:
            return (0, 0)
        return (stat.st_mtime_ns, stat.st_size)

    def _by_stat(self) -> List[Notice]:
        # The times are as coarse as the kernel's tick, so a second change within a tick would not show; on tmpfs the
        # size counts the entries, and what stays behind is one more.
        stamp = self._stat()
        if stamp == self._stamp:
            return []
        self._stamp = stamp
        return self._by_listing()

    def _by_listing(self) -> List[Notice]:
        now = self._listing()
        new = now - self._before
        self._before = now
        return [Notice(name, UNSAID) for name in sorted(new)]


class _Lost(Exception):
    """The queue overflowed: names are missing."""


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _fanotify(folder: str) -> int:
    """A descriptor to read events from, or -1: no such call here, not allowed, or too many already."""
    libc = _libc()
    if not hasattr(libc, "fanotify_init"):
        return -1
    libc.fanotify_mark.argtypes = (ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p)
    flags = FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_DFID_NAME
    fd = -1
    for more in (FAN_UNLIMITED_QUEUE, 0):  # an unlimited queue is root's
        fd = libc.fanotify_init(flags | more, os.O_RDONLY)
        if fd >= 0:
            break
    if fd < 0:
        return -1
    events = FAN_CREATE | FAN_MOVED_TO | FAN_ONDIR
    if libc.fanotify_mark(fd, FAN_MARK_ADD, events, AT_FDCWD, os.fsencode(folder)) != 0:
        os.close(fd)
        return -1
    return int(fd)


def _fanotify_events(data: bytes) -> Iterator[Notice]:
    at = 0
    while at < len(data):
        length, _, _, metadata, mask, _, pid = FAN_EVENT.unpack_from(data, at)
        if mask & FAN_Q_OVERFLOW:
            raise _Lost
        info = at + metadata
        _, _, info_length = FAN_INFO.unpack_from(data, info)
        handle = info + FAN_INFO.size + FSID_SIZE
        handle_bytes, _ = FAN_HANDLE.unpack_from(data, handle)
        name = data[handle + FAN_HANDLE.size + handle_bytes : info + info_length].partition(b"\0")[0]
        yield Notice(os.fsdecode(name), pid if pid > 0 else SOMEBODY_ELSE)
        at += length


def _inotify(folder: str) -> int:
    """A descriptor to read events from, or -1."""
    libc = _libc()
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        return -1
    if libc.inotify_add_watch(fd, os.fsencode(folder), IN_CREATE | IN_MOVED_TO) < 0:
        os.close(fd)
        return -1
    return int(fd)


def _inotify_events(data: bytes) -> Iterator[Notice]:
    at = 0
    while at < len(data):
        _, mask, _, length = IN_EVENT.unpack_from(data, at)
        if mask & (IN_Q_OVERFLOW | IN_IGNORED):
            raise _Lost
        name = data[at + IN_EVENT.size : at + IN_EVENT.size + length].partition(b"\0")[0]
        yield Notice(os.fsdecode(name), UNSAID)
        at += IN_EVENT.size + length
