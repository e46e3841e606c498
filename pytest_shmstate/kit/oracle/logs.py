"""Logs: each process writes down what it does, in a file of its own that survives its ``kill -9`` at any instant.

    head      ROOM   NOTES  BEGUN  MOVES  USED            words of 64 bits, as all there is but the texts
    records   BEGAN  ENDED  VERSION  RANK  WHAT           ROOM of them
    notes     LENGTH  TEXT                                texts of events, of fixed size; few events have one

    begin    ENDED = 0, VERSION, WHAT, then BEGAN         an operation is on record once BEGAN is there
    end      RANK, VERSION, WHAT, then ENDED              and has returned once ENDED is there

The file is a shared map: what a process has stored is in it even if the next instruction is never run. All of it is
committed when the log is opened, so that no store can fault. It is to be read when its process has ended, so nothing
depends on the order in which other processors see stores; only HEAD's counts may be looked at before.
"""

from __future__ import annotations

import mmap
import os
import re
from time import monotonic_ns
from types import TracebackType
from typing import Iterator, List, NamedTuple, Optional, Type

from pytest_shmstate.kit.oracle.history import PUBLISH, READ, Event, Path

SUFFIX = ".log"
_ROOM, _NOTES, _BEGUN, _MOVES, _USED, _HEAD = 0, 1, 2, 3, 4, 8
_BEGAN, _ENDED, _VERSION, _RANK, _WHAT, _RECORD = 0, 1, 2, 3, 4, 5
_NOTE, _NOTES_THERE_ARE = 512, 64
#: In WHAT, beside the number of the note, which begins with 1, above them.
_IS_PUBLISH, _IS_ERROR, _NOTE_SHIFT = 1, 2, 8
_NO_ROOM = "(its text is lost: the log has no room for more)"

#: The clock of all logs.
now = monotonic_ns


class LogFull(Exception):
    """A process did more than its log has room for."""


