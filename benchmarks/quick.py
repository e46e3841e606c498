"""The first rows of the table of numbers to reach, as ratios within one run: ``python benchmarks/quick.py``.

Variants take turns in short rounds, and a ratio is the median of the rounds' ratios, so that a machine which speeds
up and slows down meanwhile cancels out. Takes about half a minute. Exit status 1 if a bar is missed.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import sys
import time
import zlib
from importlib.util import find_spec
from timeit import Timer
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple
from unittest import mock

import msgpack

import shmstate
from shmstate import codecs

ROUNDS = 121
ROUND_SECONDS = 0.004


class Row(NamedTuple):
    """One measured line. ``bar`` None: for information."""

    what: str
    figure: str
    bar: Optional[str]
    holds: bool


def small_state() -> Dict[str, Any]:
    """A worker's state of about 500 bytes."""
    jobs = [{"id": n, "name": f"job-{n}", "progress": n / 7} for n in range(14)]
    return {"worker": "w1", "handled": 123_456, "queue": 17, "load": 0.75, "jobs": jobs, "ok": True}


def large_state() -> Dict[str, Any]:
    """The same kind of state, of about 20 KB."""
    jobs = [{"id": n, "name": f"job-{n}", "progress": n / 7} for n in range(640)]
    return {**small_state(), "jobs": jobs}


def compare(baseline: str, subject: str, names: Dict[str, Any]) -> Tuple[float, float, float]:
    """Median nanoseconds of both statements, and the median of the rounds' ratios."""
    timers = [Timer(statement, globals=names) for statement in (baseline, subject)]
    numbers = [max(1, int(ROUND_SECONDS / (timer.timeit(20) / 20))) for timer in timers]
    rounds = [[timer.timeit(number) / number * 1e9 for timer, number in zip(timers, numbers)] for _ in range(ROUNDS)]
    medians = [statistics.median(column) for column in zip(*rounds)]
    return medians[0], medians[1], statistics.median(after / before for before, after in rounds)


def ratio_row(what: str, bar: Optional[float], baseline: str, subject: str, names: Dict[str, Any]) -> Row:
    """Measure ``subject`` against ``baseline``."""
    before, after, ratio = compare(baseline, subject, names)
    figure = f"{ratio:.2f}x  ({before / 1e3:.2f} -> {after / 1e3:.2f} us)"
    return Row(what, figure, None if bar is None else f"<= {bar}x", bar is None or ratio <= bar)


def measure_read_bytes(size: int, bar: float) -> Row:
    """``read_bytes`` against the copy that it cannot do without."""
    payload = os.urandom(size)
    with shmstate.StateWriter(unique("bytes"), codec="raw") as writer, shmstate.StateReader(writer.name) as reader:
        writer.publish(payload)
        names = {"view": memoryview(payload), "read_bytes": reader.read_bytes}
        return ratio_row(f"read_bytes / bytes(view), {size} B", bar, "bytes(view)", "read_bytes()", names)


Encoder = Callable[[Any], bytes]
Decoder = Callable[[bytes], Any]


def measure_get(engine: str, codec: Any, decode: Decoder, value: Any, bar: Optional[float]) -> Row:
    """``get`` against decoding the same bytes in hand."""
    with shmstate.StateWriter(unique("get"), codec=codec) as writer:
        with shmstate.StateReader(writer.name, codec=codec) as reader:
            writer.publish(value)
            payload = reader.read_bytes()
            names = {"get": reader.get, "decode": decode, "payload": payload}
            what = f"get / decode, {engine}, {len(payload)} B"
            return ratio_row(what, bar, "decode(payload)", "get()", names)


def measure_publish(engine: str, codec: Any, encode: Encoder, value: Any, bar: Optional[float]) -> Row:
    """``publish`` against encoding alone."""
    with shmstate.StateWriter(unique("publish"), codec=codec) as writer:
        names = {"publish": writer.publish, "encode": encode, "value": value}
        what = f"publish / encode, {engine}, {len(encode(value))} B"
        return ratio_row(what, bar, "encode(value)", "publish(value)", names)


