"""The reader's steps, R1 to R5 of protocol.py.

Threads share a reader, and each may follow another move at the same time. So nothing that a read uses changes when the
state moves, except which ``SegmentReader`` it is: one store. A thread that is late, or that stores an older one after a
newer one, still copies from one segment and validates against the same one. It finds INTENT to be RETIRED there (I8).
"""

from __future__ import annotations

import functools
import weakref
import zlib
from typing import Any, Callable, List, Optional, Tuple

from shmstate.errors import CorruptSegment, InvalidOption, NotPublished, Overwritten, ReadTimeout
from shmstate.layout import HEARTBEAT, INTENT, LATEST, NEVER_WRITTEN, PAGE, RETIRED, WAKE, WITHHELD, WORD, Layout
from shmstate.lent import lend
from shmstate.protocol import Memory, Place, Retired

DEFAULT_TRIES = 1000
#: Moves that one read follows. Each is a file made and renamed; no writer moves a state that often while it is read.
_MOST_MOVES = 1000

#: In place of a stride that lengths are compared with: the quick way is not to be taken.
_BARRED = -1

#: Stands for the words of a segment that the reader has left. Every LENGTH in it fails its bounds check, so a function
#: that a caller has kept since before the move goes to the segment that the reader is in now.
_LEFT = (NEVER_WRITTEN,) * (PAGE // WORD)

#: What an attempt finds at a version that this segment never held, and at one that readers are not to see.
_LEFT_OUT: Tuple[Any, int] = (None, -1)
_WITHHELD: Tuple[Any, int] = (None, -2)
_ABSENT = {NEVER_WRITTEN: _LEFT_OUT, WITHHELD: _WITHHELD}

#: Copies, or whatever else a read is for, out of the live bytes: R3.
Take = Callable[[Any, int, int], Any]


#: A ``Take`` that copies nothing: the bytes themselves.
live: Take = lend


class SegmentReader:
    """Everything that a reader uses of one segment, and the reader's steps there.

    ``make_read(again, elsewhere)`` returns a function that reads the latest state's bytes here, R1 to R4. Where one look is
    not enough it returns ``again()``, and after the reader has left this segment ``elsewhere()``. ``try_read()`` returns
    None then. ``leave(instead)`` puts something else in the place of the words that these functions use. ``codec`` is what ``codec_of`` gave for this segment. ``spoilt[0]``
    counts the looks that were not enough; a statistic, so threads may lose one.
    """

    __slots__ = (
        "_fence",
        "_name",
        "_places",
        "codec",
        "data",
        "layout",
        "leave",
        "make_read",
        "try_read",
        "view",
        "words",
    )

    def __init__(self, memory: Memory, name: str, codec: Any, spoilt: List[int]) -> None:
        self._name = name
        self._fence = memory.fence if memory.weak else None
        self.layout: Layout = memory.layout
        self._places = self.layout.where
        self.words, self.data, self.view = memory.words, memory.data, memory.view
        self.codec = codec
        self.make_read, self.leave = _quick_reads(memory, spoilt)
        self.try_read: Callable[[], Optional[bytes]] = self.make_read(_nothing, _nothing)

    def latest(self) -> int:
        """Return the version published last in this segment; 0: none yet."""
        version: int = self.words[LATEST]
        return version

    def attempt(self, version: int, take: Optional[Take]) -> Optional[Tuple[Any, int]]:
        """Take steps R2 to R4 for a version: ``(taken, published_ns)``, or None if the copy was not whole.

        _LEFT_OUT says that this segment never held the version: it was not carried over when the state moved here.
        _WITHHELD says that readers are not to see it: its writer began afresh.
        """
        words, data, view, layout, fence = self.words, self.data, self.view, self.layout, self._fence
        where, slots, checked = self._places, layout.slots, layout.checksum
        if fence:
            fence()
        start, length_at, published_at, checksum_at = where[version % slots]
        length: int = words[length_at]  # R2
        published: int = words[published_at]
        checksum: int = words[checksum_at]
        if length <= layout.stride:
            taken = data[start : start + length] if take is None else take(view, start, start + length)  # R3
            unchecked = not checked or take is live  # to check those would read them all
            if self.is_whole(version) and (unchecked or zlib.crc32(taken) == checksum):
                return taken, published
        return _ABSENT.get(length)

    def is_whole(self, version: int) -> bool:
        """Return whether all that was read of a version before this call was that version's: R4."""
        words, slots = self.words, self.layout.slots
        if self._fence:
            self._fence()
        intent: int = words[INTENT]
        if intent == RETIRED:
            intent = words[LATEST] + 1  # I8
        return intent - version < slots  # R4

    def gone(self, version: int) -> Overwritten:
        """Return the error for a version whose slot holds a newer one."""
        slots = self.layout.slots
        return Overwritten(
            f"state {self._name!r}: version {version} is gone, its slot is version {version + slots}'s: the writer is at"
            f" {self.words[INTENT]}, and {slots} slots keep {slots - 1} versions. Read it sooner, or make the writer with"
            f" more slots"
        )

    def corrupt(self, version: int) -> CorruptSegment:
        """Return the error for a version that is not whole although no writer stores anything."""
        layout = self.layout
        length, intent = self.words[layout.where[version % layout.slots].length], self.words[INTENT]
        return CorruptSegment(
            f"state {self._name!r}: version {version} is not whole though nobody writes: LENGTH {length} of"
            f" {layout.stride} at most, INTENT {intent}{', checksum differs' if layout.checksum else ''}; somebody else"
            f" has overwritten it. Restart its writer"
        )

    def invalidate(self, error: Callable[[], Exception]) -> None:
        """Have every further use raise ``error()``: the bytes go away. A thread in the middle of a read keeps them."""
        closed = Retired(error)
        self.leave(closed)
        self.words = self.data = self.view = closed


def _quick_reads(memory: Memory, spoilt: List[int]) -> Tuple[Callable[..., Any], Callable[[Any], None]]:
    layout = memory.layout
    words, data, slots, latest_at, intent_at = memory.words, memory.data, layout.slots, LATEST, INTENT
    places = tuple((slot.start, slot.length) for slot in layout.where)
    stride = _BARRED if memory.weak or layout.checksum else layout.stride

    def make_read(again: Callable[[], Any], elsewhere: Callable[[], Any]) -> Callable[[], Any]:
        def read() -> Any:
            # attempt() unrolled for what nearly always happens where no fence and no checksum is needed. Anything else is
            # left to it, LATEST = 0 too: slot 0 then has a LENGTH that fails the check.
            these = words
            version: int = these[latest_at]  # R1
            start, length_at = places[version % slots]
            length: int = these[length_at]  # R2
            if length <= stride:
                payload = data[start : start + length]  # R3
                intent: int = these[intent_at]
                if intent == version or intent - version < slots:  # R4; mostly equal, and comparing is quicker
                    return payload
            if these is _LEFT:
                return elsewhere()
            if stride != _BARRED:
                spoilt[0] += 1
            return again()

        return read

    def leave(instead: Any) -> None:
        nonlocal words, data
        words = data = instead

    return make_read, leave


def _nothing() -> None:
    return None


#: What was taken, its version and when that was published, and the SegmentReader that it is from.
Found = Tuple[Any, int, int, SegmentReader]
#: The latest state's bytes, and the SegmentReader that they are from.
Whole = Callable[[], Tuple[bytes, SegmentReader]]


class Reading:
    """A reader's side of one state. All functions follow the state to its successors.

    ``read_bytes()`` returns the latest state's bytes; a caller may keep the function. ``whole()`` returns the latest state's bytes and the
    SegmentReader that they are from. ``snapshot(take)`` returns ``(taken, version, published_ns)``; ``take(view, start,
    stop)`` is R3 and must copy. ``found(take)`` returns that and the SegmentReader; ``of_version(version)`` does so for an
    older one. ``view()`` does so for the bytes themselves, without a copy; the SegmentReader's ``is_whole(version)`` is R4; ``gone(version)`` is what to raise if
    not. ``rest(version, seconds)`` is R6: it sleeps until something newer may be there, and is False if no writer would
    end the sleep.
    """

    __slots__ = (
        "__weakref__",
        "found",
        "heartbeat",
        "latest",
        "of_version",
        "read_bytes",
        "rest",
        "retries",
        "slowly",
        "snapshot",
        "view",
        "whole",
    )

    read_bytes: Callable[[], bytes]
    whole: Whole
    snapshot: Callable[..., Tuple[Any, int, int]]
    found: Callable[[Optional[Take]], Found]
    of_version: Callable[[int], Found]
    view: Callable[[], Found]
    latest: Callable[[], int]
    rest: Callable[[int, float], bool]
    heartbeat: Callable[[], int]
    retries: Callable[[], int]
    slowly: Tuple[Callable[[], bytes], Callable[[], bytes]]  # what read_bytes() calls where one look was not enough


def _no_codec(_layout: Layout) -> None:
    return None


def _ignore(_steps: SegmentReader, _read_bytes: Callable[[], bytes], _whole: Whole) -> None:
    return None


def open_reading(
    place: Place,
    name: str,
    tries: int = DEFAULT_TRIES,
    *,
    codec_of: Callable[[Layout], Any] = _no_codec,
    closed: Optional[Callable[[], Exception]] = None,
    installed: Callable[[SegmentReader, Callable[[], bytes], Whole], None] = _ignore,
) -> Reading:
    """Return the reader's steps, bound to where ``place`` is. Safe to call from many threads.

    ``codec_of`` is asked before a segment is read for the first time; if it raises, the reader stays where it was.
    ``closed()`` is what every use raises once the segment is closed. ``installed`` is called with the SegmentReader that
    is used from then on, and with ``read_bytes`` and ``whole``.
    """
    weak, fence, give_way, doze = (
        place.segment.weak,
        place.segment.fence,
        place.segment.give_way,
        place.segment.doze,
    )
    spoilt = [0]
    here: SegmentReader

    def bind(memory: Memory) -> SegmentReader:
        steps = SegmentReader(memory, name, codec_of(memory.layout), spoilt)
        if closed is not None:
            memory.at_close(functools.partial(steps.invalidate, closed))
        return steps

    def read_again() -> bytes:
        found: bytes = find(None)[0]
        return found

    def read_elsewhere() -> bytes:
        return whole()[0]

    def snapshot(take: Optional[Take] = None) -> Tuple[Any, int, int]:
        return find(take)[:3]

    def view() -> Found:
        return find(live)

    def whole() -> Tuple[bytes, SegmentReader]:
        steps = here
        payload = steps.try_read()
        if payload is not None:
            return payload, steps
        found = find(None)
        return found[0], found[3]

    def find(take: Optional[Take]) -> Found:
        first = None
        for _ in range(tries):
            steps = current()
            version: int = steps.words[LATEST]  # R1
            if not version:
                raise NotPublished(f"state {name!r}: nothing has been published yet; try again later")
            first = first or version
            found = steps.attempt(version, take)
            if found is _WITHHELD:
                raise NotPublished(
                    f"state {name!r}: its writer has begun afresh after version {version}, and has published nothing"
                    f" since; try again later"
                )
            if found is not None and found is not _LEFT_OUT:
                return found[0], version, found[1], steps
            spoilt[0] += 1
            give_way()
        raise gave_up(first)

    def current() -> SegmentReader:
        """R5."""
        for _ in range(_MOST_MOVES):
            steps = here
            if steps.words[INTENT] != RETIRED:
                return steps
            successor = place.successor(steps.words, bind)
            if successor is None:
                return steps
            steps.leave(_LEFT)
            switch_to(successor)
        raise ReadTimeout(f"state {name!r}: moved {_MOST_MOVES} times during one read; have its writer reserve more")

    def switch_to(steps: SegmentReader) -> None:
        nonlocal here
        here = steps
        install(steps)
        while here is not steps:  # another thread followed a later move; what it installed must not be lost
            steps = here
            install(steps)

    def install(steps: SegmentReader) -> None:
        reading = weak_reading()
        if reading is not None:
            reading.read_bytes = steps.make_read(*reading.slowly)
            installed(steps, reading.read_bytes, reading.whole)

    def of_version(version: int) -> Found:
        steps = current()
        latest_version = steps.words[LATEST]  # R1
        if version < 1:
            raise InvalidOption(f"state {name!r}: version {version}: the first is 1")
        if version > latest_version:
            raise NotPublished(
                f"state {name!r}: version {version} is not published yet; the latest is {latest_version}"
            )
        found = steps.attempt(version, None)
        if found is _LEFT_OUT or found is _WITHHELD:
            raise Overwritten(
                f"state {name!r}: version {version} was left behind when the state moved to another segment; it is at"
                f" version {latest_version}"
            )
        if found is not None:
            return found[0], version, found[1], steps
        if steps.is_whole(version):  # so it was nothing of the writer's making that spoilt it
            raise steps.corrupt(version)
        raise steps.gone(version)

    def gave_up(first: Optional[int]) -> Exception:
        if weak:
            fence()
        version = here.words[LATEST]
        if version == first:  # the writer rests, so nothing of its making spoils a copy
            return here.corrupt(version)
        return ReadTimeout(
            f"state {name!r}: no whole copy in {tries} tries, from version {first} to {version}: the writer"
            f" overwrites {here.layout.slots} slots faster than one is copied. Make it with more slots, or publish less"
            f" often"
        )

    def latest() -> int:
        if weak:
            fence()  # after whatever was read before: instant.py asks whether that is still the latest
        steps = here
        version: int = steps.words[LATEST]
        if steps.words[INTENT] == RETIRED:
            version = current().words[LATEST]
        return version

    def rest(version: int, seconds: float) -> bool:
        steps = current()
        count: int = steps.words[WAKE]
        if weak:
            fence()
        if not count or latest() > version or here is not steps:
            return bool(count)
        return doze(steps.words, WAKE, count, seconds)

    def heartbeat() -> int:
        beaten: int = current().words[HEARTBEAT]
        return beaten

    def retries() -> int:
        return spoilt[0]

    here = bind(place.segment)
    reading = Reading()
    # A weak reference: no function above refers to what refers to it. So a reader that its user forgets is unmapped at
    # once, without the garbage collector.
    weak_reading = weakref.ref(reading)
    reading.whole, reading.snapshot, reading.found, reading.slowly = whole, snapshot, find, (read_again, read_elsewhere)
    reading.of_version, reading.view = of_version, view
    reading.latest, reading.rest, reading.heartbeat, reading.retries = latest, rest, heartbeat, retries
    install(here)
    return reading
