"""A run's folder on a host that its controller cannot see: those of its workers that are there share it.

    pytest-shmstate-host.PLACE.RUN/
        lock                who holds it is alone at work there
        member.PID.START    a worker that has come, and not yet gone; one that was killed stays
        before              what was there when the first came
        PID.START, ...      the ledger, and what each has found, as in any run

The first to come makes it, whoever finds himself the last takes it away: coming and going are done with the lock held,
so of two that go at the same time one is the last. The name is made of what the controller made up for this run, and
a folder that is another user's is not entered.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
from types import TracebackType
from typing import List, Optional, Type

from pytest_shmstate import census, whereabouts
from pytest_shmstate.ledger import FOLDER_PREFIX, new_folder, pid_namespace, remove_folder

NAME = re.compile(re.escape(FOLDER_PREFIX) + r"host\.([0-9a-f]+)\.\w+")
MEMBER = re.compile(r"member\.(\d+)\.(\d+)")
LOCK = "lock"
#: Each time somebody else was faster, which takes as many others as that.
MOST_TRIES = 1000


class OutpostRefused(OSError):
    """A run cannot have a folder on this host."""


class Turn:
    """The lock of an outpost, from its making to the end of the with-block."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        # Said, not left to close(): a thread of the user's may have forked, and its child would hold it on.
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)


def folder_of(run: str, place: str) -> str:
    """Where all workers of a run that are in one place meet."""
    return os.path.join(tempfile.gettempdir(), f"{FOLDER_PREFIX}host.{place}.{run}")


def enter(folder: str) -> Turn:
    """Make it, or join it. Waits for whoever is at work there. Raises ``OutpostRefused``, or another OSError."""
    for _ in range(MOST_TRIES):
        turn = take_turn(folder) or _found(folder)
        if turn is not None:
            come(folder)
            return turn
    raise OutpostRefused(f"{folder} has no lock that can be taken: remove it")


def take_turn(folder: str, wait: bool = True) -> Optional[Turn]:
    """Be alone at work there; None if it is not there (any more), or if ``wait`` is not set and somebody is."""
    try:
        _refuse_what_is_not_ours(folder)
        fd = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        # Who had it may have taken the folder away, and another may have made it anew.
        if os.path.samestat(os.fstat(fd), os.stat(os.path.join(folder, LOCK))):
            return Turn(fd)
    except (FileNotFoundError, BlockingIOError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _refuse_what_is_not_ours(folder: str) -> None:
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise OutpostRefused(
            f"{folder} is no folder of user {os.getuid()} alone (mode {stat.filemode(found.st_mode)}, user"
            f" {found.st_uid}): somebody put it there, remove it"
        )


def _found(folder: str) -> Optional[Turn]:
    """Make it, with the lock held; None if somebody else has."""
    beside = new_folder()
    fd = os.open(os.path.join(beside, LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.rename(beside, folder)
    except OSError:
        os.close(fd)
        remove_folder(beside)
        if not os.path.lexists(folder):  # not faster, then: there is no room, or no right
            raise
        return None
    return Turn(fd)


def come(folder: str) -> None:
    """This process is a member from now on. Its turn."""
    with open(os.path.join(folder, _own()), "wb"):
        pass


def go(folder: str) -> None:
    """And is no more. Its turn."""
    path = os.path.join(folder, _own())
    if os.path.exists(path):
        os.unlink(path)


def _own() -> str:
    itself = census.process(os.getpid())
    return f"member.{os.getpid()}.{itself.start if itself else 0}"


def members(folder: str) -> List[int]:
    """Those that are still at work; who was killed is none any more."""
    matches = filter(None, map(MEMBER.fullmatch, os.listdir(folder)))
    return [int(match[1]) for match in matches if census.runs(int(match[1]), int(match[2]))]


def take_away(folder: str) -> str:
    """Nobody finds it from now on; its new path, which is this process's to remove. Its turn."""
    itself = census.process(os.getpid())
    # Called like a run of this process: should that be killed, the next to sweep finds it.
    owned = f"{FOLDER_PREFIX}{os.getpid()}.{itself.start if itself else 0}.{pid_namespace()}."
    mine = os.path.join(os.path.dirname(folder), f"{owned}{os.path.basename(folder)[len(FOLDER_PREFIX) :]}")
    os.rename(folder, mine)
    return mine


def deserted() -> List[str]:
    """Outposts in this place whose members were all killed. Each is the caller's from now on, under a path of its own."""
    here = whereabouts.place(whereabouts.facts(""))
    found = []
    for name in sorted(os.listdir(tempfile.gettempdir())):
        match = NAME.fullmatch(name)
        folder = os.path.join(tempfile.gettempdir(), name)
        if match is None or match[1] != here:
            continue
        try:
            turn = take_turn(folder, wait=False)
            if turn is not None:
                with turn:
                    found += [] if members(folder) else [take_away(folder)]
        except OSError:  # another's, or it went meanwhile
            continue
    return found
