"""The numbers to reach: what a call costs against the work that it cannot do without.

What other parts measure of them (queries by pipe and queue, memory, the leak detector) is theirs: see benchmarks.bars.

    {"read_bytes": [{"bytes": n, "floor": us, "took": us, "ratio": ratio}], "get": [... "engine"], "publish": [...],
     "restless": [{"what", "bytes", "query": {summary}, "retries_each": x, "publishes_per_second": r}],
     "writer": {"readers": n, "cores": n, "ratio": ratio} or {"readers": 0, "cores": 1},
     "views": [{"what", "floor": us, "took": us, "ratio": ratio}],
     "waking": [{"how", "late": {summary}, "processor_percent": x}]}
"""

from __future__ import annotations

import os
import time
import zlib
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any, Callable, Dict, List
from unittest import mock

import msgpack

import shmstate
from benchmarks import states
from benchmarks.harness import Effort, Tell, interleaved, medians, ratio, statement, summary
from benchmarks.parts.interference import Reading, pace
from benchmarks.remote import Remote, Stopped
from shmstate import codecs


class Restless:
    """A writer that never rests: of ready bytes, or of a value that it encodes each time."""

    def __init__(self, name: str, value: Any, codec: str) -> None:
        self._writer = shmstate.StateWriter(name, codec=codec)
        self._value = value
        self._writer.publish(value)

    def publish(self, stopped: Stopped) -> float:
        """Until told to stop: publishes a second."""
        publish, value, done = self._writer.publish, self._value, 0
        began = time.perf_counter()
        while not stopped():
            for _ in range(200):
                publish(value)
            done += 200
        return done / (time.perf_counter() - began)

    def close(self) -> None:
        """The state goes with it."""
        self._writer.close()


class Occasional:
    """A writer that publishes every five milliseconds."""

    def __init__(self, name: str, notify: bool) -> None:
        self._writer = shmstate.StateWriter(name, codec="raw", notify=notify)

    def publish(self, stopped: Stopped) -> None:
        """Until told to stop."""
        began, done = time.perf_counter(), 0
        while not stopped():
            self._writer.publish(b"x" * 500)
            done += 1
            pace(began + done * 0.005)

    def close(self) -> None:
        """The state goes with it."""
        self._writer.close()


def steps(effort: Effort) -> int:
    """One for each kind of row."""
    del effort
    return 7


def measure(effort: Effort, tell: Tell) -> Dict[str, Any]:
    """The rows."""
    name = f"numbers-{os.getpid()}"
    small, large = states.small(), states.large()
    tell("read_bytes against bytes(view)")
    found: Dict[str, Any] = {"read_bytes": [_read_bytes(name, size, effort) for size in (64, 256 << 10)]}
    tell("get against decoding")
    found["get"] = [_get(name, engine, value, effort) for engine in engines() for value in (small, large)]
    tell("publish against encoding")
    found["publish"] = [_publish(name, engine, small, effort) for engine in engines()]
    tell("a query while the writer never rests")
    encoded = codecs.codec_named("msgpack").encode(small)
    found["restless"] = [
        _restless(name, "500 B, decoded", encoded, codecs.plain_msgpack().decode, effort),
        _restless(name, "20 KB, raw bytes", os.urandom(20_000), bytes, effort),
    ]
    tell("the writer's rate with readers")
    found["writer"] = _writer(name, effort)
    tell("views, fields, notify")
    found["views"] = _views(name, effort)
    tell("publish to wake-up")
    found["waking"] = [_waking(name, notify, effort) for notify in (True, False)]
    return found


def engines() -> List[str]:
    """What reads msgpack here. The bars are set for msgpack itself."""
    return ["msgpack", "msgspec"] if find_spec("msgspec") is not None else ["msgpack"]


def _against(floor: str, subject: str, names: Dict[str, Any], effort: Effort) -> Dict[str, Any]:
    takes = {code: statement(code, names) for code in (floor, subject)}
    rounds = interleaved(takes, effort.of(121, 41))
    took = medians(rounds)
    return {"floor": took[floor], "took": took[subject], "ratio": ratio(rounds[subject], rounds[floor])}


def _without_msgspec(engine: str) -> Any:
    """shmstate takes msgspec where it is installed; in this block it does not, if msgpack is what is measured."""
    return mock.patch.object(codecs, "load_msgspec", return_value=None) if engine == "msgpack" else nullcontext()


def _read_bytes(name: str, size: int, effort: Effort) -> Dict[str, Any]:
    payload = os.urandom(size)
    with shmstate.StateWriter(name, codec="raw") as writer, shmstate.StateReader(name) as reader:
        writer.publish(payload)
        names = {"view": memoryview(payload), "read_bytes": reader.read_bytes}
        return {"bytes": size, **_against("bytes(view)", "read_bytes()", names, effort)}


