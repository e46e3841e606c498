"""What the demo has to say in the end: one record, as text for people and as JSON for programs."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from shmstate.demo.census import State
from shmstate.demo.units import duration, size, times
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
    restarts: int
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
        restarts=sum(worker.restarts for worker in watch.workers),
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
    sections = [_counted(report), _seen(report), _latencies(report), _verdict(report)]
    return "\n\n".join("\n".join(section) for section in sections)


def _counted(report: Report) -> List[str]:
    totals, seconds = report.totals, (report.seconds_in_one_process, report.seconds_in_workers)
    same = "does NOT count the same" if any("differ" in failure for failure in report.failures) else "counts the same"
    return _rows(
        ("counted", f"{totals['files']:,} files, {totals['lines']:,} lines"),
        ("", f"{totals['functions']:,} functions, {totals['classes']:,} classes"),
        ("", f"{report.distinct_names:,} names, {totals['names']:,} times; most often {', '.join(report.commonest)}"),
        *([("", f"{totals['unparsed']} files that do not parse")] if totals["unparsed"] else []),
        ("checked", "one process alone {} ({:.1f} s; the workers took {:.1f} s)".format(same, *seconds)),
    )


def _seen(report: Report) -> List[str]:
    grew = f"from {size(report.smallest_state)} to {size(report.largest_state)} a worker"
    return _rows(
        ("states read", f"{report.reads:,} times while the workers changed them, each read checked"),
        ("torn", f"{report.torn}"),
        ("retried", f"{report.retries}, because the state was overwritten during the copy"),
        ("grown", f"{grew}; {report.growths:,} reads found a new largest"),
        *(_deaths(report) or [("workers died", "none")]),
        ("left behind", ", ".join(report.left_in_shm) or "nothing in /dev/shm"),
    )


def _deaths(report: Report) -> List[Tuple[str, str]]:
    told = "{worker} (pid {pid}); its successor went on from its last state and was sent {sent_again} files again"
    return [("worker died", told.format(**death)) for death in report.deaths]


def _rows(*rows: Tuple[str, str]) -> List[str]:
    return [f"  {label:<14}{text}" for label, text in rows]


def _latencies(report: Report) -> List[str]:
    # What a query can mean at least and at most: bytes in hand, and the value.
    lines = [f"  {'the main process waits for ...':<38}{'median':>9}{'p99':>9}{'max':>9}{'times':>9}"]
    for label, measured in (
        ("a snapshot of a state, as bytes", report.snapshot),
        ("a query: a snapshot, decoded", report.query),
        ("the same worker, asked over a pipe", report.ask),
    ):
        figures = "".join(f"{duration(value):>9}" for value in measured[1:])
        nothing = f"{'never asked, it was over too soon':>36}"
        lines.append(f"  {label:<38}" + (f"{figures}{measured.times:>9,}" if measured.times else nothing))
    if report.ask.times:
        for label, than in (("query", report.query), ("snapshot", report.snapshot)):
            ratios = f"{times(report.ask.p50 / than.p50):>9}{times(report.ask.p99 / than.p99):>9}"
            lines.append(f"  {'pipe / ' + label:<38}{ratios}")
    sizes = (
        f"{size(report.smallest_state)} to {size(report.largest_state)}, half of them above {size(report.median_state)}"
    )
    lines.append(f"  (for states of {sizes})")
    return lines


def _verdict(report: Report) -> List[str]:
    return ["All of it held."] if report.held else [f"FAILED: {failure}" for failure in report.failures]
