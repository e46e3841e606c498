"""Which states are on this machine, and which of them nobody owns any more."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import List, NamedTuple, Optional, Tuple, Type

from shmstate import makers, ownership, predecessors, reading
from shmstate.attachment import Attachment
from shmstate.compat import require_platform
from shmstate.errors import (
    AccessDenied,
    CorruptSegment,
    InvalidName,
    InvalidOption,
    NotPublished,
    ShmStateError,
    StateNotFound,
    UntrustedSegment,
)
from shmstate.layout import NEW_PREFIX, OLD_PREFIX, PREFIX, SHM_DIR, file_name
from shmstate.oserrors import refusal

#: What ``reclaim`` passes over: what is no segment, or another user's.
_NOT_OURS = (AccessDenied, CorruptSegment, InvalidName, UntrustedSegment)
#: What one state of many can raise when it is read. It is that state's problem, and no other's.
MEMBER_ERRORS: Tuple[Type[Exception], ...] = (ShmStateError, OSError, MemoryError, RecursionError)


def problem_of(error: Exception, name: str) -> ShmStateError:
    """The error as one of shmstate's own that names the state. Raises an OSError of no system call, as it is."""
    if isinstance(error, ShmStateError):
        return error
    if isinstance(error, OSError) and error.errno is None:  # a signal handler's TimeoutError, and the like
        raise error
    problem = ShmStateError(f"state {name!r} cannot be read: {type(error).__name__}: {error}")
    problem.__cause__ = error
    return problem


class StateInfo(NamedTuple):
    """One state as it was when it was looked at. ``problem`` says why the rest is missing, if it is."""

    name: str
    #: Whether a living writer owns it; None if that is not known.
    alive: Optional[bool] = None
    version: int = 0
    #: Bytes of the latest state; 0 before the first publish.
    nbytes: int = 0
    #: Seconds since the latest version was published; None before.
    age: Optional[float] = None
    #: Seconds since the writer last vouched for it; None before the first publish.
    staleness: Optional[float] = None
    owner_pid: int = 0
    #: Seconds since the epoch.
    created: float = 0.0
    codec: str = ""
    slots: int = 0
    max_size: int = 0
    #: Bytes of memory behind the segment, of all the address space it reserves.
    memory: int = 0
    problem: str = ""


def list_states(prefix: str = "", *, trust_uid: Optional[int] = None) -> List[StateInfo]:
    """All states whose names begin with ``prefix``, by name. What cannot be read is listed with its ``problem``."""
    infos = []
    for name in state_names(prefix):
        with suppress(StateNotFound):  # gone since it was listed
            infos.append(_look_at(name, trust_uid))
    return infos


def state_names(prefix: str = "") -> List[str]:
    """The names of all states that begin with ``prefix``, sorted."""
    require_platform()
    return sorted(file[len(PREFIX) :] for file in _files() if file.startswith(PREFIX + prefix))


def _files() -> List[str]:
    try:
        return os.listdir(SHM_DIR)
    except OSError as error:
        raise refusal(error, f"the states in {SHM_DIR} cannot be listed") from error


def _look_at(name: str, trust_uid: Optional[int]) -> StateInfo:
    try:
        place = Attachment(name, 0.0, trust_uid)
    except StateNotFound:
        raise
    except MEMBER_ERRORS as error:
        return StateInfo(name, problem=str(problem_of(error, name)))
    try:
        return _describe(place, name)
    except MEMBER_ERRORS as error:
        return StateInfo(name, problem=str(problem_of(error, name)))
    finally:
        place.close()


def _describe(place: Attachment, name: str) -> StateInfo:
    steps = reading.open_reading(place, name)
    alive = place.is_owned(steps.latest)  # which follows a move
    segment = place.segment
    layout, identity = segment.layout, segment.identity()
    info = StateInfo(
        name,
        alive=alive,
        owner_pid=identity.owner_pid,
        created=identity.created_ns / 1e9,
        codec=layout.codec,
        slots=layout.slots,
        max_size=layout.stride,
        memory=segment.committed(),
    )
    try:
        data, version, published, _ = steps.view()
    except NotPublished:
        return info
    nbytes = len(data)
    data.release()
    now = time.monotonic_ns()
    vouched = max(published, steps.heartbeat())
    return info._replace(version=version, nbytes=nbytes, age=(now - published) / 1e9, staleness=(now - vouched) / 1e9)


def _was_given_up(draft: str, path: str, dry_run: bool) -> bool:
    return not makers.maker_is_alive(draft) and ownership.remove_if_dead(path, None, dry_run)


def reclaim(prefix: str = "", *, name: Optional[str] = None, dry_run: bool = False) -> List[str]:
    """Remove what dead writers left under names that begin with ``prefix``; returns the names.

    ``name`` instead of a prefix is one state's exact name: ``reclaim("job")`` removes ``job2`` too, and
    ``reclaim(name="job")`` does not. Raises InvalidName, and InvalidOption if both are given.
    With ``dry_run`` nothing is removed; the names are those that would be.
    What a living writer owns is left alone; so is what belongs to another user, and what is no segment. Attached
    readers keep the last state. With ``prefix=""`` drafts go too, whose making was cut short before they had a name, and
    segments that every writer of a shared state has left; both are listed by file name.
    """
    require_platform()
    if name is None:
        files = sorted(_files())
    elif prefix:
        raise InvalidOption(f"prefix={prefix!r} and name={name!r}: give one of them")
    else:
        files = [file_name(name)]
    removed = []
    for file in files:
        path = os.path.join(SHM_DIR, file)
        with suppress(FileNotFoundError, *_NOT_OURS):
            if file.startswith(PREFIX + prefix):
                found = file[len(PREFIX) :]
                if ownership.remove_if_dead(path, found, dry_run):
                    removed.append(found)
            elif (not prefix and file.startswith(NEW_PREFIX) and _was_given_up(file, path, dry_run)) or (
                not prefix and file.startswith(OLD_PREFIX) and predecessors.remove_if_left(path, dry_run)
            ):
                removed.append(file)
    return removed
