"""What the leak detector costs a test, told."""

from __future__ import annotations

from typing import Any, List, Mapping

from benchmarks.document import Answer, Plot, Section, Series, Table, micro

TITLE = "What the leak detector costs a test"
_MAKES = {"nothing": "nothing", "segment": "a segment, and removes it"}


def section(data: Mapping[str, Any]) -> Section:
    """Words and a table of what the part measured."""
    if "missing" in data:
        return Section("plugin", TITLE, f"Not measured: {data['missing']}.")
    return Section(
        "plugin",
        TITLE,
        f"In one run of pytest, tests ran by fifties with the plugin's hooks and without them, in turn, and each was timed"
        f" from outside, all its phases. {data['runs']} runs with `/dev/shm` as it was, and {data['runs']} with"
        f" {data['entries']:,} entries more in it; {data['tests']:,} tests of each kind in a run.",
        [_what_it_costs(data), _whether_it_is_flat(data)],
        [_table(data)],
        [_plot(data)],
    )


def _what_it_costs(data: Mapping[str, Any]) -> Answer:
    costs = data["places"]["as_is"]
    added, bar = costs["nothing"]["added"], data["bar"]["bar_us"]
    verdict = "which is within the bar of" if added["median"] < bar else "which misses the bar of"
    return Answer(
        "What does it add to a test that makes no segment?",
        f"{micro(added['median'])} to one that takes {micro(costs['nothing']['without']['p50'])} without it (the runs went from"
        f" {micro(added['low'])} to {micro(added['high'])}), {verdict} {micro(bar)}. A test that makes a segment and"
        f" removes it takes {micro(costs['segment']['without']['p50'])}, and"
        f" {micro(costs['segment']['added']['median'])} more.",
    )


def _whether_it_is_flat(data: Mapping[str, Any]) -> Answer:
    added = {place: data["places"][place]["nothing"]["added"] for place in ("as_is", "many")}
    before, after = added["as_is"], added["many"]
    per_entry = (after["median"] - before["median"]) * 1e3 / data["entries"]
    if after["low"] > before["high"]:
        answer = f"It grew: {per_entry:.2f} ns an entry."
    else:
        answer = "It did not grow: the runs of both lie among each other."
    return Answer(
        "Does it grow with what lies in `/dev/shm`?",
        f"{answer} With {data['entries']:,} entries more it was {micro(after['median'])}, against"
        f" {micro(before['median'])} (the runs went from {micro(after['low'])}, and up to {micro(before['high'])}).",
    )


def _table(data: Mapping[str, Any]) -> Table:
    rows: List[List[str]] = []
    for place, title in (("as_is", "as it is"), ("many", f"{data['entries']:,} entries more")):
        for kind, makes in _MAKES.items():
            cost = data["places"][place][kind]
            added = cost["added"]
            p99s = [cost[side].get("p99") for side in ("without", "with")]
            bar = data["bar"]["bar_us"] if kind == "nothing" else None
            verdict = "" if bar is None else "passes" if added["median"] < bar else "missed"
            rows.append(
                [
                    title,
                    makes,
                    micro(cost["without"]["p50"]),
                    micro(added["median"]),
                    f"{micro(added['low'])} to {micro(added['high'])}",
                    "" if None in p99s else micro(p99s[1] - p99s[0]),
                    "" if bar is None else f"< {micro(bar)}",
                    verdict,
                ]
            )
    head = ("/dev/shm", "the test makes", "without", "added", "lowest to highest", "added at p99", "bar", "verdict")
    return Table("A test's time, and what the plugin adds to it", head, rows, "Medians of all runs.")


def _plot(data: Mapping[str, Any]) -> Plot:
    names = [f"makes {makes}" for makes in _MAKES.values()]
    series = []
    for place, title in (("as_is", "/dev/shm as it is"), ("many", f"{data['entries']:,} entries more")):
        added = [data["places"][place][kind]["added"] for kind in _MAKES]
        low, high = ([one[end] for one in added] for end in ("low", "high"))
        series.append(Series(title, names, [one["median"] for one in added], low, high))
    bar = data["bar"]["bar_us"]
    return Plot(
        "plugin-added",
        "What the leak detector adds to a test",
        "",
        "microseconds a test",
        series,
        note="Bars are medians of the runs, whiskers go from the lowest run to the highest.",
        lines=((bar, f"the bar, {micro(bar)}"),),
    )
