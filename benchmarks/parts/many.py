"""Experiment 4: what many states and many workers take: memory, descriptors, and time.

``states``: N writers of a 500-byte state in one process, N readers in another, each slot written and read. ``layouts``: one
state of another size, or with two slots. ``fleets``: N worker processes and their main process, where the workers can be
asked in one way or another; what they take beyond workers that nobody can ask.

    {"states": [{"states": N, "state_bytes": n, "shared_bytes_each": n, "fresh_bytes_each": n, "reserved_bytes_each": n,
                 "writer": {ACCOUNT}, "reader": {ACCOUNT}, "create": {summary}, "attach": {summary}, "query": {summary},
                 "again": {summary}, "query_all": us, "list_states": us, "kernel_bytes_each": n}
                or {"states": N, "missing": why}],
     "layouts": [{"state_bytes": n, "slots": K, "shared_bytes": n}],
     "fleets": {"workers": N, "asked": N, "small": n, "kinds": {"none": {...}, "shmstate": {"pss_bytes_each": n,
                "pss_low_bytes": n, "pss_high_bytes": n, "total_bytes": n, "page_tables_bytes_each": n, "kernel_bytes_each": n,
                "shared_bytes_each": n, "files_each": n, "names_each": n, "spawned_names_each": n, "descriptors_each": n,
                "worker_descriptors": n, "threads": n, "buffers_bytes_each": n, "smallest_buffer_bytes": n,
                "query": {summary}, "query_all": us} or {"missing": why}, "queues": ..., "pipes": ...}},
     "bar": {"states": N, "shared_bytes_each": n, "descriptors_each": n}}   # and "missing": why, if no states were possible

ACCOUNT: what one state added to that process: ``pss_bytes_each``, ``private_``, ``anonymous_``, ``page_tables_`` and
``virtual_bytes_each``, ``threads_each``, ``descriptors_each``. ``kernel``: what the kernel keeps for all processes of the
machine, so that of others is in it. ``fresh``: after one publish. ``query``: of a worker at random, ``again``: of the same at
once. Of a fleet, ``pss_``, ``page_tables_``, ``kernel_`` and ``descriptors_each`` (in the main process) are those of "none" by
themselves, and of the others beyond "none". ``pss`` is of several small fleets, of ``small`` workers: the median, lowest and
highest; ``total_bytes`` of the large one. ``asked``: of how many workers, where memory was not enough. ``bar``: of 1,000
states or as near as there were; descriptors of both sides.
"""

from __future__ import annotations

import os
import random
import statistics
from contextlib import ExitStack
from functools import partial
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import shmstate
from benchmarks import states
from benchmarks.account import Account, of_kernel, of_machine, own, raise_limits, shared_memory
from benchmarks.fleets import KINDS, Fleet
from benchmarks.harness import Effort, Tell, each, summary
from benchmarks.remote import Remote, RemoteFailed
from shmstate.layout import DEFAULT_SLOTS

#: Of how many states the bar speaks.
BAR_STATES = 1000
#: What is compared with a fleet that nobody can ask.
NONE = "none"
#: What a worker may take: no more are started than there is memory for.
_WORKER_BYTES = 8 << 20
_LAYOUTS = (("small", 4), ("small", 2), ("large", 4), ("large", 2))


class Plan(NamedTuple):
    """How many states, workers, questions, and questions to all; and how many small fleets of how many workers."""

    states: Sequence[int]
    workers: int
    questions: int
    rounds: int
    fleets: int
    workers_of_each: int


def plan(effort: Effort) -> Plan:
    """What ``measure`` does."""
    return effort.of(Plan((10, 100, 1000, 10_000), 1000, 5000, 11, 9, 40), Plan((10, 50, 200), 100, 1000, 5, 3, 15))


class Writers:
    """Many writers in one process."""

    def __init__(self, fleet: str) -> None:
        raise_limits()
        self._fleet = fleet
        self._stack = ExitStack()
        self._writers: List[shmstate.StateWriter] = []
        self._state = states.small()

    def make(self, count: int) -> List[float]:
        """So many; microseconds of each, its first publish included."""
        numbers = iter(range(count))

        def make() -> None:
            writer = shmstate.StateWriter(f"{self._fleet}.{next(numbers)}")
            self._stack.callback(writer.close)
            writer.publish(self._state)
            self._writers.append(writer)

        return each(make, count)

    def publish(self) -> None:
        """One more version of each."""
        for writer in self._writers:
            writer.publish(self._state)

    def taken(self) -> Account:
        """By this process."""
        return own()

    def shared(self) -> int:
        """Bytes of shared memory: this process has mapped all of it."""
        return shared_memory().nbytes

    def close(self) -> None:
        """The states go with their writers."""
        self._writers.clear()
        self._stack.close()


