"""The peers, told: who is first and where we are not, what each can do wrong, and what the comparison leaves out."""

from __future__ import annotations

from typing import Dict, Iterator, List, Mapping

from benchmarks.document import Answer, Plot, Section, Series, Table, micro, quantiles, times
from benchmarks.peers.judged import (
    JOBS,
    Data,
    Peer,
    copies,
    counts,
    faults,
    gave_nothing,
    joined,
    lost,
    measured,
    median,
    who_is_first,
)


def section(data: Data) -> Section:
    """From what ``parts.peers`` measured."""
    return Section(
        slug="peers",
        title="Other ways to share a state",
        lead=(
            "Bytes go in, in one process, and come out of another; each peer is used as its own documentation says is best for"
            " one writer, many readers and the latest value. For each size the processes of all peers live at once, and take"
            " turns in short rounds; a ratio is the median over the rounds. `read`: of a writer that rests, and has published"
            " once more before each round. `new`: each read finds a value that this reader has not seen; it begins 50 us after"
            " the reader woke, so its caches are cold. Then a writer that never rests is watched for torn data, and is killed."
        ),
        answers=[
            Answer("Who is first, and where are we not?", who_is_first(data)),
            _what_can_go_wrong(data),
            _who_is_missing(data),
        ],
        tables=[*(_speed(data, size) for size in data["sizes_bytes"]), _safety(data), _left(data), _notes(data)],
        plots=[_plot(data)],
    )


def _what_can_go_wrong(data: Data) -> Answer:
    peers = measured(data)
    torn = joined([title for title, peer in peers.items() if counts(peer).get("torn")])
    older = joined([title for title, peer in peers.items() if counts(peer).get("older")])
    gone = joined([title for title, peer in peers.items() if lost(peer)])
    left = joined([title for title, peer in peers.items() if peer["closed"]])
    ours = joined(faults(peers[data["baseline"]]))
    return Answer(
        "Can it return torn data, lose the last state on kill -9, leave anything behind?",
        f"Torn data came from: {torn}. Older states than had been seen, from: {older}. The last state was lost, or not to be had"
        f" within {data['deadline_seconds']:g} s, after at least one of {data['kills']} kills, with: {gone}. When all had been"
        f" closed as they should be, something stayed of: {left}. What went wrong with {data['baseline']}: {ours}. What was not"
        " seen in so short a time has not been shown not to happen.",
    )


def _who_is_missing(data: Data) -> Answer:
    missing = [f"{title} ({peer['missing']})" for title, peer in data["peers"].items() if peer["missing"]]
    failed = [
        f"{title}, {size}: {figures['failed']}"
        for title, peer in measured(data).items()
        for size, figures in peer["speed"].items()
        if "failed" in figures
    ]
    said = f"Missing: {'; '.join(missing)}." if missing else "None is missing."
    if failed:
        said += f" Could not do the job at a size: {'; '.join(failed)}."
    return Answer("Who was to be compared, and is not here?", said)


def _speed(data: Data, size: str) -> Table:
    """Fastest read of a new value first; who could not do it, last."""
    found = {title: peer["speed"][size] for title, peer in measured(data).items() if size in peer["speed"]}
    rows = []
    for title in sorted(found, key=lambda title: median(data["peers"][title], size, "new") or float("inf")):
        figures, row = found[title], [title]
        for job in JOBS:
            ratio = figures.get(job, {}).get("ratio")
            row += [*quantiles(figures.get(job, {}), "p50", "p99"), times(ratio["ratio"]) if ratio else ""]
        rows.append(row if "failed" not in figures else [title, f"missing: {figures['failed']}", *[""] * 8])
    rows += [[title, peer["missing"], *[""] * 8] for title, peer in data["peers"].items() if peer["missing"]]
    stale = [f"{title} {figures['stale']}" for title, figures in found.items() if figures.get("stale")]
    note = f"Ratios are of medians, to {data['baseline']}. A p99 is told where there were enough to tell."
    if stale:
        note += f" Reads of a new value that did not find it: {', '.join(stale)}."
    head = ["", "publish, median", "p99", "ratio", "read, median", "p99", "ratio", "new, median", "p99", "ratio"]
    return Table(size, head, rows, note)


