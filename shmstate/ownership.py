"""Who owns a state: one writer, for as long as it lives, known by an exclusive ``flock`` on the segment.

The kernel drops the lock with the owner's map, also on ``kill -9``; it knows nothing of pids, so it is fooled neither
by their reuse nor by namespaces. (A POSIX record lock would go when *any* descriptor of the file closes.)

    O1  A segment gets its name only when it is complete and locked: ``os.link`` from a temporary name, which also
        makes creation exclusive. Nobody ever attaches to half a segment.
    O2  The lock is taken on the descriptor that is mapped, and held by the map: it ends with close() or with the process.
    O3  Whoever locked an existing segment looks whether the name still leads to it before using it.
    O4  Only the lock's holder removes a name, or gives it to a successor, complete and locked as well (``os.rename``,
        S3 in protocol.py); only if it still leads to the segment that is locked.
    O5  Each owner is present too (turns.py): before its segment has the name, and before it uses one that it adopts.
        To ask whether a writer is alive takes no lock, so it disturbs no claim. What cannot be asked is unknown, and
        not dead. `remove_if_dead` alone holds an exclusive lock for microseconds, where no owner is present; a
        claimant waits CLAIM_GRACE before it believes in an owner. So does a claimant that wants the state alone, where
        those who share it have yet to follow (O7). A writer that follows has a right to the lock: it waits for these.
    O6  Those who own a state together hold the lock shared; each publishes in its turn (turns.py), and I1 to I8 of
        protocol.py hold of whoever has it. To take it is to begin anew, as an heir does: LATEST is loaded then.
    O7  A writer that shares a state may hold its locks on a segment that the state has moved from (predecessors.py). A
        state has no owner only if no writer is present in any of these either.
    O8  A removed state says so: its OWNER_PID is 0. So a reader can tell it from one whose name another program has
        removed while its owner lives; that owner gives the name back (publishing.py).
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from io import FileIO
from stat import S_ISREG
from typing import Optional

from shmstate import forked, makers, memory, predecessors, turns
from shmstate.compat import require_platform
from shmstate.errors import (
    CorruptSegment,
    NameInUse,
    ShmStateError,
    StateNotFound,
    SystemRefused,
    WaitTimeout,
)
from shmstate.layout import PAGE, SHM_DIR, Content, Identity, Layout, parse_header
from shmstate.oserrors import refusal, translated

with suppress(ImportError):  # not on Windows, where require_platform() comes before its first use
    import fcntl

CLAIM_GRACE = 0.05
_CLAIM_TRIES = 100


def claim(name: str, layout: Layout, shared: bool = False) -> memory.Segment:
    """Own state ``name``: create its segment, or adopt the one a dead writer left, whatever its layout.

    With ``shared``, own it with others who do so too: O6.

    Waits CLAIM_GRACE at most for a lock. Raises NameInUse, CorruptSegment, UntrustedSegment, OutOfSharedMemory; then
    nothing has changed.
    """
    require_platform()
    memory.path_of(name)
    for _ in range(_CLAIM_TRIES):
        with suppress(StateNotFound):
            adopted = join(name, shared)
            if adopted is not None:
                return adopted
            continue
        with suppress(FileExistsError, FileNotFoundError):
            return _create(name, layout, shared)
    raise NameInUse(
        f"state {name!r} appeared and vanished {_CLAIM_TRIES} times while it was claimed; choose one writer"
    )


def _create(name: str, layout: Layout, shared: bool) -> memory.Segment:
    identity = makers.own_identity()
    draft = makers.draft_of(identity)
    try:
        return _named(build(draft, name, layout, identity, shared=shared), draft)
    except BaseException:
        with suppress(ShmStateError):  # in the place of which the first error is raised
            remove_draft(draft)
        raise


# Functions of their own: where one `try` stands in another, an exception may come between the two.


def _named(segment: memory.Segment, draft: str) -> memory.Segment:
    try:
        with translated(f"state {segment.name!r}: {segment.path} cannot be made", FileExistsError, FileNotFoundError):
            os.link(draft, segment.path)  # O1
        remove_draft(draft)
        segment.is_new = True
        return segment
    except BaseException:
        is_named = leads_to(segment.path, segment.inode)
        segment.close()
        if is_named:  # others that share it may have joined
            with suppress(OSError, ShmStateError):
                remove_if_dead(segment.path, segment.name)
        raise


def _signed(segment: memory.Segment) -> memory.Segment:
    try:
        segment.sign(makers.own_identity())
        return segment
    except BaseException:
        segment.close()
        raise


def remove_draft(draft: str) -> None:
    """Remove a file that has no state's name, if it is there."""
    try:
        with translated(f"{draft}: a file that has no state's name yet cannot be removed", FileNotFoundError):
            os.unlink(draft)
    except FileNotFoundError:
        return
    except BaseException:  # out of a signal handler, in place of it; no other process removes it while this one lives
        with suppress(OSError):
            os.unlink(draft)
        raise


