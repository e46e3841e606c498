"""StateSync: publish a state again and again, no more often than needed, no less often than promised.

One step takes the state, encodes it, and publishes it, or beats if its bytes are those of the last time. When a step
is due is arithmetic (`_Pace`); a thread, an asyncio task, or a loop of your own calls ``poll()`` to have it done.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Type

from shmstate.codecs import is_of_a_handler
from shmstate.compat import renew_in_forked_children
from shmstate.errors import WriterClosed
from shmstate.options import check_seconds
from shmstate.writer import StateWriter

if TYPE_CHECKING:  # it takes longer to load than all of shmstate; who uses it has loaded it
    import asyncio

_log = logging.getLogger("shmstate")

DEFAULT_INTERVAL = 0.1
DEFAULT_HEARTBEAT = 1.0
#: No thread or system call can be told to wait for much longer than a month; an hour of it costs nothing.
LONGEST_WAIT = 3600.0


class SyncStats(NamedTuple):
    """What a StateSync has done so far."""

    published: int = 0
    #: Steps that found the bytes unchanged and only beat.
    unchanged: int = 0
    #: Timer ticks that passed while a step still ran, or before it could begin. They are not made up for.
    overruns: int = 0
    #: Steps that failed: the state could not be taken, encoded or published.
    errors: int = 0


class _Pace:
    """When the next step is due. Times are seconds on one monotonic clock."""

    def __init__(self, interval: Optional[float], min_interval: float, heartbeat: float) -> None:
        self.interval = interval
        self.min_interval = min_interval
        self.period = heartbeat if interval is None else interval
        self.began = float("-inf")
        self.next_tick = float("-inf")

    def wait(self, now: float, asked: bool) -> float:
        """Seconds until something is due; 0 or less: now."""
        due = self.next_tick
        if asked:
            due = min(due, self.began + self.min_interval)
        return due - now

    def begin(self, now: float) -> int:
        """Start a step; returns how many ticks it stands for, of which one is kept."""
        self.began = now
        return self._skip_to_after(now)

    def end(self, now: float) -> int:
        """End a step; returns how many ticks passed meanwhile, none of them kept."""
        return self._skip_to_after(now)

    def _skip_to_after(self, now: float) -> int:
        if self.next_tick == float("-inf"):
            self.next_tick = now + self.period
            return 0
        if self.next_tick > now:
            return 0
        passed = int((now - self.next_tick) / self.period) + 1
        self.next_tick += passed * self.period
        return passed


class StateSync:
    """Keeps ``writer`` up to date with what ``state()`` returns.

    ``interval``      seconds between ticks, each of which takes the state; None: only when told by ``notify()``
    ``min_interval``  seconds that must lie between two steps, however often ``notify()`` is called; calls coalesce
    ``heartbeat``     seconds between beats if ``interval`` is None; otherwise every unchanged tick is one

    ``with`` runs it in a thread: ``state()`` is then called there, and must cope with that. ``async with`` runs it as
    a task on the running loop: ``state()`` is called on the loop, between other tasks' steps. Or call ``poll()``
    from a loop of your own. Leaving the block publishes the final state, and raises if that fails.

    A step that fails is counted, kept in ``error`` and logged (logger ``shmstate``) when it differs from the one
    before; there is no beat then, so readers see the state grow stale, and the next tick tries again. A step that
    takes longer than the interval makes ticks fall out; they are counted in ``stats.overruns`` and not made up for.

    Raises InvalidOption.
    """

    def __init__(
        self,
        writer: StateWriter,
        state: Callable[[], Any],
        *,
        interval: Optional[float] = DEFAULT_INTERVAL,
        min_interval: float = 0.0,
        heartbeat: float = DEFAULT_HEARTBEAT,
    ) -> None:
        for option, value in (("interval", interval), ("heartbeat", heartbeat)):
            if value is not None or option != "interval":
                check_seconds(option, value, above=True)
        check_seconds("min_interval", min_interval)
        self.error: Optional[BaseException] = None
        self._writer = writer
        self._state = state
        self._pace = _Pace(interval, min_interval, heartbeat)
        self._asked = interval is None  # the first state is published without being asked for
        self._stats = SyncStats()
        self._last: Optional[bytes] = None
        self._last_version = -1
        self._forked()
        renew_in_forked_children(self)
        self._wake: Callable[[], None] = _nobody
        self._stopping = False
        self._thread: Optional[threading.Thread] = None
        self._task: Optional[asyncio.Task[None]] = None

    def _forked(self) -> None:
        self._step = threading.Lock()

    @property
    def stats(self) -> SyncStats:
        """What has been done so far."""
        return self._stats

    def notify(self) -> None:
        """Say that the state has changed. From any thread; does not wait."""
        if not self._asked:
            self._asked = True
            self._wake()

    def poll(self) -> float:
        """Do what is due and return the seconds until something is due again. For a loop of your own."""
        with self._step:
            now = time.monotonic()
            if self._pace.wait(now, self._asked) <= 0:
                asked, self._asked = self._asked, False
                self._count(overruns=self._pace.begin(now) - 1)
                is_step = asked or self._pace.interval is not None or self.error is not None
                self._guarded(self._publish_if_changed if is_step else self._writer.beat)
                self._count(overruns=self._pace.end(time.monotonic()))
            return min(max(0.0, self._pace.wait(time.monotonic(), self._asked)), LONGEST_WAIT)

    def flush(self) -> None:
        """Publish the state now if it has changed. Raises what taking, encoding or publishing it raises."""
        with self._step:
            self._asked = False
            self._publish_if_changed()

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except WriterClosed:
            raise
        except Exception as error:
            if is_of_a_handler(error):
                raise
            self._count(errors=1)
            if repr(error) != repr(self.error):
                _log.exception("state %r was not published; will try again", self._writer.name)
            self.error = error
        else:
            self.error = None

    def _publish_if_changed(self) -> None:
        payload = self._writer.encode(self._state())
        if payload == self._last and self._writer.version == self._last_version:
            self._writer.beat()
            self._count(unchanged=1)
        else:
            self._last_version = self._writer.publish_bytes(payload)
            self._last = payload
            self._count(published=1)

    def _count(self, published: int = 0, unchanged: int = 0, overruns: int = 0, errors: int = 0) -> None:
        was = self._stats
        self._stats = SyncStats(
            was.published + published, was.unchanged + unchanged, was.overruns + max(0, overruns), was.errors + errors
        )

    def __enter__(self) -> StateSync:
        woken = threading.Event()
        self._wake = woken.set
        self._thread = threading.Thread(target=self._run, args=(woken,), name=f"sync {self._writer.name}", daemon=True)
        self._thread.start()
        return self

    def _run(self, woken: threading.Event) -> None:
        try:
            while not self._stopping:
                woken.wait(self.poll())
                woken.clear()
        except WriterClosed as error:  # closed before us: nothing left to do
            self.error = error

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._stopping = True
        self._wake()
        if self._thread is not None:
            self._thread.join()
        self._finish(error)

    async def __aenter__(self) -> StateSync:
        import asyncio

        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        self._wake = lambda: _call_on(loop, woken.set)
        self._task = loop.create_task(self._run_async(woken))
        return self

    async def _run_async(self, woken: asyncio.Event) -> None:
        import asyncio

        try:
            while not self._stopping:
                left = self.poll()
                try:
                    await asyncio.wait_for(woken.wait(), left)
                except asyncio.TimeoutError:
                    continue
                woken.clear()
        except WriterClosed as error:
            self.error = error

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        import asyncio

        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._finish(error)

    def _finish(self, error: Optional[BaseException]) -> None:
        self._wake = _nobody
        try:
            self.flush()
        except Exception:
            if error is None:  # never hide what ended the block
                raise


def _nobody() -> None:
    """Wake nobody: no thread and no task is running."""


def _call_on(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
