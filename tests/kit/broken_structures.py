"""Structures over ``SharedMemory`` that are nearly right, and some that are: twins, one thing apart.

Ring      slots, two words; ``early``: LATEST before the payload; ``checks``: the reader looks at INTENT again
Flag      two buffers and a flag that says which; ``early``: the flag goes over before the payload
Seqlock   one buffer and a count, odd while it is written; ``marks``: it is; ``recovery``: what a next writer does
"""

from __future__ import annotations

import fcntl
import os
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Optional

from pytest_shmstate.kit.seams.adapter import Adapter

HEADER, ROOM = 128, 256


class Refused(Exception):
    """Documented: no whole copy in so many tries."""


class Block:
    """A shared block: words at its beginning, then room for payloads."""

    def __init__(self, name: str, create: bool) -> None:
        self.is_new = False
        try:
            self.shm = SharedMemory(name, create=create, size=HEADER + 8 * ROOM if create else 0)
            self.is_new = create
        except FileExistsError:
            self.shm = SharedMemory(name)
        self.words = self.shm.buf[:HEADER].cast("Q")

    def fill(self, place: int, payload: bytes) -> None:
        start = HEADER + place * ROOM
        self.shm.buf[start : start + len(payload)] = payload

    def copy(self, place: int, length: int) -> bytes:
        start = HEADER + place * ROOM
        return bytes(self.shm.buf[start : start + length])

    def lock(self) -> int:
        fd = os.open(f"/dev/shm/{self.shm.name}", os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def close(self) -> None:
        self.words.release()
        self.shm.close()


class OneBlock(Adapter):
    """A structure in one block, which has its name."""

    def remove(self, name: str) -> None:
        try:
            block = SharedMemory(name)
        except FileNotFoundError:
            return
        block.close()
        block.unlink()


class OverSharedMemory(OneBlock):
    refusals = (Refused,)

    def create(self, name: str, size: int) -> Block:
        block = Block(name, create=True)
        if block.is_new:
            self.prepare(block)
        else:
            self.adopt(block)
        return block

    def attach(self, name: str) -> Block:
        return Block(name, create=False)

    def prepare(self, block: Block) -> None:
        pass

    def adopt(self, block: Block) -> None:
        pass

    def close(self, handle: Block) -> None:
        handle.close()


class Ring(OverSharedMemory):
    title = "ring"

    def __init__(self, *, slots: int = 2, early: bool = False, checks: bool = True) -> None:
        self.slots, self.early, self.checks = slots, early, checks

    def publish(self, writer: Block, payload: bytes) -> Optional[int]:
        version = writer.words[0] + 1
        writer.words[1] = version
        if self.early:
            writer.words[0] = version
        writer.fill(version % self.slots, payload)
        writer.words[2 + version % self.slots] = len(payload)
        writer.words[0] = version
        return version

    def read(self, reader: Block) -> Optional[bytes]:
        for _ in range(100):
            version = reader.words[0]
            if not version:
                return None
            payload = reader.copy(version % self.slots, reader.words[2 + version % self.slots])
            if not self.checks or reader.words[1] - version < self.slots:
                return payload
        raise Refused("no whole copy")


class Barred(Ring):
    """Its readers wait while a publish is under way, which they need not; an heir lets them in."""

    title = "barred"
    bar = 7

    def adopt(self, block: Block) -> None:
        block.words[self.bar] = 0

    def publish(self, writer: Block, payload: bytes) -> Optional[int]:
        writer.words[self.bar] = 1
        try:
            return super().publish(writer, payload)
        finally:
            writer.words[self.bar] = 0

    def read(self, reader: Block) -> Optional[bytes]:
        while reader.words[self.bar]:
            pass
        return super().read(reader)


class Flag(OverSharedMemory):
    title = "flag"

    def __init__(self, *, early: bool = True, buffers: int = 2) -> None:
        self.early, self.buffers = early, buffers

    def publish(self, writer: Block, payload: bytes) -> Optional[int]:
        back = (writer.words[0] + 1) % self.buffers
        if self.early:
            writer.words[0] = back
        writer.fill(back, payload)
        writer.words[2 + back] = len(payload)
        writer.words[0] = back
        return None

    def read(self, reader: Block) -> Optional[bytes]:
        front = reader.words[0]
        length = reader.words[2 + front]
        return reader.copy(front, length) if length else None


class Locked(OverSharedMemory):
    title = "locked"

    def __init__(self, *, leaks: bool = False) -> None:
        self.leaks = leaks

    def publish(self, writer: Block, payload: bytes) -> Optional[int]:
        fd = writer.lock()
        try:
            writer.words[1] = len(payload)
            writer.fill(0, payload)
        except BaseException:
            if not self.leaks:
                os.close(fd)
            raise
        os.close(fd)
        return None

    def read(self, reader: Block) -> Optional[bytes]:
        fd = reader.lock()
        try:
            length = reader.words[1]
            return reader.copy(0, length) if length else None
        finally:
            os.close(fd)


class Refuses(Ring):
    """Nobody may go on from what another left."""

    def adopt(self, block: Block) -> None:
        raise RuntimeError("somebody has it")


class Seqlock(OverSharedMemory):
    title = "seqlock"

    def __init__(self, *, marks: bool = True, recovery: str = "none", tries: int = 10**6) -> None:
        self.marks, self.recovery, self.tries = marks, recovery, tries

    def adopt(self, block: Block) -> None:
        if self.recovery == "bump":  # as if the dead had always been in the middle
            block.words[0] = block.words[0] + 1

    def publish(self, writer: Block, payload: bytes) -> Optional[int]:
        count: Any = writer.words[0]
        if self.marks:
            writer.words[0] = count + 1
        writer.words[1] = len(payload)
        writer.fill(0, payload)
        writer.words[0] = count + 2
        return None

    def read(self, reader: Block) -> Optional[bytes]:
        for _ in range(self.tries):
            before = reader.words[0]
            if not before:
                return None
            if before % 2:
                continue
            payload = reader.copy(0, reader.words[1])
            if reader.words[0] == before:
                return payload
        raise Refused("no whole copy")