def build(
    draft: str,
    name: str,
    layout: Layout,
    identity: Identity,
    content: Optional[Content] = None,
    shared: bool = False,
    predecessor: int = 0,
) -> memory.Segment:
    """A segment for state ``name`` at the path ``draft``, complete, locked and present.

    Raises OutOfSharedMemory, SystemRefused.
    """

    def lock(fd: int) -> None:
        _wait_for_lock(fd, _kind(shared), draft)  # O2
        if not leads_to(draft, _inode_of(fd, draft)):
            raise FileNotFoundError(draft)

    for _ in range(_CLAIM_TRIES):
        # Taken by `remove_if_dead`, which held it for given up, before it was locked; not later.
        with suppress(FileNotFoundError):
            fd = memory.build(draft, layout, identity, f"state {name!r}", content, predecessor, lock)
            try:
                return _mapped(fd, name, layout, shared)
            except BaseException:
                remove_draft(draft)
                raise
            finally:
                forked.close(fd)
    raise SystemRefused(
        f"state {name!r}: {draft} was removed {_CLAIM_TRIES} times while it was made; find what does it"
    )


def _inode_of(fd: int, path: str) -> int:
    with translated(f"{path} cannot be looked at"):
        return os.fstat(fd).st_ino


def _wait_for_lock(fd: int, kind: int, draft: str) -> None:
    deadline = time.monotonic() + makers.DRAFT_AGE
    while not _try_lock(fd, kind):
        if time.monotonic() > deadline:
            raise SystemRefused(f"{draft}: another process has locked this new file; find and end it")
        time.sleep(0.001)


def join(name: str, shared: bool, patience: float = CLAIM_GRACE) -> Optional[memory.Segment]:
    """The segment that the name leads to, locked, or None if the name has meanwhile come to lead elsewhere.

    A process that has the lock and is no owner (O5) is waited for so long, then WaitTimeout; a claimant takes it for one.
    Raises StateNotFound, NameInUse, UntrustedSegment, CorruptSegment.
    """
    # A file object: one that an exception from a signal handler leaves open is closed as garbage, and its locks go.
    with FileIO(memory.open_existing(name, writable=True), "rb+") as file:
        with translated(f"state {name!r}: its file cannot be looked at"):
            noted = forked.noted(file.fileno())
        with noted:
            return _join(file.fileno(), name, shared, patience)


def _join(fd: int, name: str, shared: bool, patience: float) -> Optional[memory.Segment]:
    try:
        memory.require_own(fd, name)
        _lock_or_name_owner(fd, name, _kind(shared), patience)
        if shared:
            turns.appear(fd)  # P3 in predecessors.py
        if not leads_to(memory.path_of(name), _inode_of(fd, name)):  # O3
            return None
        found, _ = memory.read_header(fd, name)
        if not shared and predecessors.is_any_owned(fd):  # O7
            raise NameInUse(
                f"state {name!r} is owned by writers that share it (shared=True) and have yet to follow it to another"
                f" segment; close those writers, or choose another name"
            )
        predecessors.prune(fd)
        if not shared:
            predecessors.forget(fd)
        return _signed(_mapped(fd, name, found, shared))
    except BaseException:  # out of a signal handler too, which may have left a copy of the descriptor, and its locks
        with suppress(OSError, ShmStateError):
            _unlock(fd)
        raise


def _kind(shared: bool) -> int:
    return fcntl.LOCK_SH if shared else fcntl.LOCK_EX


def _mapped(fd: int, name: str, layout: Layout, shared: bool) -> memory.Segment:
    segment = memory.Segment(fd, name, layout, writable=True)
    try:
        if shared:
            segment.keep(fd)
        turns.appear(fd)  # O5
    except BaseException:
        segment.close()
        raise
    return segment


def _lock_or_name_owner(fd: int, name: str, kind: int, patience: float) -> None:
    began = time.monotonic()
    while not _try_lock(fd, kind):
        waited = time.monotonic() - began
        if waited > CLAIM_GRACE and (patience == CLAIM_GRACE or turns.is_anybody_there(fd)):
            raise NameInUse(f"state {name!r} is owned by {_owner(fd)}; close that writer, or choose another name")
        if waited > patience:
            raise WaitTimeout(
                f"state {name!r}: another process has looked for {patience} seconds whether it is given up, so nothing was"
                f" published; a stopped process (SIGSTOP, a debugger) does. Continue or end it, or give a longer lock_timeout"
            )
        time.sleep(0.001)


