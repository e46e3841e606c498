"""Experiment 5: which format encodes and decodes fastest, and which is smallest, for four kinds of state.

Every format encodes and decodes the same value, in turns. One that is not installed, or cannot hold the value, or gives
back another, is in the results with the reason.

    {"states": {"small": {"formats": {"msgpack": {"bytes": n, "encode": us, "decode": us,
        "encode_ratio": ratio to msgpack, "decode_ratio": ratio}, "orjson": {"missing": why}, ...}}, "large": ..., ...}}
"""

from __future__ import annotations

import json
import marshal
import pickle
from functools import partial
from importlib import import_module
from typing import Any, Callable, Dict, NamedTuple

import shmstate
from benchmarks import states
from benchmarks.harness import Effort, Take, Tell, interleaved, medians, ratio, statement
from shmstate import codecs

STATES: Dict[str, Callable[[], Any]] = {
    "small": states.small,
    "large": states.large,
    "numeric": states.numeric,
    "text": states.text,
}
BASELINE = "msgpack"


class Format(NamedTuple):
    """How one encodes and decodes."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _msgpack(_: Any) -> Format:
    module = import_module("msgpack")
    return Format(module.packb, module.unpackb)


def _msgspec(_: Any) -> Format:
    module = import_module("msgspec.msgpack")
    return Format(module.Encoder().encode, module.Decoder().decode)


def _ormsgpack(_: Any) -> Format:
    module = import_module("ormsgpack")
    return Format(module.packb, module.unpackb)


def _orjson(_: Any) -> Format:
    module = import_module("orjson")
    return Format(module.dumps, module.loads)


def _json(_: Any) -> Format:
    return Format(lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(), json.loads)


def _pickle(_: Any) -> Format:
    return Format(partial(pickle.dumps, protocol=pickle.HIGHEST_PROTOCOL), pickle.loads)


def _marshal(_: Any) -> Format:
    return Format(marshal.dumps, marshal.loads)


def _record(value: Any) -> Format:
    """The custom binary one: a struct of fields that are known beforehand."""
    kinds = {float: "d", int: "q"}
    if not all(type(field) in kinds for field in value.values()):
        raise TypeError("a record holds numbers in fields that are known beforehand, no lists and no maps")
    codec = codecs.codec_named(shmstate.record({name: kinds[type(field)] for name, field in value.items()}))
    return Format(codec.encode, codec.decode)


FORMATS: Dict[str, Callable[[Any], Format]] = {
    BASELINE: _msgpack,
    "msgspec": _msgspec,
    "ormsgpack": _ormsgpack,
    "pickle": _pickle,
    "json": _json,
    "orjson": _orjson,
    "marshal": _marshal,
    "struct record": _record,
}


def steps(effort: Effort) -> int:
    """One for each state."""
    del effort
    return len(STATES)


def measure(effort: Effort, tell: Tell) -> Dict[str, Any]:
    """The experiment."""
    found = {}
    for kind, make in STATES.items():
        tell(f"{kind} state")
        found[kind] = {"formats": _compare(make(), effort)}
    return {"states": found}


def _compare(value: Any, effort: Effort) -> Dict[str, Any]:
    told: Dict[str, Any] = {}
    takes: Dict[str, Take] = {}
    for name, make in FORMATS.items():
        try:
            form = make(value)
            payload = form.encode(value)
            if form.decode(payload) != value:
                raise ValueError("it gives back another value")
        except Exception as error:  # whatever a library says of it is why
            told[name] = {"missing": f"{type(error).__name__}: {error}"}
            continue
        told[name] = {"bytes": len(payload)}
        names = {"encode": form.encode, "decode": form.decode, "value": value, "payload": payload}
        takes[f"{name} encode"] = statement("encode(value)", names)
        takes[f"{name} decode"] = statement("decode(payload)", names)
    rounds = interleaved(takes, effort.of(101, 21))
    took = medians(rounds)
    for name, found in told.items():
        for what in () if "missing" in found else ("encode", "decode"):
            found[what] = took[f"{name} {what}"]
            found[f"{what}_ratio"] = ratio(rounds[f"{name} {what}"], rounds[f"{BASELINE} {what}"])
    return told
