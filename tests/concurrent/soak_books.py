"""What a soak writes down, and what must hold of it: states that certify themselves, a table that all processes share, logs.

The table is a file that each process maps, so what a process stored there outlives a kill. A row belongs to one thread.
It says which line of a state (CREATED) the thread uses, the newest version that it knows of there, and, while a writer is
open, a number that no other opening has. Logs are files that a process only appends to, one record for each publish that
has returned and for each state that a reader met.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from shmstate.layout import AT_CREATED, PREFIX, SHM_DIR, WORD

HEAD = struct.Struct("<3Q")
SHORTEST = HEAD.size + 8
_ODD = 0x9E3779B97F4A7C15

#: Columns of the table. Those after the first five count.
CREATED, VERSION, OPENING, NAME, DOOMED = range(5)
COUNTED = (
    *("publishes", "reads", "reader threads attached", "publishes cut short"),
    *("moves: growth", "moves: other options", "moves: trim", "moves: followed"),
    *("joins", "closes", "exits without close", "reclaims", "names reclaimed", "looks at all states"),
    *("publish: WaitTimeout", "publish: StateTooLarge", "publish: WriterClosed", "trim: NotPublished"),
    *(
        "join: NameInUse",
        "join: CodecMismatch",
        "join: WaitTimeout",
        "attach: StateNotFound",
        "read: NotPublished",
        "read: Overwritten",
    ),
    *("read: ReadTimeout", "read: ReaderClosed", "wait: WaitTimeout", "wait: WriterGone"),
)
_COLUMN = {name: 5 + index for index, name in enumerate(COUNTED)}
_WIDTH = 5 + len(COUNTED)
ROWS = 32
#: The first row is for all: whether to stop, and whether a writer of each name began afresh.
STOP, FRESH = 0, 1


class Fault(Exception):
    """Something that must never be."""


def payload_of(writer: int, counter: int, length: int) -> bytes:
    """The only bytes that a writer's publish of that number may have, ``length`` of them."""
    pattern = struct.pack("<Q", ((writer << 40) + counter + 1) * _ODD % 2**64)
    return (HEAD.pack(writer, counter, length) + pattern * (length // 8))[:length]


def certified(payload: bytes) -> Tuple[int, int, int]:
    """Writer, number and length of a payload. Raises Fault if a byte of it is not that publish's."""
    if len(payload) < SHORTEST:
        raise Fault(f"torn: {len(payload)} bytes {payload!r}")
    writer, counter, length = HEAD.unpack_from(payload)
    if length != len(payload) or payload != payload_of(writer, counter, length):
        raise Fault(f"torn: {len(payload)} bytes that begin as publish {counter} of writer {writer}, of {length} bytes")
    return writer, counter, length


def created_of(name: str) -> Optional[int]:
    """The CREATED of the segment that a name leads to; None if to none."""
    with suppress(FileNotFoundError), open(os.path.join(SHM_DIR, PREFIX + name), "rb") as file:
        return int.from_bytes(file.read((AT_CREATED + 1) * WORD)[-WORD:], "little")
    return None


class Table:
    """A row for each thread, and a first one for all."""

    def __init__(self, path: str) -> None:
        with open(path, "ab+") as file:
            file.truncate(ROWS * _WIDTH * 8)
            self.words: Any = memoryview(mmap.mmap(file.fileno(), ROWS * _WIDTH * 8)).cast("Q")
        self._starts = range(_WIDTH, ROWS * _WIDTH, _WIDTH)

    def set(self, row: int, column: int, value: int) -> None:
        self.words[row * _WIDTH + column] = value

    def get(self, row: int, column: int) -> int:
        found: int = self.words[row * _WIDTH + column]
        return found

    def count(self, row: int, what: str, number: int = 1) -> None:
        self.words[row * _WIDTH + _COLUMN[what]] += number

    def totals(self) -> Dict[str, int]:
        return {name: sum(self.words[column::_WIDTH]) for name, column in _COLUMN.items()}

    def know(self, row: int, created: int, version: int) -> None:
        """Say that this version of that line has been published. No version is ever seen beside another line's CREATED."""
        at = row * _WIDTH
        if self.words[at + CREATED] != created:
            self.words[at + VERSION] = 0
            self.words[at + CREATED] = created
        self.words[at + VERSION] = max(version, self.words[at + VERSION])

    def floor(self, created: int) -> int:
        """The newest version of a line that any thread knows of. Whatever begins after this call must not be older."""
        words, highest = self.words, 0
        for at in self._starts:
            if words[at] == created:
                version = words[at + VERSION]
                if version > highest and words[at] == created:
                    highest = version
        return highest

    def open_now(self) -> Dict[int, Tuple[int, int]]:
        """Name and CREATED of each opening that has not begun to end, by its number."""
        found = {}
        for at in self._starts:
            opening, name, created = self.words[at + OPENING], self.words[at + NAME], self.words[at + CREATED]
            if opening and not self.words[at + DOOMED] and self.words[at + OPENING] == opening:
                found[opening] = (name, created)
        return found

    def open_since(self, before: Dict[int, Tuple[int, int]], name: int) -> List[int]:
        """The CREATED of those openings of a name that were there before, and are there still."""
        now = self.open_now()
        return [created for opening, (of, created) in before.items() if of == name and opening in now]


class Record(NamedTuple):
    """A payload, and between which versions its own lies; no payload: a writer was opened."""

    created: int
    lowest: int
    highest: int
    writer: int
    counter: int
    length: int


_RECORD = struct.Struct("<6Q")


class Log:
    """Appends records to a file of its own. What was appended is there after a kill."""

    def __init__(self, folder: str, kind: str, number: int) -> None:
        self._fd = os.open(os.path.join(folder, f"{kind}.{number}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def add(self, *fields: int) -> None:
        os.write(self._fd, _RECORD.pack(*fields))


def _records(folder: str, kind: str) -> Iterator[Record]:
    for file in sorted(os.listdir(folder)):
        if file.startswith(kind):
            with open(os.path.join(folder, file), "rb") as log:
                data = log.read()
            yield from map(Record._make, _RECORD.iter_unpack(data[: len(data) // _RECORD.size * _RECORD.size]))


class _Judge:
    """Which payload has which version."""

    def __init__(self) -> None:
        self.payloads: Dict[Tuple[int, int], Tuple[int, ...]] = {}
        self.versions: Dict[Tuple[int, ...], Tuple[int, int]] = {}
        self.without_version: Set[Tuple[int, int]] = set()

    def publish(self, record: Record) -> None:
        place = record[:2]
        if place in self.payloads:
            raise Fault(f"version {place} was returned by two publishes: {record} and {self.payloads[place]}")
        self.note(record)

    def note(self, record: Record) -> None:
        place, payload = (record.created, record.lowest), record[3:]
        if self.payloads.setdefault(place, payload) != payload:
            raise Fault(f"version {place} was given to two payloads: {self.payloads[place]} and {payload}")
        if self.versions.setdefault(payload[:2], place) != place:
            raise Fault(f"one payload {payload} has two versions: {self.versions[payload[:2]]} and {place}")

    def place(self, record: Record) -> None:
        place = self.versions.get((record.writer, record.counter))
        if place is None:
            self.without_version.add((record.writer, record.counter))
        elif place[0] != record.created or not record.lowest <= place[1] <= record.highest:
            raise Fault(f"{record} was read, and is version {place}")

    def missing(self) -> int:
        newest: Dict[int, int] = {}
        for created, version in self.payloads:
            newest[created] = max(version, newest.get(created, 0))
        return sum(newest.values()) - len(self.payloads)


def judge(folder: str, cut_short: int) -> Set[int]:
    """Compare all logs of a round. Returns each CREATED. Raises Fault if a version is two payloads', or is missing.

    ``cut_short`` publishes at most may have been published, or not, without a record.
    """
    found = _Judge()
    published, seen = list(_records(folder, "published")), list(_records(folder, "seen"))
    for record in published:
        if record.lowest:
            found.publish(record)
    logged = len(found.payloads)
    for record in seen:
        if record.lowest == record.highest:
            found.note(record)
    for record in seen:
        if record.lowest != record.highest:
            found.place(record)
    unlogged, missing, without = len(found.payloads) - logged, found.missing(), len(found.without_version)
    if unlogged + max(missing, without) > cut_short:
        raise Fault(
            f"{unlogged} versions were seen and not logged, {missing} neither seen nor logged, {without} payloads have no"
            f" version; {cut_short} publishes were cut short"
        )
    return {record.created for record in published + seen}
