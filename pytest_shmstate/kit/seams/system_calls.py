"""Gates before system calls that look at, change or lock files in ``/dev/shm``; and a clock that stands still.

Python tells an audit hook of ``open``, ``link``, ``rename``, ``unlink``, ``truncate``, ``mmap`` and of locks, before it
makes the call. Of ``stat``, ``pread``, ``pwrite`` and ``posix_fallocate`` it tells nobody: they are replaced in ``os``.

A call that would wait in the kernel for a lock is asked first, at its gate, whether it would: the kernel knows who holds
what. Sleep is a gate, and moves this process's own clock on: how often something is tried does not depend on the time.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Dict, Optional, Tuple

from pytest_shmstate.kit.seams.gates import Gates

_ROOT = "/dev/shm/"
_GONE = " (deleted)"
# Locks of an open file description: not in Python's fcntl before 3.9.
_GET, _SET, _SET_WAITING = 36, 37, 38
_FLOCK = struct.Struct("hhqqi4x")
#: What those of shmstate are for: command, kind (None: any), byte.
_PURPOSES: Dict[Tuple[int, Optional[int], int], str] = {
    (_SET_WAITING, fcntl.F_WRLCK, 0): "take turn",
    (_SET, fcntl.F_UNLCK, 0): "end turn",
    (_SET, fcntl.F_RDLCK, 1): "appear",
    (_GET, None, 1): "ask who is there",
}
#: Nobody sleeps less: to sleep longer than asked is always allowed, and saves gates.
_SHORTEST_SLEEP = 0.01
_real_flock, _real_fcntl, _readlink = fcntl.flock, fcntl.fcntl, os.readlink


def label_of(file: Any, name: str) -> Optional[str]:
    """What gates call a file, given by path or descriptor; None if it is not in ``/dev/shm``.

    ``name`` for that of the structure so called, what follows it for others of its files, ``draft`` for those that are
    called something else.
    """
    if isinstance(file, int):
        with suppress(OSError):
            file = _readlink(f"/proc/self/fd/{file}")
    if not isinstance(file, str) or not file.startswith(_ROOT):
        return None
    file = file[len(_ROOT) :]
    if file.endswith(_GONE):
        file = file[: -len(_GONE)]
    before, found, after = file.partition(name)
    if not found or not name:
        return "draft"
    return after.strip("._-") or ("name" if before in ("", "shmstate.") else before.strip("._-"))


def gate_system_calls(gates: Gates) -> None:
    """Put gates before system calls from now on and for good, in this process, and stop its clock."""
    told = _Told(gates)
    before: Dict[str, Callable[..., None]] = {
        "open": told.opening,
        "os.link": partial(told.naming, "link"),
        "os.rename": partial(told.naming, "rename"),
        "os.remove": partial(told.touching, "unlink"),
        "os.truncate": partial(told.touching, "truncate"),
        "mmap.__new__": partial(told.touching, "map"),
        "fcntl.flock": told.flocking,
        "fcntl.fcntl": told.locking,
        "fcntl.lockf": told.locking_records,
    }

    def hook(event: str, arguments: Tuple[Any, ...]) -> None:
        if event in before and gates.is_watching:
            before[event](*arguments)

    sys.addaudithook(hook)
    for call in ("stat", "pread", "pwrite", "posix_fallocate"):
        setattr(os, call, _behind_a_gate(getattr(os, call), call, gates))
    _stop_the_clock(gates)


class _Told:
    """Takes the arguments of audit events."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates

    def touching(self, what: str, file: Any, *_: Any) -> None:
        label = label_of(file, self._gates.name)
        if label is not None:
            self._gates(f"{what} {label}")

    def opening(self, path: Any, *_: Any) -> None:
        if isinstance(path, str):
            self.touching("open", path)

    def naming(self, what: str, source: Any, target: Any, *_: Any) -> None:  # noqa: ARG002
        self.touching(what, target)

    def flocking(self, fd: int, operation: int) -> None:
        label = label_of(fd, self._gates.name)
        if label is None:
            return
        if operation & fcntl.LOCK_UN:
            self._gates(f"unlock {label}")
        else:
            waits = not operation & fcntl.LOCK_NB
            # Where it does not, it has the lock that it is about to take.
            asked = partial(_refused, _real_flock, fd, operation | fcntl.LOCK_NB)
            self._gates(f"{'lock' if waits else 'try to lock'} {label}", asked if waits else None)

    def locking(self, fd: int, command: int, argument: Any) -> None:
        label = label_of(fd, self._gates.name)
        if label is None or command not in (_GET, _SET, _SET_WAITING):
            return
        kind, whence, byte, length, _ = _FLOCK.unpack(argument)
        purpose = _PURPOSES.get((command, kind, byte)) or _PURPOSES.get((command, None, byte))
        asked = partial(_is_taken, fd, _FLOCK.pack(kind, whence, byte, length, 0))
        self._gates(purpose or f"lock byte {byte} of {label}", asked if command == _SET_WAITING else None)

    def locking_records(self, fd: int, operation: int, *where: int) -> None:
        label = label_of(fd, self._gates.name)
        if label is not None:
            waits = not operation & (fcntl.LOCK_NB | fcntl.LOCK_UN)
            asked = partial(_refused, fcntl.lockf, fd, operation | fcntl.LOCK_NB, *where)
            self._gates(f"lock {label}" if operation & ~fcntl.LOCK_UN else f"unlock {label}", asked if waits else None)


def _refused(lock: Callable[..., Any], *arguments: Any) -> bool:
    try:
        lock(*arguments)
    except (BlockingIOError, PermissionError):  # lockf may say either
        return True
    return False


def _is_taken(fd: int, wanted: bytes) -> bool:
    in_the_way: int = _FLOCK.unpack(_real_fcntl(fd, _GET, wanted))[0]
    return in_the_way != fcntl.F_UNLCK


class _Unbound:
    """Stands for a function in C: in a class it is no method, and gets no ``self``.

    Such are kept in classes: ``clock = time.monotonic`` in many, ``stat = os.stat`` in Python 3.10's pathlib.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


def _behind_a_gate(call: Any, name: str, gates: Gates) -> Any:
    def call_behind_a_gate(file: Any, *args: Any, **kwargs: Any) -> Any:
        if gates.is_watching:
            label = label_of(file, gates.name)
            if label is not None:
                gates("ask for the name" if (name, label) == ("stat", "name") else f"{name} {label}")
        return call(file, *args, **kwargs)

    return _Unbound(call_behind_a_gate)


def _stop_the_clock(gates: Gates) -> None:
    now, sleep = [time.monotonic_ns()], time.sleep

    def sleep_behind_a_gate(seconds: float) -> None:
        if not gates.is_watching:
            return sleep(seconds)
        gates("sleep")
        now[0] += int(max(seconds, _SHORTEST_SLEEP) * 1e9)
        return None

    def monotonic_ns() -> int:
        now[0] += 1
        return now[0]

    time.sleep = _Unbound(sleep_behind_a_gate)
    time.monotonic_ns = _Unbound(monotonic_ns)
    time.monotonic = _Unbound(lambda: monotonic_ns() / 1e9)
