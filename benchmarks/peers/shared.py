"""Peers made of shared memory and nothing else: ours, the double buffer of the mission, and a file that is replaced."""

from __future__ import annotations

import os
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from typing import Any

from benchmarks.peers.peer import Peer


class Shmstate(Peer):
    title = "shmstate"
    module = "shmstate"
    how = 'publish_bytes and read_bytes, codec="raw", four slots'
    leaves_out = "Gives the latest state alone: no queue, no history beyond its slots, and no other machine."
    cleared_by = "the next writer of that name goes on with it; or `shmstate reclaim`"
    refusals = ("ReadTimeout",)
    slots = 4

    @classmethod
    def version(cls) -> str:
        return str(cls.library().__version__)

    def create(self) -> None:
        self.handle = self.library().StateWriter(self.name, codec="raw", slots=self.slots)

    def publish(self, payload: bytes) -> None:
        self.handle.publish_bytes(payload)

    def attach(self) -> None:
        self.handle = self.library().StateReader(self.name, codec="raw")

    def read(self) -> Any:
        return self.handle.read_bytes()


class ThreeSegments:
    """As one writes it the first time: a size, a sequence number and data in each of two segments, a flag in a third."""

    def __init__(self, name: str, size: int, *, create: bool) -> None:
        parts = ((f"{name}_a", 8 + size), (f"{name}_b", 8 + size), (f"{name}_active", 1))
        self.segments = [SharedMemory(name=part, create=create, size=length) for part, length in parts]
        self.owned = create
        self.sequence = 0

    def write(self, payload: bytes) -> None:
        """Into the buffer that is not active; then it is."""
        flag = self.segments[2].buf
        current = flag[0]
        into = self.segments[1 - current].buf
        self.sequence += 1
        into[0:4] = len(payload).to_bytes(4, "little")
        into[4:8] = (self.sequence & 0xFFFFFFFF).to_bytes(4, "little")
        into[8 : 8 + len(payload)] = payload
        flag[0] = 1 - current

    def read(self) -> bytes:
        """What the active one has."""
        active = self.segments[self.segments[2].buf[0]].buf
        return bytes(active[8 : 8 + int.from_bytes(active[0:4], "little")])

    def close(self) -> None:
        """Who created them unlinks them."""
        for segment in self.segments:
            segment.close()
            if self.owned:
                segment.unlink()


class TwoSlots(Shmstate):
    """The least that the protocol can do with: half of the memory that the processor's caches have to hold."""

    title = "shmstate, two slots"
    how = "the same, with two slots"
    leaves_out = "Readers of large states have to try again more often while a writer never rests."
    variant = True
    slots = 2


class OnlyNewer(Shmstate):
    """A reader that keeps what it has read, and asks only for what is newer: as one that watches many states does."""

    title = "shmstate, what is newer"
    how = "get_if_newer; what the reader has already is not copied again"
    leaves_out = "The reader keeps the last value, and gets the same object again while there is no newer one."
    variant = True
    snapshot: Any = None

    def attach(self) -> None:
        super().attach()
        self.snapshot = self.handle.read()

    def read(self) -> Any:
        newer = self.handle.get_if_newer(self.snapshot.version)
        if newer is not None:
            self.snapshot = newer
        return self.snapshot.value


class DoubleBuffer(Peer):
    title = "naive double buffer"
    how = "three SharedMemory segments; slices are assigned, as a textbook has it"
    leaves_out = "Nothing: it is here to show what the simplest thing costs, and what it does not give."
    cleared_by = "multiprocessing's tracker, with a warning, when the program ends that started the writer; or by hand in /dev/shm"

    def create(self) -> None:
        self.handle = ThreeSegments(self.name, self.size, create=True)

    def publish(self, payload: bytes) -> None:
        self.handle.write(payload)

    def attach(self) -> None:
        self.handle = ThreeSegments(self.name, self.size, create=False)

    def read(self) -> Any:
        return self.handle.read()


class Rename(Peer):
    title = "file replaced by rename"
    how = "a file of /dev/shm is written beside, and renamed over the last one; readers open, read, close"
    leaves_out = "Any language and any tool reads it, and on a disk it outlives a reboot."
    cleared_by = "by hand: it is a file"

    def __init__(self, name: str, size: int, folder: str) -> None:
        super().__init__(name, size, folder)
        self.path = f"/dev/shm/{name}"
        self.owned = False

    def create(self) -> None:
        self.owned = True

    def publish(self, payload: bytes) -> None:
        beside = f"{self.path}.new"
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(file, payload)  # whole, or an error: a tmpfs does not write a part
        finally:
            os.close(file)
        os.rename(beside, self.path)

    def attach(self) -> None:
        os.close(os.open(self.path, os.O_RDONLY))

    def read(self) -> Any:
        file = os.open(self.path, os.O_RDONLY)
        try:
            return os.read(file, self.size + 1)
        finally:
            os.close(file)

    def close(self) -> None:
        if self.owned:
            with suppress(FileNotFoundError):
                os.unlink(self.path)
