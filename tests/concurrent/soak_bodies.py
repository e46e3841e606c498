"""What the processes of a soak do: writers that share states, move them, close and join again; readers that never rest.

Each checks what it can know at once: that a payload is whole, that nothing is older than what was published before the
operation began, that a name leads to the state as long as a writer has it open, and that an error is one that this
situation allows. Anything else raises Fault, or comes out as it is.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from random import Random
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

import shmstate
from shmstate import StateReader, StateWriter
from tests.concurrent.soak_books import (
    FRESH,
    NAME,
    OPENING,
    SHORTEST,
    STOP,
    Fault,
    Log,
    Table,
    certified,
    created_of,
    payload_of,
)


class Cut(Exception):
    """Raised by a signal handler in the middle of an operation."""


class Place:
    """What all processes of a round share."""

    def __init__(self, folder: str, names: List[str], table: Table, has_anchor: bool) -> None:
        self.folder, self.names, self.table, self.has_anchor = folder, names, table, has_anchor

    def must_be_there(self, index: int, before: Dict[int, Tuple[int, int]], what: str, created: int = 0) -> None:
        """Raise Fault if a writer has had a name open all the time since ``before``, on the line ``created`` if given."""
        lines = self.table.open_since(before, index)
        if created in lines or (lines and not created):
            raise Fault(f"{self.names[index]}: {what}, though writers have it open, with CREATED {lines}")


class Writer:
    """A process that publishes as one of many writers, by two threads at times."""

    def __init__(self, place: Place, row: int, number: int, seed: int, anchored: Optional[int]) -> None:
        self.place, self.table, self.row, self.number, self.anchored = place, place.table, row, number, anchored
        self.random = Random(seed)
        self.index = 0
        self.created = 0
        self.is_armed = self.is_leaving = False
        self.log = Log(place.folder, "published", 2 * number)
        self.counter = self.helped = 0

    def run(self) -> None:
        signal.signal(signal.SIGUSR1, self.cut)
        signal.signal(signal.SIGTERM, self.leave)
        try:
            self.write_until_over()
        finally:  # an exiting Python has the default in the place of a handler
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def write_until_over(self) -> None:
        while not self.is_over():
            writer = self.join()
            if writer is None:
                continue
            helper = None
            if self.random.random() < 0.2:
                helper = threading.Thread(target=self.help, args=(writer,))
                helper.start()
            for _ in range(10**9 if self.anchored is not None else self.random.choice((3, 30, 300))):
                if self.is_over():
                    break
                self.act(writer)
            if self.random.random() < 0.2 and helper is None:
                self.close_opening()
                self.table.count(self.row, "exits without close")
                sys.exit()
            self.close(writer)
            if helper is not None:
                helper.join()

    def is_over(self) -> bool:
        return bool(self.table.get(0, STOP)) or self.is_leaving

    def cut(self, *_: object) -> None:
        if self.is_armed:
            self.is_armed = False
            raise Cut

    def leave(self, *_: object) -> None:
        self.is_leaving = True
        self.close_opening()
        if self.is_armed:
            self.is_armed = False
            self.table.count(self.row, "publishes cut short")
            raise SystemExit

    def close_opening(self) -> None:
        self.table.set(self.row, OPENING, 0)

    def join(self) -> Optional[StateWriter]:
        draw, table = self.random, self.table
        self.index = draw.randrange(len(self.place.names)) if self.anchored is None else self.anchored
        self.options: Dict[str, Any] = {
            "slots": draw.choice((2, 3, 4, 8)),
            "max_size": draw.choice((4096, 4096, 20_000, 200_000)),
            "grow": draw.random() < 0.9,
            "notify": draw.random() < 0.5,
            "checksum": draw.choice((None, None, True)),
            "lock_timeout": draw.choice((None, None, 0.02, 1.0)),
            "shared": True,
            "codec": "raw",
        }
        kind = draw.random() if self.anchored is None else 1.0
        if kind < 0.03:
            self.options["fresh"] = True
            table.set(0, FRESH + self.index, 1)
        elif kind < 0.06:
            self.options.update(shared=False, lock_timeout=None)
        elif kind < 0.08 and self.place.has_anchor and self.index in self.names_open():
            self.options["codec"] = "json"
        name = self.place.names[self.index]
        before = table.open_now()
        try:
            writer = StateWriter(name, **self.options)
        except (shmstate.NameInUse, shmstate.CodecMismatch, shmstate.WaitTimeout) as error:
            table.count(self.row, f"join: {type(error).__name__}")
            if not self.may_refuse(error):
                raise
            return None
        self.created = writer._segment.identity().created_ns
        if self.options["codec"] == "json" or not self.options["shared"]:
            self.place.must_be_there(self.index, before, f"a writer was let in with {self.options}")
        if self.options["codec"] == "json":  # at the end of a round, when no other was left
            writer.close()
            return None
        table.know(self.row, self.created, 0)
        table.set(self.row, NAME, self.index)
        table.set(self.row, OPENING, time.monotonic_ns() << 5 | self.row)
        table.count(self.row, "joins")
        self.log.add(self.created, 0, 0, 0, 0, 0)
        return writer

    def names_open(self) -> Set[int]:
        return {name for name, _ in self.table.open_now().values()}

    def may_refuse(self, error: Exception) -> bool:
        if isinstance(error, shmstate.CodecMismatch):
            return self.options["codec"] == "json" or self.index not in self.names_open()
        if isinstance(error, shmstate.WaitTimeout):
            return self.options["lock_timeout"] is not None and "fresh" in self.options
        # A process that is stopped while it looks whether the state is given up is taken for an owner by those who join.
        return True

    def close(self, writer: StateWriter) -> None:
        self.close_opening()
        self.armed(writer.close)
        writer.close()
        self.table.count(self.row, "closes")

    def armed(self, act: Callable[[], Any]) -> Any:
        """What ``act`` returns; None if a signal cut it short."""
        try:
            self.is_armed = True
            try:
                return act()
            finally:
                self.is_armed = False
        except Cut:
            return None

    def act(self, writer: StateWriter) -> None:
        draw = self.random
        kind = draw.random()
        if self.anchored is not None and kind < 0.5:
            time.sleep(draw.choice((0.001, 0.01, 0.2)))
            return
        segment, stride = writer._segment, writer.max_size
        what = "other options"
        if kind < 0.06:
            what = "trim"
            self.trim(writer)
        elif kind < 0.10:
            self.beat(writer)
        else:
            length = SHORTEST + draw.choice((0, 100, 3000))
            if draw.random() < 0.04:
                length = draw.choice((5000, 30_000, 150_000, 300_000))
            if length > stride:
                what = "growth"
            self.publish(writer, length, draw.random() < 0.2)
        if writer._segment is not segment:
            self.table.count(self.row, f"moves: {what if what != 'other options' else self.moved(writer)}")
        if draw.random() < 0.1 and created_of(self.place.names[self.index]) != self.created:
            raise Fault(f"{self.place.names[self.index]}: it leads elsewhere than to what this writer publishes")

    def moved(self, writer: StateWriter) -> str:
        is_planned = writer.slots == self.options["slots"] and not self.has_moved
        self.has_moved = is_planned or self.has_moved
        return "other options" if is_planned else "followed"

    has_moved = False

    def trim(self, writer: StateWriter) -> None:
        before = 0
        try:
            before = writer.version
            self.armed(writer.trim)
        except shmstate.NotPublished:
            self.table.count(self.row, "trim: NotPublished")
            if before and not self.table.get(0, FRESH + self.index):
                raise
        except shmstate.WaitTimeout:
            self.timed_out()

    def beat(self, writer: StateWriter) -> None:
        floor = self.table.floor(self.created)
        try:
            self.armed(writer.beat)
            version = writer.version
        except shmstate.WaitTimeout:
            self.timed_out()
            return
        if version < floor:
            raise Fault(f"writer.version is {version}; {floor} had been published")

    def timed_out(self) -> None:
        self.table.count(self.row, "publish: WaitTimeout")
        if self.options["lock_timeout"] is None:
            raise Fault("WaitTimeout without a lock_timeout")

    def publish(self, writer: StateWriter, length: int, in_place: bool) -> None:
        self.counter += 1
        payload = payload_of(2 * self.number, self.counter, length)
        floor = self.table.floor(self.created)
        version = None
        try:
            version = self.armed(lambda: publish(writer, payload, in_place))
        except shmstate.WaitTimeout:
            self.timed_out()
            return
        except shmstate.StateTooLarge:
            self.table.count(self.row, "publish: StateTooLarge")
            if self.options["grow"]:
                raise
            return
        if version is None:
            self.table.count(self.row, "publishes cut short")
            return
        self.published(self.row, self.log, floor, version, payload)

    def published(self, row: int, log: Log, floor: int, version: int, payload: bytes) -> None:
        log.add(self.created, version, version, *certified(payload))
        self.table.know(row, self.created, version)
        self.table.count(row, "publishes")
        if version <= floor:
            raise Fault(f"publish returned {version}; {floor} had been published before it began")

    def help(self, writer: StateWriter) -> None:
        """Publish in a thread of its own until the writer is closed."""
        log = Log(self.place.folder, "published", 2 * self.number + 1)
        draw, row = Random(self.counter), self.row + 1
        number = 2 * self.number + 1
        with or_die():
            while not self.is_over():
                self.helped += 1
                payload = payload_of(number, self.helped, SHORTEST + draw.choice((0, 100, 30_000)))
                floor = self.table.floor(self.created)
                try:
                    version = publish(writer, payload, draw.random() < 0.2)
                except shmstate.WriterClosed:
                    self.table.count(row, "publish: WriterClosed")
                    return
                except shmstate.WaitTimeout:
                    self.timed_out()
                except shmstate.StateTooLarge:
                    if self.options["grow"]:
                        raise
                else:
                    self.published(row, log, floor, version, payload)


def publish(writer: StateWriter, payload: bytes, in_place: bool) -> int:
    if not in_place:
        return writer.publish(payload)
    loan = writer.loan(len(payload))
    with loan as room:
        room[:] = payload
    return loan.version


@contextmanager
def or_die() -> Iterator[None]:
    """A block of a thread whose error ends the process."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(3)


