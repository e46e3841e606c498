"""Who owns a state: one writer, for as long as it lives, known by an exclusive ``flock`` on the segment.

The kernel drops the lock with the owner's map, also on ``kill -9``; it knows nothing of pids, so it is fooled neither
by their reuse nor by namespaces. (A POSIX record lock would go when *any* descriptor of the file closes.)

    O1  A segment gets its name only when it is complete and locked: ``os.link`` from a temporary name, which also
        makes creation exclusive. Nobody ever attaches to half a segment.
    O2  The lock is taken on the descriptor that is mapped, and held by the map: it ends with close() or with the process.
    O3  Whoever locked an existing segment looks whether the name still leads to it before using it.
    O4  Only the lock's holder removes a name; only if it still leads to the segment that is locked.
    O5  Those who only ask (is the writer alive?) hold a shared lock for microseconds; so does `remove_if_dead` an
        exclusive one. A claimant waits CLAIM_GRACE before it believes in an owner.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from contextlib import suppress
from typing import Optional

from shmstate import memory
from shmstate.compat import require_platform
from shmstate.errors import LayoutMismatch, NameInUse, ShmStateError, StateNotFound
from shmstate.layout import NEW_PREFIX, PAGE, SHM_DIR, Identity, Layout, parse_header

CLAIM_GRACE = 0.05
_CLAIM_TRIES = 100


def claim(name: str, wanted: Layout, checksum_matters: bool = True) -> memory.Segment:
    """Own state ``name``: create its segment, or adopt the one a dead writer left.

    Waits CLAIM_GRACE at most for a lock. Raises NameInUse, LayoutMismatch, CorruptSegment, UntrustedSegment,
    OutOfSharedMemory; then nothing has changed.
    """
    require_platform()
    memory.path_of(name)
    for _ in range(_CLAIM_TRIES):
        with suppress(StateNotFound):
            adopted = _adopt(name, wanted, checksum_matters)
            if adopted is not None:
                return adopted
            continue
        with suppress(FileExistsError, FileNotFoundError):
            return _create(name, wanted)
    raise NameInUse(
        f"state {name!r} appeared and vanished {_CLAIM_TRIES} times while it was claimed; choose one writer"
    )


def _create(name: str, layout: Layout) -> memory.Segment:
    identity = _own_identity()
    draft = os.path.join(SHM_DIR, f"{NEW_PREFIX}{identity.owner_pid}.{identity.owner_started}.{secrets.token_hex(8)}")
    fd = memory.build(draft, layout, identity, f"state {name!r}")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        segment = memory.Segment(fd, name, layout, writable=True)
        try:
            os.link(draft, segment.path)  # O1
        except BaseException:
            segment.close()
            raise
        return segment
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(draft)


def _adopt(name: str, wanted: Layout, checksum_matters: bool) -> Optional[memory.Segment]:
    """The dead writer's segment, or None if the name has meanwhile come to lead elsewhere."""
    fd = memory.open_existing(name, writable=True)
    try:
        _lock_or_name_owner(fd, name)
        if not _leads_to(memory.path_of(name), os.fstat(fd).st_ino):  # O3
            return None
        found, identity = memory.read_header(fd, name)
        if not checksum_matters:
            wanted = wanted._replace(checksum=found.checksum)
        if found != wanted:
            raise LayoutMismatch(
                f"state {name!r} was left by pid {identity.owner_pid}, now dead, with {_options(found)};"
                f" this writer asks for {_options(wanted)}."
                f" Open it with the same, or remove it first: shmstate reclaim {name}"
            )
        segment = memory.Segment(fd, name, found, writable=True)
        segment.sign(_own_identity())
        return segment
    finally:
        os.close(fd)


def _options(layout: Layout) -> str:
    return f"codec={layout.codec!r} slots={layout.slots} max_size={layout.stride} checksum={layout.checksum}"


def _lock_or_name_owner(fd: int, name: str) -> None:
    deadline = time.monotonic() + CLAIM_GRACE
    while not _try_lock(fd, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            raise NameInUse(f"state {name!r} is owned by {_owner(fd)}; close that writer, or choose another name")
        time.sleep(0.001)


def _owner(fd: int) -> str:
    try:
        _, identity = parse_header(os.pread(fd, PAGE, 0), os.fstat(fd).st_size, "")
    except ShmStateError:
        return "a living process that left no readable header"
    pid = identity.owner_pid
    if pid == os.getpid():
        return f"another writer of this process (pid {pid})"
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read(200).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        command = "not visible from here"
    return f"pid {pid} ({command})"


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _leads_to(path: str, inode: int) -> bool:
    try:
        return os.stat(path, follow_symlinks=False).st_ino == inode
    except FileNotFoundError:
        return False


def leads_elsewhere(path: str, inode: int) -> bool:
    """Whether ``path`` leads to a segment, and not to ``inode``."""
    return os.path.lexists(path) and not _leads_to(path, inode)


def is_owned(path: str, inode: int) -> bool:
    """Whether a living writer owns the segment ``inode``, and ``path`` still leads to it. Asks the kernel; O5."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return os.fstat(fd).st_ino == inode and not _try_lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def disown(segment: memory.Segment, unlink: bool) -> None:
    """Give the state up, and with ``unlink`` its name too. Readers that are attached keep the last state."""
    if unlink and _leads_to(segment.path, segment.inode):  # O4
        with suppress(FileNotFoundError):
            os.unlink(segment.path)
    segment.close()


def remove_if_dead(path: str, name: Optional[str]) -> bool:
    """Remove the file at ``path`` unless a writer owns it. Returns whether it was removed.

    With a ``name`` it must be a whole segment of this user: CorruptSegment, UntrustedSegment. Without one it is a
    draft, of which only the user is checked. Raises OSError if it may not be opened or removed.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not _try_lock(fd, fcntl.LOCK_EX) or not _leads_to(path, os.fstat(fd).st_ino):
            return False
        if name is not None:
            memory.read_header(fd, name)
        elif os.fstat(fd).st_uid != os.geteuid():
            return False
        os.unlink(path)
        return True
    finally:
        os.close(fd)


def maker_is_alive(draft: str) -> bool:
    """Whether the process that began to build the segment file called ``draft`` still runs."""
    try:
        pid, started, _ = draft[len(NEW_PREFIX) :].split(".")
        return _start_time(int(pid)) == int(started)
    except ValueError:
        return False
    except OSError:
        return not os.path.exists("/proc/self")  # without a /proc, better one file too many


def _own_identity() -> Identity:
    started = 0
    with suppress(OSError):  # no /proc: an identity weaker by its start time
        started = _start_time(os.getpid())
    return Identity(time.time_ns(), os.getpid(), started)


def _start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot: with the pid, an identity that is not reused."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])
