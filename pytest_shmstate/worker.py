"""Worker: one process that runs a function, seen from the process that spawned it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, Callable, Dict, List, Optional, Sequence

from pytest_shmstate import kinship
from pytest_shmstate.worker_pipe import RAISED, READY, RETURNED, UNSENDABLE, Incoming

_SHORTEST_NAP = 0.001
_LONGEST_NAP = 0.02
#: What a fork server gets to tell how a worker ended, once that is gone.
_STATUS_GRACE = 5.0


class WorkerFailed(Exception):
    """A worker raised, or ended in another way than by returning.

    The text holds the traceback; ``__cause__`` is the error itself if it pickles.
    """


class WorkerTimeout(TimeoutError):
    """A worker did not do in time what was waited for. It still runs."""


class Worker:
    """A process that runs a function. Made by ``Workers.spawn``; only that process, and no fork of it, may use this."""

    def __init__(self, label: str, started: Any, incoming: Incoming, siblings: Sequence[Worker]) -> None:
        self._label = label
        self._started = started
        self._incoming = incoming
        self._owner = os.getpid()
        row = kinship.look_up(started.pid)
        #: A pid that is taken by another process, or none, stands for one that has ended.
        self.process = row.process if row else kinship.Process(started.pid, -1)
        #: What must not outlive the workers: this process, and what is known to have come from it.
        self.relatives = [self.process]
        # Their pipes are read while this one is waited for, or those with much to say would hang.
        self._siblings = siblings
        self._is_dismissed = False
        self._is_told = False
        self._has_ended = False
        self._exitcode: Optional[int] = None
        self._values: Dict[int, Any] = {}
        self._sentinel: Optional[int] = started.sentinel

    @property
    def pid(self) -> int:
        """Its process id, also after its end."""
        return self.process.pid

    @property
    def pipe(self) -> connection.Connection:
        """This side's end of its pipe."""
        return self._incoming.pipe

    @property
    def alive(self) -> bool:
        """Whether its process has not ended; one that is stopped has not."""
        return not self.look()

    @property
    def exitcode(self) -> Optional[int]:
        """Its exit status, or the negative number of the signal that killed it. None while it lives.

        Also None if somebody else asked the kernel for it first.
        """
        self.look()
        return self._exitcode

    def result(self, timeout: float = 30.0) -> Any:
        """What the function returned. Waits until the process has ended, so that nothing of it is left then.

        Raises WorkerFailed (the function raised, or the process ended otherwise), WorkerTimeout after ``timeout``
        seconds; then it still runs, and may be asked again.
        """
        self.join(timeout)
        failure = self._failure()
        if failure is not None:
            self._is_told = True
            raise failure
        return self._unpickled(RETURNED, "returned")

    def wait_ready(self, timeout: float = 30.0) -> Any:
        """Wait until the function has called ``ready(value)``, and return the value.

        Raises WorkerFailed if it ended without, WorkerTimeout after ``timeout`` seconds.
        """
        self._await(lambda: self.look() or READY in self._incoming.frames, timeout, "called ready()")
        if READY not in self._incoming.frames:
            raise self._ended_before("it called ready()")
        return self._unpickled(READY, "got ready with")

    def join(self, timeout: float = 30.0) -> Optional[int]:
        """Wait for its end, however that comes, and return ``exitcode``. Raises WorkerTimeout."""
        self._await(self.look, timeout, "ended")
        return self._exitcode

    def kill(self, timeout: float = 30.0) -> None:
        """``kill -9`` its process, and wait until that is gone. What it started lives on until ``Workers`` is left.

        Does nothing to one that has ended. Raises WorkerTimeout.
        """
        if not self.look():
            self.dismiss()
            kinship.send(self.process, signal.SIGKILL)
            self._await(self.look, timeout, "ended of SIGKILL")

    def stop(self, timeout: float = 30.0) -> None:
        """SIGSTOP its process, and wait until all its threads stand still. Raises WorkerFailed if it has ended."""
        if not self.look():
            kinship.send(self.process, signal.SIGSTOP)
        self._await(lambda: self.look() or kinship.is_stopped(self.process), timeout, "come to a stop")
        if self.look():
            raise self._ended_before("it could be stopped")

    def cont(self) -> None:
        """SIGCONT its process, stopped or not. Does nothing to one that has ended."""
        if not self.look():
            kinship.send(self.process, signal.SIGCONT)

    def __str__(self) -> str:
        return self._label

    def __repr__(self) -> str:
        return f"<{self._label}>"

    def _await(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        if wait_until(done, timeout, self._siblings):
            return
        row = kinship.look_up(self.pid)
        state = kinship.STATES.get(row.state, row.state) if row else "gone"
        if state == "stopped":
            state += ": cont() it"
        elif RETURNED in self._incoming.frames:
            state += ", its function has returned: threads or child processes of its own keep it"
        raise WorkerTimeout(
            f"{self} has not {what} within {timeout:g} s; it is {state}. Give it more time, or kill() it"
        )

    def _unpickled(self, kind: int, verb: str) -> Any:
        if kind not in self._values:
            try:
                self._values[kind] = ForkingPickler.loads(self._incoming.frames[kind])
            except Exception as error:
                raise WorkerFailed(
                    f"{self} {verb} something that does not unpickle here ({type(error).__name__}: {error});"
                    f" have it send plain values"
                ) from error
        return self._values[kind]

    def _ended_before(self, what: str) -> WorkerFailed:
        self._is_told = True
        return self._failure() or WorkerFailed(f"{self} returned before {what}")

    def _failure(self) -> Optional[WorkerFailed]:
        """Why there is no result of one that has ended. Made anew each time, as raising it leaves marks on it."""
        frames = self._incoming.frames
        if RAISED in frames:
            line, trace, pickled = ForkingPickler.loads(frames[RAISED])
            failure = WorkerFailed(f"{self} raised {line}\n\n{trace}")
            if pickled is not None:
                with suppress(Exception):  # not all errors that pickle unpickle; the text has it all
                    failure.__cause__ = ForkingPickler.loads(pickled)
            return failure
        if UNSENDABLE in frames:
            return WorkerFailed(
                f"{self} returned {ForkingPickler.loads(frames[UNSENDABLE])}; have it return plain values"
            )
        if RETURNED in frames:
            went_well = self._is_dismissed or self._exitcode in (0, None)
            return None if went_well else WorkerFailed(f"{self} returned, but then {self._how_it_ended()}")
        during = "while it sent its result" if self._incoming.is_cut_short else "before its function returned"
        return WorkerFailed(f"{self} {self._how_it_ended()} {during}")

    def _how_it_ended(self) -> str:
        code = self._exitcode
        if code is None:
            return "ended (how, was told to somebody else in this process, who waited for its pid)"
        if code < 0:
            how = f"was killed by {_signal_name(-code)}"
            return how + (", as the test wanted it," if self._is_dismissed else "")
        return f"exited with status {code}" + (f" (128 + {_signal_name(code - 128)})" if code > 128 else "")

    def _exit_status(self) -> Optional[int]:
        deadline = time.monotonic() + _STATUS_GRACE
        status: Optional[int] = self._started.exitcode
        while status is None and time.monotonic() < deadline:  # a fork server tells a little later
            told = connection.wait([self._started.sentinel], _SHORTEST_NAP)
            is_lost = told and not self._is_a_zombie()  # somebody else took it
            status = self._started.exitcode
            if is_lost:
                break
        return status

    def _is_a_zombie(self) -> bool:
        row = kinship.look_up(self.pid)
        return row is not None and row.process == self.process

    # For Workers.

    def dismiss(self) -> None:
        """Be prepared for its death: it is none of its own making, unless it has failed already."""
        self._is_dismissed = RAISED not in self._incoming.frames
        # Those outside of its session can be found only while it lives.
        self.relatives += kinship.family([self.process])

    def look(self) -> bool:
        """Take in what it has said so far; returns whether it has ended. Raises RuntimeError in a forked child."""
        if self._owner != os.getpid():
            raise RuntimeError(f"{self} is for pid {self._owner} to use; pid {os.getpid()} is a fork of that")
        if not self._has_ended:
            is_gone = not kinship.is_running(self.process)
            self._incoming.take()  # of what is gone, all: a chunk is more than a pipe holds
            if is_gone:
                self._exitcode = self._exit_status()
                self._has_ended = True
        return self._has_ended

    def listen(self) -> List[Any]:
        """Take what is in its pipe; returns what there is to wait for."""
        self._incoming.take()
        pipe = [] if self._incoming.is_at_end else [self._incoming.pipe]
        return [*pipe, *([] if self._sentinel is None or self._has_ended else [self._sentinel])]

    def heard(self, ready: Sequence[Any]) -> None:
        """Note which of these have something to tell."""
        # It tells once. If the process is not gone then, its function closed descriptors of multiprocessing.
        if self._sentinel in ready:
            self._sentinel = None

    def hang_up(self) -> None:
        """Close the pipe, and have a descriptor to spare. What came through it stays."""
        self._incoming.close()

    def release(self) -> None:
        """Let go of the process; what is known of it stays."""
        with suppress(OSError):
            self.look()
        self._has_ended = True
        with suppress(ValueError):  # somebody else waited for it: multiprocessing takes it for alive, and keeps it
            self._started.close()

    def untold_failure(self) -> Optional[WorkerFailed]:
        """What went wrong by itself and nobody was told; that nobody could have had a result is not wrong."""
        went_wrong = RAISED in self._incoming.frames or self._exitcode not in (0, None)
        return self._failure() if went_wrong and not self._is_told and not self._is_dismissed else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def wait_until(done: Callable[[], bool], timeout: float, workers: Sequence[Worker]) -> bool:
    """Wait for what comes about when one of the workers says something or ends; returns whether it did in time.

    Looks again now and then, too: nothing tells of a stop, nor of an end where other processes hold the same pipes.
    """
    deadline = time.monotonic() + timeout
    nap = _SHORTEST_NAP
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        ready = connection.wait([end for worker in workers for end in worker.listen()], min(nap, left))
        for worker in workers:
            worker.heard(ready)
        nap = _SHORTEST_NAP if ready else min(2 * nap, _LONGEST_NAP)
    return True
