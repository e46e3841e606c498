"""QueryService: ask the states of a fleet of workers, by worker, without the workers' help."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple, Type

from shmstate import ownership
from shmstate.codecs import CodecLike
from shmstate.compat import renew_in_forked_children
from shmstate.errors import NotPublished, ShmStateError, StateNotFound, SystemRefused, UnknownWorker
from shmstate.layout import file_name
from shmstate.memory import path_of
from shmstate.options import check_seconds, check_whole
from shmstate.reader import StateReader
from shmstate.registry import MEMBER_ERRORS, problem_of, state_names

DEFAULT_RECHECK = 0.05
#: Workers that a service attaches before it first looks for those that are gone.
_FIRST_SEARCH = 16


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


class Answers(Dict[str, Answer]):
    """The answers of a fleet by worker; ``problems`` has the error of each worker that could not be read."""

    def __init__(self, *answers: Any, **named: Answer) -> None:
        super().__init__(*answers, **named)
        self.problems: Dict[str, ShmStateError] = {}


def answers_of(workers: Iterable[str], query: Callable[[str], Answer], fleet: str) -> Answers:
    """Ask ``query`` for each worker. Errors of one do not disturb the others: they go to ``problems``."""
    answers = Answers()
    for worker in workers:
        try:
            answers[worker] = query(worker)
        except MEMBER_ERRORS as error:
            answers.problems[worker] = problem_of(error, state_name(fleet, worker))
    return answers


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

    ``keep_last``  the last answers of at most so many workers whose names are gone are kept, with ``alive`` False

    Workers are attached when first asked for. A dead one gives its last state, with ``alive`` False, while its name is
    there; one that comes back under its name is followed. A worker whose name is gone is forgotten, and its memory is
    unmapped, at the latest at the next ``query_all()``. Threads may share a service. Raises InvalidName, InvalidOption.
    """

    def __init__(
        self,
        fleet: str,
        *,
        codec: Optional[CodecLike] = None,
        trust_uid: Optional[int] = None,
        recheck: float = DEFAULT_RECHECK,
        keep_last: int = 0,
    ) -> None:
        file_name(fleet)
        check_seconds("recheck", recheck, most=math.inf)
        check_whole("keep_last", keep_last, 0)
        self.fleet = fleet
        self._codec = codec
        self._trust_uid = trust_uid
        self._recheck = recheck
        self._known: Dict[str, _Known] = {}
        self._forked()
        renew_in_forked_children(self)
        self._search_at = _FIRST_SEARCH
        self._keep_last = keep_last
        #: The last answers of workers that are gone, and when they were kept.
        self._kept: OrderedDict[str, Tuple[Answer, float]] = OrderedDict()

    def _forked(self) -> None:
        self._attaching = threading.Lock()

    def workers(self) -> List[str]:
        """The workers that have a state now, and those whose last answer is kept, sorted."""
        prefix = self.fleet + "."
        return sorted({*self._kept.copy(), *(name[len(prefix) :] for name in state_names(prefix))})

    def query(self, worker: str) -> Answer:
        """The latest state of ``worker``.

        Raises UnknownWorker, NotPublished, and as StateReader: DecodeError, ReadTimeout, CodecMismatch, ...
        """
        known = self._known.get(worker)
        if known is None:
            try:
                known = self._attach(worker)
            except UnknownWorker:
                kept = self._kept.get(worker)
                if kept is None:
                    raise
                return _aged(*kept)
        now = time.monotonic()
        if now - known.looked >= self._recheck:
            known = self._look_after(worker, known, now)
        snapshot, staleness = known.reader.read_with_staleness()
        return Answer(worker, snapshot.value, snapshot.version, snapshot.age, staleness, known.alive)

    def query_all(self) -> Answers:
        """The latest state of every worker that has published one; each is consistent in itself.

        A worker that cannot be read does not disturb the others: ``problems`` of the answers has its error.
        """
        workers = self.workers()
        self._forget_gone(workers)
        answers = Answers()
        for worker in workers:
            try:
                answers[worker] = self.query(worker)
            except UnknownWorker:  # gone since it was listed
                continue
            except NotPublished:  # not yet speaking
                kept = self._kept.get(worker)
                if kept is not None:
                    answers[worker] = _aged(*kept)
            except MEMBER_ERRORS as error:
                answers.problems[worker] = problem_of(error, f"{self.fleet}.{worker}")
        # Those that went before they could be listed, and whose answer was kept just now.
        for worker, kept in self._kept.copy().items():
            if worker not in answers and worker not in answers.problems:
                answers[worker] = _aged(*kept)
        return answers

    def _forget_gone(self, listed: List[str]) -> None:
        """Let go of the workers whose names are gone. A read that is under way goes on to its end."""
        with self._attaching:
            for worker in set(self._known).difference(listed).union(set(self._known).intersection(self._kept)):
                known = self._known[worker]
                with suppress(SystemRefused):  # not known to be gone
                    if ownership.inode_at(path_of(known.reader.name)) is None:
                        self._keep(worker, known)
                        del self._known[worker]
            self._search_at = max(_FIRST_SEARCH, 2 * len(self._known))

    def _keep(self, worker: str, known: _Known) -> None:
        if not self._keep_last:
            return
        with suppress(*MEMBER_ERRORS):  # nothing that could be kept
            snapshot, staleness = known.reader.read_with_staleness()
            answer = Answer(worker, snapshot.value, snapshot.version, snapshot.age, staleness, False)
            self._kept.pop(worker, None)
            self._kept[worker] = answer, time.monotonic()
            while len(self._kept) > self._keep_last:
                self._kept.popitem(last=False)

    def attach(self, worker: str, timeout: float = 0.0) -> None:
        """Attach ``worker`` ahead of its first query, waiting ``timeout`` seconds for its state to exist.

        Raises UnknownWorker, and as StateReader.
        """
        if worker not in self._known:
            self._attach(worker, timeout)

    def _attach(self, worker: str, timeout: float = 0.0) -> _Known:
        name = state_name(self.fleet, worker)
        try:
            attached = _Known(self._reader(name, timeout))  # without the lock: this may wait
        except StateNotFound as error:
            raise UnknownWorker(
                f"fleet {self.fleet!r} has no worker {worker!r}; it has"
                f" {', '.join(map(repr, self.workers())) or 'none'}. Has it started? (state {name!r})"
            ) from error
        with self._attaching:
            known = self._known.setdefault(worker, attached)  # another thread's, if it was quicker
            is_time = len(self._known) > self._search_at
        if is_time:
            self._forget_gone([])
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
            self._known.clear()  # their readers are closed by the last use
            self._kept.clear()

    def __enter__(self) -> QueryService:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


def _aged(answer: Answer, kept: float) -> Answer:
    """The answer as it is now, which was kept at that time."""
    passed = time.monotonic() - kept
    return answer._replace(age=answer.age + passed, staleness=answer.staleness + passed)
