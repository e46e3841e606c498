"""The writer's steps, W1 to W3 and S1 to S3 of protocol.py, as closures."""

from __future__ import annotations

import logging
import threading
import zlib
from functools import partial
from typing import Any, Callable, List, Optional, Tuple

from shmstate.errors import CorruptSegment, NotPublished, ReentrantPublish
from shmstate.layout import (
    HEARTBEAT,
    INTENT,
    LATEST,
    NEVER_WRITTEN,
    RETIRED,
    WAKE,
    WITHHELD,
    Content,
    Layout,
    whole_pages,
    with_room_for,
)
from shmstate.memory import lend as borrow
from shmstate.protocol import Encode, Memory, Publish, Publishing, Refuse, Retired, Title
from shmstate.refusals import corrupt_error, larger, reentrant_error

#: What a slot has committed before it is known: less than any length, so that all that begins by asking comes by.
_UNKNOWN = -1
#: Nobody counts that far; but a word that somebody else has overwritten must still take one more.
_MOST_WAKES = 2**62
#: Nanoseconds between two looks whether the name still leads to what is published. A look takes about a microsecond.
LOOK_INTERVAL_NS = 100_000_000

_log = logging.getLogger("shmstate")

# Words, data, the slots' number and places, whether a checksum is stored, bytes committed a slot, and what wakes readers
# (None: nobody is to). One tuple, so that a move is one store: an exception from a signal may come between any two.
_Bound = Tuple[Any, Any, int, Any, bool, List[int], Optional[Callable[[], object]]]


def _as_it_is(payload: Any) -> Any:
    return payload


def _bind(memory: Memory) -> _Bound:
    words, layout = memory.words, memory.layout
    ring = memory.bell(words, WAKE) if words[WAKE] else None
    return words, memory.data, layout.slots, layout.where, layout.checksum, [_UNKNOWN] * layout.slots, ring


# Closures over prepared names: an attribute looked up costs as much as a load of a shared word. benchmarks/parts/numbers.py
# holds the ratios that this buys.


