"""How everything here is measured: variants take turns in short rounds, and are compared round by round.

A machine that others use speeds up and slows down. Whoever measures one thing for a minute, and then another, has
measured the machine; in turns, both see the same machine, and what it does cancels out of their ratio.
"""

from __future__ import annotations

import statistics
import time
from timeit import Timer
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence, TypeVar

_T = TypeVar("_T")

#: One turn of a variant: microseconds, a number for each thing done, or one for the mean of many.
Take = Callable[[], List[float]]
#: Told what is being done now; a call for each step of a part, for who waits.
Tell = Callable[[str], None]

_PARTS = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))


class Effort(NamedTuple):
    """How long to measure: in full, or quickly, to see that it runs and about where the figures are."""

    quick: bool

    def of(self, full: _T, quick: _T) -> _T:
        """The one that applies."""
        return quick if self.quick else full


def quantile(ordered: Sequence[float], part: float) -> float:
    """The smallest of the sorted numbers that at least ``part`` of them do not exceed."""
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * part // 1) - 1))]


def summary(times: Sequence[float]) -> Dict[str, float]:
    """``n``, ``mean``, ``p50``, ``p90``, ``p99``, ``p999``, ``max`` of microseconds.

    A quantile that fewer than five of the numbers lie beyond is left out: it would be the luck of one.
    """
    ordered = sorted(times)
    told = {"n": float(len(ordered)), "mean": statistics.fmean(ordered), "max": ordered[-1]}
    told.update({name: quantile(ordered, part) for name, part in _PARTS if len(ordered) * (1 - part) >= 4.99})
    return {name: round(value, 4) for name, value in told.items()}


def each(call: Callable[[], Any], count: int) -> List[float]:
    """Microseconds of each of ``count`` calls, the clock's own time included (``clock_cost``)."""
    clock, times = time.perf_counter_ns, [0] * count
    for number in range(count):
        began = clock()
        call()
        times[number] = clock() - began
    return [took / 1e3 for took in times]


def batch(call: Callable[[], Any], count: int) -> List[float]:
    """One number: mean microseconds of ``count`` calls, for what is too short to be timed by itself."""
    turns = range(count)
    began = time.perf_counter_ns()
    for _ in turns:
        call()
    return [(time.perf_counter_ns() - began) / 1e3 / count]


def statement(code: str, names: Mapping[str, Any], seconds: float = 0.004) -> Take:
    """One number: mean microseconds of ``code``, run so often that a turn takes ``seconds``, with no call around it.

    For what takes less than a microsecond: a lambda around it would be a tenth of that.
    """
    timer = Timer(code, globals=dict(names))
    count = max(1, int(seconds / (timer.timeit(20) / 20)))
    return lambda: [timer.timeit(count) / count * 1e6]


def medians(rounds: Mapping[str, Sequence[Sequence[float]]]) -> Dict[str, float]:
    """Of all numbers of each variant, rounded to a tenth of a nanosecond."""
    return {name: round(statistics.median(took for one in taken for took in one), 4) for name, taken in rounds.items()}


def clock_cost() -> float:
    """Microseconds that ``each`` adds to what it times."""
    return statistics.median(each(lambda: None, 2000))


def calls_in(seconds: float, call: Callable[[], Any]) -> int:
    """How many calls take about that long; at least one."""
    count, took = 1, batch(call, 1)[0]
    while took * count < 500 and count < 1 << 20:
        count *= 4
        took = batch(call, count)[0]
    return max(1, int(seconds * 1e6 / max(took, 1e-3)))


def interleaved(variants: Mapping[str, Take], rounds: int, warm_up: int = 1) -> Dict[str, List[List[float]]]:
    """What each variant took, by round. The first ``warm_up`` rounds are forgotten; who begins changes every round."""
    names = list(variants)
    taken: Dict[str, List[List[float]]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            times = variants[name]()
            if number >= warm_up:
                taken[name].append(times)
    return taken


def pooled(rounds: Sequence[Sequence[float]]) -> Dict[str, float]:
    """The ``summary`` of all rounds together."""
    return summary([took for one in rounds for took in one])


def ratio(
    subject: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]], part: float = 0.5
) -> Dict[str, float]:
    """``ratio``: the median, over rounds, of subject / baseline, each at ``part``; ``low`` and ``high``: nine in ten lie between."""
    ratios = sorted(
        quantile(sorted(one), part) / max(quantile(sorted(other), part), 1e-9) for one, other in zip(subject, baseline)
    )
    told = {"ratio": statistics.median(ratios), "low": quantile(ratios, 0.05), "high": quantile(ratios, 0.95)}
    return {name: round(value, 4) for name, value in told.items()}
