"""Experiment 3: how often to publish a state. What it costs the worker, and how far behind a reader is.

One worker process reads messages of a pipe, works some tens of microseconds on each, and changes its state. The state is
published in one of the WAYS, each for a turn. Loads: ``flat_out``, as many messages as it can handle; ``paced`` and
``rare``, so many a second, while this process reads at random moments:

    age   how long ago the last change happened that the reader has before it
    lag   how long ago the first change happened that it has not; 0 if it sees all that the worker has done

    {"per_second": {"paced": r, "rare": r}, "sizes": {"small": {"state_bytes": n, "publish": us,
       "flat_out": {WAY: {"per_second": r, "throughput": ratio, "cpu": us, "cpu_ratio": ratio, "published_per_second": r}},
       "paced": {WAY: {"cpu_percent": p, "more_percent": p, "more_low_percent": p, "more_high_percent": p, "own_percent": p,
                       "published_per_second": r, "age": {summary}, "lag": {summary}}}, "rare": ...}, "large": ...},
     "beyond": {"state_bytes": n, "encode": us, "publish": us, "interval": us, "throughput": ratio, "own_percent": p,
                "ticks": n, "published": n, "overruns": n, "lag": {summary}}}

``throughput``: messages a second against those of the worker that does not publish, round by round; ``cpu``: processor time
a message. Percents are of one core: ``cpu_percent`` of the whole worker, ``more_percent`` beyond the worker that does not
publish, round by round, ``own_percent`` of syncing itself, by the clock of its thread. ``no syncing, again`` is the worker
that does not publish a second time: its difference is what cannot be told from nothing. ``beyond``: a state that takes longer
to encode than its interval.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from contextlib import contextmanager
from functools import partial
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import shmstate
from benchmarks.harness import Effort, Tell, interleaved, quantile, ratio, summary
from benchmarks.remote import Remote
from benchmarks.syncing import BASELINE, BEYOND, BEYOND_WAY, RARE_WAYS, WAYS, Turn, Worker

#: Messages a second.
PER_SECOND = {"paced": 1000, "rare": 10}


class Plan(NamedTuple):
    """How many rounds of how many seconds, flat out and paced; of two intervals and so many messages at least."""

    rounds: int
    seconds: float
    paced_rounds: int
    paced_seconds: float
    messages: int = 6
    sizes: Sequence[str] = ("small", "large")


def plan(effort: Effort) -> Plan:
    """What ``measure`` does."""
    return effort.of(Plan(20, 0.2, 3, 1.0), Plan(3, 0.06, 1, 0.3))


class _Bench:
    """A worker, and a reader of its state at random moments."""

    def __init__(self, worker: Remote, reader: shmstate.StateReader) -> None:
        self._worker = worker
        self._reader = reader
        self._moments = random.Random(3)
        self._turn = 0

    def turn(self, name: str, seconds: float, per_second: int = 0) -> Turn:
        """One turn, unobserved."""
        self._turn += 1
        self._worker.start("work", self._turn, name, seconds, per_second)
        done: Turn = self._worker.finish()
        return done

    def watched(self, name: str, seconds: float, per_second: int) -> Tuple[Turn, List[float], List[float]]:
        """One turn, and the ages and lags of what was read meanwhile, in microseconds."""
        self._turn += 1
        self._worker.start("work", self._turn, name, seconds, per_second)
        seen = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(self._moments.uniform(0.0002, 0.004))  # at moments that have nothing to do with the worker's
            turn, number = self._reader.get()["last"]
            if turn == self._turn:
                seen.append((time.monotonic_ns(), number))
        done: Turn = self._worker.finish()
        return (done, *_staleness(seen, done.changes))


def _staleness(seen: Sequence[Tuple[int, int]], changes: Sequence[int]) -> Tuple[List[float], List[float]]:
    """Ages and lags. What was read after the last change is left out: nobody had anything to publish then."""
    ages, lags = [], []
    for now, number in seen:
        if now < changes[-1]:
            ages.append((now - changes[number]) / 1e3)
            lags.append(max(0, now - changes[number + 1]) / 1e3)
    return ages, lags


def steps(effort: Effort) -> int:
    """One for each load of each size, and one for the state that takes too long."""
    return 3 * len(plan(effort).sizes) + 1


def measure(effort: Effort, tell: Tell) -> Dict[str, Any]:
    """The experiment."""
    return run(plan(effort), tell)


def run(how: Plan, tell: Tell) -> Dict[str, Any]:
    """The experiment, so long and so often."""
    found: Dict[str, Any] = {"per_second": PER_SECOND, "sizes": {}}
    for size in how.sizes:
        with _bench(size) as (bench, state_bytes, _, publish):
            told: Dict[str, Any] = {"state_bytes": state_bytes, "publish": publish}
            tell(f"{size} state, flat out")
            told["flat_out"] = _flat_out(bench, how)
            for load, ways in (("paced", tuple(WAYS)), ("rare", RARE_WAYS)):
                tell(f"{size} state, {PER_SECOND[load]:,} messages a second")
                told[load] = _paced(bench, ways, PER_SECOND[load], how)
        found["sizes"][size] = told
    tell("a state that takes longer to encode than its interval")
    found[BEYOND] = _measure_beyond(how)
    return found


@contextmanager
def _bench(size: str) -> Iterator[Tuple[_Bench, int, float, float]]:
    name = f"interval-{os.getpid()}.{size}"
    with Remote(Worker, name, size) as worker, shmstate.StateReader(name) as reader:
        yield (_Bench(worker, reader), *worker.call("costs", 20 if size == BEYOND else 300))


def _flat_out(bench: _Bench, how: Plan) -> Dict[str, Any]:
    def take(name: str) -> List[float]:
        done = bench.turn(name, how.seconds)
        return [
            done.seconds * 1e6 / done.messages,
            done.cpu_seconds * 1e6 / done.messages,
            done.published / done.seconds,
        ]

    taken = interleaved({name: partial(take, name) for name in WAYS}, how.rounds)
    told = {}
    for name, rounds in taken.items():
        wall, cpu, published = (_column(rounds, place) for place in range(3))
        base_wall, base_cpu, _ = (_column(taken[BASELINE], place) for place in range(3))
        told[name] = {
            "per_second": round(1e6 / _median(wall), 1),
            "throughput": ratio(base_wall, wall),
            "cpu": round(_median(cpu), 3),
            "cpu_ratio": ratio(cpu, base_cpu),
            "published_per_second": round(_median(published), 1),
        }
    return told


def _paced(bench: _Bench, ways: Sequence[str], per_second: int, how: Plan) -> Dict[str, Any]:
    ages: Dict[str, List[float]] = {name: [] for name in ways}
    lags: Dict[str, List[float]] = {name: [] for name in ways}

    def take(name: str) -> List[float]:
        # Whole intervals, or the beginning of one would count for more than its end.
        seconds = max(how.paced_seconds, 2 * (WAYS[name].interval or 0), how.messages / per_second)
        if WAYS[name].how == "none":
            done = bench.turn(name, seconds, per_second)
        else:
            done, age, lag = bench.watched(name, seconds, per_second)
            ages[name] += age
            lags[name] += lag
        shares = [100 * used / done.seconds for used in (done.cpu_seconds, done.own_seconds)]
        return [*shares, done.published / done.seconds]

    taken = interleaved({name: partial(take, name) for name in ways}, how.paced_rounds, warm_up=0)
    told: Dict[str, Any] = {}
    for name, rounds in taken.items():
        cpu, own, published = (_median(_column(rounds, place)) for place in range(3))
        own -= _median(_column(taken[BASELINE], 1))  # what it takes to look at the clock
        more = sorted(one[0] - base[0] for one, base in zip(rounds, taken[BASELINE]))
        figures = {
            "cpu_percent": cpu,
            "more_percent": statistics.median(more),
            "more_low_percent": quantile(more, 0.05),
            "more_high_percent": quantile(more, 0.95),
            "own_percent": own,
            "published_per_second": published,
        }
        told[name] = {what: round(figure, 4) for what, figure in figures.items()}
        if ages[name]:
            told[name].update(age=summary(ages[name]), lag=summary(lags[name]))
    return told


def _measure_beyond(how: Plan) -> Dict[str, Any]:
    def take(name: str) -> List[float]:
        done = bench.turn(name, how.seconds)
        return [done.seconds * 1e6 / done.messages]

    with _bench(BEYOND) as (bench, state_bytes, encode, publish):
        taken = interleaved({name: partial(take, name) for name in (BASELINE, BEYOND_WAY)}, max(3, how.rounds // 2))
        done, _, lags = bench.watched(BEYOND_WAY, 2 * how.paced_seconds, PER_SECOND["paced"])
    interval = WAYS[BEYOND_WAY].interval or 0.0
    return {
        "state_bytes": state_bytes,
        "encode": encode,
        "publish": publish,
        "interval": interval * 1e6,
        "throughput": ratio(taken[BASELINE], taken[BEYOND_WAY]),
        "own_percent": round(100 * done.own_seconds / done.seconds, 4),
        "ticks": int(done.seconds / interval),
        "published": done.published,
        "overruns": done.overruns,
        "lag": summary(lags or [0.0]),
    }


def _column(rounds: Sequence[Sequence[float]], place: int) -> List[List[float]]:
    return [[one[place]] for one in rounds]


def _median(rounds: Sequence[Sequence[float]]) -> float:
    return statistics.median(one[0] for one in rounds)
