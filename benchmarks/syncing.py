"""A worker whose state is published in one of several ways: by a timer, when told, from its own loop, or at once."""

from __future__ import annotations

import os
import statistics
import threading
import time
from array import array
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple

import shmstate
from benchmarks import states
from benchmarks.harness import each
from benchmarks.remote import Stopped

BASELINE = "no syncing"
CONTROL = "no syncing, again"


class Way(NamedTuple):
    """How a state gets published: nobody does it, a timer, a thread that is told, the worker's loop, or every message."""

    how: str
    interval: Optional[float] = None
    min_interval: float = 0.0


WAYS = {
    BASELINE: Way("none"),
    CONTROL: Way("none"),
    "every 1 ms": Way("thread", 0.001),
    "every 10 ms": Way("thread", 0.01),
    "every 100 ms": Way("thread", 0.1),
    "every 1,000 ms": Way("thread", 1.0),
    "on change": Way("told"),
    "on change, 10 ms apart": Way("told", None, 0.01),
    "in the loop, 10 ms apart": Way("loop", 0.01, 0.01),
    "after every message": Way("publish"),
}
#: Those that are of interest where little changes.
RARE_WAYS = (BASELINE, "every 10 ms", "every 100 ms", "on change", "after every message")

#: A state whose encoding takes some milliseconds, and the interval that it is given.
BEYOND = "beyond"
BEYOND_WAY = "every 1 ms"


def _beyond() -> Dict[str, Any]:
    return {**states.small(), "pages": [states.large()["jobs"] for _ in range(20)]}


SIZES: Dict[str, Callable[[], Dict[str, Any]]] = {"small": states.small, "large": states.large, BEYOND: _beyond}


class Turn(NamedTuple):
    """What a worker did in one turn. ``changes``: nanoseconds on CLOCK_MONOTONIC, by the number of the message."""

    messages: int
    seconds: float
    cpu_seconds: float
    own_seconds: float
    published: int
    overruns: int
    changes: array[int]


class Worker:
    """A state machine with a pipe of messages, whose state is published in one of the WAYS for a turn."""

    def __init__(self, name: str, size: str) -> None:
        self._state = SIZES[size]()
        self._state["last"] = (0, 0)
        self._inbox, self._feed = os.pipe()
        self._waiting = 0
        self._writer = shmstate.StateWriter(name)
        self._writer.publish(self._state)

    def work(self, _stopped: Stopped, turn: int, name: str, seconds: float, per_second: int) -> Turn:
        """Handle so many messages a second, or as many as can be if 0, for so long."""
        changes = array("q", [time.monotonic_ns()])
        self._state["last"] = (turn, 0)
        version = self._writer.version
        with self._syncing(WAYS[name]) as (after, sync):
            own = _OwnTime(f"sync {self._writer.name}")
            # Flat out it is the messages a second that count, and the clock would cost some.
            sync_after = own.of(after) if per_second else after
            cpu, began = time.process_time(), time.monotonic_ns()
            until, changed = began + int(seconds * 1e9), began
            while changed < until:
                if per_second:
                    _rest_until(began + len(changes) * 1_000_000_000 // per_second)
                changed = self._handle(turn, len(changes))
                changes.append(changed)
                sync_after()
            took, used = (time.monotonic_ns() - began) / 1e9, time.process_time() - cpu
            overruns = sync.stats.overruns if sync else 0
            return Turn(len(changes) - 1, took, used, own.spent(), self._writer.version - version, overruns, changes)

    def _handle(self, turn: int, number: int) -> int:
        """Take a message and change the state by it; returns when that was."""
        if not self._waiting:
            self._waiting = os.write(self._feed, bytes(4096)) // 8
        os.read(self._inbox, 8)
        self._waiting -= 1
        total = 0
        for value in range(250):
            total = (total + value * number) & 0xFFFF
        changed = time.monotonic_ns()  # first, or it could be read before it had happened
        # One store, so that a thread that takes the state meanwhile gets the whole change, or nothing of it.
        self._state["last"] = (turn, number)
        return changed

    @contextmanager
    def _syncing(self, way: Way) -> Iterator[Tuple[Callable[[], object], Optional[shmstate.StateSync]]]:
        """What to call after each message."""
        writer, state = self._writer, self._state
        if way.how == "none":
            yield _do_nothing, None
        elif way.how == "publish":
            writer.publish(state)
            yield partial(writer.publish, state), None
        else:
            sync = shmstate.StateSync(writer, lambda: state, interval=way.interval, min_interval=way.min_interval)
            if way.how == "loop":  # as the workers of a WorkerPool do it

                def after() -> None:
                    sync.notify()
                    sync.poll()

                sync.poll()
                yield after, sync
            else:
                with sync:
                    yield sync.notify if way.how == "told" else _do_nothing, sync

    def costs(self, count: int) -> Tuple[int, float, float]:
        """The state's bytes, and median microseconds to encode it, and to encode and publish it."""
        writer, state = self._writer, self._state
        encode = each(lambda: writer.encode(state), count)
        publish = each(lambda: writer.publish(state), count)
        return len(writer.encode(state)), statistics.median(encode), statistics.median(publish)

    def close(self) -> None:
        """The state goes with its writer."""
        self._writer.close()
        os.close(self._inbox)
        os.close(self._feed)


class _OwnTime:
    """Processor time of a thread by its name, if there is one, and of the calls that were made through ``of``."""

    def __init__(self, thread_name: str) -> None:
        threads = [thread.ident for thread in threading.enumerate() if thread.name == thread_name]
        self._clocks = [time.pthread_getcpuclockid(ident) for ident in threads if ident is not None]
        self._in_calls = 0.0
        self._before = self._of_threads()

    def _of_threads(self) -> float:
        return sum(time.clock_gettime(clock) for clock in self._clocks)

    def of(self, call: Callable[[], object]) -> Callable[[], object]:
        """The same call, timed."""
        clock = time.thread_time

        def timed() -> None:
            began = clock()
            call()
            self._in_calls += clock() - began

        return timed

    def spent(self) -> float:
        """Seconds, since this was made."""
        return self._in_calls + self._of_threads() - self._before


def _do_nothing() -> None:
    """What a worker does after a message if a timer does the rest."""


def _rest_until(moment: int) -> None:
    left = moment - time.monotonic_ns()
    if left > 0:
        time.sleep(left / 1e9)
