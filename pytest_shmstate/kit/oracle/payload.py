"""States that certify themselves: every byte is a function of the version, so a torn one cannot pass for whole."""

from __future__ import annotations

import struct
from typing import Any

HEAD = struct.Struct("<QQ")
#: The shortest payload that says which version it is.
SHORTEST = HEAD.size
_ODD = 0x9E3779B97F4A7C15  # multiplies neighbouring versions into patterns without a byte in common


def payload_of(version: int, length: int) -> bytes:
    """The only bytes that version ``version`` may have, ``length`` of them."""
    pattern = struct.pack("<Q", version * _ODD % 2**64)
    return (HEAD.pack(version, length) + pattern * (length // 8))[:length]


def whole(payload: Any, version: int) -> bool:
    """Whether ``payload`` is version ``version``, all of it and nothing else."""
    return version_in(payload) == version and what_is_wrong_with(payload) == ""


def version_in(payload: Any) -> int:
    """The version that a payload says it is; -1 if it is too short to say."""
    return HEAD.unpack_from(payload)[0] if len(payload) >= SHORTEST else -1


def what_is_wrong_with(payload: Any) -> str:
    """Where a payload differs from the version that it says it is; empty if it is whole."""
    if len(payload) < SHORTEST:
        return f"{len(payload)} bytes are too few for a whole state"
    version, length = HEAD.unpack_from(payload)
    if length != len(payload):
        return f"says it is version {version} of {length} bytes, and is {len(payload)} bytes"
    meant = payload_of(version, length)
    if payload == meant:
        return ""
    first = next(at for at in range(length) if payload[at] != meant[at])
    differ = sum(payload[at] != meant[at] for at in range(length))
    there, wanted = bytes(payload[first : first + 8]).hex(), meant[first : first + 8].hex()
    return f"byte {first} of version {version}: {there} is there, {wanted} belongs there; {differ} of {length} differ"
