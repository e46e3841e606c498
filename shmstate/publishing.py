"""The writer's steps, W1 to W3 and S1 to S3 of protocol.py, as closures."""

from __future__ import annotations

import logging
import threading
import zlib
from functools import partial
from typing import Any, Callable, Optional

from shmstate.bound_segment import MOST_WAKES, UNKNOWN, Bound, bind, last_state
from shmstate.errors import CorruptSegment, NotPublished, ReentrantPublish, ShmStateError, StateNotFound
from shmstate.layout import (
    HEARTBEAT,
    INTENT,
    LATEST,
    RETIRED,
    WAKE,
    Content,
    Layout,
    whole_pages,
    with_room_for,
)
from shmstate.lending import open_lending
from shmstate.protocol import Encode, Publish, Publishing, Refuse, Retired, Title
from shmstate.refusals import corrupt_error, larger, reentrant_error

#: Nanoseconds between two looks whether the name still leads to what is published. A look takes about a microsecond.
LOOK_INTERVAL_NS = 100_000_000

#: Seconds that the end of a process waits for threads that are in the middle of a publish or a loan.
FINISH_PATIENCE = 1.0

_log = logging.getLogger("shmstate")


def _as_it_is(payload: Any) -> Any:
    return payload


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
        words[WAKE] = words[WAKE] % MOST_WAKES + 1 if notify else 0
    bound = bind(title.segment)
    publishing = False
    # Where the title is shared: a thread's turn at this handle, in which it has, or waits for, the turn among all.
    gate = threading.RLock()
    is_our_gate = gate._is_owned  # type: ignore[attr-defined]  # noqa: SLF001
    has_turn = False
    closing: Optional[Callable[[], None]] = None  # what gives the state up once the publish that is under way has ended
    borrower: Optional[object] = None  # what the turn is for, if it is not an ordinary publish
    moving = False  # a move has begun, and nobody has looked yet how it ended
    look_at = now() + LOOK_INTERVAL_NS  # when it is due to look whether the name is still there

    def alone(encode: Encode, refuse: Refuse) -> Publish:
        def publish(value: Any) -> int:
            nonlocal publishing
            try:
                payload = encode(value)
            except Exception as error:
                raise refuse(value, error) from error
            if publishing and is_our_turn():
                raise reentrant()
            try:
                take_turn()
                publishing = True
                length = len(payload)
                words, data, slots, where, checked, committed, ring = bound
                version: int = words[latest_at] + 1
                slot = version % slots
                if length > committed[slot]:
                    moved = make_room(version, slot, length, payload)
                    if moved:
                        finish_closing()
                        publishing = False
                        end_turn()
                        return moved
                    words, data, slots, where, checked, committed, ring = bound
                    version = words[latest_at] + 1
                    slot = version % slots
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
                    words[wake_at] = words[wake_at] % MOST_WAKES + 1  # W4
                    ring()
                if moment > look_at:
                    look_for_name()
                publishing = False
                end_turn()
                return version
            except BaseException as error:
                if is_our_turn():
                    publishing = False
                    finish_closing()
                    end_turn()
                raise (told(error))  # noqa: B904

        return publish

    def in_turn(encode: Encode, refuse: Refuse) -> Publish:
        publish_payload = alone(_as_it_is, refuse)

        def publish(value: Any) -> int:
            try:
                payload = encode(value)
            except Exception as error:
                raise refuse(value, error) from error
            if is_nested():
                raise reentrant()
            try:
                take_turn_among_all()
                version = publish_payload(payload)
                end_turn_among_all()
                return version
            except BaseException:
                if is_our_gate():
                    end_turn_among_all()
                raise

        return publish

    def bind_owned() -> Bound:
        try:
            return bind(title.segment)
        except ValueError:
            bound[0][INTENT]  # a signal handler has closed it
            raise

    # Both are left to their callers to undo: an exception from a signal may come before their first instruction too.

    def take_turn_among_all() -> None:
        nonlocal has_turn, bound
        bound[0][INTENT]  # raises if it is closed: in a forked child no thread may be there to open the gate
        gate.acquire()
        has_turn = True
        is_here = False
        while not is_here:
            segment = title.segment
            try:
                title.take_turn()
            except (OSError, ValueError, ShmStateError):
                bound[0][INTENT]  # a signal handler has closed it
                raise
            settle()
            # What settles elsewhere has only had the turn at the segment that was left.
            is_here = title.segment is segment and (bound[0][INTENT] != RETIRED or not title.follow())
        words = bound[0]
        words[wake_at] = words[wake_at] or int(notify)
        if words[wake_at] and bound[-1] is None:
            bound = bind_owned()

    def end_turn_among_all() -> None:
        nonlocal has_turn
        try:
            title.end_turn()
            finish_closing()
        except BaseException:  # out of a second signal handler; other processes wait
            title.end_turn()
            raise
        finally:
            has_turn = False
            gate.release()

    def is_nested() -> bool:
        """Whether this thread is in the middle of a publish already: a signal handler, or a loan's block, runs this."""
        return (publishing and is_our_turn()) or (has_turn and is_our_gate())

    def reentrant() -> ReentrantPublish:
        bound[0][INTENT]  # raises if it is closed: a forked child has a copy of a publish that is under way
        return reentrant_error(name)

    def told(error: BaseException) -> BaseException:
        """Return what to raise for what ended a publish. Raises WriterClosed if a signal handler has closed it meanwhile."""
        is_corrupt = isinstance(error, (ValueError, OSError, StateNotFound)) and bound[0][LATEST] >= RETIRED
        return corrupt() if is_corrupt else error

    def corrupt() -> CorruptSegment:
        return corrupt_error(name, bound[0][LATEST])

    def fitting_for(length: int) -> Layout:
        layout = title.segment.layout if wanted is None else wanted
        return layout if length <= layout.stride else larger(layout, length, grows, name)

    def make_room(version: int, slot: int, length: int, payload: Any) -> int:
        """Have memory for ``length`` bytes of a version. Returns the version if moving has published it; else 0: look again.

        No loop here or in publish(): CPython 3.14 leaves a jump back out of the exception table of the ``try`` around it.
        """
        if moving:
            settle()
            version = bound[0][latest_at] + 1
            slot = version % bound[2]
        if version >= RETIRED:
            raise corrupt()
        fitting = fitting_for(length)
        if fitting == title.segment.layout and title.is_named():
            title.commit(fitting.where[slot].start, max(length, 1))  # I7
            bound[5][slot] = whole_pages(length)
            return 0
        move_to(fitting, version, payload, now())
        return version

    def move_to(layout: Layout, version: int, payload: Any, published: int) -> None:
        nonlocal moving
        words, _, _, _, _, committed, ring = bound
        moving = True
        checksum = crc32(payload) if layout.checksum and payload is not None else 0
        title.prepare(layout, Content(version, payload, published, checksum, words[HEARTBEAT], words[wake_at]))  # S1
        # Whatever ends this from now on, the next publish comes by make_room() and looks how far it came.
        committed[:] = [UNKNOWN] * len(committed)
        words[intent_at] = RETIRED  # S2
        title.take_name()  # S3
        if ring is not None:
            words[wake_at] = words[wake_at] % MOST_WAKES + 1  # W4
            ring()
        settle()

    def settle() -> None:
        nonlocal bound, moving, wanted
        title.settle()
        if title.segment.words is not bound[0]:  # also when what it says was lost to an exception the last time
            layout = title.segment.layout
            bound = bind_owned()
            if wanted is not None and with_room_for(wanted, layout.stride) == layout:
                wanted = None
        moving = False

    def look_for_name() -> None:
        """Give the state its name again if another program has removed it. Raises StateNotFound if it leads elsewhere."""
        nonlocal look_at
        if not title.is_named():
            move_to(title.segment.layout, *last_state(bound))
            _log.warning("state %r: its name was removed by another program; this writer has given it back", name)
        look_at = now() + LOOK_INTERVAL_NS

    def exclusively(action: Callable[[], Any]) -> Any:
        """Do something in the turn, which is over afterwards, whatever an exception from a signal cuts short."""
        if is_nested():
            raise reentrant()
        try:
            begin(action)
            result = action()
            end()
            return result
        except BaseException:
            end()
            raise

    def begin(purpose: object) -> None:
        nonlocal publishing, borrower
        if title.shared:
            take_turn_among_all()
        take_turn()
        publishing, borrower = True, purpose
        if moving:
            settle()

    def end() -> None:
        """End the turn, as far as it is this thread's."""
        nonlocal publishing, borrower
        if is_our_turn():
            finish_closing()
            publishing, borrower = False, None
            end_turn()
        if is_our_gate():
            end_turn_among_all()

    def move(choose: Callable[[int], Layout]) -> None:
        """To the layout that ``choose(nbytes)`` gives for the last state. NotPublished if there is none."""

        def move_it() -> None:
            version, payload, published = last_state(bound)
            if payload is None:
                raise NotPublished(f"state {name!r}: nothing has been published yet, so there is nothing to move")
            move_to(choose(len(payload)), version, payload, published)

        exclusively(move_it)

    def hide(check: Callable[[], None]) -> None:
        def hide_it() -> None:
            check()
            version, payload, published = last_state(bound)
            if payload is not None:
                move_to(title.segment.layout if wanted is None else wanted, version, None, published)

        exclusively(hide_it)

    def drop(borrowed_by: object) -> None:
        """End a loan that nothing else will end. Nothing is done if it is over, or is another's."""
        if borrower is borrowed_by and is_our_turn():
            end()

    def beat() -> None:
        look_after_the_others()
        moment = now()
        while True:
            words = bound[0]
            words[HEARTBEAT] = moment
            if words is bound[0]:  # otherwise it has moved, perhaps before this was stored
                break
        if moment > look_at and not is_nested():  # a publish of this thread that is under way looks itself
            exclusively(look_for_name)

    def latest() -> int:
        look_after_the_others()
        version: int = bound[0][LATEST]
        return version

    def look_after_the_others() -> None:
        if title.shared and bound[0][INTENT] == RETIRED and not is_nested():
            exclusively(lambda: None)

    def close(give_up: Callable[[], None]) -> None:
        nonlocal closing
        if not is_nested():
            try:
                if title.shared:  # not in the turn among all: a stopped process may have that
                    gate.acquire()
                turn.acquire()
                give_up()
            finally:
                let_others()
        elif title.shared or moving or borrower is not None:
            closing = give_up
        else:
            give_up()  # the publish goes on in memory that nothing leads to

    def finish(give_up: Callable[[], None]) -> None:
        try:
            gate.acquire(timeout=FINISH_PATIENCE)
            turn.acquire(timeout=FINISH_PATIENCE)
            give_up()
        finally:
            let_others()

    def let_others() -> None:
        if is_our_turn():
            turn.release()
        if is_our_gate():
            gate.release()

    def finish_closing() -> None:
        nonlocal closing
        if closing is not None:
            give_up, closing = closing, None
            give_up()

    def look_if_due(moment: int) -> None:
        if moment > look_at:
            look_for_name()

    lend, take_back = open_lending(
        title, lambda: bound, begin, end, is_nested, fitting_for, look_if_due, reentrant, corrupt
    )

    def retire(error: Callable[[], Exception]) -> None:
        nonlocal bound, take_turn
        words = Retired(error)
        bound = (words, words, *bound[2:])
        # In a forked child the turn may be a thread's that did not come along; nobody would ever end it.
        take_turn = partial(words.__getitem__, latest_at)

    return Publishing(
        in_turn if title.shared else alone, lend, take_back, drop, move, hide, beat, latest, close, finish, retire
    )
