"""What it takes: four slots and two words in place of two buffers and a flag; and ways to move that to a larger block.

Ring           right
Renamed        moves as ``resize_buffer`` does; readers have the old name, and stay there: wrong
LookedUp       readers look up which block it is now, before each read: wrong
LookedUpAgain  ... and again, if that block was gone when they came: right
"""

from __future__ import annotations

from multiprocessing import shared_memory
from typing import Any, Optional

from tests.kit.mission import OfTheMission


class Words:
    """Slots for states, and in front of them words that are only ever loaded and stored whole.

    word 0  INTENT   the version that is being written     word 2 + n  how long the state in slot n is
    word 1  LATEST   the newest version that is whole
    """

    SLOTS = 4
    INTENT, LATEST, LENGTHS = 0, 1, 2
    ROOM = 8 * (LENGTHS + SLOTS)
    blocks = ("ring",)

    def __init__(self, name: str, size: Optional[int] = None) -> None:
        total = 0 if size is None else self.ROOM + self.SLOTS * size
        self.shm = shared_memory.SharedMemory(name, create=size is not None, size=total)
        self.words = self.shm.buf[: self.ROOM].cast("Q")

    @property
    def size(self) -> int:
        return (self.shm.size - self.ROOM) // self.SLOTS

    def slot(self, version: int) -> int:
        return self.ROOM + version % self.SLOTS * self.size

    def write(self, data: bytes, version: int = 0) -> int:
        version = version or self.words[self.LATEST] + 1
        self.words[self.INTENT] = version  # before the slot is touched
        self.words[self.LENGTHS + version % self.SLOTS] = len(data)
        start = self.slot(version)
        self.shm.buf[start : start + len(data)] = data
        self.words[self.LATEST] = version  # when all of it is there
        return version

    def read(self) -> bytes:
        while True:
            version = self.words[self.LATEST]
            start, length = self.slot(version), self.words[self.LENGTHS + version % self.SLOTS]
            data = bytes(self.shm.buf[start : start + length])
            if self.words[self.INTENT] - version < self.SLOTS:  # nobody has come round to this slot
                return data

    def close(self) -> None:
        self.words.release()
        self.shm.close()

    def __del__(self) -> None:  # whose operation was interrupted, and who could not close
        if hasattr(self, "words"):
            self.close()


class Ring(OfTheMission):
    title = "ring of four slots"
    survives_death = True
    kind = Words

    def create(self, name: str, size: int) -> Any:
        try:
            return Words(f"{name}_ring", size)
        except FileExistsError:
            return Words(f"{name}_ring")

    def attach(self, name: str) -> Any:
        return Words(f"{name}_ring")

    def publish(self, writer: Any, payload: bytes) -> Optional[int]:
        version: int = writer.write(payload)
        return version


class Careless(Ring):
    """Its twin, one line apart: nobody looks whether the writer has come round meanwhile."""

    title = "ring of four slots, no second look"

    def read(self, reader: Any) -> Optional[bytes]:
        version = reader.words[Words.LATEST]
        start, length = reader.slot(version), reader.words[Words.LENGTHS + version % Words.SLOTS]
        return bytes(reader.shm.buf[start : start + length]) or None


def move(old: Words, name: str, size: int) -> Words:
    """The state, in another block, which is no smaller. The old one is still there."""
    new = Words(name, max(size, old.size))
    data = old.read()
    if data:
        new.write(data, old.words[Words.LATEST])
    return new


class Renamed(Ring):
    title = "ring, moved as resize_buffer does"
    survives_death = False

    def resize(self, writer: Any, size: int) -> None:
        new = move(writer, f"{writer.shm.name}_v2", size)
        writer.close()
        writer.shm.unlink()
        writer.shm, writer.words = vars(new).pop("shm"), vars(new).pop("words")

    def remove(self, name: str) -> None:
        for versions in range(8):
            self.remove_block(f"{name}_ring{'_v2' * versions}")


class Moving:
    """A writer's side: the block that it is in, and a word that says which that is."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.number = name, 0
        self.lookup = shared_memory.SharedMemory(f"{name}_lookup", create=True, size=8)
        self.word = self.lookup.buf.cast("Q")
        self.words = Words(f"{name}_0", size)

    def write(self, data: bytes) -> int:
        return self.words.write(data)

    def resize(self, size: int) -> None:
        old, self.number = self.words, self.number + 1
        self.words = move(old, f"{self.name}_{self.number}", size)
        self.word[0] = self.number
        old.close()
        old.shm.unlink()

    def close(self) -> None:
        self.words.close()
        self.word.release()
        self.lookup.close()


class Looking:
    """A reader's side."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lookup = shared_memory.SharedMemory(f"{name}_lookup")
        self.word = self.lookup.buf.cast("Q")

    def read(self) -> bytes:
        words = Words(f"{self.name}_{self.word[0]}")
        try:
            return words.read()
        finally:
            words.close()

    def close(self) -> None:
        self.word.release()
        self.lookup.close()


class LookedUp(Ring):
    title = "ring that moves, and a lookup"
    survives_death = False

    def create(self, name: str, size: int) -> Any:
        return Moving(name, size)

    def attach(self, name: str) -> Any:
        return Looking(name)

    def resize(self, writer: Any, size: int) -> None:
        writer.resize(size)

    def remove(self, name: str) -> None:
        for block in ("lookup", *range(50)):
            self.remove_block(f"{name}_{block}")


class LookedUpAgain(LookedUp):
    title = "ring that moves, and a lookup that is tried again"

    def read(self, reader: Any) -> Optional[bytes]:
        while True:
            try:
                return super().read(reader)
            except FileNotFoundError:
                continue
