"""WorkerPool: a process for each state machine, messages in through pipes, states out through shared memory."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import threading
import time
from collections import deque
from contextlib import suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Tuple, Type

from shmstate import worker
from shmstate.codecs import CodecLike, codec_named
from shmstate.compat import require_platform
from shmstate.ending import Ending
from shmstate.errors import InvalidOption, ShmStateError, UnknownWorker, WorkerDied
from shmstate.layout import DEFAULT_MAX_SIZE, DEFAULT_SLOTS, plan
from shmstate.lifeline import Lifeline
from shmstate.member import Member
from shmstate.options import check_seconds, check_timeout, check_whole
from shmstate.query import Answer, Answers, QueryService, answers_of, state_name
from shmstate.runs import OutOfTime, deadline_after, join, require_that_workers_may_start
from shmstate.sync import DEFAULT_INTERVAL
from shmstate.wire import Broken

_log = logging.getLogger("shmstate")

START_METHODS = ("spawn", "fork", "forkserver")
_TERMINATE_GRACE = 2.0
_EXIT_TIMEOUT = 2.0
_LOCK_GRACE = 1.0
_LOOK_AT_WORKERS = 1.0


class WorkerPool:
    """Runs ``machines``, a mapping of worker to a callable that makes its state machine, each in a process of its own.

    A state machine has ``handle(message)`` and ``state()``. Its state is published as ``FLEET.WORKER`` after
    messages and every ``interval`` seconds, never more often than that; queries read it from shared memory.

    ``start_method``   spawn (default), fork, forkserver. With spawn and forkserver the callables must pickle. A fork
                       server that the pool is the first to need forks with SIGINT blocked, for others too
    ``restarts``       how often each worker that dies is started again, in the same segment. A machine with
                       ``restore(state)`` is given the last published state. Messages it had not handled are lost.
                       With spawn and forkserver a thread sees to it; with fork, which does not go with threads, it
                       happens when the pool is next called
    ``on_restart``     called as ``on_restart(worker, death)`` after each restart; ``death`` is a WorkerDied that says how
                       the worker ended. Each death is also logged (logger ``shmstate``, level WARNING), and so is an
                       error of the callback, which has no other effect. Runs in the thread that restarts
    ``start_timeout``  seconds within which a worker must have published its first state
    ``cancelled``      asked while the workers start, some times in a second: true gives the start up, with WorkerDied.
                       A signal's handler can only note that it is time to end; an exception out of it may be lost
    ``codec``, ``slots``, ``max_size``  as for StateWriter

    Starts the workers and waits until all have published. What dead writers left under their names is removed first.
    Leaving the block, ``shutdown()``, or exit of the process stops them and leaves nothing in ``/dev/shm``;
    workers whose pool is killed notice and do the same. They ignore SIGINT: Ctrl-C is the pool's affair. They are
    daemonic: they cannot have ``multiprocessing`` children of their own.

    Raises WorkerDied (with the worker's traceback), InvalidOption, InvalidName; then nothing is left running.
    """

    def __init__(
        self,
        fleet: str,
        machines: Mapping[str, Callable[[], worker.Machine]],
        *,
        start_method: str = "spawn",
        interval: float = DEFAULT_INTERVAL,
        restarts: int = 0,
        on_restart: Optional[Callable[[str, WorkerDied], object]] = None,
        start_timeout: float = 60.0,
        cancelled: Callable[[], bool] = lambda: False,
        codec: CodecLike = "msgpack",
        slots: int = DEFAULT_SLOTS,
        max_size: int = DEFAULT_MAX_SIZE,
    ) -> None:
        require_platform()
        if start_method not in START_METHODS:
            raise InvalidOption(f"start_method={start_method!r} is none of {', '.join(START_METHODS)}")
        if not machines:
            raise InvalidOption(f"fleet {fleet!r}: a pool needs one worker at least")
        check_seconds("interval", interval, above=True)
        check_whole("restarts", restarts, 0)
        if on_restart is not None and not callable(on_restart):
            raise InvalidOption(f"on_restart={on_restart!r}: a function of a worker's name and a WorkerDied, or None")
        check_seconds("start_timeout", start_timeout, above=True)
        require_that_workers_may_start(fleet)
        plan(slots=slots, max_size=max_size, codec=codec_named(codec).name, checksum=False)
        self.fleet = fleet
        self._context = multiprocessing.get_context(start_method)
        self._forks = start_method == "fork"
        self._restarts = restarts
        self._start_timeout = start_timeout
        self._members = {
            name: Member(
                name, worker.Order(state_name(fleet, name), factory, interval, codec, slots, max_size), restarts
            )
            for name, factory in machines.items()
        }
        self._lifeline = Lifeline.of_this_process()
        self._on_restart = on_restart
        self._restarted: Deque[Tuple[str, WorkerDied]] = deque()  # what ``on_restart`` is still to be called with
        self._stopping = threading.Event()
        self._is_stopped = False
        self._shutting_down = threading.RLock()
        self._supervisor: Optional[threading.Thread] = None
        needs_naming = not isinstance(codec, str) or codec == "pickle"
        self._service = QueryService(fleet, codec=codec if needs_naming else None)
        # At exit, before multiprocessing waits for its children.
        self._ending = Ending(self, _stop_at_exit, self._stopping, list(self._members.values()), priority=100)
        self._start_all(cancelled)

    def _start_all(self, cancelled: Callable[[], bool]) -> None:
        def given_up() -> bool:  # also if another thread starts it while the process exits
            return cancelled() or self._stopping.is_set()

        try:
            if not self._forks:
                resource_tracker.ensure_running()  # its first start unblocks SIGINT, which launch() wants blocked
            for member in self._members.values():
                member.remove_leftovers()  # a new fleet does not begin with the states of an old one
                if given_up():
                    raise WorkerDied(f"worker {member.name!r} was not started: the start of the pool was cancelled")
                self._launch(member)
            for member in self._members.values():
                member.await_ready(self._start_timeout, given_up)
            for name in self._members:
                self._service.attach(name)
        except BaseException:
            self._stopping.set()
            _stop_all(list(self._members.values()), 0.0)
            self._ending.cancel()
            self._service.close()
            raise
        if self._restarts and not self._forks:
            self._wake_reader, self._wake_writer = self._context.Pipe(duplex=False)
            self._supervisor = threading.Thread(target=self._supervise_always, name=f"pool {self.fleet}", daemon=True)
            self._supervisor.start()

    def _launch(self, member: Member) -> None:
        others = [end for other in self._members.values() if other is not member for end in other.ends]
        member.launch(self._context, self._lifeline, others)

    def supervise(self) -> None:
        """Start again what has died and may be restarted. The pool calls this itself; see ``restarts``."""
        for member in self._members.values() if self._is_here() else ():
            if member.needs_replacing:
                with member.turn.within(math.inf), suppress(WorkerDied):  # kept, and raised by calls for that worker
                    self._replace_if_needed(member)
        self._call_back()

    def _supervise_always(self) -> None:
        while not self._stopping.is_set():
            try:
                runs = {
                    run.process.sentinel: run
                    for run in (member.run for member in self._members.values() if not member.is_given_up)
                    if run is not None
                }
                for ended in runs.keys() & connection.wait([*runs, self._wake_reader], _LOOK_AT_WORKERS):
                    runs[ended].is_broken = True  # the end is certain, even where no exit code can be had
                self.supervise()
            except BaseException:  # an exception for this thread, or from user code; the others still need it
                _log.exception("pool %r: supervision failed; will try again", self.fleet)
                self._stopping.wait(_LOOK_AT_WORKERS)

    def _supervise_without_a_thread(self) -> None:
        if self._forks and self._restarts and not self._stopping.is_set():
            self.supervise()

    def _replace_if_needed(self, member: Member) -> None:
        """With ``member.turn`` held: bury the dead, start a successor if there may be one. Raises WorkerDied."""
        is_gone = member.needs_replacing
        if self._stopping.is_set():  # asked second: a worker that was asked to stop has not died
            raise WorkerDied(f"worker {member.name!r}: the pool was shut down")
        if is_gone:
            death: Optional[WorkerDied] = member.bury()
            while death is not None and member.restarts < self._restarts:
                member.restarts += 1
                _log.warning("%s\nStarting it again: restart %d of %d", death, member.restarts, self._restarts)
                self._restarted.append((member.name, death))
                death = self._try_again(member)
            if death is not None:
                member.is_given_up = True
                _log.warning("%s\nIt is not started again", death)
        if member.died is not None:
            raise member.failure()

    def _try_again(self, member: Member) -> Optional[WorkerDied]:
        """Start a successor. If it dies before it is ready, that is one more death, which is returned, not an error."""
        try:
            self._launch(member)
            member.await_ready(self._start_timeout, self._stopping.is_set)
        except (WorkerDied, InvalidOption):
            if member.died is None:
                raise
        return member.died

    def _call_back(self) -> None:
        while self._on_restart is not None and self._restarted:
            with suppress(IndexError):  # another thread took the last one
                restarted = self._restarted.popleft()
                try:
                    self._on_restart(*restarted)
                except Exception:
                    _log.exception("pool %r: on_restart failed for worker %r", self.fleet, restarted[0])

    def send(self, worker_name: str, message: Any, timeout: Optional[float] = None) -> None:
        """Put a message into the worker's inbox.

        Waits while the inbox (a pipe, some 64 KB) is full, ``timeout`` seconds at most: TimeoutError. A message for which
        this raises is never handled, not even in part, unless the exception came from outside (a signal handler) just
        after the last byte. What pickling the message raises comes out unchanged. Raises UnknownWorker, WorkerDied.
        """
        member = self._own_member(worker_name)
        pickled = bytes(ForkingPickler.dumps((worker.MESSAGE, message)))
        deadline = deadline_after(timeout)
        try:
            with member.turn.within(deadline) as is_our_turn:
                if not is_our_turn:
                    raise TimeoutError(
                        f"worker {member.name!r}: other threads sent to it, or started it again, for {timeout} seconds"
                    )
                while True:
                    self._replace_if_needed(member)
                    try:
                        return member.write(pickled, deadline, self._stopping.is_set)
                    except OutOfTime:
                        raise TimeoutError(
                            f"worker {member.name!r}: its inbox was full for {timeout} seconds"
                        ) from None
                    except Broken:  # it died meanwhile; a part of a message is no message, so a successor gets it whole
                        continue
        finally:
            self._call_back()

    def query(self, worker_name: str) -> Answer:
        """The worker's latest state, read from shared memory. Raises UnknownWorker; see QueryService.query."""
        self._member(worker_name)
        self._supervise_without_a_thread()
        return self._service.query(worker_name)

    def query_all(self) -> Answers:
        """The latest state of every worker; ``problems`` of the answers has the error of each that cannot be read."""
        return answers_of(self._members, self.query, self.fleet)

    def ask(self, worker_name: str, timeout: Optional[float] = None) -> Any:
        """The worker's present state over IPC: waits until it has handled its current message, and has replied.

        This is the road that ``query`` replaces, for comparison, and for a state newer than the last published.
        Raises TimeoutError, UnknownWorker, WorkerDied.
        """
        member = self._own_member(worker_name)
        self._supervise_without_a_thread()
        return member.ask(timeout)

    def workers(self) -> List[str]:
        """The workers, in the order given."""
        return list(self._members)

    @property
    def pids(self) -> Dict[str, int]:
        """The process of each worker, dead or alive."""
        return {name: member.process.pid for name, member in self._members.items()}

    @property
    def restarted(self) -> Dict[str, int]:
        """How often each worker was started again."""
        return {name: member.restarts for name, member in self._members.items()}

    def _member(self, name: str) -> Member:
        try:
            return self._members[name]
        except KeyError:
            raise UnknownWorker(
                f"this pool has no worker {name!r}; it has {', '.join(map(repr, self._members))}"
            ) from None

    def _own_member(self, name: str) -> Member:
        """Return a worker that is to be talked to, which the pool's own process alone can do. Raises WorkerDied."""
        if not self._is_here():
            raise WorkerDied(
                f"worker {name!r}: process {os.getpid()} was forked from the pool's process {self._lifeline.pid}, which alone"
                f" can reach the workers; send from there, or make a pool of another name here"
            )
        return self._member(name)

    def _is_here(self) -> bool:
        """Whether this is the pool's own process, and not a forked child of it."""
        return os.getpid() == self._lifeline.pid

    def shutdown(self, timeout: Optional[float] = 10.0) -> None:
        """Let the workers handle what is in their inboxes, publish their last state, and end. Idempotent.

        What has not ended within ``timeout`` seconds (None: without a limit) is terminated, then killed, and logged as a
        warning. Their last states can be queried until the pool is closed. In a forked child the workers go on. Raises
        WorkerDied for a worker that had died and was not replaced, unless that was told before.
        """
        limit = check_timeout("timeout", timeout)
        if not self._is_here():
            return
        with self._shutting_down:
            if self._is_stopped:
                return
            self._stopping.set()
            members = list(self._members.values())
            try:
                self._end_supervision()
                _stop_all(members, math.inf if limit is None else limit)
            except BaseException:  # a Ctrl-C: what is left is ended at once
                _stop_all(members, 0.0)
                raise
            finally:
                self._is_stopped = not any(member.is_running for member in members)
                if self._is_stopped:
                    self._ending.cancel()
        self._service.look_again()
        for member in members:
            if member.died is not None and not member.told:
                raise member.failure()

    def _end_supervision(self) -> None:
        if self._supervisor is not None and self._supervisor is not threading.current_thread():
            self._wake_writer.close()
            self._supervisor.join()
            self._wake_reader.close()
            self._supervisor = None

    def close(self) -> None:
        """``shutdown()``, and forget the last states."""
        try:
            self.shutdown()
        finally:
            self._service.close()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            self.close()
        except ShmStateError:
            if error is None:  # never hide what ended the block
                raise


def _stop_at_exit(stopping: threading.Event, members: List[Member]) -> None:
    """Do what remains to be done for a pool that was not shut down: the same, less patiently."""
    stopping.set()
    for member in members:
        with member.turn.within(time.monotonic() + _EXIT_TIMEOUT):  # a thread that replaces it sees this and stops
            pass
    _stop_all(members, _EXIT_TIMEOUT)


def _stop_all(members: List[Member], timeout: float) -> None:
    """End all processes and remove what they leave. With a ``timeout`` of 0, at once, which is not worth a warning."""
    deadline = time.monotonic() + timeout
    started = [member for member in members if member.run is not None]
    for member in started:
        member.stop_soon(max(0.0, deadline - time.monotonic()))
    _join(started, deadline)
    for member in started:
        if member.process.is_alive():
            if timeout:
                _log.warning("worker %r did not end within %s seconds; terminated", member.name, timeout)
            member.process.terminate()
    _join(started, time.monotonic() + _TERMINATE_GRACE)
    for member in started:
        if member.process.is_alive():
            member.process.kill()
        member.process.join()
        if member.run is not None and not member.run.has_ended_well():
            member.record_death()
        member.close_ends(_LOCK_GRACE)
        member.remove_leftovers(_LOCK_GRACE)


def _join(members: List[Member], deadline: float) -> None:
    for member in members:
        join(member.process, deadline - time.monotonic())
