"""Sleep until a 32-bit word in shared memory changes: the kernel's ``futex``, through a read-only map too.

Not private ones: those who sleep and those who wake are different processes. Loaded when first used: ctypes takes
milliseconds to import.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import sys
from typing import Any, Callable

_NUMBER = {"x86_64": 202, "amd64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}
_WAIT, _WAKE = 0, 1
_ALL = 2**31 - 1
_HALF = 4 if sys.byteorder == "big" else 0


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


class _Buffer(ctypes.Structure):
    """``Py_buffer``, whose first field is all that is looked at; the others have room enough on all Pythons."""

    _fields_ = (("address", ctypes.c_void_p), ("rest", ctypes.c_void_p * 31))


_MACHINE = platform.machine().lower()
_call: Any = ctypes.CDLL(None, use_errno=True).syscall
_call.restype = ctypes.c_long


def is_available() -> bool:
    """Whether this machine's number of the call is known."""
    return _MACHINE in _NUMBER


def has_greenlets() -> bool:
    """Whether gevent or eventlet has replaced ``time.sleep``: a sleep is theirs to do then, and others run meanwhile."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(gevent and gevent.is_module_patched("time")) or bool(eventlet and eventlet.is_monkey_patched("time"))


def address_of(words: memoryview, index: int) -> int:
    """Where the low half of a word lies. Valid as long as ``words`` is not released."""
    buffer = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(words), ctypes.byref(buffer), 0)
    try:
        address: int = buffer.address
        return address + index * words.itemsize + _HALF
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))


def wait(words: memoryview, index: int, expected: int, seconds: float) -> bool:
    """Sleep while the low half of a word is ``expected``'s, ``seconds`` at most; a signal ends it too.

    False if this machine has no such call, or does not allow it, or if a hub of greenlets runs in this thread, which
    the call would block: nobody has slept.
    """
    if not is_available() or has_greenlets():
        return False
    whole = int(seconds)
    timeout = _Timespec(whole, int((seconds - whole) * 1e9))
    address, value = ctypes.c_void_p(address_of(words, index)), ctypes.c_uint32(expected & 0xFFFFFFFF)
    result = _call(ctypes.c_long(_NUMBER[_MACHINE]), address, _WAIT, value, ctypes.byref(timeout), None, None)
    return result == 0 or ctypes.get_errno() in (errno.EAGAIN, errno.ETIMEDOUT, errno.EINTR)


def bell(words: memoryview, index: int) -> Callable[[], object]:
    """A function that wakes all who sleep on a word. Harmless once ``words`` is released."""
    if not is_available():
        return lambda: None
    # All made beforehand: a call takes a third of the time then, and it comes with every publish.
    call, number, address = _call, ctypes.c_long(_NUMBER[_MACHINE]), ctypes.c_void_p(address_of(words, index))
    wake, everybody = ctypes.c_int(_WAKE), ctypes.c_uint32(_ALL)

    def ring() -> int:
        woken: int = call(number, address, wake, everybody, None, None, None)
        return woken

    return ring
