"""What is told of the numbers to reach that are no bar: spreads, other engines, views, waking."""

from __future__ import annotations

from typing import Any, List, Mapping

from benchmarks.document import Section, Table, micro, nbytes, quantiles, times


def section(data: Mapping[str, Any]) -> Section:
    """Everything of that part."""
    return Section(
        slug="numbers",
        title="What a call costs",
        lead=(
            "Each call against the work that it cannot do without, in turns of a few milliseconds: the ratio is the median of"
            " the turns' ratios, and nine turns in ten lie in the spread."
        ),
        tables=[_calls(data), _restless(data), _waking(data)],
    )


def _ratio_row(what: str, row: Mapping[str, Any]) -> List[str]:
    ratio = row["ratio"]
    return [
        what,
        micro(row["floor"]),
        micro(row["took"]),
        times(ratio["ratio"]),
        f"{times(ratio['low'])} to {times(ratio['high'])}",
    ]


def _calls(data: Mapping[str, Any]) -> Table:
    rows = [_ratio_row(f"read_bytes / bytes(view), {nbytes(row['bytes'])}", row) for row in data["read_bytes"]]
    rows += [_ratio_row(f"get / decode, {row['engine']}, {nbytes(row['bytes'])}", row) for row in data["get"]]
    rows += [_ratio_row(f"publish / encode, {row['engine']}, {nbytes(row['bytes'])}", row) for row in data["publish"]]
    rows += [_ratio_row(row["what"], row) for row in data["views"]]
    return Table("Calls", ["what", "the second alone", "the first", "ratio", "spread"], rows)


def _restless(data: Mapping[str, Any]) -> Table:
    rows = []
    for row in data["restless"]:
        query = row["query"]
        cells = [row["what"], *quantiles(query, "p50", "p99", "p999", "max")]
        rows.append([*cells, f"{row['retries_each']:.4f}", f"{row['publishes_per_second']:,.0f}"])
    head = ["state", "median", "p99", "p99.9", "longest", "copies taken again, a read", "publishes a second"]
    return Table("A query while the writer never rests", head, rows)


def _waking(data: Mapping[str, Any]) -> Table:
    rows = [
        [row["how"], *quantiles(row["late"], "p50", "p99"), f"{row['processor_percent']:.1f} %"]
        for row in data["waking"]
    ]
    note = "A writer made with notify=True wakes who waits; otherwise who waits looks now and then, more seldom the longer nothing comes."
    return Table(
        "From a publish to the return of wait()", ["how", "median", "p99", "processor of who waits"], rows, note
    )