def open_publishing(
    title: Title, name: str, *, wanted: Optional[Layout] = None, grows: bool = True, notify: bool = False
) -> Publishing:
    """The writer's steps, bound to what ``title`` owns.

    The first publish moves the state to a segment of the layout ``wanted``, if that is another. What does not fit moves
    it to a larger one, or raises StateTooLarge unless it ``grows``. With ``notify`` each publish wakes those who wait.

    Threads take turns; where the title is shared, so do processes. A signal handler (or finalizer) that publishes in the
    middle of its own thread's publish gets ReentrantPublish: letting it go on would store two payloads in one slot.
    """
    weak, fence, now = title.segment.weak, title.segment.fence, title.segment.clock
    latest_at, intent_at, wake_at, crc32 = LATEST, INTENT, WAKE, zlib.crc32
    # Not a with-statement, which takes longer than all stores together. An exception from a signal may come between
    # any two steps, so "is the turn ours?" is asked where it is caught, and not concluded from how far we came.
    turn = threading.RLock()
    take_turn, end_turn, is_our_turn = turn.acquire, turn.release, turn._is_owned  # type: ignore[attr-defined]  # noqa: SLF001
    if not title.shared:  # otherwise in a turn, and whoever wants it decides for all
        words = title.segment.words
        # One more than it was: somebody may be about to sleep on what a writer before this one left.
        words[WAKE] = words[WAKE] % _MOST_WAKES + 1 if notify else 0
    bound = _bind(title.segment)
    publishing = False
    # Where the title is shared: a thread's turn at this handle, in which it has, or waits for, the turn among all.
    gate = threading.RLock()
    is_our_gate = gate._is_owned  # type: ignore[attr-defined]  # noqa: SLF001
    has_turn = False
    moving = False  # a move has begun, and nobody has looked yet how it ended
    look_at = now() + LOOK_INTERVAL_NS  # when it is due to look whether the name is still there

    def alone(encode: Encode, refuse: Refuse) -> Publish:
        def publish(value: Any) -> int:  # noqa: PLR0912
            nonlocal publishing
            try:
                payload = encode(value)
            except Exception as error:
                raise refuse(value, error) from error
            refusal = None
            try:
                take_turn()
                if publishing:
                    refusal = reentrant()
                    raise refusal
                publishing = True
                length = len(payload)
                while True:
                    words, data, slots, where, checked, committed, ring = bound
                    version: int = words[latest_at] + 1
                    slot = version % slots
                    if length <= committed[slot]:
                        break
                    if make_room(version, slot, length, payload):
                        publishing = False
                        end_turn()
                        return version
                start, length_at, published_at, checksum_at = where[slot]
                if weak:
                    fence()
                words[intent_at] = version  # W1
                if weak:
                    fence()
                data[start : start + length] = payload  # W2
                words[length_at] = length
                words[published_at] = moment = now()
                if checked:
                    words[checksum_at] = crc32(payload)
                if weak:
                    fence()
                words[latest_at] = version  # W3
                if ring is not None:
                    words[wake_at] = words[wake_at] % _MOST_WAKES + 1  # W4
                    ring()
                if moment > look_at:
                    look_for_name()
                publishing = False
                end_turn()
                return version
            except BaseException as error:
                if is_our_turn():
                    if refusal is None:
                        publishing = False
                    end_turn()
                raise (corrupt() if is_corruption(error) else error)  # noqa: B904

        return publish

    def in_turn(encode: Encode, refuse: Refuse) -> Publish:
        publish_payload = alone(_as_it_is, refuse)

        def publish(value: Any) -> int:
            try:
                payload = encode(value)
            except Exception as error:
                raise refuse(value, error) from error
            is_nested = has_turn and is_our_gate()
            try:
                take_turn_among_all()
                return publish_payload(payload)
            finally:
                if is_our_gate() and not is_nested:
                    end_turn_among_all()

        return publish

    def take_turn_among_all() -> None:
        nonlocal has_turn, bound
        bound[0][INTENT]  # raises if it is closed: in a forked child nobody may be there to open the gate
        gate.acquire()
        if has_turn:
            gate.release()
            raise reentrant()
        try:
            has_turn = True
            while True:
                title.take_turn()
                settle()
                if bound[0][INTENT] != RETIRED or not title.follow():
                    break
            words = bound[0]
            words[wake_at] = words[wake_at] or int(notify)
            if words[wake_at] and bound[-1] is None:
                bound = _bind(title.segment)
        except BaseException:
            end_turn_among_all()
            raise

    def end_turn_among_all() -> None:
        nonlocal has_turn
        try:
            title.end_turn()
        except BaseException:  # out of a signal handler; other processes wait
            title.end_turn()
            raise
        finally:
            has_turn = False
            gate.release()

    def reentrant() -> ReentrantPublish:
        return reentrant_error(name)

    def is_corruption(error: BaseException) -> bool:
        return type(error) is ValueError and bool(bound[0][LATEST] >= RETIRED)

    def corrupt() -> CorruptSegment:
        return corrupt_error(name, bound[0][LATEST])

    def make_room(version: int, slot: int, length: int, payload: Any) -> bool:
        """Have memory for ``length`` bytes of ``version``. True: it has been published, by moving. False: look again."""
        nonlocal moving
        if moving:
            settle()
            return False
        if version >= RETIRED:
            raise corrupt()
        layout = title.segment.layout
        fitting = layout if wanted is None else wanted
        if length > fitting.stride:
            fitting = larger(fitting, length, grows, name)
        if fitting == layout and title.is_named():
            title.commit(layout.where[slot].start, max(length, 1))  # I7
            bound[5][slot] = whole_pages(length)
            return False
        move_to(fitting, version, payload, now())
        return True

    def move_to(layout: Layout, version: int, payload: Any, published: int) -> None:
        nonlocal moving
        words, _, _, _, _, committed, ring = bound
        moving = True
        checksum = crc32(payload) if layout.checksum and payload is not None else 0
        title.prepare(layout, Content(version, payload, published, checksum, words[HEARTBEAT], words[wake_at]))  # S1
        # Whatever ends this from now on, the next publish comes by make_room() and looks how far it came.
        committed[:] = [_UNKNOWN] * len(committed)
        words[intent_at] = RETIRED  # S2
        title.take_name()  # S3
        if ring is not None:
            words[wake_at] = words[wake_at] % _MOST_WAKES + 1  # W4
            ring()
        settle()

    def settle() -> None:
        nonlocal bound, moving, wanted
        title.settle()
        if title.segment.words is not bound[0]:  # also when what it says was lost to an exception the last time
            layout = title.segment.layout
            bound = _bind(title.segment)
            if wanted is not None and with_room_for(wanted, layout.stride) == layout:
                wanted = None
        moving = False

    # What is not called thousands of times a second.

    def look_for_name() -> None:
        """Give the state its name again if another program has removed it. In the turn, after a publish or before one.

        Raises StateNotFound or NameInUse if the name leads to another program's file; the next publish looks again.
        """
        nonlocal look_at
        if moving:
            settle()
        if not title.is_named():
            move_to(title.segment.layout, *last_state())
            _log.warning("state %r: its name was removed by another program; this writer has given it back", name)
        look_at = now() + LOOK_INTERVAL_NS

    def move(choose: Callable[[int], Layout]) -> None:
        """To the layout that ``choose(nbytes)`` gives for the last state. NotPublished if there is none."""
        begin()
        try:
            if moving:
                settle()
            version, payload, published = last_state()
            if payload is None:
                raise NotPublished(f"state {name!r}: nothing has been published yet, so there is nothing to move")
            move_to(choose(len(payload)), version, payload, published)
        finally:
            end()

    def hide() -> None:
        begin()
        try:
            if moving:
                settle()
            version, payload, published = last_state()
            if payload is not None:
                move_to(title.segment.layout if wanted is None else wanted, version, None, published)
        finally:
            end()

    def last_state() -> Tuple[int, Optional[bytes], int]:
        words, data, slots, where, *_ = bound
        version: int = words[LATEST]
        start, length_at, published_at, _ = where[version % slots]
        stop = start + words[length_at]
        is_readable = version and stop - start not in (NEVER_WRITTEN, WITHHELD)
        return version, data[start:stop] if is_readable else None, words[published_at] if is_readable else 0

    def begin() -> None:
        nonlocal publishing
        if title.shared:
            take_turn_among_all()
        take_turn()
        if publishing:
            end_turn()
            raise reentrant()
        publishing = True

    def end() -> None:
        nonlocal publishing
        publishing = False
        end_turn()
        if title.shared:
            end_turn_among_all()

    def lend(nbytes: int) -> Optional[memoryview]:
        begin()
        try:
            if moving:
                settle()
            words, _, slots, where, _, committed, _ = bound
            version: int = words[LATEST] + 1
            slot = version % slots
            fitting = title.segment.layout if wanted is None else wanted
            if nbytes > fitting.stride:
                fitting = larger(fitting, nbytes, grows, name)
            if fitting != title.segment.layout or (nbytes > committed[slot] and not title.is_named()):
                end()
                return None
            if nbytes > committed[slot]:
                title.commit(where[slot].start, max(nbytes, 1))  # I7
                committed[slot] = whole_pages(nbytes)
            if version >= RETIRED:
                raise corrupt()
            if weak:
                fence()
            words[INTENT] = version  # W1
            if weak:
                fence()
            start = where[slot].start
            return borrow(title.segment.view, start, start + nbytes)
        except BaseException:
            if is_our_turn():
                end()
            raise

    def take_back(length: Optional[int]) -> int:
        try:
            words, data, slots, where, checked, _, ring = bound
            version: int = words[LATEST]
            if length is not None:
                version += 1
                start, length_at, published_at, checksum_at = where[version % slots]
                words[length_at] = length  # W2, the rest of it
                words[published_at] = moment = now()
                if checked:
                    words[checksum_at] = crc32(data[start : start + length])
                if weak:
                    fence()
                words[LATEST] = version  # W3
                if ring is not None:
                    words[WAKE] = words[WAKE] % _MOST_WAKES + 1  # W4
                    ring()
                if moment > look_at:
                    look_for_name()
            return version
        finally:
            end()

    def beat() -> None:
        look_after_the_others()
        moment = now()
        while True:
            words = bound[0]
            words[HEARTBEAT] = moment
            if words is bound[0]:  # otherwise it has moved, perhaps before this was stored
                break
        if moment > look_at:
            try:
                begin()
            except ReentrantPublish:  # in the middle of a publish of this thread, which looks itself
                return
            try:
                look_for_name()
            finally:
                end()

    def latest() -> int:
        look_after_the_others()
        version: int = bound[0][LATEST]
        return version

    def look_after_the_others() -> None:
        if title.shared and bound[0][INTENT] == RETIRED:
            take_turn_among_all()
            end_turn_among_all()

    def retire(error: Callable[[], Exception]) -> None:
        nonlocal bound, take_turn
        words = Retired(error)
        bound = (words, *bound[1:])
        # In a forked child the turn may be a thread's that did not come along; nobody would ever end it.
        take_turn = partial(words.__getitem__, latest_at)

    return Publishing(in_turn if title.shared else alone, lend, take_back, move, hide, beat, latest, retire)