class Readers:
    """A QueryService that reads them all."""

    def __init__(self, fleet: str) -> None:
        raise_limits()
        self._fleet = fleet
        self._service = shmstate.QueryService(fleet)

    def attach(self, count: int) -> List[float]:
        """To each; microseconds."""
        numbers = iter(range(count))
        return each(lambda: self._service.attach(str(next(numbers))), count)

    def query(self, workers: int, count: int) -> Tuple[List[float], List[float]]:
        """So many questions to workers at random, and to the same at once; microseconds."""
        first: List[float] = []
        again: List[float] = []
        for number in random.Random(4).choices(range(workers), k=count):
            took, repeated = each(partial(self._service.query, str(number)), 2)
            first.append(took)
            again.append(repeated)
        return first, again

    def query_all(self, rounds: int) -> List[float]:
        """Microseconds of so many questions to all."""
        return each(self._service.query_all, rounds)

    def list_states(self, rounds: int) -> List[float]:
        """Microseconds of so many."""
        return each(lambda: shmstate.list_states(f"{self._fleet}."), rounds)

    def taken(self) -> Account:
        """By this process."""
        return own()

    def close(self) -> None:
        """Detaches."""
        self._service.close()


def steps(effort: Effort) -> int:
    """One for each number of states, one for other layouts, one for the small fleets, one for each kind of large one."""
    return len(plan(effort).states) + 2 + len(KINDS)


def measure(effort: Effort, tell: Tell) -> Dict[str, Any]:
    """The experiment."""
    return run(plan(effort), tell)


def run(how: Plan, tell: Tell) -> Dict[str, Any]:
    """The experiment, with so many."""
    name = f"many-{os.getpid()}"
    found: List[Dict[str, Any]] = []
    for count in how.states:
        tell(f"{count:,} states in one process, read in another")
        try:
            found.append({"states": count, **_measure_states(name, count, how)})
        except RemoteFailed as error:  # of descriptors, memory or address space there is not enough
            found.append({"states": count, "missing": _reason(error)})
    tell("larger states, fewer slots")
    layouts = [_measure_layout(name, size, slots) for size, slots in _LAYOUTS]
    told = {"states": found, "layouts": layouts, "fleets": _measure_fleets(name, how, tell), "bar": _bar(found)}
    return told if told["bar"] else {**told, "missing": found[0]["missing"]}


def _reason(error: RemoteFailed) -> str:
    return str(error).strip().splitlines()[-1]


