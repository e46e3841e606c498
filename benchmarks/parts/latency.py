"""Experiment 1: what a query costs, asked of the worker itself or read from shared memory; and where the time goes.

A worker has three ways to be asked for its state: a pipe, a pair of queues, and shared memory. It is idle, or it always
has another message to handle, of 1 or 10 ms. Whoever asks by pipe or queue comes before the next message: no worker that
is busy can answer sooner. They ask at random moments, or they would always meet the beginning of a message. All ways are
measured against one worker, in turns.

    {"sizes": {"500 B": {"bytes": n, "loads": {"idle": {"pipe": {summary}, "queue": {summary}, "shmstate": {summary},
       "ratios": {"pipe": {"p50": x, "p99": x}, "queue": ...}}, "1 ms": ..., "10 ms": ...},
       "breakdown": {"decode": us, "copy": us, "validate": us, "answer": us, "query": us}, "first": {summary}}}}

``breakdown``: medians of batches; ``copy`` is bytes(view) alone, ``validate`` what read_bytes takes beyond it, ``answer``
what query() takes beyond both and ``decode``: to look up the worker, its age and liveness. ``first``: a query that attaches.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from functools import partial
from multiprocessing import connection
from typing import Any, Callable, Dict, List

import shmstate
from benchmarks import states
from benchmarks.harness import Effort, Take, Tell, each, interleaved, medians, pooled, statement, summary
from benchmarks.remote import Remote, Stopped
from shmstate import codecs

#: Seconds that handling one message takes, by what the load is called.
LOADS = {"idle": 0.0, "1 ms": 0.001, "10 ms": 0.01}
STATES = {"500 B": states.small, "20 KB": states.large}
#: By the bars it is measured also where there is little time.
BARRED = "500 B"


class Asked:
    """A worker that answers by pipe and by queue, and publishes its state after each message."""

    def __init__(self, name: str, make_state: Callable[[], Any], pipe: Any, questions: Any, answers: Any) -> None:
        self._pipe, self._questions, self._answers = pipe, questions, answers
        self._state = make_state()
        self._writer = shmstate.StateWriter(name)
        self._writer.publish(self._state)

    def work(self, stopped: Stopped, seconds: float) -> int:
        """Handle messages of so many seconds, one after the other, and who asks between them; idle if 0."""
        handled = 0
        while not stopped():
            if seconds:
                self._handle(seconds)
                handled += 1
                self._answer_all()
            else:
                connection.wait([self._pipe, self._questions._reader], 0.05)  # noqa: SLF001 - no other way to wait for both
                self._answer_all()
        return handled

    def _handle(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self._state["handled"] += 1
        self._writer.publish(self._state)

    def _answer_all(self) -> None:
        """Once each: who asks again at once comes behind the next message."""
        if self._pipe.poll():
            self._pipe.recv()
            self._pipe.send(self._state)
        if not self._questions.empty():
            self._questions.get()
            self._answers.put(self._state)

    def close(self) -> None:
        """The writer's state goes with it."""
        self._writer.close()


def steps(effort: Effort) -> int:
    """One for each load, and two more for each size."""
    return sum(len(_loads(size, effort)) + 2 for size in STATES)


def _loads(size: str, effort: Effort) -> Dict[str, float]:
    """A quick run leaves out what takes longest, where no bar asks for it."""
    longest = max(LOADS.values())
    return {load: busy for load, busy in LOADS.items() if not effort.quick or size == BARRED or busy < longest}


def measure(effort: Effort, tell: Tell) -> Dict[str, Any]:
    """The experiment."""
    return {"sizes": {size: _measure_size(size, make, effort, tell) for size, make in STATES.items()}}


def _measure_size(size: str, make_state: Callable[[], Any], effort: Effort, tell: Tell) -> Dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    questions, answers = context.Queue(), context.Queue()
    ours, theirs = context.Pipe()
    fleet = f"latency-{os.getpid()}"

    def ask_by_pipe() -> Any:
        ours.send(None)
        return ours.recv()

    def ask_by_queue() -> Any:
        questions.put(None)
        return answers.get()

    with Remote(Asked, f"{fleet}.w1", make_state, theirs, questions, answers) as worker:
        with shmstate.QueryService(fleet) as service:
            ways = {"pipe": ask_by_pipe, "queue": ask_by_queue, "shmstate": lambda: service.query("w1").value}
            loads = {}
            for load, seconds in _loads(size, effort).items():
                tell(f"{size}, {load}")
                worker.start("work", seconds)
                loads[load] = _in_turns(ways, seconds, effort)
                worker.finish()
            tell(f"{size}, where the time goes")
            found = {"bytes": len(codecs.codec_named("msgpack").encode(make_state())), "loads": loads}
            found["breakdown"] = _breakdown(service, f"{fleet}.w1", effort)
            tell(f"{size}, the first query")
            found["first"] = summary(_first_queries(fleet, effort.of(2000, 300)))
    return found


def _in_turns(ways: Dict[str, Callable[[], Any]], busy: float, effort: Effort) -> Dict[str, Any]:
    moments = random.Random(1)

    def at_random_moments(way: str) -> List[float]:
        times = []
        for _ in range(effort.of(80, 100)):
            time.sleep(moments.uniform(0, busy))
            times += each(ways[way], 1)
        return times

    takes: Dict[str, Take] = {way: partial(at_random_moments, way) for way in ways}
    takes["shmstate"] = lambda: each(ways["shmstate"], effort.of(2000, 500))
    taken = interleaved(takes, effort.of(25, 5))
    told: Dict[str, Any] = {way: pooled(times) for way, times in taken.items()}
    told["ratios"] = {way: _ratios(told[way], told["shmstate"]) for way in ways if way != "shmstate"}
    return told


def _ratios(asked: Dict[str, float], read: Dict[str, float]) -> Dict[str, float]:
    """Of all rounds together: one round has too few for a 99th percentile."""
    return {part: round(asked[part] / read[part], 2) for part in ("p50", "p99") if part in asked}


def _breakdown(service: shmstate.QueryService, name: str, effort: Effort) -> Dict[str, float]:
    with shmstate.StateReader(name) as reader:
        payload = reader.read_bytes()
        names = {
            "view": memoryview(payload),
            "read_bytes": reader.read_bytes,
            "decode": codecs.codec_named("msgpack").decode,
            "payload": payload,
            "query": service.query,
        }
        calls = ("bytes(view)", "read_bytes()", "decode(payload)", "query('w1')")
        copy, read, decode, query = medians(
            interleaved({code: statement(code, names) for code in calls}, effort.of(121, 31))
        ).values()
    found = {
        "copy": copy,
        "validate": read - copy,
        "decode": decode,
        "answer": query - read - decode,
        "query": query,
    }
    return {what: round(took, 4) for what, took in found.items()}


def _first_queries(fleet: str, count: int) -> List[float]:
    def first() -> None:
        with shmstate.QueryService(fleet) as service:
            service.query("w1")

    return each(first, count)
