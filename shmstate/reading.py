"""The reader's steps, R1 to R5 of protocol.py, as closures."""

from __future__ import annotations

import zlib
from typing import Any, Callable, NamedTuple, Optional, Tuple

from shmstate.errors import CorruptSegment, InvalidOption, NotPublished, Overwritten, ReadTimeout
from shmstate.layout import HEARTBEAT, INTENT, LATEST, MAX_SLOTS, NEVER_WRITTEN, RETIRED, WAKE, Layout
from shmstate.memory import lend
from shmstate.protocol import Memory, Place, Retired

DEFAULT_TRIES = 1000
#: Moves that one read follows. Each is a file made and renamed; nobody moves a state that often while it is read.
_MOST_MOVES = 1000

#: In place of a stride that lengths are compared with: the quick way is not to be taken.
_BARRED = -1

#: Copies, or whatever else a read is for, out of the live bytes: R3.
Take = Callable[[Any, int, int], Any]


#: A ``Take`` that copies nothing: the bytes themselves.
live: Take = lend


class Reading(NamedTuple):
    """A reader's side of one state. All follow it to its successors.

    ``snapshot(take)`` returns ``(taken, version, published_ns)``; ``take(view, start, stop)`` is R3 and must copy.
    ``of_version(version)`` does so for an older one. ``view()`` returns a snapshot of the bytes themselves and the
    segment that they are in, whose ``is_whole(version)`` is R4; ``gone(version)`` is what to raise if not.
    ``rest(version, seconds)`` is R6: it sleeps until something newer may be there, and is False if nobody would wake it.
    """

    read_bytes: Callable[[], bytes]
    snapshot: Callable[..., Tuple[Any, int, int]]
    of_version: Callable[[int], Tuple[Any, int, int]]
    view: Callable[[], Tuple[Any, int, int, Here]]
    latest: Callable[[], int]
    rest: Callable[[int, float], bool]
    heartbeat: Callable[[], int]
    retries: Callable[[], int]
    retire: Callable[[Callable[[], Exception]], None]


class Here(NamedTuple):
    """The reader's steps in one segment.

    ``attempt(version, take)`` is R2 to R4 and returns ``(taken, published_ns)``, or None if that was not whole.
    """

    words: Any
    attempt: Callable[[int, Optional[Take]], Optional[Tuple[Any, int]]]
    is_whole: Callable[[int], bool]
    gone: Callable[[int], Overwritten]
    corrupt: Callable[[int], CorruptSegment]
    layout: Layout


def _steps_in(memory: Memory, name: str) -> Here:
    layout = memory.layout
    words, data, view, weak, fence = memory.words, memory.data, memory.view, memory.weak, memory.fence
    slots, stride, where, checked = layout.slots, layout.stride, layout.where, layout.checksum
    crc32 = zlib.crc32

    def attempt(version: int, take: Optional[Take]) -> Optional[Tuple[Any, int]]:
        if weak:
            fence()
        start, length_at, published_at, checksum_at = where[version % slots]
        length: int = words[length_at]  # R2
        published: int = words[published_at]
        checksum: int = words[checksum_at]
        if length <= stride:
            taken = data[start : start + length] if take is None else take(view, start, start + length)  # R3
            unchecked = not checked or take is live  # to check those would read them all
            if is_whole(version) and (unchecked or crc32(taken) == checksum):
                return taken, published
        return None

    def is_whole(version: int) -> bool:
        if weak:
            fence()
        intent: int = words[INTENT]
        if intent == RETIRED:
            intent = words[LATEST] + 1  # I8
        return intent - version < slots  # R4

    def gone(version: int) -> Overwritten:
        return Overwritten(
            f"state {name!r}: version {version} is gone, its slot is version {version + slots}'s: the writer is at"
            f" {words[INTENT]}, and {slots} slots keep {slots - 1} versions. Read it sooner, or make the writer with"
            f" more slots"
        )

    def corrupt(version: int) -> CorruptSegment:
        length, intent = words[where[version % slots].length], words[INTENT]
        return CorruptSegment(
            f"state {name!r}: version {version} is not whole though nobody writes: LENGTH {length} of"
            f" {stride} at most, INTENT {intent}{', checksum differs' if checked else ''}; somebody else"
            f" has overwritten it. Restart its writer"
        )

    return Here(words, attempt, is_whole, gone, corrupt, layout)


