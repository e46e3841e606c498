"""Structures for stress to judge: a ring that is right, and its twins, each wrong in one thing."""

from __future__ import annotations

import mmap
import os
import signal
from contextlib import suppress
from typing import Any, Optional

from pytest_shmstate.kit.oracle.payload import payload_of, version_in
from pytest_shmstate.kit.seams.adapter import Adapter

_SLOTS, _CAPACITY = 8, 32 * 1024
_SLOT = 8 + _CAPACITY


class Map:
    """A file in /dev/shm: the latest version, and slots of a length and a payload."""

    def __init__(self, name: str) -> None:
        with open(f"/dev/shm/{name}", "a+b") as file:
            file.truncate(8 + _SLOTS * _SLOT)
            self.bytes = mmap.mmap(file.fileno(), 8 + _SLOTS * _SLOT)
        self.words = memoryview(self.bytes).cast("q")
        #: What one handle remembers.
        self.reads = 0

    def put(self, version: int, payload: bytes) -> None:
        start = 8 + version % _SLOTS * _SLOT
        self.words[start // 8] = len(payload)
        self.bytes[start + 8 : start + 8 + len(payload)] = payload

    def get(self, version: int) -> bytes:
        start = 8 + version % _SLOTS * _SLOT
        return self.bytes[start + 8 : start + 8 + self.words[start // 8]]

    def close(self) -> None:
        self.words.release()
        self.bytes.close()


class Ring(Adapter):
    """Right: a version is stored in full, then made the latest, and its slot is left alone for six more."""

    title = "a ring"

    def create(self, name: str, size: int) -> Map:
        return Map(name)

    def attach(self, name: str) -> Map:
        return Map(name)

    def publish(self, writer: Map, payload: bytes) -> Optional[int]:
        version = writer.words[0] + 1
        writer.put(version, payload)
        writer.words[0] = version
        return int(version)

    def read(self, reader: Map) -> Optional[bytes]:
        reader.reads += 1
        while True:
            version = reader.words[0]
            if not version:
                return None
            payload = reader.get(version)
            if 0 <= reader.words[0] - version < _SLOTS - 1:
                return payload

    def close(self, handle: Any) -> None:
        handle.close()

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(f"/dev/shm/{name}")


class Torn(Ring):
    """One slot for all versions, stored in two halves."""

    title = "a torn one"

    def publish(self, writer: Map, payload: bytes) -> Optional[int]:
        half = len(payload) // 16 * 8
        writer.words[0] += 1
        writer.words[1] = len(payload)
        for start, stop in ((0, half), (half, len(payload))):
            writer.bytes[16 + start : 16 + stop] = payload[start:stop]
            os.sched_yield()  # with one core too, somebody is to see it
        return int(writer.words[0])

    def read(self, reader: Map) -> Optional[bytes]:
        return reader.bytes[16 : 16 + reader.words[1]] if reader.words[0] else None


class Backwards(Ring):
    """Some reads return the version before the latest."""

    title = "one that goes back"

    def read(self, reader: Map) -> Optional[bytes]:
        payload = super().read(reader)
        before = reader.words[0] - 1
        older = reader.get(before) if before > 1 and reader.reads % 20 == 0 else None
        return payload if older is None or reader.words[0] - before >= _SLOTS - 1 else older


class Forgetful(Ring):
    """A new writer begins anew."""

    title = "a forgetful one"

    def create(self, name: str, size: int) -> Map:
        created = Map(name)
        created.words[0] = 0
        return created


class Hasty(Ring):
    """With each version it shows the next one for a moment."""

    title = "one from the future"

    def publish(self, writer: Map, payload: bytes) -> Optional[int]:
        super().publish(writer, payload)
        rank = super().publish(writer, payload_of(version_in(payload) + 1, len(payload)))
        os.sched_yield()
        return rank


class Inventive(Ring):
    """Some reads return what nobody published."""

    title = "an inventive one"

    def read(self, reader: Map) -> Optional[bytes]:
        payload = super().read(reader)
        return payload if payload is None or reader.reads % 20 else payload_of(10**9, 64)


class Empty(Ring):
    """Nothing is ever there, and it says so by its documentation."""

    title = "an empty one"
    refusals = (LookupError,)

    def read(self, reader: Map) -> Optional[bytes]:
        raise LookupError("nothing here")


class Raising(Ring):
    """Now and then a read raises what nobody was told of."""

    title = "one that raises"

    def read(self, reader: Map) -> Optional[bytes]:
        payload = super().read(reader)
        if reader.reads % 50 == 0:
            raise BufferError("full")
        return payload


class Clumsy(Raising):
    """Readers cannot even attach."""

    title = "a clumsy one"

    def attach(self, name: str) -> Map:
        raise BufferError("no way in")


class Deadly(Ring):
    """A read kills who reads."""

    title = "a deadly one"

    def read(self, reader: Map) -> Optional[bytes]:
        if reader.reads == 20:
            os._exit(7)
        return super().read(reader)


class Stuck(Ring):
    """A read waits for ever, once the writer has been disturbed."""

    title = "a stuck one"

    def read(self, reader: Map) -> Optional[bytes]:
        while reader.reads == 20:
            signal.pause()
        return super().read(reader)


class Untidy(Ring):
    """Nothing is ever removed."""

    title = "an untidy one"

    def remove(self, name: str) -> None:
        """Leave it."""


class Mortal(Ring):
    """What its writer leaves when it is killed is worth nothing."""

    title = "a mortal one"
    survives_death = False
