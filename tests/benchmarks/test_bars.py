"""Whether a bar is reached is said as the figures have it: on either side of each."""

from __future__ import annotations

import copy
from typing import Any, Callable, Dict, List

import pytest

from benchmarks import bars


def ratio(value: float) -> Dict[str, float]:
    return {"ratio": value, "low": value - 0.01, "high": value + 0.01}


def call(nbytes: int, value: float, **more: str) -> Dict[str, Any]:
    return {"bytes": nbytes, "floor": 1.0, "took": value, "ratio": ratio(value), **more}


def restless(what: str, p99: float, retries: float) -> Dict[str, Any]:
    query = {"p50": p99 / 2, "p99": p99}
    return {"what": what, "bytes": 500, "query": query, "retries_each": retries, "publishes_per_second": 1e6}


def busy(p99: float) -> Dict[str, Any]:
    asked = {"p99": p99 * 10.0}
    return {
        "pipe": asked,
        "queue": asked,
        "shmstate": {"p99": 10.0},
        "ratios": {way: {"p50": p99, "p99": p99} for way in ("pipe", "queue")},
    }


def reached() -> Dict[str, Any]:
    return {
        "numbers": {
            "read_bytes": [call(64, 2.5), call(256 << 10, 1.15)],
            "get": [
                call(500, 1.25, engine="msgpack"),
                call(20000, 1.03, engine="msgpack"),
                call(500, 9.0, engine="msgspec"),
                call(20000, 9.0, engine="msgspec"),
            ],
            "publish": [call(500, 1.3, engine="msgpack"), call(500, 9.0, engine="msgspec")],
            "restless": [restless("500 B, decoded", 99.0, 0.049), restless("20 KB, raw bytes", 9.9, 0.049)],
            "writer": {"readers": 1, "cores": 2, "ratio": ratio(0.91)},
        },
        "latency": {"sizes": {"500 B": {"loads": {"1 ms": busy(101.0), "10 ms": busy(101.0)}}}},
        "many": {"bar": {"shared_bytes_each": 24 << 10, "descriptors_each": 2, "states": 1000}},
        "plugin": {"bar": {"added_us_nothing": 99.0, "added_us_nothing_many_entries": 99.0, "entries": 20_000}},
    }


def verdicts(parts: Dict[str, Any]) -> List[str]:
    return [row.verdict for row in bars.rows(parts)]


def test_all_bars_of_the_design_are_there_and_reached_at_their_edge() -> None:
    assert verdicts(reached()) == [bars.PASSES] * 18


def numbers(key: str, number: int, **values: Any) -> Callable[[Dict[str, Any]], None]:
    return lambda parts: parts["numbers"][key][number].update(values)


MISSES: Dict[str, Callable[[Dict[str, Any]], None]] = {
    "read_bytes against bytes(view), 64 B": numbers("read_bytes", 0, ratio=ratio(2.51)),
    "read_bytes against bytes(view), 256 KB": numbers("read_bytes", 1, ratio=ratio(1.16)),
    "get against decoding, msgpack, 500 B": numbers("get", 0, ratio=ratio(1.26)),
    "get against decoding, msgpack, 19.5 KB": numbers("get", 1, ratio=ratio(1.04)),
    "publish against encoding, msgpack, 500 B": numbers("publish", 0, ratio=ratio(1.31)),
    "p99 of a query while the writer never rests, 500 B, decoded": numbers("restless", 0, query={"p50": 1, "p99": 100}),
    "copies taken again, a read, the same, 20 KB, raw bytes": numbers("restless", 1, retries_each=0.05),
    "p99 of a query while the writer never rests, 20 KB, raw bytes": numbers(
        "restless", 1, query={"p50": 1, "p99": 10}
    ),
    "the writer's rate with 1 reader that never rests, against alone": lambda parts: parts["numbers"]["writer"].update(
        ratio=ratio(0.9)
    ),
    "query by queue to a worker busy with messages of 10 ms, against shared memory": lambda parts: parts["latency"][
        "sizes"
    ]["500 B"]["loads"]["10 ms"]["ratios"]["queue"].update(p99=100.0),
    "shared memory a state, 1,000 states of 500 B": lambda parts: parts["many"]["bar"].update(shared_bytes_each=24577),
    "descriptors a state, writer and reader together, 1,000 states of 500 B": lambda parts: parts["many"]["bar"].update(
        descriptors_each=3
    ),
    "the leak detector, a test that makes no segment": lambda parts: parts["plugin"]["bar"].update(
        added_us_nothing=100.0
    ),
}


@pytest.mark.parametrize("what", MISSES)
def test_what_is_beyond_its_bar_is_missed_and_nothing_else(what: str) -> None:
    parts = copy.deepcopy(reached())
    MISSES[what](parts)

    assert [row.what for row in bars.rows(parts) if row.verdict != bars.PASSES] == [what]
    assert bars.MISSED in verdicts(parts)


@pytest.mark.parametrize("part", ["numbers", "latency", "many", "plugin"])
def test_what_was_not_measured_is_said_and_not_passed(part: str) -> None:
    parts = reached()
    del parts[part]

    (verdict,) = [verdict for verdict in verdicts(parts) if verdict != bars.PASSES]
    assert verdict == f"not measured: part {part} did not run"


def test_on_one_core_nothing_is_said_of_the_writer_s_rate() -> None:
    parts = reached()
    parts["numbers"]["writer"] = {"readers": 0, "cores": 1}

    assert "not measured: one core" in verdicts(parts)