class Log:
    """This process's own log: ``begin`` before an operation, ``end`` after it. One operation at a time.

    ``room``: for so many operations. A log that ``keeps`` all raises LogFull at one more. Another is for readers: of
    reads of one version in a row it keeps the first and the last, as those between prove nothing that these do not;
    and if it is full it forgets its oldest, as what is true of all reads is true of those that are left.
    """

    def __init__(self, folder: Path, process: str, room: int, *, keeps: bool = True) -> None:
        if not re.fullmatch(r"[\w. -]+", process) or room < 1:
            raise ValueError(f"process={process!r} must do as a file's name, and room={room} be 1 at least")
        size = 8 * (_HEAD + _RECORD * room) + _NOTE * _NOTES_THERE_ARE
        with open(os.path.join(os.fspath(folder), process + SUFFIX), "x+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            self._map = mmap.mmap(file.fileno(), size)
        self._words = memoryview(self._map).cast("q")
        self._words[_ROOM] = room
        self._room, self._keeps = room, keeps
        self._begun = self._used = 0
        #: Where the records of this operation and of the one before are; and where one is that may be forgotten.
        self._at = self._before = self._spare = 0
        self._last_seen, self._in_a_row = -1, 0

    def begin(self, operation: str, version: int = 0) -> None:
        """Write down that an operation begins. Raises LogFull, and nothing has begun."""
        if self._begun >= self._room and self._keeps:
            raise LogFull(f"the log has room for {self._room} operations, and these have been")
        words, at = self._words, self._spare
        if at:
            self._spare = 0
        else:
            at = _HEAD + _RECORD * (self._used % self._room)
            self._used += 1
            words[_USED] = self._used
        words[at + _BEGAN] = 0  # forgotten, before it is another
        words[at + _ENDED] = 0
        words[at + _VERSION] = version
        words[at + _WHAT] = operation == PUBLISH
        self._before, self._at = self._at, at
        self._begun += 1
        words[_BEGUN] = self._begun
        words[at + _BEGAN] = now()

    def end(self, ended: int, version: int = 0, rank: int = 0, problem: str = "", error: str = "") -> None:
        """Write down what came of it. ``ended``: ``now()``, called as soon as it had returned."""
        words, at = self._words, self._at
        if problem or error:
            words[at + _WHAT] |= (_IS_ERROR if error else 0) | self._note(problem or error) << _NOTE_SHIFT
            self._last_seen, self._in_a_row = -1, 0
        elif version == self._last_seen:
            self._in_a_row += 1
        else:
            words[_MOVES] += self._last_seen >= 0
            self._last_seen, self._in_a_row = version, 1
        words[at + _VERSION] = version
        words[at + _RANK] = rank
        words[at + _ENDED] = ended
        if self._in_a_row > 2 and not self._keeps:
            self._spare = self._before

    def _note(self, text: str) -> int:
        number = self._words[_NOTES] + 1
        if number <= _NOTES_THERE_ARE:
            start = _note_start(self._room, number)
            encoded = text.encode("utf-8", "replace")[: _NOTE - 8]
            self._map[start + 8 : start + 8 + len(encoded)] = encoded
            self._words[start // 8] = len(encoded)
            self._words[_NOTES] = number
        return int(number)

    def close(self) -> None:
        """Let go of the file. What is in it stays."""
        self._words.release()
        self._map.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


class Progress:
    """How far another process has come, by its log."""

    def __init__(self, folder: Path, process: str) -> None:
        with open(os.path.join(os.fspath(folder), process + SUFFIX), "rb") as file:
            self._map = mmap.mmap(file.fileno(), 8 * _HEAD, access=mmap.ACCESS_READ)
        self._words = memoryview(self._map).cast("q")

    @property
    def begun(self) -> int:
        """How many operations."""
        return self._words[_BEGUN]

    @property
    def moves(self) -> int:
        """How often it met another version than the time before."""
        return self._words[_MOVES]

    def close(self) -> None:
        """Let go of the file."""
        self._words.release()
        self._map.close()


class Logged(NamedTuple):
    """What the logs of a folder hold."""

    #: By the time that they began.
    history: List[Event]
    #: How many operations were begun, those that were not kept among them.
    begun: int


def read_logs(folder: Path) -> Logged:
    """All of what the processes of a folder did, when they have ended."""
    history: List[Event] = []
    begun = 0
    for name in sorted(os.listdir(folder)):
        if name.endswith(SUFFIX):
            with open(os.path.join(os.fspath(folder), name), "rb") as file:
                content = file.read()
            with memoryview(content).cast("q") as words:
                begun += words[_BEGUN]
                history += _events(name[: -len(SUFFIX)], words, content)
    return Logged(sorted(history, key=_began), begun)


def _events(process: str, words: memoryview, content: bytes) -> Iterator[Event]:
    room = words[_ROOM]
    for index in range(min(room, words[_USED])):
        at = _HEAD + _RECORD * index
        began, ended, version, rank, what = words[at : at + _RECORD].tolist()
        if not began:
            continue
        operation = PUBLISH if what & _IS_PUBLISH else READ
        if not ended:  # what an operation brought back counts only once it has returned
            yield Event(process, operation, began, None, version if operation == PUBLISH else 0)
            continue
        text = _text(content, room, what >> _NOTE_SHIFT)
        problem, error = ("", text) if what & _IS_ERROR else (text, "")
        yield Event(process, operation, began, ended, version, rank, problem, error)


def _text(content: bytes, room: int, number: int) -> str:
    if not number:
        return ""
    if number > _NOTES_THERE_ARE:
        return _NO_ROOM
    start = _note_start(room, number)
    length = int.from_bytes(content[start : start + 8], "little")
    return content[start + 8 : start + 8 + length].decode("utf-8", "replace")


def _note_start(room: int, number: int) -> int:
    return 8 * (_HEAD + _RECORD * room) + _NOTE * (number - 1)


def _began(event: Event) -> int:
    return event.began
