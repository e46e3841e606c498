"""Gates: in a process under test, a place to stop before every access to what is shared.

``Gates`` says who is stopped and how; this module puts them before what shmstate does to its segments. Other people's
``SharedMemory`` is buffers.py, the file system and the kernel's locks are system_calls.py.

The names are those that the argument uses (protocol.py, and its tests): ``load LATEST``, ``store INTENT``, ``fill 1``,
``copy 1``, ``commit 1``, ``ring``. A payload is copied in parts, each behind a gate of its own: one ``memcpy`` can be
seen half done, and it may run from either end.
"""

from __future__ import annotations

from contextlib import contextmanager
from threading import get_ident
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Protocol, Tuple

#: Whether an access would now wait in the kernel; asked again each time that it is allowed.
WouldBlock = Optional[Callable[[], bool]]
#: What no part of a copy is smaller than: a word is stored and loaded whole.
_WORD = 8


class Gate(Protocol):
    """Called before an access, by its name. What it raises is raised in place of the access."""

    def __call__(self, access: str, would_block: WouldBlock = None) -> None:
        """Stop there, until it may go on."""


class Copying(NamedTuple):
    """How payloads are copied: in how many parts, and from which end."""

    parts: int = 2
    downward: bool = False

    def parts_of(self, start: int, stop: int) -> List[Tuple[int, int]]:
        """The parts of a copy, in their order; one at least, none smaller than a word unless it is the last."""
        size = max(_WORD, -(-(stop - start) // self.parts // _WORD) * _WORD)
        found = [(at, min(at + size, stop)) for at in range(start, stop, size)] or [(start, stop)]
        return found[::-1] if self.downward else found


class Gates:
    """All gates of a process. They stop the one thread that ``watching()`` names, and nobody else.

    ``name`` is what the structure under test is called in this run; it is left out of the names of gates.
    """

    def __init__(self, stop: Gate) -> None:
        self.name = ""
        self._stop = stop
        self._watched = 0

    def __call__(self, access: str, would_block: WouldBlock = None) -> None:
        """Stop there, if this is the thread that is stopped."""
        if self.is_watching:
            with self.resting():  # to stop takes accesses too
                self._stop(access, would_block)

    @property
    def is_watching(self) -> bool:
        """Whether this thread is stopped."""
        return self._watched == get_ident()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Stop this thread, within the block."""
        with self._watch(get_ident()):
            yield

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Stop nobody, within the block: what it does is one access, whose gate has been passed."""
        with self._watch(0):
            yield

    @contextmanager
    def _watch(self, thread: int) -> Iterator[None]:
        before, self._watched = self._watched, thread
        try:
            yield
        finally:
            self._watched = before


class Words:
    """In place of a segment's words: each load and store behind a gate."""

    def __init__(self, real: memoryview, names: Dict[int, str], gate: Gate) -> None:
        #: For the kernel, which takes no other.
        self.real = real
        self._names = names
        self._gate = gate

    def __getitem__(self, index: int) -> int:
        self._gate(f"load {self._names.get(index, index)}")
        value: int = self.real[index]
        return value

    def __setitem__(self, index: int, value: int) -> None:
        self._gate(f"store {self._names.get(index, index)}")
        self.real[index] = value

    def release(self) -> None:
        """As a memoryview's."""
        self.real.release()


class Bytes:
    """In place of a segment's bytes: each part of a copy behind a gate. ``slot_at(offset)`` says what is written where."""

    def __init__(self, real: Any, slot_at: Callable[[int], int], gate: Gate, copying: Copying) -> None:
        self._real = real
        self._slot_at = slot_at
        self._gate = gate
        self._copying = copying

    def __getitem__(self, part: slice) -> bytes:
        copied = bytearray(part.stop - part.start)
        for start, stop in self._copying.parts_of(part.start, part.stop):
            self._gate(f"copy {self._slot_at(start)}")
            copied[start - part.start : stop - part.start] = self._real[start:stop]
        return bytes(copied)

    def __setitem__(self, part: slice, payload: Any) -> None:
        for start, stop in self._copying.parts_of(part.start, part.stop):
            self._gate(f"fill {self._slot_at(start)}")
            self._real[start:stop] = payload[start - part.start : stop - part.start]


def gate_shmstate(gates: Gates, copying: Copying) -> None:
    """Put gates before what shmstate does to segments, from now on and for good, in this process.

    Imports shmstate. What makes segments looks the class up when it makes one, so it may have been imported before.
    """
    from shmstate import memory

    made: Any = memory.Segment
    memory.Segment = _gated(made, gates, copying)  # type: ignore[misc]


def _gated(segment: Any, gates: Gates, copying: Copying) -> Any:
    class Segment(segment):  # type: ignore[misc]
        """A segment whose words and bytes have gates; all else is as it was."""

        __slots__ = ("is_writable",)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.is_writable = not self.view.readonly  # it has a lock, which goes when it is closed
            _put_gates(self, gates, copying)

        @staticmethod
        def fence() -> None:
            gates("fence")
            segment.fence()

        @staticmethod
        def bell(words: Words, index: int) -> Callable[[], object]:
            return _behind(gates, "ring", segment.bell(words.real, index))

        @staticmethod
        def doze(words: Words, index: int, expected: int, seconds: float) -> bool:  # noqa: ARG004
            gates("doze")  # to wake up for no reason is allowed; to sleep would hold up the schedule
            return True

        def close(self) -> None:
            if self.is_open and self.is_writable:
                gates("close")
            with gates.resting():
                super().close()

        def drop(self) -> None:
            if self.fd >= 0:
                gates("drop")
            super().drop()

        def commit(self, start: int, nbytes: int) -> None:
            gates(f"commit {words_of(self.layout)[1](start)}")
            with gates.resting():
                super().commit(start, nbytes)

    return Segment


def _put_gates(segment: Any, gates: Gates, copying: Copying) -> None:
    names, slot_at = words_of(segment.layout)
    segment.words = Words(segment.words, names, gates)
    segment.data = Bytes(segment.data, slot_at, gates, copying)


def _behind(gate: Gate, access: str, action: Callable[[], object]) -> Callable[[], object]:
    def act() -> object:
        gate(access)
        return action()

    return act


def words_of(layout: Any) -> Tuple[Dict[int, str], Callable[[int], int]]:
    """What the words of a segment of that layout are called, by index; and which slot lies at an offset."""
    from shmstate import layout as shape

    names = {
        shape.AT_CREATED: "CREATED",
        shape.OWNER_PID: "OWNER_PID",
        shape.OWNER_STARTED: "OWNER_STARTED",
        shape.INTENT: "INTENT",
        shape.LATEST: "LATEST",
        shape.HEARTBEAT: "HEARTBEAT",
        shape.WAKE: "WAKE",
    }
    for index, slot in enumerate(layout.where):
        names[slot.length] = f"LENGTH {index}"
        names[slot.published] = f"PUBLISHED {index}"
        names[slot.checksum] = f"CHECKSUM {index}"
    return names, lambda offset: (offset - shape.PAGE) // layout.stride
