"""Experiment 5, told: which format is fastest, which is smallest, and what each costs otherwise."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

from benchmarks.document import Answer, Plot, Section, Series, Table, micro, nbytes, times

#: What a figure does not say. By format.
_TRADES = {
    "msgpack": "read and written by nearly every language; needs nothing but itself, and is the default here",
    "msgspec": "the same bytes as msgpack; takes over where it is installed",
    "ormsgpack": "the same bytes as msgpack; a writer of its own is named on both sides",
    "pickle": "any Python object, and so any code: must be named by the reader, never taken from a segment",
    "json": "readable by people, larger, no bytes",
    "orjson": "JSON, fast; no bytes",
    "marshal": "changes with Python's version; crashes on damaged bytes",
    "struct record": "numbers at fixed places: smallest, and one field can be read without the others",
}


def section(data: Mapping[str, Any]) -> Section:
    """By kind of state."""
    states = {kind: _found(state) for kind, state in data["states"].items()}
    return Section(
        slug="formats",
        title="5. Formats",
        lead="Each format encodes and decodes the same value, in turns; ratios are against msgpack in the same turn.",
        answers=[_fastest(states), _smallest(states), _tradeoffs(data)],
        tables=[_table(kind, state) for kind, state in data["states"].items()],
        plots=[_plot(states, what) for what in ("encode", "decode")],
    )


def _found(state: Mapping[str, Any]) -> Dict[str, Any]:
    return {name: found for name, found in state["formats"].items() if "missing" not in found}


def _fastest(states: Mapping[str, Any]) -> Answer:
    told = []
    for kind, found in states.items():
        by = {what: min(found, key=lambda name: found[name][what]) for what in ("encode", "decode")}
        told.append(
            f"{kind}: {by['encode']} encodes fastest ({micro(found[by['encode']]['encode'])}),"
            f" {by['decode']} decodes fastest ({micro(found[by['decode']]['decode'])})"
        )
    return Answer("Which format is fastest?", "; ".join(told) + ".")


def _smallest(states: Mapping[str, Any]) -> Answer:
    told = []
    for kind, found in states.items():
        ordered = sorted(found, key=lambda name: found[name]["bytes"])
        first, last = ordered[0], ordered[-1]
        told.append(
            f"{kind}: {first} ({nbytes(found[first]['bytes'])}; the largest is {last}, {nbytes(found[last]['bytes'])})"
        )
    return Answer("Which produces the smallest output?", "; ".join(told) + ".")


def _tradeoffs(data: Mapping[str, Any]) -> Answer:
    names = list(dict.fromkeys(name for state in data["states"].values() for name in state["formats"]))
    return Answer("Tradeoffs?", " ".join(f"{name}: {_TRADES[name]}." for name in names if name in _TRADES))


def _table(kind: str, state: Mapping[str, Any]) -> Table:
    rows: List[List[str]] = []
    for name, found in state["formats"].items():
        if "missing" in found:
            rows.append([name, f"missing: {found['missing']}", "", "", "", ""])
            continue
        cells = [found["encode_ratio"]["ratio"], found["decode_ratio"]["ratio"]]
        took = [micro(found["encode"]), times(cells[0]), micro(found["decode"]), times(cells[1])]
        rows.append([name, nbytes(found["bytes"]), *took])
    head = ["format", "size", "encode", "/ msgpack", "decode", "/ msgpack"]
    return Table(f"The {kind} state", head, rows)


def _plot(states: Mapping[str, Any], what: str) -> Plot:
    names = list(dict.fromkeys(name for found in states.values() for name in found))
    series = []
    for name in names:
        kinds = [kind for kind, found in states.items() if name in found]
        series.append(Series(name, kinds, [states[kind][name][what] for kind in kinds]))
    return Plot(f"formats-{what}", f"To {what} a state", "state", "microseconds", series, log_y=True)