def _safety(data: Data) -> Table:
    sizes = list(dict.fromkeys(size for peer in measured(data).values() for size in peer["watched"]))
    head = [
        "",
        *(f"torn, {size}" for size in sizes),
        "older than seen",
        "gave nothing",
        "lost by kill -9",
        "longest wait",
    ]
    rows: List[List[str]] = []
    for title, peer in data["peers"].items():
        if peer["missing"]:
            rows.append([title, peer["missing"], *[""] * (len(head) - 2)])
            continue
        torn = [_torn(peer["watched"].get(size, {})) for size in sizes]
        others = [f"{counts(peer).get('older', 0):,}", _counted(gave_nothing(peer)) or "0"]
        rows.append([title, *torn, *others, *_after_kill(peer)])
    return Table(
        "What can go wrong",
        head,
        rows,
        f"A writer that never rests, read for {data['watch_seconds']:g} s at each size; and one that is killed, {data['kills']}"
        f" times, while it publishes {data['killed_size']}. Lost: the reader that was there, or one that came after, did not get"
        f" a whole state as new as what had been seen. A read that takes {data['deadline_seconds']:g} s counts as blocked, and"
        " is ended.",
    )


def _torn(seen: Mapping[str, Dict[str, int]]) -> str:
    if "found" not in seen:
        return f"missing: {seen.get('failed', 'not measured')}"
    return f"{seen['found'].get('torn', 0):,} of {sum(seen['found'].values()):,}"


def _after_kill(peer: Peer) -> Iterator[str]:
    killed = peer["killed"]
    if "kills" not in killed:
        yield f"missing: {killed.get('failed', 'not measured')}"
        yield ""
        return
    how: Dict[str, int] = {}
    for who in ("attached", "late"):
        for what, count in killed[who].items():
            if what != "whole":
                how[what] = max(count, how.get(what, 0))
    yield f"{lost(peer)} of {killed['kills']}" + (f" ({_counted(how)})" if how else "")
    yield micro(killed["longest"])


def _counted(found: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {count:,}" for what, count in found.items())


def _left(data: Data) -> Table:
    rows = []
    for title, peer in data["peers"].items():
        if peer["missing"]:
            rows.append([title, peer["missing"], "", ""])
            continue
        killed, closed = ", ".join(peer["killed"].get("left", ())), ", ".join(peer["closed"])
        if closed and peer["stays"]:
            closed += f": {peer['stays']}"
        rows.append([title, killed or "nothing", peer["cleared_by"], closed or "nothing"])
    return Table(
        "What is left behind",
        ["", "by a killed writer", "how that goes", "after all were closed"],
        rows,
        "In /dev/shm, among System V segments, in the folder that it was given, as processes. The writer was killed, the readers"
        " closed, a server stopped; the program that had started them still ran. `*`: another text every time.",
    )


def _notes(data: Data) -> Table:
    rows = []
    for title, peer in data["peers"].items():
        used = f"{peer['version']}: {peer['how']}" if peer["version"] else peer["how"]
        rows.append([title, peer["missing"] or used, peer["leaves_out"]])
    head = ["", "version, and use", "what it is good at besides"]
    return Table("How each is used, and what this leaves out", head, rows)


def _plot(data: Data) -> Plot:
    series = []
    for size in data["sizes_bytes"]:
        medians = {title: median(peer, size, "read") for title, peer in measured(data).items()}
        read = {title: took for title, took in medians.items() if took}
        series.append(Series(size, list(read), list(read.values())))
    note = ["The median of a read, of a writer that rests."]
    note += [f"{title} gives what the reader has already: {new}." for title, new in copies(data).items()]
    series = [one for one in series if one.x]
    return Plot("peers-read", "A read, by peer and size", "", "microseconds", series, log_y=True, note=" ".join(note))
