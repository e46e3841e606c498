"""The main process of the demo at work: it hands files to the workers, and queries their states all the while.

Nobody reports back. That a file is done shows in its worker's state, and so does what a dead worker had not done:
when the pool has started a successor, which goes on from the last published state, all files that were handed out and
are not in that state are sent again. Some may then reach it twice (they were sent to the successor before its
start was noticed); a census counts them once.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Sequence, Set, Union

from shmstate import Answer, DecodeError, ShmStateError, StateReader, WorkerDied, WorkerPool
from shmstate.codecs import codec_named
from shmstate.demo.census import State, flaw

WINDOW = 12  # files handed to a worker and not yet in its state: enough to keep it busy between two looks
COPIES = 10  # snapshots taken a look; a query that decodes takes a hundred times as long
ASK_EVERY = 0.25  # seconds between two questions over a pipe
ASK_TIMEOUT = 2.0
PAUSE = 0.02  # seconds between two rounds, in which the cores are the workers' own
STALE = 1.0  # seconds without a sign of life that are worth a question
STALLED = 30.0  # and those that are too many


class Death(NamedTuple):
    """A worker that died and was replaced."""

    worker: str
    pid: int
    #: Files that were with it and are not in the state it left.
    sent_again: int


class Watched:
    """One worker, as far as its published states tell."""

    def __init__(self, name: str, pid: int, reader: StateReader) -> None:
        self.name = name
        self.pid = pid
        self.reader = reader
        self.restarts = 0
        self.handed_out: List[str] = []
        self.state: State = {}
        self.payload = b""
        self.largest = 0
        self.version = 0
        self.staleness = 0.0
        self.stale_since: Optional[float] = None

    @property
    def totals(self) -> Dict[str, int]:
        """The counts of the state last read."""
        totals: Dict[str, int] = self.state["totals"] if self.state else dict.fromkeys(("files", "lines"), 0)
        return totals


class _Look(NamedTuple):
    """What one look at a worker gave."""

    restarts: int
    payloads: List[bytes]
    answer: Union[Answer, DecodeError]


class Watch:
    """Drives ``pool``, whose workers are censuses, through ``files``, and keeps what was seen on the way.

    ``step()`` until ``done``. Times are in nanoseconds.
    """

    def __init__(self, pool: WorkerPool, files: Sequence[str]) -> None:
        self.pool = pool
        self.files = len(files)
        self.waiting: Deque[str] = deque(files)
        self.workers = [
            Watched(name, pid, StateReader(f"{pool.fleet}.{name}", codec="msgpack")) for name, pid in pool.pids.items()
        ]
        self.snapshot_ns: List[int] = []
        self.query_ns: List[int] = []
        self.ask_ns: List[int] = []
        self.query_sizes: List[int] = []
        self.torn: List[str] = []
        self.growths = 0
        self.smallest = 0
        self.largest = 0
        self.deaths: List[Death] = []
        self._decode = codec_named("msgpack").decode
        self._turn = 0
        self._ask_at = time.monotonic() + ASK_EVERY

    @property
    def done(self) -> bool:
        """Whether every file is in a published state that was read and checked."""
        return not self.waiting and not any(worker.handed_out for worker in self.workers)

    @property
    def counted(self) -> int:
        """Files that are in the states read last."""
        return sum(worker.totals["files"] for worker in self.workers)

    @property
    def reads(self) -> int:
        """States read from shared memory so far, each of which was checked."""
        return len(self.snapshot_ns) + len(self.query_ns)

    @property
    def retries(self) -> int:
        """Copies that were overtaken by their writer and taken again, among the snapshots."""
        return sum(worker.reader.retries for worker in self.workers)

    @property
    def pids(self) -> Set[int]:
        """The workers' processes, those that died among them."""
        return {worker.pid for worker in self.workers} | {death.pid for death in self.deaths}

    @property
    def states(self) -> List[State]:
        """The state of each worker that was read last."""
        return [worker.state for worker in self.workers]

    def step(self) -> Optional[Watched]:
        """One round over all workers, and a question if one is due.

        Returns a worker that has shown no sign of life for a while, if there is one: it may lack the room to publish.
        Raises WorkerDied when the pool no longer replaces one, ShmStateError when one has stalled for good.
        """
        looks = [self._look(worker) for worker in self.workers]
        for worker, look in zip(self.workers, looks):
            self._learn(worker, look)
            self._feed(worker)
        self._ask_if_due()
        if not self.done:
            time.sleep(PAUSE)
        return self._stale()

    def close(self) -> None:
        """Let go of the states."""
        for worker in self.workers:
            worker.reader.close()

    def _look(self, worker: Watched) -> _Look:
        """Read a worker's state, timed. Nothing else is done here: all workers are looked at fresh from the pause."""
        restarts = self.pool.restarted[worker.name]  # before the query, which then gives what the successor restored
        payloads = []
        read_bytes, now = worker.reader.read_bytes, time.perf_counter_ns
        for _ in range(COPIES):
            began = now()
            payload = read_bytes()
            self.snapshot_ns.append(now() - began)
            payloads.append(payload)
        began = now()
        try:
            answer = self.pool.query(worker.name)
        except DecodeError as error:
            return _Look(restarts, payloads, error)
        self.query_ns.append(now() - began)
        return _Look(restarts, payloads, answer)

    def _learn(self, worker: Watched, look: _Look) -> None:
        """Check every read of the look, and take from it what has been done and who has died."""
        for payload in look.payloads:
            if payload != worker.payload:  # the same bytes as last time were checked last time
                self._check_bytes(worker, payload)
                self._note_size(worker, len(payload))
                worker.payload = payload
        if isinstance(look.answer, Answer):
            self.query_sizes.append(len(worker.payload))
            if look.answer.value != worker.state and self._check(worker, look.answer.value):
                worker.state = look.answer.value
            worker.version, worker.staleness = look.answer.version, look.answer.staleness
        else:
            self.torn.append(f"{worker.name}: {look.answer}")
        worker.handed_out = [path for path in worker.handed_out if not _holds(worker.state, path)]
        if look.restarts > worker.restarts:
            worker.restarts = look.restarts
            self._send_again(worker)
        self._learn_pid(worker)

    def _send_again(self, worker: Watched) -> None:
        self.deaths.append(Death(worker.name, worker.pid, len(worker.handed_out)))
        for path in worker.handed_out:
            self.pool.send(worker.name, path)  # waits until the successor is there

    def _learn_pid(self, worker: Watched) -> None:
        pid = self.pool.pids[worker.name]
        if self.pool.restarted[worker.name] == worker.restarts:  # and so it was before: nothing died in between
            worker.pid = pid

    def _check_bytes(self, worker: Watched, payload: bytes) -> None:
        try:
            state = self._decode(payload)
        except Exception as error:  # torn bytes make a codec raise anything
            self.torn.append(
                f"{worker.name}: {len(payload)} bytes that do not decode ({type(error).__name__}: {error})"
            )
        else:
            self._check(worker, state)

    def _note_size(self, worker: Watched, size: int) -> None:
        self.growths += size > worker.largest > 0
        worker.largest = max(size, worker.largest)
        self.largest = max(size, self.largest)
        self.smallest = min(size, self.smallest or size)

    def _check(self, worker: Watched, state: Any) -> bool:
        found = flaw(state)
        if found:
            self.torn.append(f"{worker.name}: {found}")
        return found is None

    def _feed(self, worker: Watched) -> None:
        while self.waiting and len(worker.handed_out) < WINDOW:
            path = self.waiting.popleft()
            worker.handed_out.append(path)  # first: whatever becomes of the message, the file is this worker's
            self.pool.send(worker.name, path)

    def _ask_if_due(self) -> None:
        """Ask one busy worker for its state over its pipe, and wait for the answer.

        In this thread: another one would make each measurement wait for the other's work.
        """
        worker = self.workers[self._turn % len(self.workers)]
        if time.monotonic() < self._ask_at or not worker.handed_out:
            return
        began = time.perf_counter_ns()
        try:
            self.pool.ask(worker.name, ASK_TIMEOUT)
            self.ask_ns.append(time.perf_counter_ns() - began)
        except (TimeoutError, WorkerDied):  # stopped or dead: then there is nothing to compare with
            pass
        self._turn += 1
        self._ask_at = time.monotonic() + ASK_EVERY

    def _stale(self) -> Optional[Watched]:
        now = time.monotonic()
        for worker in self.workers:
            if worker.staleness < STALE:
                worker.stale_since = None
                continue
            # Counted from when it was noticed: after Ctrl-Z and fg, everything is stale for a moment.
            worker.stale_since = worker.stale_since or now
            if now - worker.stale_since > STALLED:
                raise ShmStateError(
                    f"worker {worker.name!r} (pid {worker.pid}) has given no sign of life for {STALLED:.0f} seconds,"
                    f" with {len(worker.handed_out)} files handed to it; is it stopped?"
                )
            if now - worker.stale_since > STALE:
                return worker
        return None


def _holds(state: State, path: str) -> bool:
    return bool(state) and (path in state["modules"] or path in state["unparsed"])