def write_without_rest(name: str, payload: bytes, stop: Any) -> None:
    """Child: publish ready bytes as fast as it goes."""
    with shmstate.StateWriter(name, codec="raw") as writer:
        publish = writer.publish_bytes
        while not stop.is_set():
            for _ in range(200):
                publish(payload)


def encode_without_rest(name: str, stop: Any) -> None:
    """Child: encode and publish a state as fast as it goes."""
    state = small_state()
    with shmstate.StateWriter(name) as writer:
        publish = writer.publish
        while not stop.is_set():
            for _ in range(200):
                publish(state)


def read_without_rest(name: str, stop: Any) -> None:
    """Child: read as fast as it goes."""
    with shmstate.StateReader(name, timeout=30) as reader:
        read = reader.read_bytes
        while not stop.is_set():
            for _ in range(200):
                read()


def measure_under_writer(label: str, payload: bytes, decode: Decoder, bar_us: float) -> List[Row]:
    """Latency of a query, and retries, while a writer publishes as fast as it can."""
    name = unique("restless")
    with running(write_without_rest, name, payload), shmstate.StateReader(name, timeout=30) as reader:
        while not reader.version:
            os.sched_yield()
        read_bytes, clock = reader.read_bytes, time.perf_counter_ns
        times = []
        before, since = reader.version, time.perf_counter()
        for _ in range(60_000):
            began = clock()
            decode(read_bytes())
            times.append(clock() - began)
        rate = (reader.version - before) / (time.perf_counter() - since)
        retries = reader.retries / len(times)
    times.sort()
    p50, p99, p999 = (times[int(len(times) * part)] / 1e3 for part in (0.5, 0.99, 0.999))
    figure = f"p99 {p99:.1f} us  (p50 {p50:.1f}, p99.9 {p999:.1f}, {rate / 1e6:.2f} M publishes/s)"
    return [
        Row(f"query, writer never rests, {label}", figure, f"< {bar_us:.0f} us", p99 < bar_us),
        Row(f"retries a read, the same, {label}", f"{retries:.4f}", "< 0.05", retries < 0.05),
    ]


def measure_interference() -> Row:
    """The rate of a writer that encodes and publishes, with readers that never rest, against its rate alone."""
    cores = len(os.sched_getaffinity(0))
    readers = min(2, cores - 1)
    what = f"writer's rate with {readers} reader{'s' if readers != 1 else ''} / alone, 500 B"
    if not readers:
        return Row(what, "not measured: one core", None, True)
    ratios = []
    name = unique("rate")
    with running(encode_without_rest, name), shmstate.StateReader(name, timeout=30) as reader:
        for _ in range(9):
            alone = rate_of(reader)
            with running(read_without_rest, name, times=readers):
                ratios.append(rate_of(reader) / alone)
    ratio = statistics.median(ratios)
    note = "" if cores > 2 else f" ({cores} cores: more than {readers} would compete for them)"
    return Row(what, f"{ratio:.2f}{note}", "> 0.9", ratio > 0.9)


def measure_views() -> List[Row]:
    """A view, summed in place, against a copy summed; and one field of a record against decoding it."""
    payload = os.urandom(1 << 20)
    stats = shmstate.record({**{f"n{n}": "d" for n in range(60)}, "jobs": "I"})
    value = {**{f"n{n}": float(n) for n in range(60)}, "jobs": 7}
    with shmstate.StateWriter(unique("view"), codec="raw") as writer, shmstate.StateReader(writer.name) as reader:
        writer.publish(payload)
        names = {"read_bytes": reader.read_bytes, "view": reader.view, "crc32": zlib.crc32}
        statement = "with view() as v: crc32(v.data)"
        rows = [ratio_row("view and checksum / copy and checksum, 1 MB", None, "crc32(read_bytes())", statement, names)]
    with shmstate.StateWriter(unique("field"), codec=stats) as writer:
        with shmstate.StateReader(writer.name, codec=stats) as reader:
            writer.publish(value)
            names = {"get": reader.get, "field": reader.field}
            rows.append(ratio_row("field / get, a record of 61 fields", None, "get()", "field('jobs')", names))
    return rows


