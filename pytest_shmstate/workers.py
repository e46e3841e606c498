"""Workers: functions run in processes of their own, their results and errors brought back, and none left behind.

    with Workers() as workers:
        worker = workers.spawn(publish_forever, "name")      # calls ready() once it is set up
        worker.wait_ready()
        worker.kill()

How a ``Workers`` is left, so that nothing outlives it, in this order and no longer than it takes:

    grace              workers that are about to end do so; the stopped are not waited for
    SIGTERM, SIGCONT   to the workers, who leave their with-blocks; SIGKILL to those who do not
    the same           to what they started and left running, until nothing is left

If the process that spawned them ends without leaving it, be it by SIGKILL, the kernel tells them (lifeline.py).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from contextlib import ExitStack, contextmanager
from multiprocessing import util
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, List, Optional, Type

from pytest_shmstate import kinship, worker_body
from pytest_shmstate.lifeline import Lifeline
from pytest_shmstate.worker import Worker, WorkerFailed, WorkerTimeout, wait_until
from pytest_shmstate.worker_body import ready
from pytest_shmstate.worker_pipe import Incoming

START_METHODS = ("spawn", "fork", "forkserver")

_TERMINATE_GRACE = 2.0
_KILL_TIMEOUT = 10.0
#: Whose handlers may raise: a CI that cancels, Ctrl-C. (That of pytest-timeout may, too: a start may hang.)
_PUT_OFF = (signal.SIGTERM, signal.SIGINT)


class Workers:
    """Spawns workers, and ends them when it is left; see the module. ``grace``: seconds that running ones get first.

    Leaving raises WorkerFailed for workers that failed and whose failure nobody was told: those that raised, exited
    with another status than 0, or were killed by anything but ``kill()``; unless an exception is on its way already.

    A forked child's copy does nothing when left. For one thread at a time. Workers are not daemonic: they may have
    workers of their own.
    """

    def __init__(self, *, grace: float = 0.2) -> None:
        self._grace = grace
        self._owner = os.getpid()
        self._workers: List[Worker] = []
        self._lifeline = Lifeline()
        self._is_open = True
        # For one that is never left. Runs before multiprocessing waits for its children at exit; never in a fork.
        self._finalizer = util.Finalize(self, _end_all, args=(self._workers, 0.0), exitpriority=100)

    def spawn(self, function: Callable[..., Any], /, *args: Any, start_method: str = "spawn", **kwargs: Any) -> Worker:
        """Run ``function(*args, **kwargs)`` in a new process; ``start_method`` is spawn, fork or forkserver.

        Does not wait for the function; see ``Worker.wait_ready``. Raises TypeError, naming the function, if it or an
        argument does not pickle (with fork, nothing has to); ValueError for another start method; RuntimeError after
        this was left, and in a forked child.
        """
        if start_method not in START_METHODS:
            raise ValueError(f"start_method={start_method!r} is none of {', '.join(START_METHODS)}")
        if not self._is_open or self._owner != os.getpid():
            why = "they were left" if self._owner == os.getpid() else f"pid {os.getpid()} is a forked child of theirs"
            raise RuntimeError(f"these workers belong to a block in pid {self._owner}, and {why}; use a new Workers()")
        name = worker_body.name_of(function)
        with _signals_put_off() as handlers:
            return self._start(name, worker_body.Order(function, args, kwargs), start_method, handlers)

    def _start(self, name: str, order: worker_body.Order, start_method: str, handlers: Dict[Any, Any]) -> Worker:
        context: Any = multiprocessing.get_context(start_method)
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=worker_body.main,
            args=(order, theirs, self._lifeline.far_end, handlers if start_method == "fork" else {}),
            name=name,
            daemon=False,
        )
        try:
            process.start()
        except worker_body.NotPicklable as error:
            ours.close()
            raise TypeError(
                f"{name} or its arguments do not pickle, as {start_method} needs ({error}): define it at the top of a"
                f" module, without what cannot be sent, or spawn it with start_method='fork'"
            ) from error
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        number = len(self._workers) + 1
        label = f"worker {number}, {name} ({start_method}, pid {process.pid})"
        worker = Worker(label, process, Incoming(ours), self._workers)
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        """End all workers, see the module. Idempotent; raises WorkerFailed as leaving the block does.

        Raises WorkerTimeout if the kernel does not get rid of a process.
        """
        if not self._is_open or self._owner != os.getpid():
            return
        self._is_open = False
        try:
            _end_all(self._workers, self._grace)
        finally:
            self._lifeline.close()
        self._finalizer.cancel()
        failures = [failure for failure in (worker.untold_failure() for worker in self._workers) if failure]
        if len(failures) > 1:
            text = "\n\n".join(map(str, failures))
            raise WorkerFailed(f"{len(failures)} workers failed\n\n{text}") from failures[0].__cause__
        for failure in failures:
            raise failure

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            self.close()
        except WorkerFailed:
            if error is None:  # never hide what ended the block
                raise


@contextmanager
def _signals_put_off() -> Iterator[Dict[Any, Any]]:
    """Have signals that come meanwhile handled at the end, and yield their handlers.

    A handler that raises in the middle of the start of a process would lose it. Blocking signals would not do: another
    thread would take them, and their handlers run in the main thread all the same. One that comes again is handled.
    """
    handlers: Dict[Any, Any] = {}
    came: List[Any] = []

    def put_off(number: int, frame: Any) -> None:
        if number in came:
            handlers[number](number, frame)
        came.append(number)

    try:
        with ExitStack() as restoring:
            if threading.current_thread() is threading.main_thread():
                for number in _PUT_OFF:
                    handler = signal.getsignal(number)
                    if callable(handler):
                        handlers[number] = handler
                        restoring.callback(signal.signal, number, handler)
                        signal.signal(number, put_off)
            yield handlers
    finally:
        for number in came:
            signal.raise_signal(number)


def _end_all(workers: List[Worker], grace: float) -> None:
    """End all workers and what they started; let go of them."""
    try:
        wait_until(lambda: not _still_moving(workers), grace, workers)
        _terminate(workers)
    finally:
        # Whatever ended that, be it that there are no descriptors left: with these closed, there are.
        for worker in workers:
            worker.hang_up()
        try:
            _kill_the_rest(workers)
        finally:
            for worker in workers:
                worker.release()


def _running(workers: List[Worker]) -> List[Worker]:
    return [worker for worker in workers if not worker.look()]


def _still_moving(workers: List[Worker]) -> List[Worker]:
    return [worker for worker in _running(workers) if not kinship.is_stopped(worker.process)]


def _family(workers: List[Worker]) -> List[kinship.Process]:
    return kinship.family([process for worker in workers for process in worker.relatives])


def _terminate(workers: List[Worker]) -> None:
    for worker in _running(workers):
        worker.dismiss()
        _ask_to_end(worker.process)
    if not wait_until(lambda: not _running(workers), _TERMINATE_GRACE, workers):
        for worker in _running(workers):
            kinship.send(worker.process, signal.SIGKILL)
        wait_until(lambda: not _running(workers), _KILL_TIMEOUT, workers)
    for process in _family(workers):
        _ask_to_end(process)
    # What serves the others ends by itself once they are gone (a resource tracker, which ignores SIGTERM), cleaning up.
    wait_until(lambda: not _family(workers), _TERMINATE_GRACE, workers)


def _ask_to_end(process: kinship.Process) -> None:
    kinship.send(process, signal.SIGTERM)
    kinship.send(process, signal.SIGCONT)  # in this order: one that is stopped does not do a thing more


def _kill_the_rest(workers: List[Worker]) -> None:
    def all_are_gone() -> bool:
        left = _family(workers)
        for process in left:  # again each time, for what was forked meanwhile
            kinship.send(process, signal.SIGKILL)
        return not left

    gone = wait_until(all_are_gone, _KILL_TIMEOUT, workers)
    kinship.reap([process for worker in workers for process in worker.relatives])
    if not gone:
        pids = ", ".join(str(process.pid) for process in _family(workers))
        raise WorkerTimeout(
            f"pid {pids}, of workers, did not end within {_KILL_TIMEOUT:g} s of SIGKILL: stuck in the kernel, or of"
            f" another user; see /proc/PID/stack"
        )


__all__ = ["ready", "START_METHODS", "Worker", "WorkerFailed", "Workers", "WorkerTimeout"]
