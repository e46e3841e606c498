"""One process of a worker, seen from the pool, and the lock that a pool's threads use it under."""

from __future__ import annotations

import math
import multiprocessing
import signal
import threading
import time
import weakref
from collections import deque
from contextlib import contextmanager, suppress
from itertools import repeat
from multiprocessing.reduction import ForkingPickler
from typing import Any, Iterator, List, Optional

from shmstate import worker
from shmstate.compat import disown, run_in_forked_children
from shmstate.errors import InvalidOption
from shmstate.options import check_timeout
from shmstate.wire import Broken, Inlet, Outlet, wait_for

LOOK_UP = 0.05  # seconds between two looks at whether a wait is still wanted, and its worker alive
END_GRACE = 2.0  # seconds that a worker with a closed channel gets to end by itself
_LONGEST_LOCK_WAIT = 3600.0
_NONE: Any = repeat(None)

GUARD = 'a script must build its pool under `if __name__ == "__main__":`, because each worker imports the script'


def require_that_workers_may_start(fleet: str) -> None:
    """Raise InvalidOption in a process that multiprocessing would refuse a child."""
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):
        raise InvalidOption(
            f"fleet {fleet!r}: process {process.name!r} still imports the main script, as a worker: {GUARD}"
        )
    if process.daemon:
        raise InvalidOption(
            f"fleet {fleet!r}: process {process.name!r} is daemonic, and multiprocessing lets no daemonic process have"
            f" children; start that process with daemon=False, or make the pool in its parent. If this is a worker"
            f" that imports a script: {GUARD}"
        )


def deadline_after(timeout: Optional[float]) -> float:
    """Return the moment until which to wait. Raises InvalidOption."""
    limit = check_timeout("timeout", timeout)
    return math.inf if limit is None else time.monotonic() + limit


class OutOfTime(Exception):
    """The deadline passed. Not TimeoutError: a signal handler may raise that, and it must come out."""


def join(process: Any, seconds: float) -> None:
    """Wait for the end of a process. Its own end of file is not enough: a process that it forked delays that."""
    deadline = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < deadline:
        process.join(max(0.0, min(LOOK_UP, deadline - time.monotonic())))


class Turn:
    """A lock that is taken within a time limit, and given back whatever exception arrives meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may send in the middle of a send

    @contextmanager
    def within(self, deadline: float) -> Iterator[bool]:
        """Wait for the lock until ``deadline``, hold it in the block, and yield whether it was had."""
        # In C from the lock to the list, and from the list to the lock: no signal handler runs in between.
        taken: List[bool] = []
        given_back: Any = iter(taken)
        try:
            try:
                left = math.inf
                while not taken and left > 0:
                    left = min(deadline - time.monotonic(), _LONGEST_LOCK_WAIT)
                    taken.extend(filter(None, map(self._lock.acquire, (True,), (max(0.0, left),))))
                yield bool(taken)
            finally:
                deque(map(self._lock.__exit__, given_back, _NONE, _NONE), 0)
        finally:  # again, for an exception at the beginning of the first
            deque(map(self._lock.__exit__, given_back, _NONE, _NONE), 0)


class Run:
    """One process of a worker, and the pool's ends of its channels."""

    def __init__(self, name: str, process: Any, ends: worker.Ends) -> None:
        self.name = name
        self.process = process
        self.ends = ends
        self.inbox = Outlet(ends.inbox)
        self.questions = Outlet(ends.control)
        self.answers = Inlet(ends.control)
        self.is_broken = False  # whether it closed a channel, which counts as its end
        self._reports = Inlet(ends.report)
        self._reporting = threading.RLock()
        self._is_ready = False
        self._last_words: Optional[str] = None
        self._has_ended_well = False
        _processes.add(process)

    @property
    def is_running(self) -> bool:
        """Whether the process runs and listens."""
        return not self.is_broken and self.process.is_alive()

    def is_ready(self) -> bool:
        """Return whether its first state is published. Raises Broken if it died before."""
        self._read_reports()
        if not self._is_ready and (self._last_words is not None or not self.is_running):
            self._read_reports()  # what it wrote between the two looks
            if not self._is_ready:
                raise Broken
        return self._is_ready

    def has_ended_well(self) -> bool:
        """Return whether a process that has ended had published its last state before, as it was asked to."""
        self._read_reports()
        return self._has_ended_well or self.process.exitcode == 128 + signal.SIGTERM

    def _read_reports(self) -> None:
        with self._reporting, suppress(Broken):
            report = self._reports.read()
            while report is not None:
                kind, detail = ForkingPickler.loads(report)
                if kind == worker.READY:
                    self._is_ready = True
                elif kind == worker.ENDED:
                    self._has_ended_well = True
                else:
                    self._last_words = detail
                report = self._reports.read()

    def end(self) -> None:
        """Wait for the end of a process that has closed a channel. One that stays without it is killed."""
        self.is_broken = True
        join(self.process, END_GRACE)
        if self.process.is_alive():
            self.process.kill()
            join(self.process, END_GRACE)

    def obituary(self, used: int, allowed: int, when: str = "") -> str:
        """Describe how the process ended, after it has."""
        self._read_reports()
        code = self.process.exitcode
        restarts = f"restarts used: {used} of {allowed}"
        text = f"worker {self.name!r} (pid {self.process.pid}) died {when}{_way_out(code)}; {restarts}"
        if self._last_words:
            return f"{text}; with this error:\n\n{self._last_words}"
        if not self._is_ready and code == 1:
            return f"{text}. It ended before it could report why: see its error output. One cause: {GUARD}"
        return text

    def wait(self, end: Any, events: int, left: float) -> None:
        """Wait for a channel, for a short time; the caller looks again. Raises Broken if the process has ended."""
        if not wait_for(end, events, min(LOOK_UP, left)) and not self.is_running:
            raise Broken  # a process that it forked may keep its ends open

    def close(self) -> None:
        """Close the pool's ends. Idempotent."""
        for end in self.ends:
            end.close()


_processes: weakref.WeakSet[Any] = weakref.WeakSet()
# Otherwise the exit of a forked child would terminate the workers of its parent.
run_in_forked_children(lambda: disown(_processes))


def _way_out(code: Optional[int]) -> str:
    if code is None:
        return "in an unknown way, because something else collected its exit code"
    if code > 128:
        return f"with exit code {code} (the code of a program that ends on {_signal_name(code - 128)})"
    return f"with exit code {code}" if code >= 0 else f"of {_signal_name(-code)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
