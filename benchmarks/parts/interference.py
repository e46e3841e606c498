"""Experiment 2: whether readers and writers disturb each other, by slots, sizes, and how often either comes.

A writer process publishes bytes that say their version in every eight of them, each millisecond or without rest; a reader
reads, 1,000 times a second or without rest, and looks at each copy, outside of what is timed, for bytes of two versions.

    {"cells": [{"size": "500 B", "bytes": n, "slots": K, "writer": "1 ms" or "flat out", "reader": "1,000/s" or "flat out",
                "read": {summary}, "reads": n, "retries": n, "torn": n, "timeouts": n, "published_per_second": r}],
     "alone": [{"size", "bytes", "slots", "read": {summary}}],                      # nobody writes
     "writers": [{"size", "reader", "readers": n, "rate": ratio, "per_cpu": ratio, "per_second": r}], "cores": n}

``rate``: publishes a second with so many readers, against none, by rounds; ``per_cpu``: publishes a second of the writer's
own processor time, which says what readers do to it when there are fewer cores than processes.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from itertools import product
from typing import Any, Dict, List, Tuple

import shmstate
from benchmarks.harness import Effort, Tell, each, ratio, summary
from benchmarks.remote import Remote, Stopped
from benchmarks.states import is_torn, stamped

SIZES = {"500 B": 504, "20 KB": 20_000, "256 KB": 256 << 10, "4 MB": 4 << 20}
_RATES = {"500 B": 504, "20 KB": 20_000}
SLOTS = (2, 3, 4, 8)
#: Seconds between two publishes, and two reads; 0: without rest.
WRITERS = {"1 ms": 0.001, "flat out": 0.0}
READERS = {"1,000/s": 0.001, "flat out": 0.0}
#: As many versions in turn: more than there are slots, and no multiple of their number.
_VERSIONS = 17


class Publisher:
    """A writer, anew for each layout."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._writer: Any = None

    def make(self, size: int, slots: int) -> None:
        """Publish states of that size from now on."""
        self.close()
        self._payloads = [stamped(version, size) for version in range(_VERSIONS)]
        self._writer = shmstate.StateWriter(self._name, codec="raw", slots=slots)
        self._writer.publish_bytes(self._payloads[0])

    def publish(self, stopped: Stopped, pause: float) -> Tuple[int, float, float]:
        """Until told to stop: how many, in which seconds, and in which of this process's processor time."""
        publish, payloads, done = self._writer.publish_bytes, self._payloads, 0
        # To ask whether to stop is a system call: small states are published many times before.
        between = 1 if pause else max(1, 200_000 // (200 + len(payloads[0])))
        began, used = time.perf_counter(), time.process_time()
        while not stopped():
            for _ in range(between):
                done += 1
                publish(payloads[done % _VERSIONS])
            if pause:
                pace(began + done * pause)
        return done, time.perf_counter() - began, time.process_time() - used

    def close(self) -> None:
        """The state goes with it."""
        if self._writer is not None:
            self._writer.close()


class Reading:
    """Readers that read while a writer is measured."""

    def __init__(self, name: str) -> None:
        self._reader = shmstate.StateReader(name, timeout=30)

    def read(self, stopped: Stopped, pause: float) -> int:
        """Until told to stop: how many reads."""
        read, done = self._reader.read_bytes, 0
        began = time.perf_counter()
        while not stopped():
            for _ in range(1 if pause else 50):
                done += 1
                read()
            if pause:
                pace(began + done * pause)
        return done

    def close(self) -> None:
        """Lets go of the segment."""
        self._reader.close()


def pace(until: float) -> None:
    """Rest until it is that time."""
    rest = until - time.perf_counter()
    if rest > 0:
        time.sleep(rest)


def _cells(effort: Effort) -> List[Tuple[str, int]]:
    return list(product(effort.of(list(SIZES), ["500 B", "20 KB", "4 MB"]), effort.of(SLOTS, (2, 4))))


def steps(effort: Effort) -> int:
    """One for each layout, one for each size whose writer's rate is measured."""
    return len(_cells(effort)) + len(_RATES)


def measure(effort: Effort, tell: Tell) -> Dict[str, Any]:
    """The experiment."""
    name = f"interference-{os.getpid()}"
    found: Dict[str, Any] = {"cells": [], "alone": [], "cores": len(os.sched_getaffinity(0))}
    with Remote(Publisher, name) as writer:
        for size, slots in _cells(effort):
            tell(f"{size}, {slots} slots")
            writer.call("make", SIZES[size], slots)
            with shmstate.StateReader(name) as reader:
                where = {"size": size, "bytes": SIZES[size], "slots": slots}
                found["alone"].append({**where, "read": summary(each(reader.read_bytes, effort.of(2000, 400)))})
                for (writes, pause), reads in product(WRITERS.items(), READERS):
                    writer.start("publish", pause)
                    cell = _read(reader, READERS[reads], effort.of(1.5, 0.25))
                    done, seconds, _ = writer.finish()
                    rate = round(done / seconds, 1)
                    found["cells"].append(
                        {**where, "writer": writes, "reader": reads, **cell, "published_per_second": rate}
                    )
    found["writers"] = []
    for size, nbytes in _RATES.items():
        tell(f"the writer's rate, {size}")
        found["writers"] += _measure_writer(f"{name}.rate", size, nbytes, effort)
    return found


def _read(reader: shmstate.StateReader, pause: float, seconds: float) -> Dict[str, Any]:
    clock, times, torn, timeouts = time.perf_counter, [], 0, 0
    before, began = reader.retries, clock()
    while True:
        asked = clock()
        if asked - began >= seconds:
            break
        try:
            payload = reader.read_bytes()
        except shmstate.ReadTimeout:
            timeouts += 1
            continue
        times.append((clock() - asked) * 1e6)
        torn += is_torn(payload)
        if pause:
            pace(began + len(times) * pause)
    told = {"reads": len(times), "retries": reader.retries - before, "torn": torn, "timeouts": timeouts}
    return {"read": summary(times) if times else {"n": 0.0}, **told}


def _measure_writer(name: str, size: str, nbytes: int, effort: Effort) -> List[Dict[str, Any]]:
    """A writer that never rests, with 0 to 4 readers in turns."""
    counts, seconds, found = effort.of((1, 2, 3, 4), (1, 2)), effort.of(0.5, 0.2), []
    with ExitStack() as stack:
        writer = stack.enter_context(Remote(Publisher, name))
        writer.call("make", nbytes, 4)
        readers = [stack.enter_context(Remote(Reading, name)) for _ in range(max(counts))]
        for how, pause in READERS.items():
            rates: Dict[int, List[Tuple[float, float]]] = {count: [] for count in (0, *counts)}
            for _ in range(effort.of(15, 5)):
                for count, taken in rates.items():
                    taken.append(_rate(writer, readers[:count], pause, seconds))
            for count in counts:
                told = {"size": size, "reader": how, "readers": count}
                for key, which in (("rate", 0), ("per_cpu", 1)):
                    told[key] = ratio([[rate[which]] for rate in rates[count]], [[rate[which]] for rate in rates[0]])
                told["per_second"] = round(sum(rate for rate, _ in rates[count]) / len(rates[count]), 1)
                found.append(told)
    return found


def _rate(writer: Remote, readers: List[Remote], pause: float, seconds: float) -> Tuple[float, float]:
    """Publishes a second, and a second of the writer's processor time."""
    for reader in readers:
        reader.start("read", pause)
    writer.start("publish", 0.0)
    time.sleep(seconds)
    done, took, used = writer.finish()
    for reader in readers:
        reader.finish()
    return done / took, done / max(used, 1e-9)
