"""Waiting for a newer version, in a thread or in a task.

Where the writer wakes readers (``notify=True``), they sleep in the kernel until it does; otherwise they look again and
again, after naps that grow with the time already waited, so that a wait is prolonged by an eighth at most and a long one
costs next to nothing. No sleep lasts longer than LONGEST_SLEEP: then it is asked whether the writer still lives, and
looked for what one that was killed in the middle of a publish could not wake anybody for (I9 in protocol.py).
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, AsyncIterator, Callable, Optional, Protocol, TypeVar

from shmstate.compat import run_in_forked_children
from shmstate.errors import WaitTimeout, WriterGone

LONGEST_SLEEP = 0.25
#: Threads that sleep for all the iterators of a process. An iterator that gets none looks again and again.
MOST_SLEEPERS = 8
SHORTEST_NAP, LONGEST_NAP = 50e-6, 10e-3

_Newer_co = TypeVar("_Newer_co", covariant=True)


class Awaited(Protocol[_Newer_co]):
    """What is waited for; StateReader has it."""

    name: str

    def get_if_newer(self, version: int) -> Optional[_Newer_co]:
        """A snapshot, or None if nothing newer than ``version`` is there."""

    @property
    def writer_alive(self) -> bool:
        """Whether there is somebody to wait for."""


Rest = Callable[[int, float], bool]


class _Patience:
    """How long one has waited, and what to do next."""

    def __init__(self, timeout: Optional[float]) -> None:
        self.began = time.monotonic()
        self._deadline = None if timeout is None else self.began + timeout
        self._ask_at = 0.0

    def left(self) -> float:
        """Seconds until the time is up, and never more than LONGEST_SLEEP; 0 or less: it is up."""
        if self._deadline is None:
            return LONGEST_SLEEP
        return min(self._deadline - time.monotonic(), LONGEST_SLEEP)

    def nap(self) -> float:
        """Seconds until the next look."""
        waited = time.monotonic() - self.began
        return min(max(waited / 8, SHORTEST_NAP), LONGEST_NAP)

    def has_lost(self, awaited: Awaited[Any]) -> bool:
        """Whether the writer is gone. Asked after the first sleep, then now and then: it costs more than a look."""
        now = time.monotonic()
        if not self._ask_at:
            self._ask_at = now
            return False
        if now < self._ask_at:
            return False
        self._ask_at = now + LONGEST_SLEEP
        return not awaited.writer_alive


def wait(awaited: Awaited[_Newer_co], rest: Rest, after: int, timeout: Optional[float]) -> _Newer_co:
    """A snapshot of a version newer than ``after``. Raises WaitTimeout, WriterGone, and as reading does."""
    patience = _Patience(timeout)
    is_last_look = False
    while True:
        newer = awaited.get_if_newer(after)
        if newer is not None:
            return newer
        if is_last_look:
            raise WriterGone(
                f"state {awaited.name!r}: its writer has closed or died, and nothing newer than version {after} was"
                f" published; the last state can still be read"
            )
        left = patience.left()
        if left <= 0:
            raise WaitTimeout(f"state {awaited.name!r}: nothing newer than version {after} within {timeout} seconds")
        is_last_look = patience.has_lost(awaited)
        if not is_last_look and not rest(after, left):
            time.sleep(min(patience.nap(), left))


async def changes(
    awaited: Awaited[_Newer_co], rest: Rest, version: Callable[[_Newer_co], int], after: int
) -> AsyncIterator[_Newer_co]:
    """Snapshots of ever newer versions than ``after``, until the writer is gone."""
    import asyncio  # takes longer to load than all of shmstate; who uses it has loaded it

    # A thread apart: those of the loop are few, and others wait for them.
    with _Sleeper(rest) as sleeper:
        patience = _Patience(None)
        is_last_look = False
        while True:
            newer = awaited.get_if_newer(after)
            if newer is not None:
                yield newer
                after = version(newer)
                patience = _Patience(None)
                is_last_look = False
                continue
            if is_last_look:
                return
            is_last_look = patience.has_lost(awaited)
            if is_last_look or await sleeper.rest(after):
                continue
            await asyncio.sleep(patience.nap())


class _Sleeper:
    """Sleeps in a thread, so that a loop need not. A sleep that nobody waits for any more ends within LONGEST_SLEEP."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._thread: Optional[ThreadPoolExecutor] = None
        self._places = _places[0]

    async def rest(self, after: int) -> bool:
        import asyncio

        if not self._rest(after, 0.0):
            return False
        if self._thread is None:
            places = _places[0]
            if not places.acquire(blocking=False):
                return False
            self._places, self._thread = places, ThreadPoolExecutor(1, "shmstate-wait")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._rest, after, LONGEST_SLEEP)

    def __enter__(self) -> _Sleeper:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            try:
                self._thread.submit(self._places.release)  # when the last sleep has ended
            except RuntimeError:  # the process exits, or a fork has no such thread
                self._places.release()
            self._thread.shutdown(wait=False)


_places = [threading.Semaphore(MOST_SLEEPERS)]


def _renew_places() -> None:
    _places[0] = threading.Semaphore(MOST_SLEEPERS)  # the threads did not come along


run_in_forked_children(_renew_places)
