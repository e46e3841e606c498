"""Publish and snapshot: how one writer and any number of readers share a segment without a lock.

    writer of version s = LATEST + 1                     reader
    W1  INTENT = s                                       R1  s = LATEST
        fence                                                fence
    W2  payload, LENGTH, PUBLISHED, CHECKSUM             R2  LENGTH, ... of slot s % K; LENGTH checked
        of slot s % K                                    R3  copy LENGTH bytes
        fence                                                fence
    W3  LATEST = s                                       R4  INTENT - s < K: the copy is whole. Otherwise again
                                                             then, and only then, decode the copy

Without a copy, a view hands out the bytes of slot s % K themselves, after R1 and R2; R4 may be asked at any time then,
and answers for everything that was read before it. An older version s is read by the same steps, R1 being LATEST >= s.

INTENT and LATEST are 64-bit words, stored and loaded whole. Versions start at 1 and are never reused or wrapped.
The fences are needed where the machine reorders stores with stores or loads with loads; x86-64 does not.

I1  LATEST never decreases: only the one owner stores it (ownership.py), each time one more than it was.
I2  A snapshot is one whole published payload. When R1 loads s, all of version s was stored before (W2 before W3, and
    the first fence of each side keeps it so). What could spoil the copy is a later tenant of the slot: version s + K
    or later. Its W1 comes before its first byte, so if R3 met one such byte, R4 comes after that W1 and loads
    INTENT >= s + K. Hence INTENT - s < K says that R3 met none. For the same reason slot s % K holds version s from
    its W3 to the W1 of version s + K, and K - 1 versions can be read at any time.
I3  A reader never goes back: R1 loads one word that never decreases.
I4  Nobody waits for readers: a writer does not look at them, and they store nothing. Their maps are read-only.
I5  A writer that dies between any two steps leaves LATEST and its slot whole: version s lies in another slot than
    version s + 1, as K >= 2. The next owner publishes s + 1 anew, into the same slot, under the same INTENT.
I6  Every read ends: a bounded number of tries, then ReadTimeout. Every publish ends: it has no loop.
I7  No store and no load can fault: memory is committed (before W1) for all that W2 stores, and LENGTH, bounds-checked,
    never says more than was committed.

K = 2 is a double buffer. It is right, and it starves readers of large states: the writer must only begin one
publish during the copy to spoil it. With K slots it must get through K - 2 more.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from functools import partial
from typing import Any, Callable, NamedTuple, NoReturn, Optional, Protocol, Tuple

from shmstate.errors import (
    CorruptSegment,
    InvalidOption,
    NotPublished,
    Overwritten,
    ReadTimeout,
    ReentrantPublish,
    StateTooLarge,
)
from shmstate.layout import HEARTBEAT, INTENT, LATEST, Layout, whole_pages

DEFAULT_TRIES = 1000


class Memory(Protocol):
    """What the protocol asks of a segment; ``memory.Segment`` has it, and a test may hand over its own."""

    words: Any
    data: Any
    weak: bool

    def fence(self) -> None:
        """Order all earlier loads and stores before all later ones, where the machine would not."""

    def commit(self, start: int, nbytes: int) -> None:
        """Put memory behind ``nbytes`` from ``start``, or raise."""


Encode = Callable[[Any], Any]
Refuse = Callable[[Any, Exception], Exception]
Publish = Callable[[Any], int]


class Publishing(NamedTuple):
    """A writer's side of one segment.

    ``through(encode, refuse)`` makes a ``publish(value)`` that returns the version. ``encode(value)`` must return bytes
    or a contiguous view of single bytes; what it raises becomes ``refuse(value, error)``.
    ``beat()`` says that the last state is still current.
    """

    through: Callable[[Encode, Refuse], Publish]
    beat: Callable[[], None]
    latest: Callable[[], int]
    retire: Callable[[Callable[[], Exception]], None]


class Reading(NamedTuple):
    """A reader's side of one segment.

    ``snapshot(take)`` returns ``(taken, version, published_ns)``; ``take(start, stop)`` is R3 and must copy.
    ``of_version(version)`` does so for an older one. ``is_whole(version)`` is R4; ``gone(version)`` is what to raise if not.
    """

    read_bytes: Callable[[], bytes]
    snapshot: Callable[..., Tuple[Any, int, int]]
    of_version: Callable[[int], Tuple[Any, int, int]]
    is_whole: Callable[[int], bool]
    gone: Callable[[int], Overwritten]
    latest: Callable[[], int]
    heartbeat: Callable[[], int]
    retries: Callable[[], int]
    retire: Callable[[Callable[[], Exception]], None]


class _Retired:
    """Takes the place of a closed segment's words: whoever still holds a closure gets the error that says so."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        self._error = error

    def __getitem__(self, index: int) -> NoReturn:
        raise self._error()

    def __setitem__(self, index: int, value: int) -> NoReturn:
        raise self._error()