def measure_notify() -> Row:
    """What it costs a writer to wake readers, with nobody there to wake."""
    payload = os.urandom(500)
    with shmstate.StateWriter(unique("silent")) as silent, shmstate.StateWriter(unique("loud"), notify=True) as loud:
        names = {"silent": silent.publish_bytes, "loud": loud.publish_bytes, "payload": payload}
        return ratio_row("publish with notify / without, nobody waits", None, "silent(payload)", "loud(payload)", names)


def measure_waking(notify: bool) -> List[Row]:
    """From a publish to the return of wait() in another process, which had slept for some milliseconds."""
    how = "woken" if notify else "polling"
    name = unique(how)
    with running(publish_now_and_then, name, notify), shmstate.StateReader(name, timeout=30) as reader:
        used = time.process_time()
        began = time.perf_counter()
        late: List[float] = []
        while len(late) < 400:
            snapshot = reader.wait(timeout=30)
            late.append((time.monotonic_ns() - snapshot.published_ns) / 1e3)
        share = (time.process_time() - used) / (time.perf_counter() - began)
    late.sort()
    figure = f"p50 {late[200]:.0f} us, p99 {late[395]:.0f} us"
    return [
        Row(f"publish to wake-up, {how}", figure, None, True),
        Row(f"processor of one who waits, {how}", f"{100 * share:.1f} %", None, True),
    ]


def publish_now_and_then(name: str, notify: bool, stop: Any) -> None:
    """Publish every five milliseconds."""
    with shmstate.StateWriter(name, codec="raw", notify=notify) as writer:
        while not stop.is_set():
            writer.publish(b"x" * 500)
            time.sleep(0.005)


def rate_of(reader: shmstate.StateReader) -> float:
    """Publishes a second, over a fifth of one."""
    before, began = reader.version, time.perf_counter()
    time.sleep(0.2)
    return (reader.version - before) / (time.perf_counter() - began)


class running:
    """Processes that run ``target(*args, stop)`` while the block does."""

    def __init__(self, target: Callable[..., None], *args: Any, times: int = 1) -> None:
        context = multiprocessing.get_context("spawn")
        self.stop = context.Event()
        self.processes = [context.Process(target=target, args=(*args, self.stop)) for _ in range(times)]

    def __enter__(self) -> running:
        for process in self.processes:
            process.start()
        time.sleep(0.3)  # past their start-up, which is not what is measured
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        for process in self.processes:
            process.join()


def unique(what: str) -> str:
    """A state name of this run's own."""
    return f"quick-{os.getpid()}.{what}"


def measure_all() -> List[Row]:
    """All rows, in the table's order."""
    pack, unpack = msgpack.packb, msgpack.unpackb
    small, large = small_state(), large_state()
    rows = [measure_read_bytes(64, 2.5), measure_read_bytes(256 << 10, 1.15)]
    with mock.patch.object(codecs, "msgspec", None):  # msgpack's own work: the bars are set for it
        rows += [
            measure_get("msgpack", "msgpack", unpack, small, 1.25),
            measure_get("msgpack", "msgpack", unpack, large, 1.03),
            measure_publish("msgpack", "msgpack", pack, small, 1.3),
        ]
    if find_spec("msgspec") is not None:
        import msgspec

        rows += [
            measure_get("msgspec", "msgspec", msgspec.msgpack.decode, small, None),
            measure_publish("msgspec", "msgspec", msgspec.msgpack.encode, small, None),
        ]
    rows += measure_under_writer("500 B, decoded", pack(small), unpack, 100)
    rows += measure_under_writer("20 KB, raw bytes", os.urandom(20_000), bytes, 10)
    rows.append(measure_interference())
    rows += [*measure_views(), measure_notify(), *measure_waking(notify=True), *measure_waking(notify=False)]
    return rows


def main() -> int:
    """Measure, print, judge."""
    print(f"shmstate {shmstate.__version__}, Python {platform.python_version()}, {len(os.sched_getaffinity(0))} cores")
    rows = measure_all()
    width = max(len(row.what) for row in rows)
    for row in rows:
        verdict = "" if row.bar is None else ("ok    " if row.holds else "MISSED") + f"  bar {row.bar}"
        print(f"{row.what:<{width}}  {verdict:<20}  {row.figure}")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
