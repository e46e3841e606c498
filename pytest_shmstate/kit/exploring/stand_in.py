"""Segments in explored memory: what shmstate's protocol takes for one, and for the title to it.

    Segment   the three ways to the bytes of a segment, for one actor; payloads are copied piece by piece, up or down
    World     which segment the state's name leads to, who owns it, whose turn it is, who sleeps
    Owner     the side that publishes, alone or in turns; it may give the name to another segment
    Visitor   the side that reads, and follows the name

System calls are steps of their own, and fence. They are done at once: the kernel makes them so.
"""

from __future__ import annotations

import struct
import sys
from functools import partial
from typing import Any, Callable, Dict, Hashable, List, Optional, Sequence, Tuple

from pytest_shmstate.kit.exploring.actors import Actor, Violation
from shmstate.layout import (
    HEARTBEAT,
    INTENT,
    LATEST,
    NEVER_WRITTEN,
    PAGE,
    RETIRED,
    WAKE,
    Content,
    Identity,
    Layout,
    pack_header,
)

#: Bytes of a payload that are copied at once, a quarter of a slot: what is larger than a slot is a few pieces too.
PIECE = PAGE // 4
STRIDE = PAGE
#: What words hold that are no numbers.
CALLED = {RETIRED: "RETIRED", NEVER_WRITTEN: "never written"}


def shape(slots: int, *, stride: int = STRIDE, checksum: bool = False) -> Layout:
    """A layout small enough to explore."""
    return Layout(slots, stride, "raw", checksum)


_PIECES: Dict[int, bytes] = {}


