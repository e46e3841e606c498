"""Experiment 2, told: whether readers and writers disturb each other."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

from benchmarks.document import Answer, Plot, Section, Series, Table, figures, micro, quantiles


def section(data: Mapping[str, Any]) -> Section:
    """Latency, retries, torn reads, and the writer's rate."""
    return Section(
        slug="interference",
        title="2. Readers and writers",
        lead=(
            "A writer publishes each millisecond or without rest; a reader reads 1,000 times a second or without rest, and looks"
            " at every copy, outside of what is timed, for bytes of two versions."
        ),
        answers=[_torn(data), _latency(data), _slots(data), _rate(data)],
        tables=[_reads(data), _rates(data)],
        plots=[_retries(data), _plot_rates(data)],
    )


def _torn(data: Mapping[str, Any]) -> Answer:
    reads = sum(cell["reads"] for cell in data["cells"])
    torn = sum(cell["torn"] for cell in data["cells"])
    retries = sum(cell["retries"] for cell in data["cells"])
    gave_up = sum(cell["timeouts"] for cell in data["cells"])
    verdict = "No: none" if not torn else f"Yes: {torn:,}"
    text = (
        f"{verdict} of {reads:,} reads. {retries:,} copies were spoilt while they were taken, noticed, and taken again."
    )
    if gave_up:
        text += f" {gave_up:,} reads gave up, with ReadTimeout, after as many copies as a reader takes."
    return Answer("Do you ever see torn reads?", text)


def _cell(data: Mapping[str, Any], size: str, slots: int, writer: str, reader: str) -> Dict[str, Any]:
    for cell in data["cells"]:
        if (cell["size"], cell["slots"], cell["writer"], cell["reader"]) == (size, slots, writer, reader):
            found: Dict[str, Any] = cell
            return found
    raise LookupError(f"no cell of {size}, {slots} slots, writer {writer}, reader {reader}")


def _sizes(data: Mapping[str, Any]) -> List[str]:
    return list(dict.fromkeys(cell["size"] for cell in data["cells"]))


def _slot_counts(data: Mapping[str, Any]) -> List[int]:
    return sorted({cell["slots"] for cell in data["cells"]})


def _latency(data: Mapping[str, Any]) -> Answer:
    told = []
    for size in _sizes(data):
        slow, fast = (_cell(data, size, 4, writer, "flat out")["read"] for writer in ("1 ms", "flat out"))
        if "p50" in slow and "p50" in fast:
            told.append(
                f"{size}: median {micro(slow['p50'])} with a writer each millisecond, {micro(fast['p50'])} with one that never rests"
            )
    return Answer(
        "Does read latency change with write frequency?",
        f"With four slots, {'; '.join(told)}. What remains is the memory's: two processes share its bandwidth and move its"
        " cache lines, whatever the protocol.",
    )


def _slots(data: Mapping[str, Any]) -> Answer:
    told = []
    for size in _sizes(data):
        each = [
            (slots, *(_again(_cell(data, size, slots, "flat out", reader)) for reader in ("flat out", "1,000/s")))
            for slots in _slot_counts(data)
        ]
        told.append(
            f"{size}: " + ", ".join(f"{figures(hot)} and {figures(cold)} with K = {k}" for k, hot, cold in each)
        )
    return Answer(
        "When is double-buffering enough?",
        "Copies taken again, a read, under a writer that never rests, by a reader that does not rest either, and by one that"
        f" comes 1,000 times a second: {'; '.join(told)}. Two slots are never wrong, but who comes now and then finds none of"
        " it in his caches, copies slowly, and is overtaken; and a large state takes long to copy anyway. With four slots a"
        " writer has to publish three times meanwhile.",
    )


def _again(cell: Mapping[str, Any]) -> float:
    return float(cell["retries"] / max(1, cell["reads"]))


