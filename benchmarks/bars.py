"""The numbers to reach, and whether they are: one row each, of what several parts have measured."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple

from benchmarks.document import micro, nbytes, times

PASSES, MISSED = "passes", "missed"

#: A part's data by its name; parts that failed or were not run are not there.
Parts = Mapping[str, Mapping[str, Any]]


class Row(NamedTuple):
    """One line. ``verdict``: passes, missed, or why nothing can be said."""

    what: str
    figure: str
    bar: str
    verdict: str


def rows(parts: Parts) -> List[Row]:
    """All of them, in the order of the design; what was not measured says so."""
    found: List[Row] = []
    for part, make in _MAKERS.items():
        if part in parts:
            found += make(parts[part])
        else:
            found.append(Row(_MISSING[part], "", "", f"not measured: part {part} did not run"))
    return found


def _at_most(what: str, ratio: Mapping[str, float], bar: float, took: str = "") -> Row:
    verdict = PASSES if ratio["ratio"] <= bar else MISSED
    spread = f"{times(ratio['ratio'])} ({times(ratio['low'])} to {times(ratio['high'])})"
    return Row(what, f"{spread}{took}", f"at most {bar:g}x", verdict)


def _of_numbers(data: Mapping[str, Any]) -> Iterator[Row]:
    for row, bar in zip(data["read_bytes"], (2.5, 1.15)):
        yield _at_most(f"read_bytes against bytes(view), {nbytes(row['bytes'])}", row["ratio"], bar, _from_to(row))
    plain = [row for row in data["get"] if row["engine"] == "msgpack"]
    for row, bar in zip(plain, (1.25, 1.03)):
        yield _at_most(f"get against decoding, msgpack, {nbytes(row['bytes'])}", row["ratio"], bar, _from_to(row))
    row = data["publish"][0]
    yield _at_most(f"publish against encoding, msgpack, {nbytes(row['bytes'])}", row["ratio"], 1.3, _from_to(row))
    for row, bar in zip(data["restless"], (100.0, 10.0)):
        p99 = row["query"]["p99"]
        yield Row(
            f"p99 of a query while the writer never rests, {row['what']}",
            f"{micro(p99)} (median {micro(row['query']['p50'])}, {row['publishes_per_second']:,.0f} publishes a second)",
            f"under {bar:g} us",
            PASSES if p99 < bar else MISSED,
        )
        retries = row["retries_each"]
        what = f"copies taken again, a read, the same, {row['what']}"
        yield Row(what, f"{retries:.4f}", "under 0.05", PASSES if retries < 0.05 else MISSED)
    yield _writers_rate(data["writer"])


def _from_to(row: Mapping[str, float]) -> str:
    return f", {micro(row['floor'])} -> {micro(row['took'])}"


def _writers_rate(data: Mapping[str, Any]) -> Row:
    count, bar = data["readers"], "over 0.9"
    if not count:
        return Row("the writer's rate with 2 readers, against alone", "", bar, "not measured: one core")
    what = f"the writer's rate with {count} reader{'s' if count > 1 else ''} that never rest{'' if count > 1 else 's'}, against alone"
    ratio = data["ratio"]
    note = "" if count > 1 else f"; on {data['cores']} cores a second reader competes for the writer's"
    figure = f"{ratio['ratio']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}){note}"
    return Row(what, figure, bar, PASSES if ratio["ratio"] > 0.9 else MISSED)


def _of_latency(data: Mapping[str, Any]) -> Iterator[Row]:
    loads = data["sizes"]["500 B"]["loads"]
    for way in ("pipe", "queue"):
        for load in ("1 ms", "10 ms"):
            ratio = loads[load]["ratios"][way]["p99"]
            figure = (
                f"{times(ratio)} at p99 ({micro(loads[load][way]['p99'])} -> {micro(loads[load]['shmstate']['p99'])})"
            )
            verdict = PASSES if ratio > 100 else MISSED
            yield Row(
                f"query by {way} to a worker busy with messages of {load}, against shared memory",
                figure,
                "over 100x",
                verdict,
            )


def _of_many(data: Mapping[str, Any]) -> Iterator[Row]:
    bar = data["bar"]
    shared, descriptors = bar["shared_bytes_each"], bar["descriptors_each"]
    count = f"{bar['states']:,} states of 500 B"
    yield Row(
        f"shared memory a state, {count}", nbytes(shared), "at most 24 KB", PASSES if shared <= 24 << 10 else MISSED
    )
    verdict = PASSES if descriptors <= 2 else MISSED
    yield Row(f"descriptors a state, writer and reader together, {count}", f"{descriptors:g}", "at most 2", verdict)


def _of_plugin(data: Mapping[str, Any]) -> Iterator[Row]:
    bar = data["bar"]
    cases = (
        ("added_us_nothing", ""),
        ("added_us_nothing_many_entries", f", {bar['entries']:,} entries more in /dev/shm"),
    )
    for key, where in cases:
        verdict = PASSES if bar[key] < 100 else MISSED
        yield Row(
            f"the leak detector, a test that makes no segment{where}",
            f"{micro(bar[key])} more",
            "under 100 us",
            verdict,
        )


_MAKERS: Dict[str, Callable[[Mapping[str, Any]], Iterator[Row]]] = {
    "numbers": _of_numbers,
    "latency": _of_latency,
    "many": _of_many,
    "plugin": _of_plugin,
}
_MISSING = {
    "numbers": "reads and publishes against what they cannot do without",
    "latency": "queries by pipe and queue, against shared memory",
    "many": "memory and descriptors a state",
    "plugin": "the leak detector, a test that makes no segment",
}