def piece_of(number: int) -> bytes:
    """A piece of a payload: one word, over and over. That word stands for it in memory, and in reports."""
    if number not in _PIECES:
        _PIECES[number] = struct.pack("=Q", number) * (PIECE // 8)
    return _PIECES[number]


def payload_of(number: int, pieces: int = 2, larger: bool = False) -> bytes:
    """What is published as ``number``: each piece says which it is; every other tenant of a slot is a piece longer."""
    return piece_of(number) * (pieces + number // 2 % 2 + 3 * larger)


def number_in(payload: bytes, pieces: int = 2) -> int:
    """Which number a payload is. Raises Violation if it is none, whole."""
    found = [int.from_bytes(payload[at : at + 8], sys.byteorder) for at in range(0, len(payload), PIECE)]
    if not found:
        raise Violation("a read returned no bytes at all, and nothing so short was published")
    if len(set(found)) > 1:
        raise Violation(f"a read returned a torn state: its pieces are of states {', '.join(map(str, found))}")
    if payload not in (payload_of(found[0], pieces), payload_of(found[0], pieces, larger=True)):
        raise Violation(f"a read returned {len(found)} pieces of state {found[0]}, which has another length")
    return found[0]


class World:
    """What the kernel knows of one state. ``down``: payloads are copied from their ends."""

    def __init__(self, layout: Layout, *, weak: bool = False, down: bool = False) -> None:
        self.layouts = [layout]
        self.weak = weak
        self.down = down
        self.named = 0
        self.is_owned = True
        self.turns: Dict[int, str] = {}
        self.asleep: Dict[str, Tuple[int, int]] = {}

    def lay_out(self, actor: Actor, segment: int, content: Optional[Content]) -> None:
        """Have the words of a new segment be what its header says, with one state in it or none."""
        layout = self.layouts[segment]
        header = memoryview(pack_header(layout, Identity(0, 0, 0), content)).cast("Q")
        put = actor.run.cells.put
        words, pieces = _table(actor, segment, layout)
        for index, (cell, _, _) in words.items():
            put(cell, header[index])
        if content is not None:
            start = layout.where[content.version % layout.slots].start
            for at in range(0, len(content.payload), PIECE):
                put(pieces[start + at][0], _number_of(content.payload, at))

    def add(self, layout: Layout) -> int:
        """The number of a new segment."""
        self.layouts.append(layout)
        return len(self.layouts) - 1

    def wake(self, segment: int, index: int) -> None:
        """Wake all who sleep on a word."""
        self.asleep = {who: where for who, where in self.asleep.items() if where != (segment, index)}

    def mourn(self, process: str) -> None:
        """Take a dead process's locks away."""
        self.turns = {segment: who for segment, who in self.turns.items() if who != process}
        self.asleep.pop(process, None)

    def key(self) -> Hashable:
        """Equal for equal worlds."""
        turns, asleep = tuple(sorted(self.turns.items())), tuple(sorted(self.asleep.items()))
        return tuple(self.layouts), self.named, self.is_owned, turns, asleep


_names: Dict[int, Dict[int, str]] = {}


def names_of(layout: Layout) -> Dict[int, str]:
    """What the words are called that publishing and reading use, by index."""
    if layout.slots not in _names:
        names = {INTENT: "INTENT", LATEST: "LATEST", HEARTBEAT: "HEARTBEAT", WAKE: "WAKE"}
        for number, slot in enumerate(layout.where):
            names[slot.length] = f"LENGTH {number}"
            names[slot.published] = f"PUBLISHED {number}"
            names[slot.checksum] = f"CHECKSUM {number}"
        _names[layout.slots] = names
    return _names[layout.slots]


class Attempts:
    """What a reader knows after it has tried in vain: how often, from where, and the first versions that it saw.

    reading.py keeps the first of them for what to raise in the end; all else begins anew.
    """

    def __init__(self) -> None:
        self._read = self._tries = 0
        self.versions: List[int] = []

    def begin(self, read: int) -> None:
        """Another read begins."""
        self._read, self._tries = read, 0
        self.versions.clear()

    def another(self, segment: Segment) -> None:
        """Forget what need not be remembered."""
        self._tries += 1
        del self.versions[2:]
        segment.actor.forget_all_but((self._read, self._tries, tuple(self.versions), segment.number))


class Segment:
    """One actor's way to a segment."""

    view = None

    def __init__(self, world: World, number: int, actor: Actor, attempts: Optional[Attempts] = None) -> None:
        self.world = world
        self.number = number
        self.actor = actor
        self.attempts = attempts
        self.layout = world.layouts[number]
        self.weak = world.weak
        self.words = _Words(self)
        self.data = _Data(self)
        self.fence = actor.fence
        # No time passes: what differed by that alone would be explored over and over.
        self.clock: Callable[[], int] = lambda: 1
        # A try is over: what the next one does depends on little of what this one saw.
        self.give_way: Callable[[], object] = _nothing if attempts is None else partial(attempts.another, self)

    def bell(self, words: Any, index: int) -> Callable[[], object]:  # noqa: ARG002
        """What wakes the sleepers."""
        return partial(self._ring, index)

    def _ring(self, index: int) -> None:
        self.actor.system_call("wake the sleepers")
        self.world.wake(self.number, index)

    def doze(self, words: Any, index: int, expected: int, seconds: float) -> bool:  # noqa: ARG002
        """Sleep while a word is as expected, for ever: what is not woken is found out."""
        world, actor = self.world, self.actor
        actor.system_call("ask the kernel to sleep")
        found = actor.run.cells.loadable(actor.number, self.words.cell(index))
        actor.observe(found[-1])
        if found[-1] == expected:
            world.asleep[actor.name] = (self.number, index)
            actor.system_call("asleep", lambda: actor.name not in world.asleep)
        return True


def word_of(segment: int, layout: Layout, index: int) -> str:
    """The cell of a word, which is what it is called."""
    return names_of(layout)[index] + (f" of segment {segment}" if segment else "")


def piece_at(segment: int, layout: Layout, at: int) -> str:
    """The cell of a piece of a payload."""
    slot, offset = divmod(at - PAGE, layout.stride)
    return f"slot {slot}, piece {offset // PIECE}" + (f" of segment {segment}" if segment else "")


class _Words:
    def __init__(self, segment: Segment) -> None:
        self._actor, self._attempts = segment.actor, segment.attempts
        self._cells: Dict[int, Tuple[int, str, str]] = _table(segment.actor, segment.number, segment.layout)[0]

    def __getitem__(self, index: int) -> int:
        cell, label, _ = self._cells[index]
        value: int = self._actor.load(cell, label)
        if index == LATEST and self._attempts is not None:
            self._attempts.versions.append(value)
        return value

    def __setitem__(self, index: int, value: int) -> None:
        cell, _, label = self._cells[index]
        self._actor.store(cell, value, label)

    def cell(self, index: int) -> int:
        """The cell's number."""
        return self._cells[index][0]


class _Data:
    def __init__(self, segment: Segment) -> None:
        self._actor, self._down = segment.actor, segment.world.down
        self._cells: Dict[int, Tuple[int, str, str]] = _table(segment.actor, segment.number, segment.layout)[1]

    def __getitem__(self, part: slice) -> bytes:
        copied = {}
        for at in self._pieces(part):
            cell, label, _ = self._cells[at]
            copied[at] = self._actor.load(cell, label)
        return b"".join(piece_of(copied[at]) for at in sorted(copied))

    def __setitem__(self, part: slice, payload: Any) -> None:
        for at in self._pieces(part):
            cell, _, label = self._cells[at]
            self._actor.store(cell, _number_of(payload, at - part.start), label)

    def _pieces(self, part: slice) -> Sequence[int]:
        pieces = range(part.start, part.stop, PIECE)
        return pieces[::-1] if self._down else pieces


def _table(actor: Actor, segment: int, layout: Layout) -> Tuple[Dict[int, Tuple[int, str, str]], ...]:
    """The cells of a segment's words by their index, and of its pieces by their place; and what accesses are called."""
    tables, number = actor.run.shared.tables, actor.run.cells.number
    if (segment, layout) not in tables:
        words = {index: word_of(segment, layout, index) for index in names_of(layout)}
        places = range(PAGE, layout.size, PIECE)
        pieces = {at: piece_at(segment, layout, at) for at in places}
        tables[segment, layout] = (
            {index: (number(name), f"load {name}", f"store {name}") for index, name in words.items()},
            {at: (number(name), f"copy {name}", f"fill {name}") for at, name in pieces.items()},
        )
    found: Tuple[Dict[int, Tuple[int, str, str]], ...] = tables[segment, layout]
    return found


def _nothing() -> None:
    pass


def _number_of(payload: Any, at: int) -> int:
    number: int = struct.unpack_from("=Q", payload, at)[0]
    return number


class Owner:
    """What publishing asks of whoever owns the state; ``shared``: each in its turn."""

    def __init__(self, world: World, actor: Actor, *, shared: bool = False) -> None:
        self.shared = shared
        self.world = world
        self.actor = actor
        self.segment = Segment(world, world.named, actor)
        self._heir: Optional[Segment] = None

    def commit(self, start: int, nbytes: int) -> None:
        """There is memory everywhere."""

    def is_named(self) -> bool:
        """No other program removes a name here."""
        return True

    def prepare(self, layout: Layout, content: Optional[Content]) -> None:
        """S1: nobody else can see it yet, so it is one step."""
        self.actor.system_call("build a successor")
        number = self.world.add(layout)
        self.world.lay_out(self.actor, number, content)
        self._heir = Segment(self.world, number, self.actor)

    def take_name(self) -> None:
        """S3."""
        self.actor.system_call("give the name to the successor")
        if self._heir is not None:
            self.world.named = self._heir.number

    def settle(self) -> None:
        """Own the successor if the name leads to it."""
        heir, self._heir = self._heir, None
        if heir is None:
            return
        self.actor.system_call("ask where the name leads")
        self.actor.observe(self.world.named)
        if heir.number == self.world.named:
            left, self.segment = self.segment, heir
            if self.shared:
                self._release(left.number)

    def take_turn(self) -> None:
        """Wait until nobody else has it."""
        turns, number = self.world.turns, self.segment.number
        if self.world.turns.get(number) != self.actor.name:
            self.actor.system_call("take the turn", lambda: number not in self.world.turns)
            turns = self.world.turns
            turns[number] = self.actor.name

    def end_turn(self) -> None:
        """Let others have it."""
        self.actor.system_call("end the turn")
        self._release(self.segment.number)

    def _release(self, number: int) -> None:
        if self.world.turns.get(number) == self.actor.name:
            del self.world.turns[number]

    def follow(self) -> bool:
        """Own the segment that another has moved the state to."""
        self.actor.system_call("ask where the name leads")
        self.actor.observe(self.world.named)
        if self.world.named == self.segment.number:
            return False
        left, self.segment = self.segment, Segment(self.world, self.world.named, self.actor)
        self._release(left.number)
        return True


class Visitor:
    """What reading asks of whoever attached the state."""

    def __init__(self, world: World, actor: Actor) -> None:
        self.world = world
        self.actor = actor
        self.attempts = Attempts()
        self.segment = Segment(world, world.named, actor, self.attempts)
        self._bound: Any = None

    def successor(self, words: Any, bind: Callable[[Any], Any]) -> Any:
        """Follow the state, R5: ``bind`` of the segment that the name leads to, None if that is this one."""
        self.actor.system_call("ask where the name leads")
        self.actor.observe(self.world.named)
        if self.segment.words is words:
            if self.world.named == self.segment.number:
                return None
            self.segment = Segment(self.world, self.world.named, self.actor, self.attempts)
            self._bound = bind(self.segment)
        return self._bound