def _rate(data: Mapping[str, Any]) -> Answer:
    told = []
    for size in dict.fromkeys(row["size"] for row in data["writers"]):
        mine = [row for row in data["writers"] if row["size"] == size]
        one = next(row for row in mine if row["readers"] == 1 and row["reader"] == "flat out")
        least = min(mine, key=lambda row: float(row["per_cpu"]["ratio"]))
        told.append(
            f"{size}: one reader that never rests leaves the writer {one['rate']['ratio']:.2f} of its rate; by the writer's own"
            f" processor time it is {one['per_cpu']['ratio']:.2f}, and never less than {least['per_cpu']['ratio']:.2f}"
            f" ({least['readers']} readers, {least['reader']})"
        )
    return Answer(
        "Does write throughput decrease with concurrent readers?",
        f"{'. '.join(told)}. No writer waits for a reader. Where there are more processes than the {data['cores']} cores here the"
        " scheduler takes the writer's share away; its processor time leaves that out, and shows what readers cost it: the"
        " cache lines that they took.",
    )


def _reads(data: Mapping[str, Any]) -> Table:
    rows = []
    for cell in data["cells"]:
        read = cell["read"]
        took = quantiles(read, "p50", "p99", "p999")
        rows.append(
            [
                cell["size"],
                str(cell["slots"]),
                cell["writer"],
                cell["reader"],
                *took,
                f"{_again(cell):.4f}",
                f"{cell['torn']:,} of {cell['reads']:,}",
                f"{cell['published_per_second']:,.0f}",
            ]
        )
    for alone in data["alone"]:
        took = quantiles(alone["read"], "p50", "p99", "p999")
        rows.append([alone["size"], str(alone["slots"]), "none", "flat out", *took, "", "", ""])
    head = [
        "state",
        "K",
        "writer",
        "reader",
        "median",
        "p99",
        "p99.9",
        "copies again, a read",
        "torn",
        "publishes a second",
    ]
    return Table("Reads (the clock and the reader's own pace are in the latencies)", head, rows)


def _rates(data: Mapping[str, Any]) -> Table:
    rows = [
        [row["size"], row["reader"], str(row["readers"])]
        + [f"{row[key]['ratio']:.2f} ({row[key]['low']:.2f} to {row[key]['high']:.2f})" for key in ("rate", "per_cpu")]
        + [f"{row['per_second']:,.0f}"]
        for row in data["writers"]
    ]
    head = ["state", "readers read", "readers", "rate / alone", "the same, by its processor time", "publishes a second"]
    return Table(f"A writer that never rests, {data['cores']} cores", head, rows)


def _retries(data: Mapping[str, Any]) -> Plot:
    slots = _slot_counts(data)
    series = [
        Series(size, slots, [_again(_cell(data, size, count, "flat out", "flat out")) for count in slots])
        for size in _sizes(data)
    ]
    return Plot(
        name="interference-retries",
        title="Copies taken again, a read, under a writer that never rests",
        x_label="slots (K)",
        y_label="copies again, a read",
        series=series,
        note="Why four is the default.",
        lines=[(0.05, "the bar")],
    )


def _plot_rates(data: Mapping[str, Any]) -> Plot:
    kinds = list(dict.fromkeys((row["size"], row["reader"]) for row in data["writers"]))
    series = []
    for size, reader in kinds:
        rows = [row for row in data["writers"] if (row["size"], row["reader"]) == (size, reader)]
        ratios = [row["per_cpu"] for row in rows]
        label = f"{size}, readers {reader}"
        low, high = [ratio["low"] for ratio in ratios], [ratio["high"] for ratio in ratios]
        series.append(Series(label, [row["readers"] for row in rows], [ratio["ratio"] for ratio in ratios], low, high))
    return Plot(
        name="interference-writer",
        title="Publishes a second of the writer's processor time, against none reading",
        x_label="readers",
        y_label="ratio",
        series=series,
        note="Readers never hold a writer up.",
        lines=[(0.9, "the bar")],
    )
