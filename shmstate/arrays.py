"""The codec ``array``: NumPy's arrays, their dtype and shape carried along, in and out without a copy of their own.

    0   length of the description in bytes   number of dimensions   (4 bytes each)
    8   the shape, 8 bytes a dimension
        the dtype: its description as JSON, ASCII
    n   the elements in C order, from the next multiple of 64

Loaded, and NumPy with it, by those who name the codec.
"""

from __future__ import annotations

import json
import math
import struct
from functools import lru_cache
from typing import Any, Callable, Optional, Tuple

import numpy as np

_ALIGNMENT = 64
_MOST_DIMENSIONS = 64
#: Descriptions so short are read once: each publish and each read asks for them.
_LONGEST_KEPT = 32
_HEAD = struct.Struct("=II")


def encode(value: Any) -> bytearray:
    """The array as bytes. Raises TypeError for what is none, or holds Python objects."""
    nbytes, write = fill(value)
    payload = bytearray(nbytes)
    write(memoryview(payload))
    return payload


def fill(value: Any) -> Tuple[int, Callable[[memoryview], None]]:
    """How many bytes the array takes, and what writes them. Raises TypeError, as ``encode``."""
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"a NumPy array is wanted, not {type(value).__name__}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("a masked array would lose its mask; publish .filled(...), or .data and .mask")
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise TypeError(f"dtype {array.dtype} holds Python objects, which mean nothing in another process")
    described = _described(array.dtype)
    if described is None:
        raise TypeError(f"dtype {array.dtype} does not come back as it is; publish array.astype(...) of another")
    shape = struct.pack(f"={array.ndim}Q", *array.shape)
    head = _HEAD.pack(len(described), array.ndim) + shape + described
    start = -(-len(head) // _ALIGNMENT) * _ALIGNMENT

    def write(target: memoryview) -> None:
        target[: len(head)] = head
        target[len(head) : start] = bytes(start - len(head))
        if array.nbytes:
            np.copyto(np.frombuffer(target, array.dtype, array.size, start).reshape(array.shape), array)

    return start + array.nbytes, write


def decode(payload: Any) -> np.ndarray[Any, Any]:
    """The array that lies in a buffer, not copied; read-only if that is.

    Raises ValueError for bytes that are no array's, whatever they are.
    """
    view = memoryview(payload)
    if len(view) < _HEAD.size:
        raise ValueError(f"{len(view)} bytes are too few")
    length, ndim = _HEAD.unpack_from(view)
    end = _HEAD.size + 8 * ndim + length
    start = -(-end // _ALIGNMENT) * _ALIGNMENT
    if ndim > _MOST_DIMENSIONS or start > len(view):
        raise ValueError(f"{ndim} dimensions and {length} bytes of description in {len(view)} bytes")
    shape = struct.unpack_from(f"={ndim}Q", view, _HEAD.size)
    described = bytes(view[end - length : end])
    dtype = _dtype_of(described)
    count = math.prod(shape)
    if max((*shape, count)) >> 63 or start + count * dtype.itemsize != len(view):
        raise ValueError(f"shape {shape} of {dtype} does not fill {len(view) - start} bytes")
    if not count * dtype.itemsize:
        # Of these no element has a byte, so that any buffer will do: none is made for them.
        return np.ndarray(shape, dtype, b"", strides=(0,) * ndim)
    # Not `np.ndarray(..., payload)`, which does not keep the memory: it would crash once a view is let go of.
    return np.frombuffer(payload, dtype, count, start).reshape(shape)


def _described(dtype: Any) -> Optional[bytes]:
    """The dtype as it is written; None if that would be read as another."""
    described = json.dumps(np.lib.format.dtype_to_descr(dtype)).encode("ascii")
    return described if _read(described) == dtype else None


def _dtype_of(described: bytes) -> Any:
    """The dtype that was written so. Raises ValueError unless ``encode`` writes it in the very same bytes."""
    dtype = _read(described)
    if dtype is None:
        raise ValueError(f"a dtype that NumPy does not know: {described[:80]!r}")
    if dtype.hasobject:
        raise ValueError(f"dtype {dtype} holds Python objects")
    if _described(dtype) != described:
        raise ValueError(f"dtype {dtype} is not written as {described[:80]!r}")
    return dtype


def _read(described: bytes) -> Any:
    is_simple = described[:1] == b'"' and len(described) <= _LONGEST_KEPT
    return _read_simple(described) if is_simple else _read_any(described)


def _read_any(described: bytes) -> Any:
    try:
        return np.lib.format.descr_to_dtype(_with_tuples(json.loads(described.decode("ascii"))))
    except (ArithmeticError, AttributeError, LookupError, RecursionError, SyntaxError, TypeError, ValueError):
        return None


_read_simple = lru_cache(maxsize=128)(_read_any)


def _with_tuples(described: Any) -> Any:
    """JSON has lists for all that NumPy has tuples for: the fields of a dtype, and shapes in it."""
    if not isinstance(described, list):
        return described
    if described and all(isinstance(field, list) for field in described):
        return [tuple(_with_tuples(part) if i == 1 else _shape(part) for i, part in enumerate(f)) for f in described]
    return tuple(_with_tuples(part) if i == 0 else _shape(part) for i, part in enumerate(described))


def _shape(part: Any) -> Any:
    return tuple(part) if isinstance(part, list) else part
