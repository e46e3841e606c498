"""Records: states of a fixed layout, of which one field can be read without the rest.

What they are made of is a ctypes structure, a dataclass of numbers (and of bytes and texts of a given size), or a mapping of
names to ``struct`` formats. The codec's name holds a digest of the layout, so a reader that was compiled for another one
is told when it attaches, and not by wrong numbers.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import struct
from collections.abc import Mapping
from typing import Any, Callable, Dict, Iterable, List, Tuple, Type

from shmstate.codecs import Codec, Field
from shmstate.errors import InvalidOption

#: What annotations of a dataclass become. Texts and bytes need a size: ``field(metadata={"size": 32})``.
_FORMATS = {"int": "q", "float": "d", "bool": "?"}
_SIZED = ("bytes", "str")


def record(shape: Any, name: str = "") -> Codec:
    """A codec for records of one shape, for ``StateWriter(codec=...)`` and ``StateReader(codec=...)`` both.

    ``shape``  a ``ctypes.Structure`` subclass; a dataclass of int (64 bits), float, bool, and bytes or str with a
               ``field(metadata={"size": BYTES})``; or a mapping of names to ``struct`` formats (``{"jobs": "I"}``), whose
               values are dicts. Fields of dataclasses and mappings follow each other without gaps
    ``name``   what the codec's name begins with; the shape's own name if empty

    ``reader.field("jobs")`` reads one field, of any of them. Raises InvalidOption for what is none of these.
    """
    if isinstance(shape, type) and issubclass(shape, ctypes.Structure):
        fields, encode, decode = _of_structure(shape)
    elif isinstance(shape, type) and dataclasses.is_dataclass(shape):
        fields, encode, decode = _of_dataclass(shape)
    elif isinstance(shape, Mapping):
        fields, encode, decode = _of_formats(shape)
    else:
        raise InvalidOption(
            f"a record's shape is a ctypes.Structure, a dataclass or a mapping of formats, not {shape!r}"
        )
    called = "".join(c for c in name or getattr(shape, "__name__", "record") if c.isascii() and c.isalnum())[:14]
    layout = repr([(field, place.start, place.stop, kind) for field, (kind, place) in fields.items()])
    digest = hashlib.sha256(layout.encode()).hexdigest()[:16]
    places = {field: place for field, (_, place) in fields.items()}
    return Codec(f"{called or 'record'}-{digest}", encode, decode, fields=places)


_Fields = Dict[str, Tuple[str, Field]]
_Made = Tuple[_Fields, Callable[[Any], bytes], Callable[[bytes], Any]]


def _of_structure(shape: Type[ctypes.Structure]) -> _Made:
    fields: _Fields = {}
    for field, kind, *bits in shape._fields_:
        if bits:
            raise InvalidOption(
                f"{shape.__name__}.{field}: fields of some bits cannot be read alone; use a whole number"
            )
        if _has_pointer(kind):
            raise InvalidOption(f"{shape.__name__}.{field}: a pointer means nothing in another process")
        start = getattr(shape, field).offset
        place = Field(start, start + ctypes.sizeof(kind), _reading(kind))
        fields[field] = (f"{kind.__name__}{_nested(kind)}", place)

    def encode(value: Any) -> bytes:
        if not isinstance(value, shape):
            raise TypeError(f"a {shape.__name__} is wanted, not {type(value).__name__}")
        return bytes(value)

    def decode(payload: bytes) -> Any:
        if len(payload) != ctypes.sizeof(shape):
            raise ValueError(f"{len(payload)} bytes; a {shape.__name__} has {ctypes.sizeof(shape)}")
        return shape.from_buffer_copy(payload)

    return fields, encode, decode


def _reading(kind: Any) -> Callable[[bytes], Any]:
    def decode(payload: bytes) -> Any:
        value = kind.from_buffer_copy(payload)
        # A field of a simple type reads as Python's own, as it does as an attribute.
        return value.value if hasattr(value, "value") else value

    return decode


def _nested(kind: Any) -> str:
    if issubclass(kind, ctypes.Structure):
        return repr([(field, getattr(kind, field).offset, inner.__name__) for field, inner, *_ in kind._fields_])
    return ""


def _has_pointer(kind: Any) -> bool:
    if issubclass(kind, (ctypes.Structure, ctypes.Union)):
        return any(_has_pointer(inner) for _, inner, *_ in kind._fields_)
    if issubclass(kind, ctypes.Array):
        return _has_pointer(kind._type_)
    is_to_something = hasattr(kind, "contents") or hasattr(kind, "argtypes")
    return is_to_something or getattr(kind, "_type_", "") in ("P", "z", "Z", "O")


def _of_dataclass(shape: Any) -> _Made:
    formats, texts = {}, []
    for field in dataclasses.fields(shape):
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", repr(field.type))
        nbytes = field.metadata.get("size")
        if kind in _FORMATS and nbytes is None:
            formats[field.name] = _FORMATS[kind]
        elif kind in _SIZED and isinstance(nbytes, int) and nbytes > 0:
            formats[field.name] = f"{nbytes}s"
            if kind == "str":
                texts.append(field.name)
        else:
            raise InvalidOption(
                f"{shape.__name__}.{field.name}: {kind} has no fixed size; int, float and bool have, bytes and str with"
                f' field(metadata={{"size": 32}})'
            )
    return _packed(formats, texts, functools.partial(_values_of, shape, formats), shape)


def _values_of(shape: Any, names: Iterable[str], value: Any) -> Any:
    return {name: getattr(value, name) for name in names} if isinstance(value, shape) else None


def _of_formats(shape: Any) -> _Made:
    return _packed(dict(shape), [], lambda value: value if isinstance(value, Mapping) else None, dict)


def _packed(
    formats: Dict[str, str], texts: List[str], values_of: Callable[[Any], Any], make: Callable[..., Any]
) -> _Made:
    fields: _Fields = {}
    at = 0
    for name, format_ in formats.items():
        try:
            one = struct.Struct("=" + format_)
            count = len(one.unpack(bytes(one.size)))
        except (struct.error, TypeError) as error:
            raise InvalidOption(f"field {name!r}: format {format_!r}: {error}") from error
        if count != 1 or not isinstance(name, str):
            raise InvalidOption(f"field {name!r}: format {format_!r} holds {count} values; give one, of a named field")
        if format_.endswith("p"):
            raise InvalidOption(f"field {name!r}: format {format_!r} cuts off what is too long; use 's'")
        fields[name] = (format_ + " text" * (name in texts), Field(at, at + one.size, _unpacking(one, name in texts)))
        at += one.size
    whole = struct.Struct("=" + "".join(formats.values()))

    def encode(value: Any) -> bytes:
        values = values_of(value)
        if values is None or set(values) != set(formats):
            raise TypeError(f"wanted is a value with the fields {', '.join(formats)}, and no others")
        return whole.pack(*(_fitting(values[name], format_, name, name in texts) for name, format_ in formats.items()))

    def decode(payload: bytes) -> Any:
        if len(payload) != whole.size:
            raise ValueError(f"{len(payload)} bytes; the record has {whole.size}")
        return make(**{name: place.decode(payload[place.start : place.stop]) for name, (_, place) in fields.items()})

    return fields, encode, decode


def _fitting(value: Any, format_: str, name: str, is_text: bool) -> Any:
    """The value as it is packed. Raises for bytes that would not come back as they are."""
    if is_text:
        if not isinstance(value, str):
            raise TypeError(f"{name}: a str is wanted, not {type(value).__name__}")
        value = value.encode()
    if format_.endswith("s") and isinstance(value, (bytes, bytearray)):
        if len(value) > struct.calcsize(format_):
            raise ValueError(f"{name}: {len(value)} bytes do not fit in {struct.calcsize(format_)}")
        if value.endswith(b"\0"):
            raise ValueError(f"{name}: ends in a NUL, which is what shorter values are filled up with")
    return value


def _unpacking(one: struct.Struct, is_text: bool) -> Callable[[bytes], Any]:
    def decode(payload: bytes) -> Any:
        (value,) = one.unpack(payload)
        if one.format.endswith("s"):
            value = value.rstrip(b"\0")
        return value.decode() if is_text else value

    return decode
