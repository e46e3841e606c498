"""Experiment 1, told: what a query costs, by pipe, by queue, from shared memory."""

from __future__ import annotations

from typing import Any, List, Mapping

from benchmarks.document import Answer, Plot, Section, Series, Table, micro, quantiles, times

_WAYS = ("pipe", "queue", "shmstate")


def section(data: Mapping[str, Any]) -> Section:
    """The 100x hypothesis, and where the time goes."""
    sizes = data["sizes"]
    return Section(
        slug="latency",
        title="1. Query latency",
        lead=(
            "One worker, asked for its state by a pipe, by a pair of queues, and through shared memory, in turns. It is idle, or"
            " always has another message to handle, of 1 or 10 ms. Who asks by pipe or queue comes before the next message,"
            " which is kind to them, and asks at random moments."
        ),
        answers=[_hundred_times(sizes), _target(sizes), _where(sizes)],
        tables=[*(_table(size, found) for size, found in sizes.items()), _breakdown(sizes)],
        plots=[_plot(size, found) for size, found in sizes.items()],
    )


def _hundred_times(sizes: Mapping[str, Any]) -> Answer:
    yes: List[str] = []
    no: List[str] = []
    for size, found in sizes.items():
        for load in found["loads"]:
            ratios = found["loads"][load]["ratios"]
            low, high = sorted(ratios[way]["p99"] for way in ratios)
            told = f"{size}, {_worker(load)}: {times(low)} to {times(high)} at p99"
            (yes if low > 100 else no).append(told)
    verdict = (
        "Yes, where the worker is busy and the state is small" if yes and no else "Yes, everywhere" if yes else "No"
    )
    parts = [f"{verdict}."]
    if yes:
        parts.append(f"More than a hundred times: {'; '.join(yes)}.")
    if no:
        parts.append(
            f"Less: {'; '.join(no)}. There the query is little more than decoding the state, which both ways have to do, or the"
            " worker is idle, and all that is saved is the way to it and back."
        )
    return Answer("Does shared memory reduce query latency by 100x?", " ".join(parts))


def _worker(load: str) -> str:
    return "idle worker" if load == "idle" else f"worker busy with messages of {load}"


def _target(sizes: Mapping[str, Any]) -> Answer:
    told, missed = [], False
    for size, found in sizes.items():
        loads = [load["shmstate"] for load in found["loads"].values()]
        worst, median = max(load["p99"] for load in loads), max(load["p50"] for load in loads)
        missed = missed or worst >= 100
        decode = found["breakdown"]["decode"]
        told.append(
            f"{size}: {micro(worst)} at worst, with a median of {micro(median)}, of which decoding is {micro(decode)}"
        )
    verdict = "Not for every state" if missed else "Yes"
    note = (
        " Decoding is the work that no way of sharing saves: ask for less of the state (a record's field), or only for what is"
        " newer. What lies far beyond the median is no work at all: who reads waits for a processor, as any process does, and"
        " the longer a query takes the more often one is caught in that."
    )
    return Answer("Is p99 of a query under 100 us?", f"{verdict}. {'; '.join(told)}.{note if missed else ''}")


def _where(sizes: Mapping[str, Any]) -> Answer:
    told = []
    for size, found in sizes.items():
        parts = found["breakdown"]
        shares = {what: 100 * parts[what] / parts["query"] for what in ("decode", "answer", "copy", "validate")}
        told.append(
            f"Of {micro(parts['query'])} for {size}, decoding is {shares['decode']:.0f} %, finding the worker and saying how old its"
            f" state is and whether it lives {shares['answer']:.0f} %, copying {shares['copy']:.0f} %, and making sure that the copy"
            f" is whole {shares['validate']:.0f} %."
        )
    return Answer("Where does the time go?", " ".join(told))


def _table(size: str, found: Mapping[str, Any]) -> Table:
    rows: List[List[str]] = []
    for load in found["loads"]:
        for way in _WAYS:
            took = found["loads"][load][way]
            ratios = found["loads"][load]["ratios"].get(way)
            cells = quantiles(took, "p50", "p99", "p999")
            against = [times(ratios[part]) for part in ("p50", "p99")] if ratios else ["1", "1"]
            rows.append([load, way, *cells, *against, f"{took['n']:,.0f}"])
    head = ["worker", "asked by", "median", "p99", "p99.9", "median / ours", "p99 / ours", "asked"]
    return Table(f"A query, state of {size} ({found['bytes']:,} bytes)", head, rows)


def _breakdown(sizes: Mapping[str, Any]) -> Table:
    rows = []
    for size, found in sizes.items():
        parts = found["breakdown"]
        first = found["first"]
        cells = [micro(parts[what]) for what in ("answer", "copy", "validate", "decode", "query")]
        rows.append([size, *cells, micro(first["p50"])])
    head = [
        "state",
        "find worker, age, liveness",
        "copy",
        "make sure it is whole",
        "decode",
        "all",
        "the first query, which attaches",
    ]
    return Table("Where the time goes (medians)", head, rows)


def _plot(size: str, found: Mapping[str, Any]) -> Plot:
    loads = found["loads"]
    series = [
        Series(way, list(loads), [load[way].get("p99", load[way]["max"]) for load in loads.values()]) for way in _WAYS
    ]
    return Plot(
        name=f"latency-{size.replace(' ', '').lower()}",
        title=f"p99 of a query, state of {size}",
        x_label="what the worker does: nothing, or messages of",
        y_label="microseconds",
        series=series,
        log_y=True,
        note="By pipe and queue the worker's message is waited for. From shared memory it is not.",
        lines=[(100.0, "the mission's target")],
    )
