"""Messages between a pool and its workers, in chunks that the kernel takes whole or not at all.

A chunk has at most PIPE_BUF bytes, so a write to a pipe that does not block is atomic (pipe(7)), as is a packet. An
exception at any moment, a timeout or a close therefore leaves whole chunks behind, never a part of one:

    W1  A message whose last chunk was not written is dropped by the reading side, without harm to the next one.
    W2  A chunk that the reading side lost (an exception between the read and the store) costs its own message only:
        chunks are numbered. On a packet channel each read returns one chunk, so the reading side stays in step.
    W3  A signal handler may send in the middle of a send. ``depth`` keeps the chunks of both messages apart.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from multiprocessing.connection import Connection
from typing import Callable, Iterator, List, Optional, Tuple

_HEADER = struct.Struct("<HH?I")  # bytes that follow, depth, is it the last, its number within the message
_ROOM = select.PIPE_BUF - _HEADER.size
_MOST = 65536


class Broken(Exception):
    """The other end of a channel was closed. Never raised for what user code does with channels of its own."""


def packet_channel() -> Tuple[Connection, Connection]:
    """Two connected ends, for both directions, that keep the bounds of what is written."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Connection(ours.detach()), Connection(theirs.detach())


def wait_for(end: Connection, events: int, seconds: float) -> bool:
    """Wait until ``end`` is ready for ``events`` or broken; returns whether it is. Waits ``seconds`` at most."""
    poll = select.poll()
    poll.register(_fileno(end), events)
    return bool(poll.poll(max(0.0, 1000 * seconds)))


def _fileno(end: Connection) -> int:
    if end.closed:
        raise Broken
    return end.fileno()


def _is_broken(end: Connection) -> bool:
    """Whether the other end is closed. An OSError alone does not prove it: a signal handler may have raised it."""
    if end.closed:
        return True
    poll = select.poll()
    poll.register(end.fileno(), 0)
    return bool(poll.poll(0))


class Outlet:
    """The end of a channel into which messages are written."""

    def __init__(self, end: Connection) -> None:
        self._end = end
        self._depth = 0
        os.set_blocking(end.fileno(), False)

    def write(self, message: bytes, wait: Callable[[], None]) -> None:
        """Write a message. Calls ``wait()`` when there is no room; what that raises ends the write. Raises Broken."""
        depth = self._depth
        try:
            self._depth = depth + 1
            self._put_all(message, depth, wait)
        finally:
            self._depth = depth

    def _put_all(self, message: bytes, depth: int, wait: Callable[[], None]) -> None:
        for chunk in _chunks(message, depth):
            while not self._put(chunk):
                wait()

    def begin(self, message: bytes) -> Iterator[bool]:
        """Write a message by and by: each step writes until there is no room, and yields whether it wrote anything."""
        progress = False
        for chunk in _chunks(message, 0):
            while not self._put(chunk):
                yield progress
                progress = False
            progress = True

    def _put(self, chunk: bytes) -> bool:
        try:
            os.write(_fileno(self._end), chunk)
        except BlockingIOError:
            return False
        except OSError:
            if _is_broken(self._end):
                raise Broken from None
            raise
        return True


def _chunks(message: bytes, depth: int) -> Iterator[bytes]:
    for number, start in enumerate(range(0, len(message) or 1, _ROOM)):
        part = message[start : start + _ROOM]
        yield _HEADER.pack(len(part), depth, start + _ROOM >= len(message), number) + part


class Inlet:
    """The end of a channel from which messages are read."""

    def __init__(self, end: Connection) -> None:
        self.end = end
        self._unparsed = b""
        self._open: List[List[bytes]] = []  # by depth: the chunks so far of a message that is not complete
        os.set_blocking(end.fileno(), False)

    def read(self) -> Optional[bytes]:
        """Return the next whole message, or None if there is none yet. Raises Broken after the last one."""
        while True:
            while len(self._unparsed) >= _HEADER.size:
                length, depth, is_last, number = _HEADER.unpack_from(self._unparsed)
                stop = _HEADER.size + length
                if len(self._unparsed) < stop:
                    break
                part, self._unparsed = self._unparsed[_HEADER.size : stop], self._unparsed[stop:]
                message = self._join(depth, number, is_last, part)
                if message is not None:
                    return message
            try:
                more = os.read(_fileno(self.end), _MOST)
            except BlockingIOError:
                return None
            except OSError:
                if _is_broken(self.end):
                    raise Broken from None
                raise
            if not more:
                raise Broken
            self._unparsed += more

    def read_within(self, deadline: float, wait: Callable[[float], None]) -> Optional[bytes]:
        """Return the next whole message, or None at ``deadline``. Calls ``wait(seconds left)`` as often as it looks."""
        while True:
            message = self.read()
            left = deadline - time.monotonic()
            if message is not None or left <= 0:
                return message
            wait(left)

    def _join(self, depth: int, number: int, is_last: bool, part: bytes) -> Optional[bytes]:
        if number == 0:
            del self._open[depth:]  # what stands there was given up by the writing side
            self._open += [[] for _ in range(depth + 1 - len(self._open))]
        elif len(self._open) <= depth or len(self._open[depth]) != number:
            del self._open[depth:]  # a chunk is missing
            return None
        self._open[depth].append(part)
        if not is_last:
            return None
        parts = self._open[depth]
        del self._open[depth:]
        return b"".join(parts)
