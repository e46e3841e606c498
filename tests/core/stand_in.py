"""Shared memory that is none: the protocol runs over it, each access is written down, and a test may step in between.

    Bytes     the words and the payloads, which any number of views share
    View      one side's way to them: what the protocol takes for a segment
    Names     which bytes the state's name leads to
    Owner     the side that publishes, and may give the name to other bytes
    Visitor   the side that reads, and follows the name

Before each access a view calls ``before(access)``; what that raises is what a death, or an error, at this very place
would be; what it does to the bytes is what another process would have done meanwhile. Payloads are copied in pieces,
each an access of its own, because the machine promises no more.
"""

from __future__ import annotations

import functools
import os
import time
from typing import Any, Callable, List, Optional, Tuple

from shmstate.layout import HEARTBEAT, INTENT, LATEST, PAGE, WAKE, WORD, Content, Layout, pack_header
from shmstate.layout import Identity as _Identity

PIECE = 4
STRIDE = 2 * PAGE


class Stopped(BaseException):
    """The process ended here."""


def layout(slots: int = 4, checksum: bool = False) -> Layout:
    return Layout(slots, STRIDE, "raw", checksum)


class Bytes:
    """What a segment holds."""

    def __init__(self, shape: Layout, content: Optional[Content] = None) -> None:
        self.shape = shape
        self.data = bytearray(pack_header(shape, _Identity(0, 0, 0), content) + bytes(shape.size - PAGE))
        if content is not None:
            start = shape.where[content.version % shape.slots].start
            self.data[start : start + len(content.payload)] = content.payload
        self.words = memoryview(self.data)[:PAGE].cast("Q")
        self.names = {INTENT: "INTENT", LATEST: "LATEST", HEARTBEAT: "HEARTBEAT", WAKE: "WAKE"}
        for index, slot in enumerate(shape.where):
            self.names[slot.length] = f"LENGTH {index}"
            self.names[slot.published] = f"PUBLISHED {index}"
            self.names[slot.checksum] = f"CHECKSUM {index}"

    def slot_at(self, offset: int) -> int:
        return (offset - PAGE) // self.shape.stride


class Side:
    """What one side has done, in whatever bytes, and who steps in before it does more."""

    def __init__(self) -> None:
        self.accesses: List[str] = []
        self.before: Callable[[str], None] = View.do_nothing


class View:
    """One side's way to the bytes."""

    def __init__(self, shared: Bytes, weak: bool = False, side: Optional[Side] = None) -> None:
        self.shared = shared
        self.weak = weak
        self.clock: Callable[[], int] = time.monotonic_ns
        self.give_way: Callable[[], object] = os.sched_yield
        self.side = side or Side()
        self.commits: List[Tuple[int, int]] = []
        self.closing: List[Callable[[], None]] = []
        self.words = _Words(self)
        self.data = _Data(self)
        self.view = memoryview(shared.data)

    @staticmethod
    def do_nothing(access: str) -> None:
        pass

    @property
    def layout(self) -> Layout:
        return self.shared.shape

    @property
    def accesses(self) -> List[str]:
        return self.side.accesses

    @property
    def before(self) -> Callable[[str], None]:
        return self.side.before

    @before.setter
    def before(self, action: Callable[[str], None]) -> None:
        self.side.before = action

    def touch(self, access: str) -> None:
        self.before(access)
        self.accesses.append(access)

    def fence(self) -> None:
        self.touch("fence")

    def bell(self, words: Any, index: int) -> Callable[[], object]:
        return functools.partial(self.touch, "ring")

    def doze(self, words: Any, index: int, expected: int, seconds: float) -> bool:
        """Nobody is asleep here: it is written down whether one would be."""
        self.before("doze")
        self.accesses.append("doze" if self.shared.words[index] == expected else "do not doze")
        return True

    def at_close(self, callback: Callable[[], None]) -> None:
        self.closing.append(callback)

    def commit(self, start: int, nbytes: int) -> None:
        self.touch(f"commit {self.shared.slot_at(start)}")
        self.commits.append((start, nbytes))

    def stop_before(self, number: int) -> None:
        """Raise Stopped instead of making the access ``number``, counted from 0, from now on."""
        left = [number]

        def count(access: str) -> None:
            if not left[0]:
                raise Stopped(access)
            left[0] -= 1

        self.before = count

    def once_before(self, number: int, action: Callable[[], None]) -> None:
        """Do ``action`` before the access ``number``, counted from 0, from now on; once."""
        left = [number]

        def count(access: str) -> None:
            left[0] -= 1
            if left[0] == -1:
                action()

        self.before = count

    def go_on(self) -> None:
        """Step in no more, and forget what was written down."""
        self.before = self.do_nothing
        self.accesses.clear()


