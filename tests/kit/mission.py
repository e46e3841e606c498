"""Shared memory as one writes it the first time: two buffers and a flag, a sequence number, a name with ``_v2``.

The structures stand here as they are taught, with what the text leaves open filled in the obvious way. All of them are
wrong, and test_mission.py shows how; mended.py has some that are right. What is not under test is right in all of them:
who attaches closes, and ``remove`` removes what is there.
"""

from __future__ import annotations

import os
from contextlib import suppress
from multiprocessing import shared_memory
from typing import Any, Optional, Tuple

from pytest_shmstate.kit.seams.adapter import Adapter

#: [0:4] size, [4:8] sequence number, [8:] data.
HEAD = 8


def write_to_shared_memory(shm: shared_memory.SharedMemory, data: bytes, sequence: int) -> None:
    size = len(data)
    shm.buf[0:4] = size.to_bytes(4, "little")
    shm.buf[4:8] = sequence.to_bytes(4, "little")
    shm.buf[8 : 8 + size] = data


def read_data(shm: shared_memory.SharedMemory) -> bytes:
    size = int.from_bytes(shm.buf[0:4], "little")
    return bytes(shm.buf[8 : 8 + size])


def read_sequence(shm: shared_memory.SharedMemory) -> int:
    return int.from_bytes(shm.buf[4:8], "little")


class Single:
    """One buffer, which the writer writes over."""

    blocks: Tuple[str, ...] = ("a",)

    def __init__(self, name: str, size: int) -> None:
        self.all = [shared_memory.SharedMemory(name=f"{name}_{block}", create=True, size=size) for block in self.blocks]
        self.sequence = 0

    @classmethod
    def attached(cls, name: str) -> Single:
        made = cls.__new__(cls)
        made.all = [shared_memory.SharedMemory(name=f"{name}_{block}") for block in cls.blocks]
        return made

    def active_buffer(self) -> shared_memory.SharedMemory:
        return self.all[0]

    def write(self, data: bytes) -> None:
        self.sequence += 1
        write_to_shared_memory(self.all[0], data, self.sequence)

    def read(self) -> bytes:
        return read_data(self.active_buffer())

    def close(self) -> None:
        for shm in self.all:
            shm.close()


class DoubleBuffer(Single):
    """Two buffers, and a byte that says which of them is active."""

    blocks = ("a", "b", "active")

    def __init__(self, name: str, size: int) -> None:
        self.all = []
        for block, room in zip(self.blocks, (size, size, 1)):
            self.all.append(shared_memory.SharedMemory(name=f"{name}_{block}", create=True, size=room))
        self.active.buf[0] = 0  # Start with buffer A
        self.sequence = 0

    @property
    def active(self) -> shared_memory.SharedMemory:
        return self.all[2]

    def write(self, data: bytes) -> None:
        """Write to inactive buffer, then swap."""
        current = self.active.buf[0]
        inactive_buffer = self.all[1] if current == 0 else self.all[0]
        self.sequence += 1
        write_to_shared_memory(inactive_buffer, data, self.sequence)
        # Atomic swap (single byte write is atomic)
        self.active.buf[0] = 1 - current

    def active_buffer(self) -> shared_memory.SharedMemory:
        current = self.active.buf[0]
        return self.all[0] if current == 0 else self.all[1]


class Inconsistent(ValueError):
    """Could not get consistent read."""


def read_with_retry(buffer: Single, max_retries: int = 3) -> bytes:
    for _ in range(max_retries):
        seq1 = read_sequence(buffer.active_buffer())
        data = read_data(buffer.active_buffer())
        seq2 = read_sequence(buffer.active_buffer())
        if seq1 == seq2:
            return data  # Consistent read
    raise Inconsistent("Could not get consistent read")


def resize_buffer(old_buffer: shared_memory.SharedMemory, new_size: int) -> shared_memory.SharedMemory:
    """Create new buffer, copy data, delete old."""
    new_buffer = shared_memory.SharedMemory(name=f"{old_buffer.name}_v2", create=True, size=new_size)
    # Copy data from old to new
    data_size = int.from_bytes(old_buffer.buf[0:4], "little")
    new_buffer.buf[0 : data_size + 8] = old_buffer.buf[0 : data_size + 8]
    # Clean up old buffer
    old_buffer.close()
    old_buffer.unlink()
    return new_buffer


# Adapters.


class OfTheMission(Adapter):
    """What all have in common. Nobody said what becomes of them when a writer dies: it is not asked of them."""

    survives_death = False
    kind: Any = DoubleBuffer

    def create(self, name: str, size: int) -> Any:
        return self.kind(name, HEAD + size)

    def attach(self, name: str) -> Any:
        return self.kind.attached(name)

    def publish(self, writer: Any, payload: bytes) -> Optional[int]:
        writer.write(payload)
        return None

    def read(self, reader: Any) -> Optional[bytes]:
        return reader.read() or None

    def close(self, handle: Any) -> None:
        handle.close()

    def remove(self, name: str) -> None:
        for block in self.kind.blocks:
            self.remove_block(f"{name}_{block}")

    @staticmethod
    def remove_block(name: str) -> None:
        with suppress(
            FileNotFoundError
        ):  # by its file: whoever was killed while it made one may have left an empty one
            os.unlink(f"/dev/shm/{name}")


class Double(OfTheMission):
    title = "DoubleBuffer"


class DoubleWithRetry(OfTheMission):
    title = "DoubleBuffer, read_with_retry"
    refusals = (Inconsistent,)

    def read(self, reader: Any) -> Optional[bytes]:
        return read_with_retry(reader) or None


class SingleWithRetry(DoubleWithRetry):
    title = "one buffer, read_with_retry"
    kind = Single


class Resized(SingleWithRetry):
    """``resize_buffer``; readers have the old name."""

    title = "one buffer, resize_buffer"

    def resize(self, writer: Any, size: int) -> None:
        old = writer.all[0]
        writer.all[0] = resize_buffer(old, max(HEAD + size, old.size))

    def remove(self, name: str) -> None:
        for versions in range(8):
            self.remove_block(f"{name}_a{'_v2' * versions}")