class Readers:
    """A process whose threads share a reader of each state in turn."""

    def __init__(self, place: Place, row: int, number: int, seed: int, threads: int) -> None:
        self.place, self.table, self.row, self.number, self.seed = place, place.table, row, number, seed
        self.threads = threads
        self.index = 0
        self.reader: Optional[Tuple[StateReader, int, int]] = None
        self.attached = threading.Condition()

    def run(self) -> None:
        others = [threading.Thread(target=self.read_all_the_time, args=(thread,)) for thread in range(1, self.threads)]
        for other in others:
            other.start()
        self.read_all_the_time(0)
        for other in others:
            other.join()

    def read_all_the_time(self, thread: int) -> None:
        with or_die():
            log = Log(self.place.folder, "seen", 8 * self.number + thread)
            draw = Random(self.seed + thread)
            row = self.row + thread
            last: Any = None
            while not self.table.get(0, STOP):
                if thread == 0 and (self.reader is None or draw.random() < 0.005):
                    self.attach(draw, row)
                shared = self.reader
                if shared is None:
                    self.wait_for_another_than(None, 0.001)
                    continue
                reader, index, created = shared
                if last is None or last.reader is not reader:
                    last = Look(self.place, log, row, reader, index, created, draw)
                try:
                    last.look()
                except shmstate.ReaderClosed:
                    self.table.count(row, "read: ReaderClosed")
                    if self.reader is shared and thread:
                        self.wait_for_another_than(shared, 0.1)
                    if not thread:
                        raise

    def wait_for_another_than(self, shared: Optional[Tuple[StateReader, int, int]], seconds: float) -> None:
        with self.attached:
            self.attached.wait_for(lambda: self.reader is not shared, seconds)

    def attach(self, draw: Random, row: int) -> None:
        left = self.reader
        index = draw.randrange(len(self.place.names))
        before = self.table.open_now()
        try:
            reader = StateReader(self.place.names[index], tries=100_000)
        except shmstate.StateNotFound:
            self.table.count(row, "attach: StateNotFound")
            self.place.must_be_there(index, before, "a reader did not find it")
            return
        created = reader._segment.identity().created_ns
        lines = self.table.open_since(before, index)
        if any(line != created for line in lines):
            raise Fault(f"{reader.name}: a reader came to CREATED {created}, writers are at {lines}")
        self.table.count(row, "reader threads attached", self.threads)
        with self.attached:
            self.reader = reader, index, created
            self.attached.notify_all()
        if left is not None:
            left[0].close()