def _bar(found: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    measured = [one for one in found if "missing" not in one]
    if not measured:
        return {}
    one = min(measured, key=lambda one: abs(one["states"] - BAR_STATES))
    descriptors = one["writer"]["descriptors_each"] + one["reader"]["descriptors_each"]
    shared = one["shared_bytes_each"]
    return {"states": one["states"], "shared_bytes_each": shared, "descriptors_each": round(descriptors, 3)}


def _measure_states(name: str, count: int, how: Plan) -> Dict[str, Any]:
    with Remote(Writers, name) as writers, Remote(Readers, name) as readers:
        _warm_up(writers, readers)
        kernel, before = of_kernel(), [side.call("taken") for side in (writers, readers)]
        created = writers.call("make", count)
        fresh = writers.call("shared")
        attached = readers.call("attach", count)
        for _ in range(DEFAULT_SLOTS):
            writers.call("publish")
            readers.call("query_all", 1)
        after = [side.call("taken") for side in (writers, readers)]
        grown = of_kernel() - kernel
        shared = writers.call("shared")
        first, again = readers.call("query", count, how.questions)
        rounds = max(3, min(how.rounds, 10_000 // count))
        with shmstate.StateReader(f"{name}.0") as reader:
            state_bytes = len(reader.read_bytes())
        return {
            "state_bytes": state_bytes,
            "shared_bytes_each": round(shared / count, 1),
            "fresh_bytes_each": round(fresh / count, 1),
            "reserved_bytes_each": os.stat(f"/dev/shm/shmstate.{name}.0").st_size,
            "writer": after[0].each(before[0], count),
            "reader": after[1].each(before[1], count),
            "kernel_bytes_each": round(grown / count, 1),
            "create": summary(created),
            "attach": summary(attached),
            "query": summary(first),
            "again": summary(again),
            "query_all": statistics.median(readers.call("query_all", rounds)),
            "list_states": statistics.median(readers.call("list_states", min(rounds, 5))),
        }


def _warm_up(writers: Remote, readers: Remote) -> None:
    """What both sides load and keep when they do it for the first time is not of any one state."""
    writers.call("make", 1)
    readers.call("query_all", 1)
    readers.call("list_states", 1)
    readers.call("close")
    writers.call("close")


def _measure_layout(name: str, size: str, slots: int) -> Dict[str, Any]:
    state = {"small": states.small, "large": states.large}[size]()
    with shmstate.StateWriter(f"{name}.layout", slots=slots) as writer:
        for _ in range(slots):
            writer.publish(state)
        (info,) = shmstate.list_states(writer.name)
        return {"state_bytes": info.nbytes, "slots": slots, "shared_bytes": info.memory}


def _measure_fleets(name: str, how: Plan, tell: Tell) -> Dict[str, Any]:
    tell(f"{how.workers_of_each} workers of each kind, {how.fleets} times")
    memory = _measure_memory(name, how)
    count = max(2, min(how.workers, of_machine()["MemAvailable"] // _WORKER_BYTES))
    kinds: Dict[str, Any] = {}
    for kind in KINDS:
        tell(f"{count:,} workers, {kind}")
        try:
            taken = {**memory[kind], **_measure_fleet(f"{name}.{kind}", kind, count, how)}
        except RemoteFailed as error:
            kinds[kind] = {"missing": _reason(error)}
            continue
        if kind != NONE and "missing" not in kinds[NONE]:
            for key in ("page_tables_bytes_each", "kernel_bytes_each", "descriptors_each"):
                taken[key] = round(taken[key] - kinds[NONE][key], 3)
        kinds[kind] = taken
    return {"workers": count, "asked": how.workers, "small": how.workers_of_each, "kinds": kinds}


def _measure_memory(name: str, how: Plan) -> Dict[str, Dict[str, float]]:
    """In many small fleets, as where things lie in memory is another in each, and so is which pages are copied."""
    count = how.workers_of_each
    taken: Dict[str, List[float]] = {kind: [] for kind in KINDS}
    for _ in range(how.fleets):
        for kind, found in taken.items():
            with Remote(Fleet, kind, f"{name}.{kind}") as fleet:
                fleet.call("start", count)
                fleet.call("ask_each")
                found.append(fleet.call("account")["both"].pss / count)
                fleet.call("end")
    none = statistics.median(taken[NONE])
    told = {}
    for kind, found in taken.items():
        more = sorted(found if kind == NONE else [one - none for one in found])
        figures = {"pss_bytes_each": statistics.median(more), "pss_low_bytes": more[0], "pss_high_bytes": more[-1]}
        told[kind] = {key: round(figure, 1) for key, figure in figures.items()}
    return told


def _measure_fleet(name: str, kind: str, count: int, how: Plan) -> Dict[str, Any]:
    with Remote(Fleet, kind, name) as fleet:
        kernel = of_kernel()
        fleet.call("start", count)
        fleet.call("ask_each")
        found = fleet.call("account")
        grown = of_kernel() - kernel
        main, both, shared = found["main"], found["both"], found["shared"]
        told = {
            "total_bytes": both.pss,
            "page_tables_bytes_each": round(both.page_tables / count, 1),
            "kernel_bytes_each": round(grown / count, 1),
            "shared_bytes_each": round(shared.nbytes / count, 1),
            "files_each": round(shared.files / count, 3),
            "names_each": round(shared.named / count, 3),
            "spawned_names_each": found["spawned_names"],
            "descriptors_each": round(main.descriptors / count, 3),
            "worker_descriptors": found["worker_descriptors"],
            "threads": main.threads,
            "buffers_bytes_each": round(found["buffers_bytes"] / count, 1),
            "smallest_buffer_bytes": found["smallest_buffer_bytes"],
        }
        if kind != NONE:
            told["query"] = summary(fleet.call("query", how.questions))
            told["query_all"] = statistics.median(fleet.call("query_all", how.rounds))
        fleet.call("end")
        return told