def range_only(start: int, stop: int) -> Tuple[int, int]:
    """A ``take`` for ``snapshot`` that copies nothing: where the latest state lies, its version and time."""
    return start, stop


# Both sides are closures over prepared names: an attribute looked up costs as much as a load of a shared word, and
# a read has four of those. benchmarks/quick.py holds the ratios that this buys.


def open_publishing(memory: Memory, layout: Layout, name: str) -> Publishing:
    """The writer's steps, bound to ``memory``.

    Threads take turns. A signal handler (or finalizer) that publishes in the middle of its own thread's publish gets
    ReentrantPublish: letting it go on would store two payloads in one slot.
    """
    words, data, weak, fence = memory.words, memory.data, memory.weak, memory.fence
    slots, stride, where, checked = layout.slots, layout.stride, layout.where, layout.checksum
    latest_at, intent_at, now, crc32 = LATEST, INTENT, time.monotonic_ns, zlib.crc32
    # Not a with-statement, which takes longer than all stores together. An exception from a signal may come between
    # any two steps, so "is the turn ours?" is asked where it is caught, and not concluded from how far we came.
    turn = threading.RLock()
    take_turn, end_turn, is_our_turn = turn.acquire, turn.release, turn._is_owned  # type: ignore[attr-defined]  # noqa: SLF001
    committed = [0] * slots  # a new owner knows of nothing; to commit twice is harmless
    publishing = False

    def through(encode: Encode, refuse: Refuse) -> Publish:
        def publish(value: Any) -> int:
            nonlocal publishing
            try:
                payload = encode(value)
            except Exception as error:
                raise refuse(value, error) from error
            refusal = None
            try:
                take_turn()
                if publishing:
                    refusal = ReentrantPublish(f"state {name!r}: a signal handler published in the middle of a publish")
                    raise refusal
                publishing = True
                version: int = words[latest_at] + 1
                slot = version % slots
                start, length_at, published_at, checksum_at = where[slot]
                length = len(payload)
                if length > committed[slot]:
                    commit(slot, start, length)
                words[intent_at] = version  # W1
                if weak:
                    fence()
                data[start : start + length] = payload  # W2
                words[length_at] = length
                words[published_at] = now()
                if checked:
                    words[checksum_at] = crc32(payload)
                if weak:
                    fence()
                words[latest_at] = version  # W3
                publishing = False
                end_turn()
                return version
            except BaseException:
                if is_our_turn():
                    if refusal is None:
                        publishing = False
                    end_turn()
                raise

        return publish

    def commit(slot: int, start: int, length: int) -> None:
        if length > stride:
            raise StateTooLarge(
                f"state {name!r}: {length} bytes are more than its max_size of {stride}; nothing was published."
                f" Make the writer with a larger max_size (unused bytes cost nothing)"
            )
        memory.commit(start, length)  # I7
        committed[slot] = whole_pages(length)

    def beat() -> None:
        words[HEARTBEAT] = now()

    def latest() -> int:
        version: int = words[LATEST]
        return version

    def retire(error: Callable[[], Exception]) -> None:
        nonlocal words, take_turn
        words = _Retired(error)
        # In a forked child the turn may be a thread's that did not come along; nobody would ever end it.
        take_turn = partial(words.__getitem__, latest_at)

    return Publishing(through, beat, latest, retire)