class Look:
    """A thread's reads of one reader."""

    def __init__(
        self, place: Place, log: Log, row: int, reader: StateReader, index: int, created: int, draw: Random
    ) -> None:
        self.place, self.table, self.log, self.row = place, place.table, log, row
        self.reader, self.index, self.created, self.draw = reader, index, created, draw
        self.last = 0
        self.logged: Tuple[int, ...] = ()
        self.ways = [self.plain, self.by_get, self.by_read, self.by_read, self.by_view, self.by_version, self.since]
        self.ways += [self.by_wait, self.plain]

    def look(self) -> None:
        if self.draw.random() < 0.02:
            self.ask()
        self.is_history = False
        floor = self.table.floor(self.created)
        before = self.table.open_now()
        try:
            found = self.draw.choice(self.ways)(floor)
        except shmstate.NotPublished:
            self.table.count(self.row, "read: NotPublished")
            if floor and not self.table.get(0, FRESH + self.index):
                self.must_be_over(f"NotPublished; version {floor} had been published")
        except (shmstate.Overwritten, shmstate.ReadTimeout) as error:
            self.table.count(self.row, f"read: {type(error).__name__}")
        except shmstate.WaitTimeout:
            self.table.count(self.row, "wait: WaitTimeout")
            if floor > self.last:
                self.must_be_over(f"nothing newer than {self.last} came; {floor} had been published")
        except shmstate.WriterGone:
            self.table.count(self.row, "wait: WriterGone")
            self.place.must_be_there(self.index, before, "WriterGone", self.created)
        else:
            self.check(found, floor)

    def check(self, found: List[Tuple[int, int, bytes]], floor: int) -> None:
        for lowest, highest, payload in found:
            self.table.count(self.row, "reads")
            record = (self.created, lowest, highest, *certified(payload))
            if record != self.logged:
                self.log.add(*record)
                self.logged = record
            if lowest < self.last:
                raise Fault(f"{self.reader.name}: version {lowest} was read after {self.last}")
            self.last = lowest
            self.table.know(self.row, self.created, lowest)
        if found and self.last < floor and not self.is_history:
            self.must_be_over(f"version {self.last} was read; {floor} had been published before that began")

    def must_be_over(self, what: str) -> None:
        if created_of(self.reader.name) == self.created:
            raise Fault(f"{self.reader.name}: {what}")

    def ask(self) -> None:
        """What is asked of the kernel."""
        before = self.table.open_now()
        if not self.reader.writer_alive:
            self.place.must_be_there(self.index, before, "writer_alive is False", self.created)

    def bracketed(self, read: Callable[[], bytes]) -> List[Tuple[int, int, bytes]]:
        lowest = self.reader.version
        payload = read()
        return [(lowest, self.reader.version, payload)]

    def plain(self, _floor: int) -> List[Tuple[int, int, bytes]]:
        return self.bracketed(self.reader.read_bytes)

    def by_get(self, _floor: int) -> List[Tuple[int, int, bytes]]:
        return self.bracketed(self.reader.get)

    def by_read(self, _floor: int) -> List[Tuple[int, int, bytes]]:
        return [as_told(self.reader.read())]

    def by_view(self, _floor: int) -> List[Tuple[int, int, bytes]]:
        with self.reader.view() as view:
            version, payload = view.version, bytes(view.data)
        return [(version, version, payload)]

    def by_version(self, _floor: int) -> List[Tuple[int, int, bytes]]:
        return [as_told(self.reader.read_version(max(1, self.reader.version)))]

    def since(self, _floor: int) -> List[Tuple[int, int, bytes]]:
        self.is_history = True  # the newest of these may be overwritten before it is read
        history = self.reader.read_since(self.last)
        if any(snapshot.version <= self.last for snapshot in history.snapshots):
            raise Fault(f"{self.reader.name}: read_since({self.last}) gave {history.snapshots[0].version}")
        return [as_told(snapshot) for snapshot in history.snapshots]

    def by_wait(self, _floor: int) -> List[Tuple[int, int, bytes]]:
        found = self.reader.wait(after=self.last, timeout=self.draw.choice((0.0, 0.001, 0.02, 0.4)))
        if found.version <= self.last:
            raise Fault(f"{self.reader.name}: wait(after={self.last}) gave {found.version}")
        return [as_told(found)]


def as_told(snapshot: Any) -> Tuple[int, int, bytes]:
    return snapshot.version, snapshot.version, snapshot.value
