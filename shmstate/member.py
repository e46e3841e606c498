"""One worker of a pool, seen from the pool: its present process, the pool's ends of its pipes, how it ended."""

from __future__ import annotations

import select
import signal
import threading
import time
from contextlib import suppress
from multiprocessing.context import BaseContext
from typing import Any, Callable, List, Optional, Sequence

from shmstate import memory, ownership, worker
from shmstate.errors import EncodeError, ShmStateError, WorkerDied

_LOOK_UP = 0.05  # seconds between two looks at whether a wait is still wanted


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
        self.told = False  # whether somebody was given `died`

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
        inbox_theirs, self.inbox = context.Pipe(duplex=False)
        self.control, control_theirs = context.Pipe(duplex=True)
        forks = context.get_start_method() == "fork"
        process = context.Process(  # type: ignore[attr-defined]
            target=worker.main,
            args=(self.order, inbox_theirs, control_theirs, [*not_theirs, *self.ends] if forks else []),
            name=self.order.name,
            daemon=True,
        )
        # A Ctrl-C while the child still imports would print its traceback. It unblocks the signal once it ignores it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
            self.process, self.died = process, None
        except (OSError, EOFError) as error:  # EOFError: the fork server died
            self.died = WorkerDied(f"worker {self.name!r} could not be started: {error}")
            raise self.died from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            inbox_theirs.close()
            control_theirs.close()

    def await_ready(self, timeout: float, given_up: Callable[[], bool]) -> None:
        """Wait until the first state is published. Raises WorkerDied, also when ``timeout`` seconds pass."""
        deadline = time.monotonic() + timeout
        while not self.control.poll(_LOOK_UP):  # a death is an end of file, so it is not waited out
            if given_up():
                raise WorkerDied(f"worker {self.name!r}: the pool was shut down while it started")
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

    def write(self, message: Any, timeout: Optional[float]) -> None:
        """Put a message into the inbox; see WorkerPool.send. Raises TimeoutError, OSError if the worker is gone."""
        if not self.has_room(timeout):
            raise TimeoutError(f"worker {self.name!r}: its inbox was full for {timeout} seconds")
        self.inbox.send((worker.MESSAGE, message))

    def has_room(self, timeout: Optional[float]) -> bool:
        """Wait until the inbox takes something, or would fail at once."""
        poll = select.poll()
        poll.register(self.inbox.fileno(), select.POLLOUT)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def ask(self, timeout: Optional[float]) -> Any:
        """The state, from the worker itself; see WorkerPool.ask."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.asking:
            control = self.control
            self.questions += 1
            try:
                control.send((worker.ASK, self.questions))
                while control.poll(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    kind, detail = control.recv()
                    if kind == worker.ANSWER and detail[0] == self.questions:  # and not one that came too late
                        return detail[1]
                    if kind == worker.REFUSAL and detail[0] == self.questions:
                        raise EncodeError(f"worker {self.name!r} could not give its state:\n\n{detail[1]}")
                    if kind == worker.DIED:
                        self.record_death(detail)
                        raise self.failure()
            except (EOFError, OSError) as error:
                raise WorkerDied(f"worker {self.name!r} died while it was asked for its state") from error
        raise TimeoutError(f"worker {self.name!r}: no answer within {timeout} seconds")

    def stop_soon(self, timeout: float) -> None:
        """Ask for an orderly end, after the messages that are in the inbox."""
        with suppress(OSError):
            if self.has_room(timeout):
                self.inbox.send((worker.STOP, None))

    def record_death(self, last_words: Optional[str] = None) -> WorkerDied:
        """Wait for the process to be gone and note how it went; once."""
        self.process.join()
        if self.died is None:
            code = self.process.exitcode
            last_words = last_words or self._last_words()
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

    def remove_leftovers(self) -> None:
        """Remove the segment if the worker died without removing it."""
        with suppress(OSError, ShmStateError):
            ownership.remove_if_dead(memory.path_of(self.order.name), self.order.name)
