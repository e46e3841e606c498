"""What differs between Python 3.8 and 3.13, and between machines. Nowhere else asks for a version."""

from __future__ import annotations

import builtins
import mmap
import os
import platform
import sys
import types
import weakref
from multiprocessing import process, shared_memory
from stat import S_ISDIR
from typing import Any, Callable, Iterable

from shmstate.errors import UnsupportedPlatform
from shmstate.layout import SHM_DIR
from shmstate.oserrors import translated

#: The kernel's word for this kind of machine. Not platform.machine(), which starts a process on some systems.
MACHINE: str = getattr(os, "uname", platform.uname)().machine
#: x86-64 keeps stores in order among stores and loads among loads; the protocol needs no more (I2 in protocol.py).
STRONGLY_ORDERED = MACHINE.lower() in ("x86_64", "amd64")


def require_platform() -> None:
    """Raise UnsupportedPlatform unless this is 64-bit Linux with a ``/dev/shm``."""
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
        raise UnsupportedPlatform(f"shmstate needs 64-bit Linux; this is {sys.platform} on {MACHINE}")
    try:
        with translated(f"{SHM_DIR} cannot be looked at", FileNotFoundError, NotADirectoryError):
            is_there = S_ISDIR(os.stat(SHM_DIR).st_mode)
    except OSError as error:
        if error.errno is None:  # a signal handler's
            raise
        is_there = False
    if not is_there:
        raise UnsupportedPlatform(f"{SHM_DIR} is missing: mount a tmpfs there, or give the container one")


def run_in_forked_children(act: Callable[[], None]) -> None:
    """Have ``act`` run first in each forked child, where there are any."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=act)


def renew_in_forked_children(one: Any) -> None:
    """Have ``one._forked()`` run in each forked child: a thread that held one of its locks does not exist there."""
    _renewed.add(one)


def _renew() -> None:
    for one in list(_renewed):
        one._forked()  # noqa: SLF001


_renewed: weakref.WeakSet[Any] = weakref.WeakSet()
run_in_forked_children(_renew)


def disown(children: Iterable[Any]) -> None:
    """Have ``multiprocessing`` neither end nor wait for its child processes ``children`` when this process exits."""
    process._children.difference_update(children)  # type: ignore[attr-defined]  # noqa: SLF001


def map_shared(fd: int, size: int, writable: bool) -> mmap.mmap:
    """Map a file, keeping no descriptor from 3.13 on and one (the map's own) before. The caller closes ``fd``."""
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=prot, trackfd=False)
    return mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=prot)


if sys.version_info >= (3, 13):

    def create_shared_memory(name: str, size: int) -> shared_memory.SharedMemory:
        """``SharedMemory(create=True)`` of which the resource tracker never hears."""
        return shared_memory.SharedMemory(name, create=True, size=size, track=False)

else:
    # Before 3.13 there is no `track=False`, and each way round it that others use has a victim: to unregister
    # afterwards starts a tracker process and leaves a window in which a kill makes it warn; to replace
    # `resource_tracker.register` for a moment loses what other threads register meanwhile. These Pythons no longer
    # change, so their own constructor is run with the tracker's two names bound to nothing, in this class alone.

    class _NoTracker:
        """Stands where ``SharedMemory`` looks for ``resource_tracker``."""

        @staticmethod
        def register(name: str, rtype: str) -> None:
            """Say nothing."""

        unregister = register

    def _import(name: str, *args: Any, **kwargs: Any) -> Any:
        # 3.8 and 3.9 import the tracker inside the functions: `from .resource_tracker import register`.
        if name == "resource_tracker":
            return _NoTracker
        return builtins.__import__(name, *args, **kwargs)

    def _without_tracker(function: Any) -> Any:
        names = {
            **vars(shared_memory),
            "resource_tracker": _NoTracker,
            "__builtins__": {**vars(builtins), "__import__": _import},
        }
        return types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)

    class _Untracked(shared_memory.SharedMemory):
        __init__ = _without_tracker(shared_memory.SharedMemory.__init__)
        unlink = _without_tracker(shared_memory.SharedMemory.unlink)

    def create_shared_memory(name: str, size: int) -> shared_memory.SharedMemory:
        """``SharedMemory(create=True)`` of which the resource tracker never hears."""
        made: shared_memory.SharedMemory = _Untracked(name, create=True, size=size)
        return made
