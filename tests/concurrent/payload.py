"""States that certify themselves: every byte is a function of the version, so a torn one cannot pass for whole."""

from __future__ import annotations

import struct

HEAD = struct.Struct("<QQ")
_ODD = 0x9E3779B97F4A7C15  # multiplies neighbouring versions into patterns without a byte in common


def payload_of(version: int, length: int) -> bytes:
    """The only bytes that version ``version`` may have, ``length`` of them."""
    pattern = struct.pack("<Q", version * _ODD % 2**64)
    return (HEAD.pack(version, length) + pattern * (length // 8))[:length]


def whole(payload: bytes, version: int) -> bool:
    """Whether ``payload`` is version ``version``, all of it and nothing else."""
    return bytes(payload) == payload_of(version, len(payload)) and HEAD.unpack_from(payload) == (version, len(payload))
