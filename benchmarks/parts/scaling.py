"""What a read and a publish cost as states grow, as there are more of them, and as more read: against the physical floor.

The floor of a read is the copy of as many bytes, of a get also to decode them; the floor of a publish is to copy them
into memory that is there already, or to encode them.

    {"sizes": [{"bytes": n, "floor_copy": us, "read_bytes": us, "read_ratio": ratio, "view": us, "floor_fill": us,
                "publish_bytes": us, "publish_ratio": ratio}],
     "values": [{"jobs": n, "bytes": n, "decode": us, "get": us, "get_ratio": ratio, "encode": us, "publish": us, "publish_ratio": ratio}],
     "readers": [{"readers": n, "read_us_of_processor": us, "reads_per_second": r, "ratio": ratio}],
     "states": [{"states": n, "one": {summary}, "all_each": us, "list_each": us}], "cores": n}
"""

from __future__ import annotations

import mmap
import os
import random
import statistics
import time
from contextlib import ExitStack
from itertools import cycle
from typing import Any, Dict, List, Tuple

import shmstate
from benchmarks import states
from benchmarks.harness import Effort, Tell, batch, each, interleaved, medians, ratio, statement, summary
from benchmarks.remote import Remote, Stopped
from shmstate import codecs

_SIZES = (64, 512, 4096, 20_000, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
_JOBS = (0, 14, 140, 640, 6400)


class Fleet:
    """Many states in one process."""

    def __init__(self, fleet: str) -> None:
        self._fleet = fleet
        self._writers: List[shmstate.StateWriter] = []

    def grow(self, count: int) -> None:
        """Until there are so many."""
        while len(self._writers) < count:
            writer = shmstate.StateWriter(f"{self._fleet}.w{len(self._writers)}", max_size=1 << 16)
            self._writers.append(writer)
            writer.publish(states.small())

    def close(self) -> None:
        """They go with it."""
        for writer in self._writers:
            writer.close()


class Reading:
    """A reader that reads without rest."""

    def __init__(self, name: str) -> None:
        self._reader = shmstate.StateReader(name)

    def read(self, stopped: Stopped) -> Tuple[int, float]:
        """Until told to stop: how many reads, in how much processor time."""
        read, done, used = self._reader.read_bytes, 0, time.process_time()
        while not stopped():
            for _ in range(200):
                read()
            done += 200
        return done, time.process_time() - used

    def close(self) -> None:
        """Lets go of the segment."""
        self._reader.close()


def _sizes(effort: Effort) -> Tuple[int, ...]:
    return effort.of(_SIZES, _SIZES[:-2:2])


def _counts(effort: Effort) -> Tuple[int, ...]:
    return effort.of((1, 10, 100, 1000, 10_000), (1, 10, 100, 500))


def steps(effort: Effort) -> int:
    """One for each size, number of fields and of states, one for readers."""
    return len(_sizes(effort)) + len(_JOBS) + len(_counts(effort)) + 1


def measure(effort: Effort, tell: Tell) -> Dict[str, Any]:
    """The curves."""
    name = f"scaling-{os.getpid()}"
    found: Dict[str, Any] = {"sizes": [], "values": [], "cores": len(os.sched_getaffinity(0))}
    for size in _sizes(effort):
        tell(f"{size:,} bytes")
        found["sizes"].append(_measure_size(f"{name}.size", size, effort))
    for jobs in _JOBS:
        tell(f"a value of {jobs} jobs")
        found["values"].append(_measure_value(f"{name}.value", jobs, effort))
    tell("readers")
    found["readers"] = _measure_readers(f"{name}.readers", effort)
    found["states"] = _measure_states(f"{name}-fleet", effort, tell)
    return found


def _measure_size(name: str, size: int, effort: Effort) -> Dict[str, Any]:
    payload = os.urandom(size)
    with shmstate.StateWriter(name, codec="raw") as writer, shmstate.StateReader(name) as reader:
        for _ in range(writer.slots + 1):
            writer.publish_bytes(payload)  # every slot has memory behind it
        with mmap.mmap(-1, size * writer.slots) as memory, memoryview(memory) as there, memoryview(payload) as view:
            there[:] = payload * writer.slots
            places = [slice(slot * size, (slot + 1) * size) for slot in range(writer.slots)]
            names: Dict[str, Any] = {
                "view": view,
                "read_bytes": reader.read_bytes,
                "look": reader.view,
                "there": there,
                "place": cycle(places).__next__,  # as the writer does, who goes from slot to slot
                "publish_bytes": writer.publish_bytes,
                "payload": payload,
            }
            calls = {
                "floor_copy": "bytes(view)",
                "read_bytes": "read_bytes()",
                "view": "with look() as seen: seen.data",
                "floor_fill": "there[place()] = view",
                "publish_bytes": "publish_bytes(payload)",
            }
            rounds = interleaved({what: statement(code, names) for what, code in calls.items()}, effort.of(61, 15))
            names.clear()
    ratios = {
        "read_ratio": ratio(rounds["read_bytes"], rounds["floor_copy"]),
        "publish_ratio": ratio(rounds["publish_bytes"], rounds["floor_fill"]),
    }
    return {"bytes": size, **medians(rounds), **ratios}


def _measure_value(name: str, jobs: int, effort: Effort) -> Dict[str, Any]:
    every = states.large()["jobs"]
    value = {**states.large(), "jobs": (every * (jobs // len(every) + 1))[:jobs]}
    codec = codecs.codec_named("msgpack")
    with shmstate.StateWriter(name) as writer, shmstate.StateReader(name) as reader:
        writer.publish(value)
        payload = reader.read_bytes()
        names: Dict[str, Any] = {
            "get": reader.get,
            "publish": writer.publish,
            "encode": codec.encode,
            "decode": codec.decode,
        }
        names.update({"payload": payload, "value": value})
        calls = {"decode": "decode(payload)", "get": "get()", "encode": "encode(value)", "publish": "publish(value)"}
        rounds = interleaved({what: statement(code, names) for what, code in calls.items()}, effort.of(61, 15))
    ratios = {
        "get_ratio": ratio(rounds["get"], rounds["decode"]),
        "publish_ratio": ratio(rounds["publish"], rounds["encode"]),
    }
    return {"jobs": jobs, "bytes": len(payload), **medians(rounds), **ratios}


def _measure_readers(name: str, effort: Effort) -> List[Dict[str, Any]]:
    counts = effort.of((1, 2, 3, 4, 6, 8), (1, 2, 4))
    used: Dict[int, List[List[float]]] = {count: [] for count in counts}
    rates: Dict[int, List[float]] = {count: [] for count in counts}
    with shmstate.StateWriter(name, codec="raw") as writer, ExitStack() as stack:
        writer.publish_bytes(os.urandom(500))
        readers = [stack.enter_context(Remote(Reading, name)) for _ in range(max(counts))]
        for _ in range(effort.of(15, 3)):
            for count in counts:
                for reader in readers[:count]:
                    reader.start("read")
                began = time.perf_counter()
                time.sleep(effort.of(0.4, 0.2))
                told = [reader.finish() for reader in readers[:count]]
                done = sum(reads for reads, _ in told)
                rates[count].append(done / (time.perf_counter() - began))
                used[count].append([sum(cpu for _, cpu in told) / done * 1e6])
    return [
        {
            "readers": count,
            "read_us_of_processor": round(statistics.median(took for (took,) in used[count]), 4),
            "reads_per_second": round(statistics.median(rates[count]), 1),
            "ratio": ratio(used[count], used[counts[0]]),
        }
        for count in counts
    ]


def _measure_states(fleet: str, effort: Effort, tell: Tell) -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = []
    draw = random.Random(6)  # who is asked next: the same in every run
    with Remote(Fleet, fleet) as process, shmstate.QueryService(fleet) as service:
        for count in _counts(effort):
            tell(f"{count:,} states")
            try:
                process.call("grow", count)
                service.query_all()
            except Exception as error:  # too many descriptors, most likely: that is a result
                found.append({"states": count, "missing": f"{type(error).__name__}: {str(error).splitlines()[-1]}"})
                break
            names = service.workers()
            asked = [draw.choice(names) for _ in range(effort.of(20_000, 4000))]
            one = summary(each(map(service.query, asked).__next__, len(asked)))
            turns = max(3, 2000 // count)
            every = statistics.median(took for _ in range(turns) for took in batch(service.query_all, 1)) / count
            listing = statistics.median(took for _ in range(turns) for took in batch(service.workers, 1)) / count
            found.append({"states": count, "one": one, "all_each": round(every, 4), "list_each": round(listing, 4)})
    return found