def open_reading(memory: Memory, layout: Layout, name: str, tries: int = DEFAULT_TRIES) -> Reading:
    """The reader's steps, bound to ``memory``. Safe to call from many threads."""
    words, data, weak, fence = memory.words, memory.data, memory.weak, memory.fence
    slots, stride, where, checked = layout.slots, layout.stride, layout.where, layout.checksum
    crc32, give_way = zlib.crc32, os.sched_yield
    latest_at, intent_at, lengths = LATEST, INTENT, tuple((slot.start, slot.length) for slot in where)
    spoilt = 0  # tries that did not end in a snapshot, ever; a statistic, so threads may lose one

    def read_bytes() -> bytes:
        # snapshot() unrolled for what nearly always happens where no fence and no checksum is needed. Anything else
        # is left to it, LATEST = 0 too: slot 0 then has a LENGTH that fails the check.
        version: int = words[latest_at]  # R1
        start, length_at = lengths[version % slots]
        length: int = words[length_at]  # R2
        if length <= stride:
            payload: bytes = data[start : start + length]  # R3
            if words[intent_at] - version < slots:  # R4
                return payload
        return again()

    def again() -> bytes:
        nonlocal spoilt
        spoilt += 1
        return read_bytes_in_full()

    def snapshot(take: Optional[Callable[[int, int], Any]] = None) -> Tuple[Any, int, int]:
        nonlocal spoilt
        first = None
        for _ in range(tries):
            version: int = words[LATEST]  # R1
            if not version:
                raise NotPublished(f"state {name!r}: nothing has been published yet; try again later")
            first = first or version
            found = attempt(version, take)
            if found is not None:
                return found[0], version, found[1]
            spoilt += 1
            give_way()
        raise gave_up(first)

    def attempt(version: int, take: Optional[Callable[[int, int], Any]]) -> Optional[Tuple[Any, int]]:
        if weak:
            fence()
        start, length_at, published_at, checksum_at = where[version % slots]
        length: int = words[length_at]  # R2
        published: int = words[published_at]
        checksum: int = words[checksum_at]
        if length <= stride:
            taken = data[start : start + length] if take is None else take(start, start + length)  # R3
            unchecked = not checked or take is range_only  # which has no bytes to check
            if is_whole(version) and (unchecked or crc32(taken) == checksum):
                return taken, published
        return None

    def is_whole(version: int) -> bool:
        if weak:
            fence()
        whole: bool = words[INTENT] - version < slots  # R4
        return whole

    def of_version(version: int) -> Tuple[Any, int, int]:
        latest_version = words[LATEST]  # R1
        if version < 1:
            raise InvalidOption(f"state {name!r}: version {version}: the first is 1")
        if version > latest_version:
            raise NotPublished(
                f"state {name!r}: version {version} is not published yet; the latest is {latest_version}"
            )
        found = attempt(version, None)
        if found is not None:
            return found[0], version, found[1]
        if is_whole(version):  # so it was nothing of the writer's making that spoilt it
            raise corrupt(version)
        raise gone(version)

    def gone(version: int) -> Overwritten:
        return Overwritten(
            f"state {name!r}: version {version} is gone, its slot is version {version + slots}'s: the writer is at"
            f" {words[INTENT]}, and {slots} slots keep {slots - 1} versions. Read it sooner, or make the writer with"
            f" more slots"
        )

    def gave_up(first: Optional[int]) -> Exception:
        version = words[LATEST]
        if version == first:  # the writer rests, so nothing of its making spoils a copy
            return corrupt(version)
        return ReadTimeout(
            f"state {name!r}: no whole copy in {tries} tries, from version {first} to {version}: the writer"
            f" overwrites {slots} slots faster than one is copied. Make it with more slots, or publish less often"
        )

    def corrupt(version: int) -> CorruptSegment:
        length, intent = words[where[version % slots].length], words[INTENT]
        return CorruptSegment(
            f"state {name!r}: version {version} is not whole though nobody writes: LENGTH {length} of"
            f" {stride} at most, INTENT {intent}{', checksum differs' if checked else ''}; somebody else"
            f" has overwritten it. Restart its writer"
        )

    def read_bytes_in_full() -> bytes:
        payload: bytes = snapshot()[0]
        return payload

    def latest() -> int:
        if weak:
            fence()  # after whatever was read before: instant.py asks whether that is still the latest
        version: int = words[LATEST]
        return version

    def heartbeat() -> int:
        beaten: int = words[HEARTBEAT]
        return beaten

    def retries() -> int:
        return spoilt

    def retire(error: Callable[[], Exception]) -> None:
        nonlocal words
        words = _Retired(error)

    quickest = read_bytes_in_full if weak or checked else read_bytes
    return Reading(quickest, snapshot, of_version, is_whole, gone, latest, heartbeat, retries, retire)
