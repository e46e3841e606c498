"""A structure that hands its bytes to C: gated by the line."""

from __future__ import annotations

import struct
from multiprocessing.shared_memory import SharedMemory
from typing import Optional

from tests.kit.broken_structures import OneBlock

_HEAD = struct.Struct("<QQ")


class Packed(OneBlock):
    """A count, a length, a payload; ``early``: the count goes first, though nothing says that it is not whole."""

    title = "packed"

    def __init__(self, early: bool) -> None:
        self.early = early

    def create(self, name: str, size: int) -> SharedMemory:
        try:
            return SharedMemory(name, create=True, size=4096)
        except FileExistsError:
            return SharedMemory(name)

    def attach(self, name: str) -> SharedMemory:
        return SharedMemory(name)

    def publish(self, writer: SharedMemory, payload: bytes) -> Optional[int]:
        count, _ = _HEAD.unpack_from(writer.buf, 0)
        place = 64 + 1024 * ((count + 1) % 3)
        if self.early:
            _HEAD.pack_into(writer.buf, 0, count + 1, len(payload))
        struct.pack_into(f"{len(payload)}s", writer.buf, place, payload)
        if not self.early:
            _HEAD.pack_into(writer.buf, 0, count + 1, len(payload))
        return None

    def read(self, reader: SharedMemory) -> Optional[bytes]:
        count, length = _HEAD.unpack_from(reader.buf, 0)
        if not count:
            return None
        return bytes(reader.buf[64 + 1024 * (count % 3) :][:length])

    def close(self, handle: SharedMemory) -> None:
        handle.close()