def _places(layout: Layout) -> Tuple[Tuple[int, int], ...]:
    """Of each slot, and over again up to the most that there can be: no mixture of two layouts is out of range."""
    where = layout.where
    return tuple((slot.start, slot.length) for slot in (where * MAX_SLOTS)[:MAX_SLOTS])


def open_reading(place: Place, name: str, tries: int = DEFAULT_TRIES) -> Reading:
    """The reader's steps, bound to where ``place`` is. Safe to call from many threads."""
    weak, fence, give_way = place.segment.weak, place.segment.fence, place.segment.give_way
    latest_at, intent_at, doze = LATEST, INTENT, place.segment.doze
    here = _steps_in(place.segment, name)
    # For read_bytes(), set by enter(): words last, as it loads them first. Who has old words and anything new finds at R4
    # that they are RETIRED; who has new words has all that belongs to them.
    words, data, slots, stride, places = here.words, place.segment.data, 1, _BARRED, _places(place.segment.layout)
    spoilt = 0  # tries that did not end in a snapshot, ever; a statistic, so threads may lose one

    def read_bytes() -> bytes:
        # find() unrolled for what nearly always happens where no fence and no checksum is needed. Anything else is left
        # to it, LATEST = 0 too: slot 0 then has a LENGTH that fails the check.
        nonlocal spoilt
        these = words
        version: int = these[latest_at]  # R1
        start, length_at = places[version % slots]
        length: int = these[length_at]  # R2
        if length <= stride:
            payload: bytes = data[start : start + length]  # R3
            intent: int = these[intent_at]
            if intent == version or intent - version < slots:  # R4; mostly nobody writes, and comparing is quicker
                return payload
        if stride != _BARRED:
            spoilt += 1
        found: bytes = find(None)[0]
        return found

    def enter(memory: Memory) -> None:
        nonlocal here, words, data, slots, stride, places
        layout = memory.layout
        here = _steps_in(memory, name)
        data, slots, places = memory.data, layout.slots, _places(layout)
        stride = _BARRED if memory.weak or layout.checksum else layout.stride
        words = memory.words

    def snapshot(take: Optional[Take] = None) -> Tuple[Any, int, int]:
        return find(take)[:3]

    def view() -> Tuple[Any, int, int, Here]:
        return find(live)

    def find(take: Optional[Take]) -> Tuple[Any, int, int, Here]:
        nonlocal spoilt
        first = None
        for _ in range(tries):
            steps = current()
            version: int = steps.words[LATEST]  # R1
            if not version:
                raise NotPublished(f"state {name!r}: nothing has been published yet; try again later")
            first = first or version
            found = steps.attempt(version, take)
            if found is not None:
                return found[0], version, found[1], steps
            spoilt += 1
            give_way()
        raise gave_up(first)

    def current() -> Here:
        """R5."""
        for _ in range(_MOST_MOVES):
            steps = here
            if steps.words[INTENT] != RETIRED:
                return steps
            successor = place.successor(steps.words)
            if successor is None:
                return steps
            enter(successor)
        raise ReadTimeout(f"state {name!r}: moved {_MOST_MOVES} times during one read; have its writer reserve more")

    def of_version(version: int) -> Tuple[Any, int, int]:
        steps = current()
        latest_version = steps.words[LATEST]  # R1
        if version < 1:
            raise InvalidOption(f"state {name!r}: version {version}: the first is 1")
        if version > latest_version:
            raise NotPublished(
                f"state {name!r}: version {version} is not published yet; the latest is {latest_version}"
            )
        found = steps.attempt(version, None)
        if found is not None:
            return found[0], version, found[1]
        if steps.words[steps.layout.where[version % steps.layout.slots].length] == NEVER_WRITTEN:
            raise Overwritten(
                f"state {name!r}: version {version} was left behind when the state moved to another segment; it is at"
                f" version {latest_version}"
            )
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
        beaten: int = here.words[HEARTBEAT]
        return beaten

    def retries() -> int:
        return spoilt

    def retire(error: Callable[[], Exception]) -> None:
        nonlocal here, words
        words = Retired(error)
        here = here._replace(words=words)

    enter(place.segment)
    return Reading(read_bytes, snapshot, of_version, view, latest, rest, heartbeat, retries, retire)