def _owner(fd: int) -> str:
    try:
        _, identity = parse_header(os.pread(fd, PAGE, 0), os.fstat(fd).st_size, "")
    except (ShmStateError, OSError):
        return "a living process that left no readable header"
    pid, started = identity.owner_pid, 0
    with suppress(OSError, ValueError, IndexError):
        started = makers.start_time(pid)
    if started != identity.owner_started:  # a pid is a process only together with when it started
        return f"a living process that is pid {pid} in another pid namespace, or cannot be seen from here"
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
    except OSError as error:
        if error.errno is None:  # a signal handler's
            raise
        raise refusal(error, f"a file of {SHM_DIR} cannot be locked") from error
    return True


def inode_at(path: str) -> Optional[int]:
    """Which segment ``path`` leads to; None if to none."""
    try:
        with translated(f"{path}: what is there cannot be told", FileNotFoundError):
            return os.stat(path, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return None


def leads_to(path: str, inode: int) -> bool:
    """Whether ``path`` leads to the segment ``inode``."""
    return inode_at(path) == inode


def leads_elsewhere(path: str, inode: int) -> bool:
    """Whether ``path`` leads to a segment, and not to ``inode``."""
    return inode_at(path) not in (None, inode)


def is_owned(path: str, inode: int) -> bool:
    """Whether a living writer owns the segment ``inode``, and ``path`` still leads to it. Asks the kernel; O5.

    Raises SystemRefused if that cannot be told.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno is None:  # a signal handler's
            raise
        if not leads_to(path, inode):
            return False
        raise refusal(error, f"{path}: whether its writer is alive cannot be told") from error
    try:
        if _inode_of(fd, path) != inode:
            return False
        return turns.is_anybody_there(fd) or predecessors.is_any_owned(fd) or turns.is_anybody_there(fd)  # O7, P2
    finally:
        os.close(fd)


def are_others_present(segment: memory.Segment) -> bool:
    """Whether other writers share the state whose segment is owned here, in whatever segment of it they are."""
    return (
        turns.is_anybody_there(segment.fd)
        or predecessors.is_any_owned(segment.fd)
        or turns.is_anybody_there(segment.fd)  # P2
        or not leads_to(segment.path, segment.inode)  # another has just moved it
    )


def remove_name(segment: memory.Segment) -> None:
    """Remove the name of what is owned, if it still leads there. Raises AccessDenied, SystemRefused if it stays."""
    if segment.is_open:
        segment.disclaim()  # O8
    if leads_to(segment.path, segment.inode):  # O4
        with translated(_stays(segment.name, segment.path), FileNotFoundError), suppress(FileNotFoundError):
            os.unlink(segment.path)


def _stays(name: str, path: str) -> str:
    return f"state {name!r}: closed, but its name {path} cannot be removed and stays"


def let_go(segment: memory.Segment) -> None:
    """Release the locks of a writer that shares the state, before the bytes go away: a thread may still use them."""
    with translated(f"{segment.path} cannot be unlocked"):
        _unlock(segment.fd)


def _unlock(fd: int) -> None:
    turns.vanish(fd)
    fcntl.flock(fd, fcntl.LOCK_UN)


def remove_if_dead(path: str, name: Optional[str], dry_run: bool = False) -> bool:
    """Remove the file at ``path`` unless a writer owns it. Returns whether it was, or with ``dry_run`` would be, removed.

    With a ``name`` it must be a whole segment of this user: CorruptSegment, UntrustedSegment. Without one it is a
    draft, of which only the user is checked. Raises FileNotFoundError if it is gone; AccessDenied, SystemRefused if it
    cannot be opened or removed.
    """
    what = f"{path} cannot be opened to see whether it is given up, and stays"
    try:
        with translated(what, FileNotFoundError, *predecessors.NO_FILE):
            fd = forked.note(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        if error.errno not in predecessors.NO_FILE:
            raise
        raise CorruptSegment(
            f"{path} is a link, a socket or a device, or leased by another process; remove it"
        ) from error
    try:
        if name is not None:
            memory.read_header(fd, name)
        else:
            with translated(f"{path} cannot be looked at"):
                stat = os.fstat(fd)
            if stat.st_uid != os.geteuid() or not S_ISREG(stat.st_mode):
                return False
        # Asked first, since to lock it, even for a moment, stands in the way of those who claim it.
        if turns.is_anybody_there(fd) or not _try_lock(fd, fcntl.LOCK_EX) or not leads_to(path, _inode_of(fd, path)):
            return False
        if name is not None and predecessors.is_any_owned(fd):  # O7
            return False
        if not dry_run:
            if name is not None:
                memory.disclaim(path, _inode_of(fd, path))  # O8
            with translated(f"{path} is given up, but cannot be removed and stays", FileNotFoundError):
                os.unlink(path)
            if name is not None:
                predecessors.prune(fd)
                predecessors.forget(fd)
        return True
    finally:
        forked.close(fd)
