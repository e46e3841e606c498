"""One worker of a pool, seen from the pool: its present process, the pool's ends of its pipes, how it ended."""

from __future__ import annotations

import math
import select
import signal
import threading
import time
from contextlib import contextmanager, suppress
from multiprocessing.context import BaseContext
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

from shmstate import memory, ownership, worker
from shmstate.errors import EncodeError, ShmStateError, WorkerDied

_LOOK_UP = 0.05  # seconds between two looks at whether a wait is still wanted


@contextmanager
def _ctrl_c_put_off() -> Iterator[None]:
    """Have a Ctrl-C wait for the end of the block, in this thread and in the children that are made in it.

    It would leave half a pipe here, and have a child that still imports print a traceback. Children let it through again
    when they ignore it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # one that came earlier is raised here, with nothing blocked
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Member:
    """A worker by name, through all the processes that are it in turn."""

    def __init__(self, name: str, order: worker.Order) -> None:
        self.name = name
        self.order = order
        self.process: Any = None
        self.inbox: Any = None
        self.control: Any = None
        self.turn = threading.RLock()  # held to replace the process, and to write into its inbox
        self.asking = threading.Lock()  # held from a question to its answer
        self.questions = 0
        self.restarts = 0
        self.died: Optional[WorkerDied] = None
        self.told = False  # whether somebody was told of the death
        self.last_words: Optional[str] = None  # what a dying worker told somebody who was asking

    @property
    def is_running(self) -> bool:
        """Whether there is a process, and it runs."""
        return self.process is not None and self.process.is_alive()

    @property
    def needs_replacing(self) -> bool:
        """Whether it died and nobody has dealt with that yet."""
        return self.died is None and not self.is_running

    @property
    def ends(self) -> List[Any]:
        """The pool's ends of the pipes."""
        return [end for end in (self.inbox, self.control) if end is not None]

    def launch(self, context: BaseContext, not_theirs: Sequence[Any]) -> None:
        """Start a process. ``not_theirs``: what it inherits and must close, besides the pool's ends of its own pipes."""
        with _ctrl_c_put_off():
            inbox_theirs, self.inbox = context.Pipe(duplex=False)
            self.control, control_theirs = context.Pipe(duplex=True)
            forks = context.get_start_method() == "fork"
            process = context.Process(  # type: ignore[attr-defined]
                target=worker.main,
                args=(self.order, inbox_theirs, control_theirs, [*not_theirs, *self.ends] if forks else []),
                name=self.order.name,
                daemon=True,
            )
            try:
                process.start()
                self.process, self.died, self.told, self.last_words = process, None, False, None
            except (OSError, EOFError) as error:  # EOFError: the fork server died
                self.died = WorkerDied(f"worker {self.name!r} could not be started: {error}")
                raise self.died from error
            finally:
                inbox_theirs.close()
                control_theirs.close()

    def await_ready(self, timeout: float, given_up: Callable[[], bool]) -> None:
        """Wait until the first state is published. Raises WorkerDied, also when ``timeout`` seconds pass."""
        deadline = time.monotonic() + timeout
        while not self.control.poll(_LOOK_UP):  # a death is an end of file, so it is not waited out
            if given_up():
                raise WorkerDied(f"worker {self.name!r}: the pool was given up while it started")
            if time.monotonic() > deadline:
                raise WorkerDied(
                    f"worker {self.name!r} (pid {self.process.pid}) has published nothing within {timeout} seconds of"
                    f" its start; raise start_timeout if it needs longer"
                )
        with suppress(EOFError, ConnectionResetError):
            kind, detail = self.control.recv()
            if kind == worker.READY:
                return
            self.record_death(detail)
        raise self.bury()

    def write(self, message: Any, timeout: Optional[float], given_up: Callable[[], bool]) -> None:
        """Put a message into the inbox; see WorkerPool.send. With ``turn`` held.

        Raises TimeoutError, WorkerDied if ``given_up()`` while it waits, OSError if the worker is gone.
        """
        if not self._has_room(timeout, given_up):
            if given_up():
                raise WorkerDied(f"worker {self.name!r}: the pool was shut down while its inbox was full")
            raise TimeoutError(f"worker {self.name!r}: its inbox was full for {timeout} seconds")
        self.inbox.send((worker.MESSAGE, message))

    def _has_room(self, timeout: Optional[float], given_up: Callable[[], bool]) -> bool:
        """Wait until the inbox takes something, or would fail at once."""
        poll = select.poll()
        poll.register(self.inbox.fileno(), select.POLLOUT)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not poll.poll(1000 * max(0.0, min(_LOOK_UP, deadline - time.monotonic()))):
            if given_up() or time.monotonic() >= deadline:
                return False
        return True

    def ask(self, timeout: Optional[float]) -> Any:
        """The state, from the worker itself; see WorkerPool.ask."""
        deadline = None if timeout is None else time.monotonic() + timeout
        reply = None
        if self.asking.acquire(timeout=-1 if timeout is None else timeout):
            try:
                reply = self._question(deadline)
            finally:
                self.asking.release()
        if reply is None:
            raise TimeoutError(f"worker {self.name!r}: no answer within {timeout} seconds")
        kind, detail = reply
        if kind == worker.ANSWER:
            return detail
        if kind == worker.REFUSAL:
            raise EncodeError(f"worker {self.name!r} could not give its state:\n\n{detail}")
        self.told = True
        error = f", with this error:\n\n{detail}" if detail else ""
        raise WorkerDied(f"worker {self.name!r} died while it was asked for its state{error}")

    def _question(self, deadline: Optional[float]) -> Optional[Tuple[str, Any]]:
        """Ask; returns what came of it, or None if nothing did in time. A death is left to whoever has the turn."""
        self.questions += 1
        try:
            self.control.send((worker.ASK, self.questions))
            while self.control.poll(None if deadline is None else max(0.0, deadline - time.monotonic())):
                kind, detail = self.control.recv()
                if kind == worker.DIED:
                    self.last_words = detail
                    return kind, detail
                number, answer = detail
                if number == self.questions:  # and not one that came too late for its question
                    return kind, answer
        except (EOFError, OSError):
            self.last_words = self.last_words or self._last_words()
            return worker.DIED, self.last_words
        return None

    def stop_soon(self, timeout: float) -> None:
        """Ask for an orderly end, after the messages that are in the inbox and the one that is being written."""
        deadline = time.monotonic() + timeout
        if self.turn.acquire(timeout=timeout):
            try:
                with suppress(OSError):
                    if self._has_room(max(0.0, deadline - time.monotonic()), bool):
                        self.inbox.send((worker.STOP, None))
            finally:
                self.turn.release()

    def record_death(self, last_words: Optional[str] = None) -> WorkerDied:
        """Wait for the process to be gone and note how it went; once."""
        self.process.join()
        if self.died is None:
            code = self.process.exitcode
            last_words = last_words or self.last_words or self._last_words()
            if last_words:
                how = "with this error:\n\n" + last_words
            else:
                how = f"of {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            self.died = WorkerDied(f"worker {self.name!r} (pid {self.process.pid}) died {how}")
        return self.died

    def bury(self) -> WorkerDied:
        """Note how it died and let go of its pipes."""
        death = self.record_death()
        for end in self.ends:
            end.close()
        return death

    def failure(self) -> WorkerDied:
        """What to raise for a worker that is no more."""
        self.told = True
        return self.died or WorkerDied(f"worker {self.name!r} is not running")

    def _last_words(self) -> Optional[str]:
        with suppress(EOFError, OSError):
            while self.control.poll(0):
                kind, detail = self.control.recv()
                if kind == worker.DIED:
                    return str(detail)
        return None

    def remove_leftovers(self, patience: float = 0.0) -> None:
        """Remove the segment if the worker died without removing it.

        Waits ``patience`` seconds for its lock: where a fork server is gone before its children, ``multiprocessing``
        takes these for dead as well.
        """
        path = memory.path_of(self.order.name)
        deadline = time.monotonic() + patience
        with suppress(OSError, ShmStateError):
            while not ownership.remove_if_dead(path, self.order.name) and time.monotonic() < deadline:
                time.sleep(0.005)
