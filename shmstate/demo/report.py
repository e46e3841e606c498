"""What the demo has to say in the end: one record, as text for people and as JSON for programs."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Sequence

from shmstate.demo.census import State
from shmstate.demo.watch import Watch

COMMONEST = 5


class Latency(NamedTuple):
    """How long something took, in microseconds."""

    times: int
    p50: float
    p99: float
    max: float


class Report(NamedTuple):
    """The outcome. Latencies of what was never measured have ``times`` 0."""

    held: bool
    #: What did not hold, a sentence each.
    failures: List[str]
    python: str
    start_method: str
    workers: int
    #: The sums over all workers' states.
    totals: Dict[str, int]
    distinct_names: int
    commonest: Dict[str, int]
    seconds_in_workers: float
    seconds_in_one_process: float
    #: States read from shared memory, each of them checked; those that failed; copies that had to be taken again.
    reads: int
    torn: int
    retries: int
    #: Reads that found a worker's state larger than it had ever been; bytes of states, by query.
    growths: int
    smallest_state: int
    median_state: int
    largest_state: int
    snapshot: Latency
    query: Latency
    ask: Latency
    #: How many times as long as the query the pipe takes.
    ask_to_query_p50: float
    ask_to_query_p99: float
    #: {"worker", "pid", "sent_again"} of each worker that died and was started again.
    deaths: List[Dict[str, Any]]
    left_in_shm: List[str]

    def as_json(self) -> Dict[str, Any]:
        """The report as an object of plain values."""
        latencies = {kind: getattr(self, kind)._asdict() for kind in ("snapshot", "query", "ask")}
        return {**self._asdict(), **latencies}


def summarize(
    watch: Watch, whole: State, alone: State, left: List[str], seconds: Sequence[float], **facts: Any
) -> Report:
    """Judge a finished watch: ``whole`` is what its workers counted together, ``alone`` what one process did."""
    failures = [f"a read was torn: {torn}" for torn in watch.torn[:3]]
    failures += [f"{name} is left in /dev/shm" for name in left]
    failures += differences(whole, alone)
    snapshot, query, ask = map(latency, (watch.snapshot_ns, watch.query_ns, watch.ask_ns))
    names = whole["names"]
    sizes = sorted(watch.query_sizes)
    return Report(
        held=not failures,
        failures=failures,
        workers=len(watch.workers),
        totals=whole["totals"],
        distinct_names=len(names),
        commonest={name: names[name] for name in sorted(names, key=lambda name: (-names[name], name))[:COMMONEST]},
        seconds_in_workers=seconds[0],
        seconds_in_one_process=seconds[1],
        reads=watch.reads,
        torn=len(watch.torn),
        retries=watch.retries,
        growths=watch.growths,
        smallest_state=watch.smallest,
        median_state=sizes[len(sizes) // 2],
        largest_state=watch.largest,
        snapshot=snapshot,
        query=query,
        ask=ask,
        ask_to_query_p50=ask.p50 / query.p50,
        ask_to_query_p99=ask.p99 / query.p99,
        deaths=[death._asdict() for death in watch.deaths],
        left_in_shm=left,
        **facts,
    )


def differences(whole: State, alone: State) -> List[str]:
    """Where the workers' count differs from that of one process, a sentence for each part."""
    found = []
    for part in ("totals", "modules", "unparsed", "names"):
        ours, theirs = whole[part], alone[part]
        unlike = sorted(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))
        if unlike:
            key = unlike[0]
            found.append(
                f"{part} differ in {len(unlike)} places: {key!r} is {ours.get(key)} in the workers' states and"
                f" {theirs.get(key)} counted by one process"
            )
    return found


