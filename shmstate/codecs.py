"""Values to bytes and back. A codec is a name and two functions; the name is written into the segment.

    msgpack   the default. Where msgspec is installed it does the reading, at twice the speed
    msgspec   the same, for sure with msgspec: both sides need it installed only where they name it
    json      readable by anything. Keys of dicts become texts, tuples lists; nan and inf are written as Python does
    raw       bytes as they are
    pickle    any Python object; runs code when it is read, so both sides must name it
    array     NumPy's arrays, without a copy of their own (arrays.py)

What ``msgpack`` takes reads back equal, whether or not msgspec is installed where it is written or read; anything else
is refused. A tuple reads as a list (as a key of a dict as a tuple), what is like bytes as bytes, an instance of a subclass
as the basic value, a datetime in UTC. A ``msgpack.Timestamp`` reads as a datetime too, which has microseconds and ends in
9999: publish a datetime instead.

Records of a fixed layout, of which one field can be read alone, are made by ``record`` (records.py).

Decoders are only ever given a private, whole copy. None of them could be trusted with anything else: bytes that
change underfoot crash msgpack, orjson and ormsgpack, and torn ones decode to wrong values without an error.
"""

from __future__ import annotations

import json
import pickle
from functools import lru_cache
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import msgpack

from shmstate.errors import CodecMismatch, InvalidOption
from shmstate.layout import CODEC_BYTES, is_codec_name
from shmstate.options import shown


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
    # a signal handler may publish in the middle of a pack. So each call takes one that is not in use.
    idle: List[Tuple[Any, List[type]]] = []
    take, give_back = idle.pop, idle.append

    def encode(value: Any) -> Any:
        try:
            packer, odd = packing = take()
        except IndexError:
            packer, odd = packing = _new_packer()
        payload = packer.pack(value)
        if odd:
            odd.clear()
            _require_that_nothing_is_lost(payload)
        give_back(packing)
        return payload

    return Codec("msgpack", encode, _unpacked)


def _new_packer() -> Tuple[Any, List[type]]:
    odd: List[type] = []

    def basic(value: Any) -> Any:
        return list(value) if value.__class__ is tuple else _as_basic(value, odd)

    # Strict: the packer gives all but exact basic types to ``default``; it packs those faster so.
    return msgpack.Packer(datetime=True, strict_types=True, default=basic), odd


def _as_basic(value: Any, odd: List[type]) -> Any:
    """The basic value that ``value`` reads back as. A type with its own equality goes to ``odd``: see below."""
    kind = type(value)
    for base, basic in _BASIC:
        if isinstance(value, base) and kind is not base:
            if kind.__hash__ is not base.__hash__ or kind.__eq__ is not base.__eq__:
                odd.append(kind)
            return basic(value)
    if kind is int:
        raise OverflowError(f"an integer of {value.bit_length()} bits; 64 fit: publish str(number)")
    advice = _ADVICE.get(kind.__name__, "publish what it consists of: numbers, texts, bytes, lists and dicts")
    raise TypeError(f"msgpack has no {kind.__name__}; {advice}, or use codec='pickle'")


def _items(value: Any) -> Any:
    return dict(value.items())


_BASIC: Tuple[Tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (dict, _items),
    (list, list),
    (msgpack.ExtType, lambda value: msgpack.ExtType(*value)),
    (tuple, list),
    (bytes, lambda value: bytes(memoryview(value))),
    (bytearray, lambda value: bytes(memoryview(value))),
)
_ADVICE = {
    "datetime": "give it a time zone",
    "set": "publish sorted(...)",
    "frozenset": "publish sorted(...)",
    "ndarray": "publish .tolist(), or use codec='array'",
    "generator": "publish list(...)",
}


def _require_that_nothing_is_lost(payload: bytes) -> None:
    """Raise ValueError if the state does not read back whole.

    Two keys of one dict can become the same: a subclass of str with an equality of its own, and the plain text.
    """
    if _new_packer()[0].pack(_unpacked(payload)) != payload:
        raise ValueError("two keys of one dict have the same form in msgpack, so one would be lost; use other keys")


def _unpacked(payload: Any) -> Any:
    try:
        return msgpack.unpackb(payload, strict_map_key=False, timestamp=3)
    except TypeError:  # a list as a key, which msgspec reads as a tuple
        return msgpack.unpackb(payload, strict_map_key=False, timestamp=3, object_pairs_hook=_with_tuples_as_keys)


def _with_tuples_as_keys(pairs: List[Tuple[Any, Any]]) -> Dict[Any, Any]:
    return {_as_key(key): value for key, value in pairs}


def _as_key(value: Any) -> Any:
    return tuple(map(_as_key, value)) if isinstance(value, list) else value


def _msgpack() -> Codec:
    return plain_msgpack() if load_msgspec() is None else plain_msgpack()._replace(decode=_decode_of_msgspec())


def _msgspec() -> Codec:
    if load_msgspec() is None:
        raise InvalidOption("codec 'msgspec' needs msgspec: pip install 'shmstate[fast]'")
    # msgspec would write faster, but not the same: a set, a dataclass or a UUID as what does not read back equal, an
    # ExtType as an array, subclasses of basic types not at all. It has no option that refuses them.
    return _msgpack()._replace(name="msgspec")


def _decode_of_msgspec() -> Callable[[bytes], Any]:
    def to_ext(code: int, data: memoryview) -> Any:
        return msgpack.ExtType(code, bytes(data))

    by_msgspec = load_msgspec().msgpack.Decoder(ext_hook=to_ext).decode

    def decode(payload: bytes) -> Any:
        try:
            return by_msgspec(payload)
        except RecursionError:  # msgspec's limit is Python's, msgpack's is 1024
            return _unpacked(payload)

    return decode


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
            f"codec {shown(codec)} is none of {', '.join(sorted(_BUILT_IN))};"
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


def is_of_the_codec(error: Exception) -> bool:
    """Whether ``error``, which came out of a codec, says something of what it was given.

    MemoryError and RecursionError do not, nor does an exception of a signal handler.
    """
    return not isinstance(error, (MemoryError, RecursionError)) and not is_of_a_handler(error)


def is_of_a_handler(error: BaseException) -> bool:
    """Whether a signal handler raised ``error``, as Python runs one between any two steps of what is called here.

    A handler is called with the frame that it interrupts, which is the caller of its own frame.
    """
    # Not the first frame, which caught the error: until 3.13 a frame keeps what f_locals gave, the error with it.
    trace = error.__traceback__.tb_next if error.__traceback__ is not None else None
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        given: List[Any] = []
        for value in frame.f_locals.values():
            given.extend(value if isinstance(value, tuple) else (value,))
        if frame.f_back is not None and any(value is frame.f_back for value in given):
            return True
    return False


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
