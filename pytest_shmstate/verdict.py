"""From what is still there to what is said of it, and what is done about it."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import sys
import sysconfig
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic, sleep  # by name: a test may put another clock into the module
from typing import Any, Dict, List, Optional, Sequence, Tuple

import psutil

from pytest_shmstate import census, reach
from pytest_shmstate.attribution import Found
from pytest_shmstate.known import COPIES
from pytest_shmstate.leak import (
    DIRECTORY,
    HELD,
    INTERRUPTED,
    ORPHAN,
    PROCESS,
    SEGMENT,
    SEMAPHORE,
    SYSV,
    Frame,
    Holder,
    Leak,
    Owner,
)
from pytest_shmstate.timeline import Span

IPC_RMID = 0
#: What a process gets between SIGTERM and SIGKILL, in seconds.
TERM_GRACE = 1.0
PAUSE = 0.005
#: Packages with finalizers and a resource tracker of their own.
PACKAGES = ("multiprocessing", *COPIES)
#: Code that is not the user's: the standard library and what is installed.
NOT_THE_USERS = tuple(
    os.path.join(path, "")
    for key in ("stdlib", "platstdlib", "purelib", "platlib")
    for path in (sysconfig.get_path(key), os.path.realpath(sysconfig.get_path(key)))
)


def leaks_of(found: Sequence[Found]) -> List[Leak]:
    """What is said of them; all are looked at in one go, since asking who holds what is slow."""
    entries = [entry for entry in (census.look(one.name) for one in found if one.kind not in (PROCESS, SYSV)) if entry]
    held = census.holders(entries, census.everybody()) if entries else {}
    sizes = {entry.name: (entry.size, entry.on_disk) for entry in entries}
    return [_leak(one, sizes, held) for one in found]


def _leak(found: Found, sizes: Dict[str, Tuple[int, int]], held: Dict[str, List[Holder]]) -> Leak:
    size, on_disk = sizes.get(found.name, (-1, -1))
    holders = tuple(held.get(found.name, ()))
    name = found.name
    notes: Tuple[str, ...] = ()
    if found.kind == SYSV:
        segment = census.sysv(census.sysv_table()).get(found.mark)
        if segment is not None:
            size, on_disk = segment.size, segment.resident
            holders = (Holder(segment.creator, f"{segment.attached} attached", "attached"),) if segment.attached else ()
            notes = (f"key 0x{segment.key:08x}",) if segment.key else ()
    if found.kind == PROCESS:
        name = found.title or census.shortened(found.name)
        notes = (f"its command line: {census.shortened(found.name)}",) if found.title else ()
    span = found.span
    return Leak(
        kind=found.kind,
        name=name,
        verdict=verdict_of(span, bool(holders) or found.kind == PROCESS),
        owner=span.owner,
        evidence=found.evidence,
        size=size,
        on_disk=on_disk,
        pid=found.pid,
        stack=found.stack,
        where=line_to_look_at(found.stack, span.owner),
        holders=holders,
        after_failure=span.failed,
        notes=notes,
    )


def sysv_names(shmid: int) -> List[str]:
    """What a suppression may call it: its key."""
    segment = census.sysv(census.sysv_table()).get(shmid)
    return [f"0x{segment.key:08x}"] if segment is not None else []


def verdict_of(span: Span, is_held: bool) -> str:
    """Nobody is blamed for what it had no chance to clean up."""
    if not span.complete:
        return INTERRUPTED
    return HELD if is_held else ORPHAN


def is_the_users(file: str) -> bool:
    """Whether the code in that file is neither the standard library nor installed."""
    return not file.startswith("<") and not os.path.abspath(file).startswith(NOT_THE_USERS)


def line_to_look_at(stack: Sequence[Frame], owner: Owner) -> Optional[Frame]:
    """The innermost line of the user's own code, or where the owner is defined."""
    for frame in reversed(stack):
        if is_the_users(frame.file):
            return frame
    if owner.file:
        return Frame(owner.file, owner.line, owner.name.rpartition("::")[2])
    return stack[-1] if stack else None


def removed(found: Found, leak: Leak) -> Leak:
    """Remove it, and say so."""
    return replace(leak, fate=remove(found))


def remove(found: Found) -> str:
    """Remove it, if it is still the one that was judged; what became of it."""
    try:
        if not found.there():
            return "gone by itself"
        if found.kind == PROCESS:
            return _end(found.pid)
        if found.kind == SYSV:
            remove_sysv(found.mark)
            still_there = census.marked(found.mark)
            if still_there is not None:
                return f"marked for removal; goes when the last of {still_there.attached} attachments is detached"
        elif found.kind == DIRECTORY:
            shutil.rmtree(os.path.join(census.SHM_DIR, found.name))
        else:
            _unlink(found)
    except FileNotFoundError:
        return "gone by itself"
    except OSError as error:
        return f"left in place ({error.strerror})"
    return "removed"


