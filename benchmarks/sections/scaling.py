"""Scaling, told: what a read and a publish cost as states grow, as there are more, as more read."""

from __future__ import annotations

from typing import Any, List, Mapping

from benchmarks.document import Answer, Plot, Section, Series, Table, micro, nbytes, quantiles, times


def section(data: Mapping[str, Any]) -> Section:
    """Against the physical floor."""
    return Section(
        slug="scaling",
        title="Scaling",
        lead=(
            "The floor of a read is to copy as many bytes, of a get also to decode them; the floor of a publish is to copy the"
            " bytes into memory that is there already, or to encode the value. Both are measured in the same turns."
        ),
        answers=[_with_size(data), _with_states(data), _with_readers(data)],
        tables=[_sizes(data), _values(data), _readers(data), _states(data)],
        plots=[_plot_sizes(data), _plot_ratios(data), *_plot_states(data)],
    )


def _with_size(data: Mapping[str, Any]) -> Answer:
    first, last = data["sizes"][0], data["sizes"][-1]
    return Answer(
        "What does a read cost beyond the copy, as states grow?",
        f"{times(first['read_ratio']['ratio'])} the copy at {nbytes(first['bytes'])}, where the copy is"
        f" {micro(first['floor_copy'])}; {times(last['read_ratio']['ratio'])} at {nbytes(last['bytes'])}. A view costs"
        f" {micro(first['view'])} and {micro(last['view'])}: it copies nothing. A publish is"
        f" {times(first['publish_ratio']['ratio'])} and {times(last['publish_ratio']['ratio'])} the copy into memory.",
    )


def _with_states(data: Mapping[str, Any]) -> Answer:
    measured = [row for row in data["states"] if "missing" not in row]
    first, last = measured[0], measured[-1]
    return Answer(
        "And as there are more states?",
        f"A query of one takes {micro(first['one']['p50'])} with {first['states']:,} state and {micro(last['one']['p50'])} with"
        f" {last['states']:,}; all of them take {micro(last['all_each'])} a state, of which listing /dev/shm is"
        f" {micro(last['list_each'])}. Who asks one of very many comes back to it seldom: its pages are in no cache any more, and"
        " whether its writer lives is asked of the kernel again, which a query does every 50 ms.",
    )


def _with_readers(data: Mapping[str, Any]) -> Answer:
    rows = data["readers"]
    told = [f"{row['readers']}: {micro(row['read_us_of_processor'])}" for row in rows]
    return Answer(
        "And as more read?",
        f"Processor time of a read, by the number of readers: {'; '.join(told)} ({data['cores']} cores). Readers write nothing, so"
        " they take nothing from each other but cores.",
    )


def _sizes(data: Mapping[str, Any]) -> Table:
    rows: List[List[str]] = []
    for row in data["sizes"]:
        took = [micro(row[what]) for what in ("floor_copy", "read_bytes")]
        filled = [micro(row[what]) for what in ("floor_fill", "publish_bytes")]
        rows.append(
            [
                nbytes(row["bytes"]),
                *took,
                times(row["read_ratio"]["ratio"]),
                micro(row["view"]),
                *filled,
                times(row["publish_ratio"]["ratio"]),
            ]
        )
    head = ["state", "copy alone", "read_bytes", "ratio", "view", "copy in alone", "publish_bytes", "ratio"]
    return Table("Bytes", head, rows)


def _values(data: Mapping[str, Any]) -> Table:
    rows = [
        [
            f"{row['jobs']:,} jobs",
            nbytes(row["bytes"]),
            micro(row["decode"]),
            micro(row["get"]),
            times(row["get_ratio"]["ratio"]),
            micro(row["encode"]),
            micro(row["publish"]),
            times(row["publish_ratio"]["ratio"]),
        ]
        for row in data["values"]
    ]
    head = ["state", "encoded", "decode alone", "get", "ratio", "encode alone", "publish", "ratio"]
    return Table("Values", head, rows)


def _readers(data: Mapping[str, Any]) -> Table:
    rows = [
        [
            str(row["readers"]),
            micro(row["read_us_of_processor"]),
            times(row["ratio"]["ratio"]),
            f"{row['reads_per_second']:,.0f}",
        ]
        for row in data["readers"]
    ]
    return Table(
        f"Readers, 500 B, {data['cores']} cores",
        ["readers", "processor time a read", "against one", "reads a second, all"],
        rows,
    )


def _states(data: Mapping[str, Any]) -> Table:
    rows = []
    for row in data["states"]:
        if "missing" in row:
            rows.append([f"{row['states']:,}", f"missing: {row['missing']}", "", "", ""])
            continue
        one = quantiles(row["one"], "p50", "p99")
        rows.append([f"{row['states']:,}", *one, micro(row["all_each"]), micro(row["list_each"])])
    head = ["states", "query of one, median", "p99", "query of all, each", "list them, each"]
    return Table("States of 500 B, in one process, asked from another", head, rows)


def _plot_sizes(data: Mapping[str, Any]) -> Plot:
    sizes = [row["bytes"] for row in data["sizes"]]
    labels = {
        "floor_copy": "copy alone",
        "read_bytes": "read_bytes",
        "view": "view",
        "floor_fill": "copy in alone",
        "publish_bytes": "publish_bytes",
    }
    series = [Series(label, sizes, [row[what] for row in data["sizes"]]) for what, label in labels.items()]
    return Plot(
        "scaling-size", "What a state costs, by its size", "bytes", "microseconds", series, log_x=True, log_y=True
    )


def _plot_ratios(data: Mapping[str, Any]) -> Plot:
    series = []
    for key, label in (("read_ratio", "read_bytes / copy"), ("publish_ratio", "publish_bytes / copy in")):
        ratios = [row[key] for row in data["sizes"]]
        low, high = [ratio["low"] for ratio in ratios], [ratio["high"] for ratio in ratios]
        series.append(
            Series(label, [row["bytes"] for row in data["sizes"]], [ratio["ratio"] for ratio in ratios], low, high)
        )
    return Plot(
        "scaling-ratio", "Against the physical floor", "bytes", "ratio", series, log_x=True, lines=[(1.0, "the floor")]
    )


def _plot_states(data: Mapping[str, Any]) -> List[Plot]:
    rows = [row for row in data["states"] if "missing" not in row]
    counts = [row["states"] for row in rows]
    series = [
        Series("one, median", counts, [row["one"]["p50"] for row in rows]),
        Series("one, p99", counts, [row["one"].get("p99", row["one"]["max"]) for row in rows]),
        Series("all, each", counts, [row["all_each"] for row in rows]),
    ]
    return [
        Plot(
            "scaling-states",
            "A query, by the number of states",
            "states",
            "microseconds",
            series,
            log_x=True,
            log_y=True,
        )
    ]