def _get(name: str, engine: str, value: Any, effort: Effort) -> Dict[str, Any]:
    decode = msgpack.unpackb if engine == "msgpack" else _msgspec().decode
    with _without_msgspec(engine), shmstate.StateWriter(name) as writer, shmstate.StateReader(name) as reader:
        writer.publish(value)
        payload = reader.read_bytes()
        names = {"get": reader.get, "decode": decode, "payload": payload}
        told = _against("decode(payload)", "get()", names, effort)
    return {"engine": engine, "bytes": len(payload), **told}


def _publish(name: str, engine: str, value: Any, effort: Effort) -> Dict[str, Any]:
    encode = msgpack.packb if engine == "msgpack" else _msgspec().encode
    with _without_msgspec(engine), shmstate.StateWriter(name) as writer:
        names = {"publish": writer.publish, "encode": encode, "value": value}
        told = _against("encode(value)", "publish(value)", names, effort)
    return {"engine": engine, "bytes": len(encode(value)), **told}


def _msgspec() -> Any:
    import msgspec

    return msgspec.msgpack


def _restless(name: str, what: str, payload: bytes, decode: Callable[[bytes], Any], effort: Effort) -> Dict[str, Any]:
    """One reader, in this process; the clock's own time is in the figures."""
    with Remote(Restless, name, payload, "raw") as writer, shmstate.StateReader(name) as reader:
        writer.start("publish")
        before = reader.version
        while reader.version == before:
            os.sched_yield()
        read_bytes, clock, times = reader.read_bytes, time.perf_counter_ns, []
        for _ in range(effort.of(200_000, 60_000)):
            began = clock()
            decode(read_bytes())
            times.append((clock() - began) / 1e3)
        told = {"what": what, "bytes": len(payload), "query": summary(times)}
        told["retries_each"] = round(reader.retries / len(times), 6)
        told["publishes_per_second"] = round(writer.finish(), 1)
    return told


def _writer(name: str, effort: Effort) -> Dict[str, Any]:
    """The rate of a writer that encodes and publishes, with readers that never rest, against its rate alone."""
    cores = len(os.sched_getaffinity(0))
    count = min(2, cores - 1)
    if not count:
        return {"readers": 0, "cores": cores}
    alone, beside = [], []
    with Remote(Restless, name, states.small(), "msgpack") as writer:
        readers = [Remote(Reading, name) for _ in range(count)]
        try:
            for _ in range(effort.of(21, 9)):
                alone.append([_rate(writer)])
                for reader in readers:
                    reader.start("read", 0.0)
                beside.append([_rate(writer)])
                for reader in readers:
                    reader.finish()
        finally:
            for reader in readers:
                reader.close()
    return {"readers": count, "cores": cores, "ratio": ratio(beside, alone)}


def _rate(writer: Remote) -> float:
    writer.start("publish")
    time.sleep(0.2)
    rate: float = writer.finish()
    return rate


def _views(name: str, effort: Effort) -> List[Dict[str, Any]]:
    """A view, summed in place, against a copy summed; a field of a record against all; what waking nobody costs."""
    payload = os.urandom(1 << 20)
    found = []
    with shmstate.StateWriter(name, codec="raw") as writer, shmstate.StateReader(name) as reader:
        writer.publish(payload)
        names: Dict[str, Any] = {"read_bytes": reader.read_bytes, "view": reader.view, "crc32": zlib.crc32}
        told = _against("crc32(read_bytes())", "with view() as v: crc32(v.data)", names, effort)
        found.append({"what": "view and checksum / copy and checksum, 1 MB", **told})
    record = shmstate.record({**{f"n{n}": "d" for n in range(60)}, "jobs": "I"})
    with shmstate.StateWriter(name, codec=record) as writer, shmstate.StateReader(name, codec=record) as reader:
        writer.publish(states.numeric())
        told = _against("get()", "field('jobs')", {"get": reader.get, "field": reader.field}, effort)
        found.append({"what": "field / get, a record of 61 fields", **told})
    with shmstate.StateWriter(f"{name}.silent") as silent, shmstate.StateWriter(f"{name}.loud", notify=True) as loud:
        names = {"silent": silent.publish_bytes, "loud": loud.publish_bytes, "payload": os.urandom(500)}
        told = _against("silent(payload)", "loud(payload)", names, effort)
        found.append({"what": "publish with notify / without, nobody waits", **told})
    return found


def _waking(name: str, notify: bool, effort: Effort) -> Dict[str, Any]:
    """From a publish to the return of wait() in another process, which had slept for some milliseconds."""
    with Remote(Occasional, name, notify) as writer, shmstate.StateReader(name) as reader:
        writer.start("publish")
        used, began, late = time.process_time(), time.perf_counter(), []
        for _ in range(effort.of(1500, 500)):
            snapshot = reader.wait(timeout=30)
            late.append((time.monotonic_ns() - snapshot.published_ns) / 1e3)
        share = (time.process_time() - used) / (time.perf_counter() - began)
        writer.finish()
    how = "woken" if notify else "polling"
    return {"how": how, "late": summary(late), "processor_percent": round(100 * share, 2)}
