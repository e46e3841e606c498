"""Structures that are odd in one way each, for test_checkup.py; Ring of mended.py is their twin, which is not."""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import time
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any, Optional

from pytest_shmstate.kit.seams.adapter import Adapter
from tests.kit.mended import Ring
from tests.kit.mission import OfTheMission, Single


class HandsOn(OfTheMission):
    """One buffer, whose head is packed by C."""

    title = "hands shm.buf to C"
    kind = Single

    def publish(self, writer: Any, payload: bytes) -> Optional[int]:
        struct.pack_into("<II", writer.all[0].buf, 0, len(payload), 0)
        writer.all[0].buf[8 : 8 + len(payload)] = payload
        return None


class HidesIt(HandsOn):
    """... and tells of another error instead."""

    def publish(self, writer: Any, payload: bytes) -> Optional[int]:
        try:
            return super().publish(writer, payload)
        except TypeError as error:
            raise RuntimeError("cannot publish") from error


class CannotBeCreated(Ring):
    def create(self, name: str, size: int) -> Any:
        raise PermissionError(13, "not here", name)


class CannotBePublished(Ring):
    def publish(self, writer: Any, payload: bytes) -> Optional[int]:
        if writer.words[0]:
            raise ZeroDivisionError("a mistake")
        return super().publish(writer, payload)


class Refuses(CannotBePublished):
    """Its twin: that is documented."""

    refusals = (ZeroDivisionError,)


class MapsByItself(Ring):
    """No SharedMemory anywhere."""

    title = "maps by itself"
    survives_death = False

    def create(self, name: str, size: int) -> Any:
        with open(f"/dev/shm/{name}_ring", "w+b") as file:
            file.truncate(8 + size)
            return mmap.mmap(file.fileno(), 8 + size)

    def attach(self, name: str) -> Any:
        with open(f"/dev/shm/{name}_ring", "r+b") as file:
            return mmap.mmap(file.fileno(), 0)

    def publish(self, writer: Any, payload: bytes) -> Optional[int]:
        writer[8 : 8 + len(payload)] = payload
        return None

    def read(self, reader: Any) -> Optional[bytes]:
        return bytes(reader[8:])


class Derived(shared_memory.SharedMemory):
    pass


class UsesADerivedClass(OfTheMission):
    title = "a class of its own"
    kind = Single

    def create(self, name: str, size: int) -> Any:
        made = self.of(Derived(f"{name}_a", create=True, size=8 + size))
        made.sequence = 0
        return made

    def attach(self, name: str) -> Any:
        return self.of(Derived(f"{name}_a"))

    @staticmethod
    def of(block: Derived) -> Single:
        made = Single.__new__(Single)
        made.all = [block]
        return made


class Keeps(Ring):
    """Has something that one schedule leaves to the next."""

    title = "keeps count"
    counted = itertools.count()

    def read(self, reader: Any) -> Optional[bytes]:
        if next(self.counted) % 7 == 6:
            raise ZeroDivisionError("the seventh")
        return super().read(reader)


class Impatient(Ring):
    """Sleeps, and gives up after five seconds. That is what it is for: under the engines its sleep takes no time."""

    title = "impatient"
    refusals = (TimeoutError,)

    def read(self, reader: Any) -> Optional[bytes]:
        deadline = time.monotonic() + 5
        before = reader.words[1]
        while reader.words[1] == before:
            time.sleep(1)
            if time.monotonic() > deadline:
                raise TimeoutError
        return super().read(reader)


class StampsTime(Ring):
    """Notes when it publishes: no two schedules would be alike."""

    title = "stamps the time"
    at = 0

    def publish(self, writer: Any, payload: bytes) -> Optional[int]:
        self.at = time.time_ns()
        return super().publish(writer, payload)


class HasOneWriter(Ring):
    """Says so, and is not created twice."""

    title = "has one writer for ever"
    survives_death = False

    def create(self, name: str, size: int) -> Any:
        if os.path.exists(f"/dev/shm/{name}_ring"):
            raise FileExistsError(name)
        return super().create(name, size)


class PromisesAnHeir(HasOneWriter):
    """Its twin: says that there may be another."""

    survives_death = True


class HandsOver(HasOneWriter):
    """And this one, that it can be handed over."""

    def hand_over(self, writer: Any) -> None:
        writer.close()


class HasSeveralWriters(Ring):
    """Says so. They take the same version."""

    title = "ring with several writers"
    is_shared = True


class Forgets(Ring):
    """What it leaves is not all that is wrong."""

    title = "forgets"

    def remove(self, name: str) -> None:
        pass

    def read(self, reader: Any) -> Optional[bytes]:
        return (super().read(reader) or b"")[:8]


class CannotBePickled(Ring):
    def __init__(self) -> None:
        self.handle = open(os.devnull, "rb")  # noqa: SIM115 - it is what is wrong

    def __del__(self) -> None:
        self.handle.close()


class Blind(Ring):
    """Reads nothing that was shared."""

    title = "blind"

    def read(self, reader: Any) -> Optional[bytes]:
        return None


def an_adapter() -> Adapter:
    return Ring()


def not_an_adapter() -> str:
    return "ring"


def needs_arguments(slots: int) -> Adapter:
    return Ring()


HERE = Path(__file__)
made = Ring()
