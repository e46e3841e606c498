"""Values to bytes and back. A codec is a name and two functions; the name is written into the segment.

    msgpack   the default. Where msgspec is installed it does the reading, at twice the speed
    msgspec   the same format, written by msgspec too, at three times the speed; takes what msgspec takes
    json      readable by anything
    raw       bytes as they are
    pickle    any Python object; runs code when it is read, so both sides must name it
    array     NumPy's arrays, without a copy of their own (arrays.py)

Records of a fixed layout, of which one field can be read alone, are made by ``record`` (records.py).

Decoders are only ever given a private, whole copy. None of them could be trusted with anything else: bytes that
change underfoot crash msgpack, orjson and ormsgpack, and torn ones decode to wrong values without an error.
"""

from __future__ import annotations

import json
import pickle
from functools import lru_cache, partial
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import msgpack

from shmstate.errors import CodecMismatch, InvalidOption
from shmstate.layout import CODEC_BYTES, is_codec_name


class Field(NamedTuple):
    """Where one field lies in a record, and how its bytes become a value."""

    start: int
    stop: int
    decode: Callable[[bytes], Any]


class Codec(NamedTuple):
    """How a state becomes bytes: ``encode(value)`` returns bytes-like, ``decode(payload)`` gets ``bytes``.

    ``name``    1 to 32 ASCII letters, digits, ``_.+-``; stored in the segment, and a reader checks it
    ``fields``  parts that can be read alone, where all states have the same layout: ``reader.field(name)``
    ``fill``    for large states, used instead of ``encode``: returns how many bytes ``value`` takes, and what writes them
                into a writable memoryview of that many, which it must not keep
    """

    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[bytes], Any]
    fields: Mapping[str, Field] = {}
    fill: Optional[Callable[[Any], Tuple[int, Callable[[memoryview], None]]]] = None


CodecLike = Union[str, Codec]


@lru_cache(maxsize=None)
def load_msgspec() -> Any:
    """The library, or None where it is not installed. Loaded when a codec is made: importing shmstate loads no extra."""
    try:
        import msgspec as library
        import msgspec.msgpack
    except ImportError:
        return None
    return library


def plain_msgpack() -> Codec:
    """The ``msgpack`` codec as it is without msgspec."""
    # To make a packer costs a tenth of packing a small state. One for all would not do: threads share a writer, and
    # a signal handler may publish in the middle of a pack. So each call takes one that nobody uses.
    idle: List[Any] = []
    take, give_back = idle.pop, idle.append

    def encode(value: Any) -> Any:
        try:
            packer = take()
        except IndexError:
            packer = msgpack.Packer(datetime=True)
        payload = packer.pack(value)
        give_back(packer)
        return payload

    return Codec("msgpack", encode, partial(msgpack.unpackb, strict_map_key=False, timestamp=3))


def _msgpack() -> Codec:
    # msgspec would write faster too, but not the same: an ExtType as an array, subclasses of basic types not at all.
    return plain_msgpack() if load_msgspec() is None else plain_msgpack()._replace(decode=_msgspec().decode)


def _msgspec() -> Codec:
    library = load_msgspec()
    if library is None:
        raise InvalidOption("codec 'msgspec' needs msgspec: pip install 'shmstate[fast]'")

    def to_ext(code: int, data: memoryview) -> Any:
        return msgpack.ExtType(code, bytes(data))

    return Codec("msgspec", library.msgpack.Encoder().encode, library.msgpack.Decoder(ext_hook=to_ext).decode)


def _array() -> Codec:
    try:
        from shmstate import arrays
    except ImportError as error:
        raise InvalidOption("codec 'array' needs NumPy: pip install 'shmstate[array]'") from error
    return Codec("array", arrays.encode, arrays.decode, fill=arrays.fill)


def _encode_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _encode_pickle(value: Any) -> bytes:
    return pickle.dumps(value, protocol=5)


def _as_is(payload: Any) -> Any:
    return payload


_BUILT_IN: Dict[str, Callable[[], Codec]] = {
    "msgpack": _msgpack,
    "msgspec": _msgspec,
    "json": lambda: Codec("json", _encode_json, json.loads),
    "raw": lambda: Codec("raw", _as_is, _as_is),
    "array": _array,
    "pickle": lambda: Codec("pickle", _encode_pickle, pickle.loads),
}
#: Reading these never runs code, so a reader may take the writer's word for them. All but the first two differ.
_SAFE = ("msgpack", "msgspec", "json", "raw", "array")


def codec_named(codec: CodecLike) -> Codec:
    """The codec itself, or the built-in one of that name. Raises InvalidOption."""
    if isinstance(codec, Codec):
        if not is_codec_name(codec.name):
            raise InvalidOption(
                f"codec name {codec.name!r}: 1 to {CODEC_BYTES} ASCII letters, digits, '_', '.', '+', '-'"
            )
        if codec.name in _BUILT_IN:
            raise InvalidOption(f"codec name {codec.name!r} is built in; give yours a name of its own")
        return codec
    if codec not in list(_BUILT_IN):  # a list, as what was passed instead may not be hashable
        raise InvalidOption(
            f"codec {codec!r} is none of {', '.join(sorted(_BUILT_IN))};"
            f" for your own, pass shmstate.Codec(name, encode, decode)"
        )
    return _BUILT_IN[codec]()


def flat_encoder(codec: Codec) -> Callable[[Any], Any]:
    """The codec's ``encode``, made sure to return ``bytes`` or a view of single bytes."""
    encode = codec.encode
    if codec.name in _BUILT_IN and codec.name != "raw":
        return encode

    def encode_flat(value: Any) -> Any:
        payload = encode(value)
        return payload if payload.__class__ is bytes else memoryview(payload).cast("B")

    return encode_flat


def codec_for_reading(asked: Optional[CodecLike], written: str, state: str) -> Codec:
    """The codec to read state ``state`` with, which its writer wrote with codec ``written``.

    With ``asked=None`` the writer's, if reading it cannot run code. Raises CodecMismatch, InvalidOption.
    """
    if asked is not None:
        codec = codec_named(asked)
        if _same_bytes(codec.name) != _same_bytes(written):
            raise CodecMismatch(
                f"state {state!r} is written with codec {written!r}, this reader asked for {codec.name!r}; name the same"
            )
        return codec
    if written not in _SAFE:
        raise CodecMismatch(
            f"state {state!r} is written with codec {written!r}, which a reader must name itself:"
            f" StateReader({state!r}, codec={'...' if written != 'pickle' else repr(written)})"
        )
    return codec_named("msgpack" if written == "msgspec" else written)


def _same_bytes(name: str) -> str:
    return "msgpack" if name == "msgspec" else name
