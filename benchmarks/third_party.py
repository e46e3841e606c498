"""Adapters of two libraries from PyPI, for ``docs/testing-your-own.md``. Neither is needed to test shmstate.

python -m pip install shared-memory-dict==0.7.2 easyglobals==0.2.1
cd benchmarks
python -m pytest_shmstate.kit check third_party:SharedDict
python -m pytest_shmstate.kit check third_party:EasyGlobal --by-line EasyGlobals.EasyGlobals
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from importlib import import_module
from typing import Any, Optional

from pytest_shmstate.kit import Adapter


class SharedDict(Adapter):
    """shared-memory-dict: one writer that sets one key, and readers that get it.

    Nothing more is asked of it: not that several may write, nor that a writer may die. What it raises when it cannot
    decode is documented, so it counts as no fault.
    """

    title = "shared-memory-dict"
    survives_death = False
    #: What pickle makes of a dict with one state in it is longer than the state by less than this.
    PICKLED = 100

    def __init__(self) -> None:
        self.refusals = (import_module("shared_memory_dict.serializers").DeserializationError,)

    def create(self, name: str, size: int) -> Any:
        return import_module("shared_memory_dict").SharedMemoryDict(name, size + self.PICKLED)

    def attach(self, name: str) -> Any:
        return self.create(name, 0)  # it is there, and has the size that it has

    def publish(self, writer: Any, payload: bytes) -> Optional[int]:
        writer["state"] = payload
        return None

    def read(self, reader: Any) -> Optional[bytes]:
        state: Optional[bytes] = reader.get("state")
        return state

    def close(self, handle: Any) -> None:
        handle.cleanup()

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(f"/dev/shm/sm_{name}")


class EasyGlobal(Adapter):
    """EasyGlobals: one writer that sets one variable, and readers that get it.

    A variable lives as long as somebody is attached, by its documentation, and here all may have gone when a writer dies:
    that is not asked of it.
    """

    title = "EasyGlobals"
    survives_death = False

    def create(self, name: str, size: int) -> Any:  # noqa: ARG002
        return self.attach(name)

    def attach(self, name: str) -> Any:
        return import_module("EasyGlobals").Globals(self.plain(name), capacity=1 << 22, slot_count=64)

    @staticmethod
    def plain(name: str) -> str:
        """A name that EasyGlobals takes as it is; always as long, and of letters, or other lines would be run with it."""
        digits = f"{zlib.crc32(name.encode()):08x}"
        return "kit_" + "".join(chr(ord("a") + int(digit, 16)) for digit in digits)

    def publish(self, writer: Any, payload: bytes) -> Optional[int]:
        writer.state = payload
        return None

    def read(self, reader: Any) -> Optional[bytes]:
        state: Optional[bytes] = reader.get("state")
        return state

    def close(self, handle: Any) -> None:
        handle.close()

    def remove(self, name: str) -> None:
        for file in os.listdir("/dev/shm"):
            if self.plain(name) in file:
                with suppress(FileNotFoundError):
                    os.unlink(f"/dev/shm/{file}")
