"""QueryService: ask the states of a fleet of workers, by worker, without the workers' help."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Dict, List, NamedTuple, Optional, Type

from shmstate.codecs import CodecLike
from shmstate.errors import InvalidOption, NotPublished, StateNotFound, UnknownWorker
from shmstate.layout import file_name
from shmstate.reader import StateReader
from shmstate.registry import state_names

DEFAULT_RECHECK = 0.05


class Answer(NamedTuple):
    """A worker's latest state, and how far to trust that it is the latest."""

    worker: str
    value: Any
    version: int
    #: Seconds since this version was published.
    age: float
    #: Seconds since the worker last vouched for it: published it, or said that nothing has changed.
    staleness: float
    #: Whether the worker's writer was alive when last looked, at most ``recheck`` seconds ago.
    alive: bool


class _Known:
    """A worker we read, and what we last learned of its writer."""

    __slots__ = ("alive", "looked", "reader")

    def __init__(self, reader: StateReader) -> None:
        self.reader = reader
        self.alive = False
        self.looked = float("-inf")


def state_name(fleet: str, worker: str) -> str:
    """The name of the state of ``worker`` in ``fleet``. Raises InvalidName."""
    name = f"{fleet}.{worker}"
    file_name(name)
    return name


class QueryService:
    """Reads all states called ``FLEET.*``; the rest of the name is the worker's.

    ``codec``    as for StateReader: None takes each writer's own, if reading it cannot run code
    ``recheck``  seconds for which an answer about a writer's life is believed; asking the kernel costs more than reading

    Workers are attached when first asked for and stay attached: one that has closed or died still gives its last
    state, with ``alive`` False, until the service is closed; one that comes back under its name is followed.
    Threads may share a service. Raises InvalidName, InvalidOption.
    """

    def __init__(
        self,
        fleet: str,
        *,
        codec: Optional[CodecLike] = None,
        trust_uid: Optional[int] = None,
        recheck: float = DEFAULT_RECHECK,
    ) -> None:
        file_name(fleet)
        if not recheck >= 0:
            raise InvalidOption(f"recheck={recheck}: seconds, 0 or more")
        self.fleet = fleet
        self._codec = codec
        self._trust_uid = trust_uid
        self._recheck = recheck
        self._known: Dict[str, _Known] = {}
        self._attaching = threading.Lock()

    def workers(self) -> List[str]:
        """The workers that have a state now or had one when last asked, sorted."""
        prefix = self.fleet + "."
        return sorted({*self._known, *(name[len(prefix) :] for name in state_names(prefix))})

    def query(self, worker: str) -> Answer:
        """The latest state of ``worker``.

        Raises UnknownWorker, NotPublished, and as StateReader: DecodeError, ReadTimeout, CodecMismatch, ...
        """
        known = self._known.get(worker) or self._attach(worker)
        now = time.monotonic()
        if now - known.looked >= self._recheck:
            known = self._look_after(worker, known, now)
        snapshot, staleness = known.reader.read_with_staleness()
        return Answer(worker, snapshot.value, snapshot.version, snapshot.age, staleness, known.alive)

    def query_all(self) -> Dict[str, Answer]:
        """The latest state of every worker that has published one; each is consistent in itself."""
        answers = {}
        for worker in self.workers():
            try:
                answers[worker] = self.query(worker)
            except (UnknownWorker, NotPublished):  # gone since it was listed, or not yet speaking
                continue
        return answers

    def attach(self, worker: str, timeout: float = 0.0) -> None:
        """Attach ``worker`` ahead of its first query, waiting ``timeout`` seconds for its state to exist.

        Raises UnknownWorker, and as StateReader.
        """
        if worker not in self._known:
            self._attach(worker, timeout)

    def _attach(self, worker: str, timeout: float = 0.0) -> _Known:
        name = state_name(self.fleet, worker)
        with self._attaching:
            known = self._known.get(worker)
            if known is None:
                try:
                    known = _Known(self._reader(name, timeout))
                except StateNotFound as error:
                    raise UnknownWorker(
                        f"fleet {self.fleet!r} has no worker {worker!r}; it has"
                        f" {', '.join(map(repr, self.workers())) or 'none'}. Has it started? (state {name!r})"
                    ) from error
                self._known[worker] = known
            return known

    def _look_after(self, worker: str, known: _Known, now: float) -> _Known:
        """Ask whether the writer lives, and follow it to a new segment if it made one."""
        known.alive, known.looked = known.reader.writer_alive, now
        if known.alive or not known.reader.superseded:
            return known
        with self._attaching:
            try:
                successor = _Known(self._reader(known.reader.name, 0.0))
            except StateNotFound:
                return known
            if not successor.reader.version:  # until it speaks, the last state is the better answer
                successor.reader.close()
                return known
            successor.alive, successor.looked = successor.reader.writer_alive, now
            # Not closed: another thread may be in the middle of a read. It goes when the last of them lets go.
            self._known[worker] = successor
            return successor

    def _reader(self, name: str, timeout: float) -> StateReader:
        return StateReader(name, codec=self._codec, timeout=timeout, trust_uid=self._trust_uid)

    def look_again(self) -> None:
        """Ask the kernel about every writer's life at its next query, however lately it was asked."""
        for known in list(self._known.values()):
            known.looked = float("-inf")

    def close(self) -> None:
        """Detach from all workers. They do not notice."""
        with self._attaching:
            for known in self._known.values():
                known.reader.close()
            self._known.clear()

    def __enter__(self) -> QueryService:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
