"""Experiment 3, told: what it costs to publish often, and how far behind a reader is if one does not."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, Tuple

from benchmarks.document import Answer, Plot, Section, Series, Table, figures, micro, nbytes

#: Percent of one core that syncing may cost.
BUDGET = 1.0

_BASELINE, _CONTROL = "no syncing", "no syncing, again"
#: Their intervals, in microseconds.
_TIMERS = {"every 1 ms": 1e3, "every 10 ms": 1e4, "every 100 ms": 1e5, "every 1,000 ms": 1e6}
_ALWAYS, _TOLD, _TOLD_APART, _LOOP = (
    "after every message",
    "on change",
    "on change, 10 ms apart",
    "in the loop, 10 ms apart",
)
_FASTEST, _SLOWEST = "every 1 ms", "every 1,000 ms"

Sizes = Mapping[str, Mapping[str, Any]]


def section(data: Mapping[str, Any]) -> Section:
    """Cost and staleness of each way, and what follows of them."""
    sizes: Sizes = data["sizes"]
    rate = f"{data['per_second']['paced']:,}"
    answers = [
        _optimum(sizes),
        _both_ends(sizes),
        _balance(sizes),
        _change_or_timer(data),
        _too_long(data["beyond"]),
        _continuous(sizes, rate),
    ]
    return Section(
        slug="interval",
        title="3. The interval of syncing",
        lead=(
            "A worker reads messages of a pipe, works some tens of microseconds on each, and changes its state, which is"
            " published in turns by a timer, on change, from the worker's own loop, after every message, or not at all. Flat"
            f" out, the messages a second are compared, round by round; at {rate} messages a second, processor time is, and"
            " another process reads at random moments. Lag: how long ago the first change happened that the reader does not"
            " see. Age: how long ago the last happened that it does. Percents are of one core."
        ),
        answers=answers,
        tables=[
            *(_paced_table(size, told, rate) for size, told in sizes.items()),
            *(_flat_out_table(size, told) for size, told in sizes.items()),
            *(_rare_table(size, told, data["per_second"]["rare"]) for size, told in sizes.items()),
            _beyond_table(data["beyond"]),
        ],
        plots=[_cost_against_lag(sizes), _throughput(sizes)],
    )


def _percent(value: float) -> str:
    """What cannot be told from nothing may come out below it."""
    return "less than 0.01 %" if value < 0.01 else f"{figures(value)} %"


def _own(told: Mapping[str, Any], way: str, load: str = "paced") -> float:
    own: float = told[load][way]["own_percent"]
    return own


def _each(told: Mapping[str, Any], way: str, load: str = "paced") -> float:
    """Microseconds of processor time that one sync takes, waking up and all."""
    published: float = told[load][way]["published_per_second"]
    return max(_own(told, way, load), 0.0) * 1e4 / max(published, 1e-9)


def _lag(told: Mapping[str, Any], way: str, load: str = "paced") -> float:
    mean: float = told[load][way]["lag"]["mean"]
    return mean


def _middle(told: Mapping[str, Any]) -> float:
    """The median; of very few, the mean."""
    middle: float = told.get("p50", told["mean"])
    return middle


def _called(size: str, told: Mapping[str, Any]) -> str:
    return f"{size} state ({nbytes(told['state_bytes'])})"


def _recommended(told: Mapping[str, Any]) -> str:
    """The shortest interval within the budget; empty if none is."""
    return next((way for way in _TIMERS if _own(told, way) < BUDGET), "")


def _optimum(sizes: Sizes) -> Answer:
    sentences = [
        f"The shortest that costs less than {BUDGET:g} % of a core, of those that were measured; it depends on the state."
    ]
    for size, told in sizes.items():
        way = _recommended(told)
        if not way:
            sentences.append(
                f"For the {_called(size, told)} none does: even {_SLOWEST} costs {_percent(_own(told, _SLOWEST))}."
            )
            continue
        flat, control = (told["flat_out"][name]["throughput"]["ratio"] for name in (way, _CONTROL))
        least = _each(told, way) * 100 / BUDGET
        sentences.append(
            f"For the {_called(size, told)}: {way}. It costs {_percent(_own(told, way))}, and a reader is"
            f" {micro(_lag(told, way))} behind on average. Flat out, the worker handles {figures(flat)} of the messages that it"
            f" handles without (the same worker twice: {figures(control)}). One sync takes {micro(_each(told, way))} of"
            f" processor time, waking up and all ({micro(told['publish'])} to encode and publish, time after time), so"
            f" {BUDGET:g} % of a core buys one every {micro(least)}."
        )
    return Answer("What's the optimal sync interval?", " ".join(sentences))


def _both_ends(sizes: Sizes) -> Answer:
    sentences = []
    parts = [
        _lag(told, way) / interval for told in sizes.values() for way, interval in _TIMERS.items() if interval >= 1e4
    ]
    for size, told in sizes.items():
        wasted, stale = _own(told, _FASTEST), _lag(told, _SLOWEST)
        sentences.append(
            f"For the {_called(size, told)}, {_FASTEST} costs {_percent(wasted)} of a core and leaves a reader"
            f" {micro(_lag(told, _FASTEST))} behind; {_SLOWEST} costs {_percent(_own(told, _SLOWEST))} and leaves it"
            f" {micro(stale)} behind."
        )
    sentences.append(
        "Choose by how old an answer may be: a timer leaves a reader half its interval behind on average, if the worker gets a"
        f" processor in time. Here it was {figures(min(parts))} to {figures(max(parts))} of it, from 10 ms up."
    )
    return Answer(
        "What's the right sync interval? Too frequent: wasted CPU; too slow: stale queries", " ".join(sentences)
    )


def _balance(sizes: Sizes) -> Answer:
    sentences = []
    for size, told in sizes.items():
        sentences.append(
            f"For the {_called(size, told)}, a timer of 10 ms costs {_percent(_own(told, 'every 10 ms'))}, {_TOLD_APART} (notify()"
            f" with min_interval=) {_percent(_own(told, _TOLD_APART))}, and the worker's own loop with no thread"
            f" {_percent(_own(told, _LOOP))}; they leave a reader {micro(_lag(told, 'every 10 ms'))},"
            f" {micro(_lag(told, _TOLD_APART))} and {micro(_lag(told, _LOOP))} behind."
        )
    sentences.append(
        "So set the interval to twice the lag that a query may have on average, and no shorter. Where nothing may change for"
        " long, use notify() with that min_interval=: it bounds the cost in the same way, and leaves a beat a second of it."
    )
    return Answer("How do you balance freshness vs overhead?", " ".join(sentences))


def _change_or_timer(data: Mapping[str, Any]) -> Answer:
    sizes, rate, rare = data["sizes"], data["per_second"]["paced"], data["per_second"]["rare"]
    sentences = []
    for size, told in sizes.items():
        always, timer = _own(told, _ALWAYS), _own(told, "every 10 ms")
        affordable = BUDGET * 1e4 / _each(told, _ALWAYS) if _each(told, _ALWAYS) else float(rate)
        sentences.append(
            f"The {_called(size, told)}, {rate:,} changes a second: to publish after every one costs"
            f" {_percent(always)}, {'no more than' if always <= timer else 'more than'} a timer of 10 ms ({_percent(timer)}),"
            f" and a reader is {micro(_lag(told, _ALWAYS))} behind instead of {micro(_lag(told, 'every 10 ms'))};"
            f" {BUDGET:g} % of a core is enough for {affordable:,.0f} changes a second. Flat out it leaves"
            f" {figures(told['flat_out'][_ALWAYS]['throughput']['ratio'])} of the messages. With {rare} changes a second,"
            f" notify() costs {_percent(_own(told, _TOLD, 'rare'))} and is {micro(_lag(told, _TOLD, 'rare'))} behind; a timer of"
            f" 10 ms costs {_percent(_own(told, 'every 10 ms', 'rare'))} and is {micro(_lag(told, 'every 10 ms', 'rare'))} behind."
        )
    sentences.append(
        "After every change, where changes are fewer than that; with a timer, or with notify() and min_interval=, where they"
        " are more: these cost no more, however many there are."
    )
    return Answer("Should you sync after every state change or on a timer?", " ".join(sentences))


def _too_long(beyond: Mapping[str, Any]) -> Answer:
    lost = 1 - beyond["throughput"]["ratio"]
    return Answer(
        "What if serialization takes longer than the sync interval?",
        f"Ticks fall out; nothing piles up. A state of {nbytes(beyond['state_bytes'])} takes {micro(beyond['encode'])} to encode."
        f" With an interval of {micro(beyond['interval'])} it was published {beyond['published']:,} times in"
        f" {beyond['ticks']:,} ticks; StateSync counted {beyond['overruns']:,} overruns. A reader was {micro(_middle(beyond['lag']))}"
        f" behind in the median. Syncing took {_percent(beyond['own_percent'])} of a core, and flat out the worker lost"
        f" {max(lost, 0) * 100:.0f} % of its messages. Overruns in stats say that the interval is too short:"
        f" {BUDGET:g} % of a core needs one of {micro(beyond['encode'] * 100 / BUDGET)}.",
    )


def _continuous(sizes: Sizes, rate: str) -> Answer:
    sentences = []
    for size, told in sizes.items():
        always = told["flat_out"][_ALWAYS]
        sentences.append(
            f"The {_called(size, told)}: {_FASTEST} {_percent(_own(told, _FASTEST))} of a core, after each of {rate}"
            f" messages a second {_percent(_own(told, _ALWAYS))}; flat out, after each message, processor time a message is"
            f" {figures(always['cpu_ratio']['ratio'])}x that without, and {always['published_per_second']:,.0f} states a second"
            f" are published."
        )
    return Answer("What's the CPU cost of continuous syncing?", " ".join(sentences))


def _paced_table(size: str, told: Mapping[str, Any], rate: str) -> Table:
    rows: List[List[str]] = []
    for way, found in told["paced"].items():
        spread = f"{found['more_low_percent']:.2f} to {found['more_high_percent']:.2f}"
        cells = [
            way,
            f"{found['own_percent']:.2f} %",
            f"{found['more_percent']:.2f} % ({spread})",
            f"{found['published_per_second']:,.0f}",
        ]
        rows.append(cells + (_staleness(found) if "lag" in found else [""] * 4))
    return Table(
        f"The {_called(size, told)}, {rate} messages a second",
        [
            "published",
            "syncing itself",
            "the worker's processor, more than without",
            "syncs/s",
            "age, median",
            "lag, mean",
            "median",
            "p99",
        ],
        rows,
        "Syncing itself: by the clocks of its thread and of its calls. The other is a difference of two turns, with whatever"
        " the machine did meanwhile, as the worker that is measured twice shows.",
    )


def _staleness(found: Mapping[str, Any]) -> List[str]:
    lag = found["lag"]
    figures_of_lag = (lag["mean"], _middle(lag), lag.get("p99", lag["max"]))
    return [micro(_middle(found["age"])), *(micro(figure) if figure else "0" for figure in figures_of_lag)]


def _flat_out_table(size: str, told: Mapping[str, Any]) -> Table:
    rows = []
    for way, found in told["flat_out"].items():
        throughput, cpu = found["throughput"], found["cpu_ratio"]
        rows.append(
            [
                way,
                f"{found['per_second']:,.0f}",
                f"{throughput['ratio']:.3f} ({throughput['low']:.2f} to {throughput['high']:.2f})",
                f"{micro(found['cpu'])} ({cpu['ratio']:.3f}x)",
                f"{found['published_per_second']:,.0f}",
            ]
        )
    head = ["published", "messages/s", "of those without", "processor time a message", "syncs/s"]
    return Table(f"The {_called(size, told)}, flat out", head, rows)


def _rare_table(size: str, told: Mapping[str, Any], rate: int) -> Table:
    rows = [
        [way, f"{found['own_percent']:.3f} %", *_staleness(found)]
        for way, found in told["rare"].items()
        if "lag" in found
    ]
    head = ["published", "syncing itself", "age, median", "lag, mean", "median", "p99"]
    return Table(f"The {_called(size, told)}, {rate} messages a second", head, rows)


def _beyond_table(beyond: Mapping[str, Any]) -> Table:
    throughput = beyond["throughput"]
    rows: List[Tuple[str, str]] = [
        ("bytes of the state", nbytes(beyond["state_bytes"])),
        ("to encode it", micro(beyond["encode"])),
        ("interval", micro(beyond["interval"])),
        ("ticks", f"{beyond['ticks']:,}"),
        ("published", f"{beyond['published']:,}"),
        ("overruns counted", f"{beyond['overruns']:,}"),
        ("syncing itself", f"{beyond['own_percent']:.1f} %"),
        ("lag, median", micro(_middle(beyond["lag"]))),
        (
            "messages/s flat out, of those without",
            f"{throughput['ratio']:.2f} ({throughput['low']:.2f} to {throughput['high']:.2f})",
        ),
    ]
    return Table("Encoding that takes longer than the interval", ["what", "figure"], rows)


def _cost_against_lag(sizes: Sizes) -> Plot:
    def place(told: Mapping[str, Any], ways: Sequence[str]) -> Dict[str, List[float]]:
        lags, costs = [_lag(told, way) for way in ways], [_own(told, way) for way in ways]
        return {"x": [max(lag, 1.0) for lag in lags], "y": [max(cost, 0.001) for cost in costs]}

    series = []
    for size, told in sizes.items():
        series.append(Series(f"{size}, by timer: 1, 10, 100, 1,000 ms", **place(told, list(_TIMERS))))
        series += [Series(f"{size}, {way}", **place(told, [way])) for way in (_ALWAYS, _TOLD, _TOLD_APART)]
    return Plot(
        "interval-cost",
        "What syncing costs, against how far behind a reader is",
        "lag, mean, microseconds",
        "percent of one core",
        series,
        log_x=True,
        log_y=True,
        note="Left: fresh. Down: cheap. A lag below 1 us is drawn at 1 us, a cost below 0.001 % at that.",
        lines=[(BUDGET, f"{BUDGET:g} % of a core")],
    )


def _throughput(sizes: Sizes) -> Plot:
    series = []
    for size, told in sizes.items():
        ways = [way for way in told["flat_out"] if way != _BASELINE]
        ratios = [told["flat_out"][way]["throughput"] for way in ways]
        low, high = ([ratio[end] for ratio in ratios] for end in ("low", "high"))
        series.append(Series(f"{size} state", ways, [ratio["ratio"] for ratio in ratios], low, high))
    return Plot(
        "interval-throughput",
        "Messages a second, flat out, against those of a worker that does not publish",
        "",
        "of those without",
        series,
        lines=[(1.0, "as many as without")],
    )
