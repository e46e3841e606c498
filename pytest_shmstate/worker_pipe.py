"""The pipe from a worker to those who wait for it: frames of a kind, a length, and so many bytes.

The end that reads never waits, neither for the rest of a frame, whose writer may have been stopped or killed in the
middle, nor for an end of file, which forked processes that hold the other end put off.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Dict, Set, Union

#: What ``ready()`` was given, pickled.
READY = 1
#: What the function returned, pickled.
RETURNED = 2
#: What the function raised: a pickled tuple of a line, a traceback, and the error, itself pickled or None.
RAISED = 3
#: Why what the function returned could not be sent: a pickled str.
UNSENDABLE = 4

_HEADER = struct.Struct("=BQ")
_CHUNK = 1 << 20


class PipeLost(Exception):
    """The worker's function closed the pipe, or put something else under its number."""


class Outgoing:
    """The worker's end."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._identity = _identity(pipe.fileno())
        self.pid = os.getpid()
        #: Kinds of frames that were sent.
        self.sent: Set[int] = set()

    def send(self, kind: int, payload: Union[bytes, memoryview]) -> None:
        """Write a frame, waiting for its reader to make room. A reader that is gone is no error.

        Raises PipeLost, having written nothing.
        """
        fd = self._pipe.fileno()
        if _identity(fd) != self._identity:
            raise PipeLost("the function closed descriptors that were not its own: there is no way to send its result")
        with suppress(BrokenPipeError):
            for part in (_HEADER.pack(kind, len(payload)), payload):
                rest = memoryview(part)
                while rest:
                    rest = rest[os.write(fd, rest) :]
        self.sent.add(kind)


def _identity(fd: int) -> Any:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Incoming:
    """The end of those who wait."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        #: Payloads of the frames that came, by kind.
        self.frames: Dict[int, bytes] = {}
        self.is_at_end = False
        self._buffer = bytearray()
        os.set_blocking(pipe.fileno(), False)

    def take(self) -> bool:
        """Take what is in the pipe, one chunk at most; returns whether there was any."""
        if self.is_at_end:
            return False
        try:
            chunk = os.read(self.pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        self._buffer += chunk
        self.is_at_end = not chunk
        self._cut_frames()
        return bool(chunk)

    def _cut_frames(self) -> None:
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + length
            if len(self._buffer) < end:
                break
            self.frames[kind] = bytes(memoryview(self._buffer)[_HEADER.size : end])
            del self._buffer[:end]

    @property
    def is_cut_short(self) -> bool:
        """Whether a frame has begun and is not whole."""
        return bool(self._buffer)

    def close(self) -> None:
        """Let go of the pipe; the frames stay."""
        self.is_at_end = True
        self.pipe.close()