def _unlink(found: Found) -> None:
    """Unlink it so that neither its object nor the resource tracker of this process complains of it at exit."""
    own = found.pid == os.getpid()
    if own and found.kind == SEMAPHORE:
        name = "/" + found.name[len("sem.") :]
        for package in PACKAGES:
            finalizers = list(getattr(sys.modules.get(f"{package}.util"), "_finalizer_registry", {}).values())
            finalizer = next((one for one in finalizers if _is_called_with(one, name)), None)
            if finalizer is not None:
                _tell_tracker(package, "register", name, "semaphore")
                finalizer()
                _forget(package, name, "semaphore")
                return
    os.unlink(os.path.join(census.SHM_DIR, found.name))
    if own and found.kind == SEGMENT:
        for package in filter(partial(_was_tracked, found), PACKAGES):
            _forget(package, "/" + found.name, "shared_memory")


def _is_called_with(finalizer: Any, name: str) -> bool:
    """Whether the name alone is what the finalizer is called with. No argument of a stranger's class is compared."""
    arguments = getattr(finalizer, "_args", None)
    return type(arguments) is tuple and len(arguments) == 1 and type(arguments[0]) is str and arguments[0] == name


def _forget(package: str, name: str, kind: str) -> None:
    """Have the tracker forget a name, whether it has it or not."""
    _tell_tracker(package, "register", name, kind)
    _tell_tracker(package, "unregister", name, kind)


def _tell_tracker(package: str, what: str, name: str, kind: str) -> None:
    """Tell the resource tracker of the package, if one runs.

    The tracker prints a KeyError for a name that it does not have, and cannot be asked; a test may have unregistered
    the name. So a name is registered before it is unregistered: the tracker keeps a set. By the tracker's own methods,
    since programs put others in the place of the module's functions.
    """
    tracker = getattr(sys.modules.get(f"{package}.resource_tracker"), "_resource_tracker", None)
    if getattr(tracker, "_fd", None) is not None:
        with suppress(OSError, ValueError):  # it ended meanwhile, or takes no such name: then it does not have it
            getattr(tracker, what)(name, kind)


def _was_tracked(found: Found, package: str) -> bool:
    """Whether the package told its resource tracker of the segment when it was made, or attached."""
    if found.how == "truncate" and any(frame.file.endswith(f"/{package}/shared_memory.py") for frame in found.stack):
        return True
    made = getattr(sys.modules.get(f"{package}.shared_memory"), "SharedMemory", None)
    # An object that could not be made has no name, and asking for it fails.
    return made is not None and any(
        type(one) is made
        and str(reach.attribute(one, "name")).lstrip("/") == found.name
        and reach.attribute(one, "_track") is not False
        for one in gc.get_objects()
    )


def remove_sysv(shmid: int) -> None:
    """Mark a System V segment for removal: it goes with the last that has it attached."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.shmctl(shmid, IPC_RMID, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _end(pid: int) -> str:
    """End a process and all that came from it: asked first, then killed."""
    pool = _pool_of(pid)
    if pool is not None:
        # It waits for its processes at exit, and one that is ended in the middle of its work leaves it waiting for ever.
        pool.terminate()
        return "ended (with its multiprocessing.Pool)"
    try:
        first = psutil.Process(pid)
        family = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return "gone by itself"
    for one in family:
        _signal(one, "terminate")
    alive = _wait(family)
    for one in alive:
        _signal(one, "kill")
    _wait(alive)
    return "ended (SIGKILL)" if alive else "ended (SIGTERM)"


def _pool_of(pid: int) -> Optional[Any]:
    """The living ``multiprocessing.Pool`` of this process whose worker that is."""
    for one in gc.get_objects():
        if not any(base.__name__ == "Pool" and str(base.__module__).endswith(".pool") for base in type(one).__mro__):
            continue
        # The threads of a ThreadPool have no pid, and other libraries have classes of that name.
        processes = reach.attribute(one, "_pool")
        if isinstance(processes, list) and any(reach.attribute(process, "pid") == pid for process in processes):
            return one
    return None


def _wait(family: List[psutil.Process]) -> List[psutil.Process]:
    """Those that still run after the grace. Reaps nobody: the exit status is for who started them."""
    deadline = monotonic() + TERM_GRACE
    while True:
        family = [one for one in family if census.at_work(one.pid) and one.is_running()]
        if not family or monotonic() > deadline:
            return family
        sleep(PAUSE)


def _signal(process: psutil.Process, how: str) -> None:
    try:
        getattr(process, how)()
    except psutil.NoSuchProcess:
        pass
