"""The states of this machine as metrics. Whoever asks for the metrics has the states looked at; nothing runs between."""

from __future__ import annotations

import threading
import time
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from shmstate import NotPublished, ShmStateError, StateInfo, StateNotFound, list_states
from shmstate.export.rates import Rates
from shmstate.looks import read_undecoded
from shmstate.registry import MEMBER_ERRORS, problem_of


class Look(NamedTuple):
    """What one scrape saw."""

    states: Sequence[StateInfo]
    #: Publishes a second, by name.
    rates: Dict[str, float]
    #: Name as it can be shown, and class of the error, of what cannot be read.
    unreadable: Sequence[Tuple[str, str]]
    seconds: float


def registry_of(prefix: str) -> CollectorRegistry:
    """The metrics of all states whose names begin with ``prefix``, and no others.

    Not those of this process, its memory and its garbage: a machine has one exporter, and it is not what is watched.
    """
    registry = CollectorRegistry()
    registry.register(StatesCollector(prefix))
    return registry


class StatesCollector(Collector):
    """Looks at the states whenever the metrics are asked for. Threads may share it."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._rates = Rates()
        self._turn = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        """The metrics without a value: their names are known without a look."""
        return _metrics(Look((), {}, (), 0.0))

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are. Scrapes at the same time wait for each other; each has a look of its own."""
        with self._turn:
            look = self._look()
        return _metrics(look)

    def _look(self) -> Look:
        now = time.monotonic()
        states = list_states(self._prefix)
        unreadable = {(_shown(state.name), error) for state in states if state.problem for error in _errors(state.name)}
        readable = [state._replace(name=_shown(state.name)) for state in states if not state.problem]
        rates = self._rates.measure(now, readable)
        return Look(readable, rates, sorted(unreadable), time.monotonic() - now)


def _errors(name: str) -> Set[str]:
    """Why a state cannot be read, in one word out of few: a text would be a new series with every number in it."""
    try:
        read_undecoded(name)
    except StateNotFound:  # gone meanwhile
        return set()
    except NotPublished:
        pass
    except MEMBER_ERRORS as error:
        return {type(problem_of(error, name)).__name__}
    return {ShmStateError.__name__}  # it can be read by now


def _shown(name: str) -> str:
    """As `shmstate ls` shows it: any file can be called like a state, and its name need not be UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def _metrics(look: Look) -> List[Metric]:
    return [
        _publishes(look.states),
        _kept(look.states),
        *(_gauge(name, text, [(state.name, value(state)) for state in look.states]) for name, text, value in GAUGES),
        _gauge("publishes_per_second", RATE, sorted(look.rates.items())),
        _unreadable(look.unreadable),
        GaugeMetricFamily("shmstate_states", "States that were read for this scrape.", len(look.states)),
        GaugeMetricFamily(
            "shmstate_unreadable_states", "States that are there and cannot be read.", len(look.unreadable)
        ),
        GaugeMetricFamily(
            "shmstate_exporter_scrape_duration_seconds", "Seconds that looking at all states took.", look.seconds
        ),
    ]


def _publishes(states: Sequence[StateInfo]) -> Metric:
    metric = CounterMetricFamily(
        "shmstate_publishes",
        "Publishes of the state since it was made, at the time in _created: its version.",
        labels=["state"],
    )
    for state in states:
        metric.add_metric([state.name], state.version, created=state.created)
    return metric


def _kept(states: Sequence[StateInfo]) -> Metric:
    metric = InfoMetricFamily("shmstate_state", "How the state is kept: codec, and number of slots.", labels=["state"])
    for state in states:
        metric.add_metric([state.name], {"codec": state.codec, "slots": str(state.slots)})
    return metric


def _unreadable(states: Iterable[Tuple[str, str]]) -> Metric:
    metric = GaugeMetricFamily(
        "shmstate_unreadable",
        "1: the state is there and cannot be read; error is the class of the error that a reader would get.",
        labels=["state", "error"],
    )
    for labels in states:
        metric.add_metric(labels, 1)
    return metric


class Gauge(NamedTuple):
    """A metric that each state has, but for those whose ``value`` is None."""

    name: str
    text: str
    value: Callable[[StateInfo], Optional[float]]


GAUGES = (
    Gauge(
        "writer_alive",
        "1: a living process owns the state, be it stopped or stuck; 0: its writer is dead, and the state is its last.",
        lambda state: state.alive,
    ),
    Gauge(
        "writer_pid",
        "Process id of the state's writer, or of the last one it had; each change is another writer.",
        lambda state: state.owner_pid,
    ),
    Gauge(
        "staleness_seconds",
        "Seconds since the writer last vouched for the state: published it, or said that nothing has changed.",
        lambda state: state.staleness,
    ),
    Gauge(
        "age_seconds",
        "Seconds since the latest version of the state was published.",
        lambda state: state.age,
    ),
    Gauge(
        "size_bytes",
        "Bytes of the latest version of the state, encoded.",
        lambda state: state.nbytes if state.version else None,
    ),
    Gauge(
        "memory_bytes",
        "Bytes of shared memory that the state takes, with all versions it keeps.",
        lambda state: state.memory,
    ),
)
RATE = "Publishes a second, since an earlier scrape that was a second ago or longer, whoever asked for it."


def _gauge(name: str, text: str, values: Iterable[Tuple[str, Optional[float]]]) -> Metric:
    metric = GaugeMetricFamily(f"shmstate_{name}", text, labels=["state"])
    for state, value in values:
        if value is not None:
            metric.add_metric([state], value)
    return metric