class Names:
    """Which bytes the name leads to."""

    def __init__(self, named: Bytes) -> None:
        self.named = named


class Owner:
    """What publishing asks of whoever owns the state. What it does on its way to other bytes are accesses as well."""

    shared = False

    def __init__(self, names: Names, view: View) -> None:
        assert view.shared is names.named
        self._names = names
        self.segment = view
        self._heir: Optional[View] = None

    def commit(self, start: int, nbytes: int) -> None:
        self.segment.commit(start, nbytes)

    def is_named(self) -> bool:
        return True

    def prepare(self, layout: Layout, content: Optional[Content]) -> None:
        self.segment.touch("prepare")
        self._heir = View(Bytes(layout, content), self.segment.weak, self.segment.side)

    def take_name(self) -> None:
        assert self._heir is not None
        self.segment.touch("take name")
        self._names.named = self._heir.shared

    def settle(self) -> None:
        self.segment.touch("settle")
        heir, self._heir = self._heir, None
        if heir is not None and heir.shared is self._names.named:
            self.segment = heir

    def take_turn(self) -> None:
        raise AssertionError("nobody else owns it")

    def end_turn(self) -> None:
        raise AssertionError("nobody else owns it")

    def follow(self) -> bool:
        raise AssertionError("nobody else moves it")


class Turn:
    """Who may publish, of those who share a state."""

    def __init__(self) -> None:
        self.taken_by: Optional[object] = None


class SharingOwner(Owner):
    """One of those who publish in their turns. What dies loses its turn."""

    shared = True

    def __init__(self, names: Names, view: View, turn: Turn) -> None:
        super().__init__(names, view)
        self._turn = turn

    def take_turn(self) -> None:
        self.segment.touch("take turn")
        assert self._turn.taken_by is None, "this would wait"
        self._turn.taken_by = self

    def end_turn(self) -> None:
        self.segment.touch("end turn")
        if self._turn.taken_by is self:
            self._turn.taken_by = None

    def follow(self) -> bool:
        self.segment.touch("ask for the name")
        named = self._names.named
        if named is self.segment.shared:
            return False
        self.end_turn()
        self.segment = View(named, self.segment.weak, self.segment.side)
        return True


class Visitor:
    """What reading asks of whoever attached the state."""

    def __init__(self, names: Names, view: View) -> None:
        self._names = names
        self._bound: Tuple[View, Any] = (view, None)

    @property
    def segment(self) -> View:
        return self._bound[0]

    def successor(self, words: Any, bind: Callable[[Any], Any]) -> Any:
        self.segment.touch("ask for the name")
        if self.segment.words is words:
            named = self._names.named
            if named is self.segment.shared:
                return None
            view = View(named, self.segment.weak, self.segment.side)
            self._bound = (view, bind(view))
        return self._bound[1]


class _Words:
    def __init__(self, view: View) -> None:
        self._view = view

    def __getitem__(self, index: int) -> int:
        self._view.touch(f"load {self._view.shared.names.get(index, index)}")
        return self._view.shared.words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._view.touch(f"store {self._view.shared.names[index]}")
        self._view.shared.words[index] = value


class _Data:
    def __init__(self, view: View) -> None:
        self._view = view

    def __getitem__(self, part: slice) -> bytes:
        shared, copied = self._view.shared, b""
        for start, stop in _pieces(part.start, part.stop):
            self._view.touch(f"copy {shared.slot_at(start)}")
            copied += shared.data[start:stop]
        return copied

    def __setitem__(self, part: slice, payload: bytes) -> None:
        shared = self._view.shared
        for start, stop in _pieces(part.start, part.stop):
            self._view.touch(f"fill {shared.slot_at(start)}")
            shared.data[start:stop] = payload[start - part.start : stop - part.start]


def _pieces(start: int, stop: int) -> List[Tuple[int, int]]:
    return [(at, min(at + PIECE, stop)) for at in range(start, stop, PIECE)]


assert PAGE % WORD == 0