def latency(nanoseconds: Sequence[int]) -> Latency:
    """Nearest-rank percentiles."""
    ordered = sorted(nanoseconds)
    times = len(ordered)
    if not times:
        return Latency(0, 0.0, 0.0, 0.0)
    return Latency(times, *(ordered[-(-times * rank // 100) - 1] / 1e3 for rank in (50, 99, 100)))


def as_text(report: Report) -> str:
    """The report in one screen."""
    totals = report.totals
    yes = "yes" if not any("differ" in failure for failure in report.failures) else "NO"
    rows = [
        ("counted", f"{totals['files']:,} files, {totals['lines']:,} lines, {totals['functions']:,} functions,"
                    f" {totals['classes']:,} classes"),
        ("", f"{totals['names']:,} uses of {report.distinct_names:,} names, most of all "
             + ", ".join(f"{name} {times:,}" for name, times in report.commonest.items())),
    ]  # fmt: skip
    if totals["unparsed"]:
        rows.append(("", f"{totals['unparsed']} of the files do not parse, and are counted as such"))
    rows += [
        ("one process alone", f"counts the same: {yes} ({report.seconds_in_one_process:.1f} s;"
                              f" the workers took {report.seconds_in_workers:.1f} s)"),
        ("", ""),
        ("states read", f"{report.reads:,} times while the workers changed them; every one checked"),
        ("torn reads", f"{report.torn}"),
        ("second tries", f"{report.retries}"),
        ("growth", f"from {size(report.smallest_state)} to {size(report.largest_state)} a worker;"
                   f" {report.growths:,} reads found a state larger than ever before"),
        *_deaths(report),
        ("left in /dev/shm", ", ".join(report.left_in_shm) or "nothing"),
    ]  # fmt: skip
    lines = [f"  {label:<18} {text}".rstrip() for label, text in rows]
    return "\n".join([*lines, "", *_latencies(report), "", *_verdict(report)])


def _deaths(report: Report) -> List[Any]:
    texts = [
        f"{death['worker']} (pid {death['pid']}); its successor went on from the last state,"
        f" {death['sent_again']} files were sent again"
        for death in report.deaths
    ]
    return [("workers that died", text) for text in texts] or [("workers that died", "none")]


def _latencies(report: Report) -> List[str]:
    # The least that a query can mean, and the most: bytes in hand, and the value.
    lines = [f"  {'how long it takes':<42}{'median':>10}{'p99':>10}{'max':>10}{'measured':>11}"]
    for label, measured in (
        ("snapshot: a worker's state, whole, as bytes", report.snapshot),
        ("query: the same, decoded", report.query),
        ("the same state asked for through a pipe", report.ask),
    ):
        if measured.times:
            figures = "".join(f"{duration(value):>10}" for value in measured[1:])
            lines.append(f"  {label:<42}{figures:>30}{measured.times:>11,}")
        else:
            lines.append(f"  {label:<42}{'not measured: it was over too soon':>41}")
    if report.ask.times:
        for label, than in (("query", report.query), ("snapshot", report.snapshot)):
            ratios = f"{times(report.ask.p50 / than.p50):>10}{times(report.ask.p99 / than.p99):>10}"
            lines.append(f"  {'pipe / ' + label:<42}{ratios}")
    lines.append(f"  (half of the queried states are larger than {size(report.median_state)})")
    return lines


def _verdict(report: Report) -> List[str]:
    return ["All of it held."] if report.held else [f"FAILED: {failure}" for failure in report.failures]


def size(nbytes: float) -> str:
    """Bytes for people."""
    if nbytes < 1000:
        return f"{nbytes:.0f} B"
    for unit in ("KB", "MB", "GB"):
        nbytes /= 1000
        if nbytes < 999.5:
            break
    return f"{nbytes:.3g} {unit}"


def duration(microseconds: float) -> str:
    """A time for people."""
    if microseconds < 999.5:
        return f"{microseconds:.3g} us"
    if microseconds < 999_500:
        return f"{microseconds / 1e3:.3g} ms"
    return f"{microseconds / 1e6:.3g} s"


def times(ratio: float) -> str:
    """A ratio for people."""
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.1f}x"
