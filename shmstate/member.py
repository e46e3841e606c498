"""One worker of a pool, seen from the pool: the processes that are it in turn, and how the last one ended."""

from __future__ import annotations

import pickle
import select
import signal
import time
from contextlib import contextmanager, suppress
from multiprocessing.context import BaseContext
from multiprocessing.reduction import ForkingPickler
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

from shmstate import memory, ownership, worker
from shmstate.errors import EncodeError, InvalidOption, ShmStateError, WorkerDied
from shmstate.lifeline import Lifeline
from shmstate.runs import END_GRACE, GUARD, LOOK_UP, OutOfTime, Run, Turn, deadline_after
from shmstate.wire import Broken, packet_channel, wait_for


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

    def __init__(self, name: str, order: worker.Order, allowed: int) -> None:
        self.name = name
        self.order = order
        self.allowed = allowed  # how often it may be started again
        self.run: Optional[Run] = None
        self.turn = Turn()  # held to replace the process, and to write into its inbox
        self.asking = Turn()  # held from a question to its answer
        self.questions = 0
        self.restarts = 0
        self.died: Optional[WorkerDied] = None
        self.is_given_up = False  # whether it died and has no restart left
        self.told = False  # whether a caller got the death as an error

    @property
    def process(self) -> Any:
        """The present process, or None if there was none yet."""
        return None if self.run is None else self.run.process

    @property
    def is_running(self) -> bool:
        """Whether there is a process, and it runs."""
        return self.run is not None and self.run.is_running

    @property
    def needs_replacing(self) -> bool:
        """Whether it died and was not given up. True again after an exception cut a restart short."""
        return not self.is_given_up and not self.is_running

    @property
    def ends(self) -> List[Any]:
        """The pool's ends of the channels."""
        return [] if self.run is None else list(self.run.ends)

    def launch(self, context: BaseContext, pool: Lifeline, not_theirs: Sequence[Any]) -> None:
        """Start a process. ``not_theirs``: what it inherits and must close, besides the pool's ends of its channels.

        Raises WorkerDied, InvalidOption; then no channel and no process is left.
        """
        opened: List[Any] = []
        with _ctrl_c_put_off():
            try:
                inbox_theirs, inbox = context.Pipe(duplex=False)
                opened += inbox_theirs, inbox
                control, control_theirs = packet_channel()
                opened += control, control_theirs
                report, report_theirs = packet_channel()
                opened += report, report_theirs
                ours = worker.Ends(inbox, control, report)
                theirs = worker.Ends(inbox_theirs, control_theirs, report_theirs)
                forks = context.get_start_method() == "fork"
                process = context.Process(  # type: ignore[attr-defined]
                    target=worker.main,
                    args=(worker.Sealed(self.order), theirs, pool, [*not_theirs, *ours] if forks else []),
                    name=self.order.name,
                    daemon=True,
                )
                process.start()
                self.run, self.died, self.told = Run(self.name, process, ours), None, False
                opened = list(theirs)
            except worker.Unpicklable as error:
                why = error.__cause__
                raise InvalidOption(
                    f"worker {self.name!r}: start_method={context.get_start_method()!r} has to pickle its machine and codec,"
                    f" which failed: {type(why).__name__}: {why}; give it a function or class of a module, or a"
                    f" functools.partial of one, or start_method='fork'"
                ) from why
            except Exception as error:
                hint = "" if isinstance(error, OSError) else f". If the fork server has died: {GUARD}"
                self.died = WorkerDied(
                    f"worker {self.name!r} could not be started: {type(error).__name__}: {error}{hint};"
                    f" restarts used: {self.restarts} of {self.allowed}"
                )
                raise self.died from error
            finally:
                for end in opened:
                    end.close()

    def await_ready(self, timeout: float, given_up: Callable[[], bool]) -> None:
        """Wait until the first state is published. Raises WorkerDied, also when ``timeout`` seconds pass."""
        run = self._present()
        deadline = time.monotonic() + timeout
        try:
            while not run.is_ready():
                if given_up():
                    raise WorkerDied(f"worker {self.name!r}: the pool was given up while it started")
                if time.monotonic() > deadline:
                    raise WorkerDied(
                        f"worker {self.name!r} (pid {run.process.pid}) has published nothing within {timeout} seconds of"
                        f" its start; raise start_timeout if it needs longer"
                    )
                wait_for(run.ends.report, select.POLLIN, LOOK_UP)
        except Broken:
            raise self.bury() from None

    def write(self, message: bytes, deadline: float, given_up: Callable[[], bool]) -> None:
        """Put a pickled message into the inbox; see WorkerPool.send. With ``turn`` held.

        Raises OutOfTime, WorkerDied if ``given_up()`` while it waits, Broken if the worker died.
        """
        run = self._present()

        def wait() -> None:
            if given_up():
                raise WorkerDied(f"worker {self.name!r}: the pool was shut down while its inbox was full")
            left = deadline - time.monotonic()
            if left <= 0:
                raise OutOfTime
            run.wait(run.ends.inbox, select.POLLOUT, left)

        try:
            run.inbox.write(message, wait)
        except Broken:
            run.end()
            raise

    def _present(self) -> Run:
        if self.run is None:
            raise self.failure()
        return self.run

    def ask(self, timeout: Optional[float]) -> Any:
        """The state, from the worker itself; see WorkerPool.ask."""
        deadline = deadline_after(timeout)
        reply = None
        with self.asking.within(deadline) as is_our_turn:
            run = self._present()
            if is_our_turn:
                try:
                    reply = self._question(run, deadline)
                except Broken:
                    run.end()
                    self.told = True
                    text = run.obituary(self.restarts, self.allowed, "while it was asked for its state, ")
                    raise WorkerDied(text) from None
        if reply is None:
            raise TimeoutError(f"worker {self.name!r}: no answer within {timeout} seconds")
        kind, detail = reply
        if kind == worker.REFUSAL:
            raise EncodeError(f"worker {self.name!r} could not give its state:\n\n{detail}")
        return detail

    def _question(self, run: Run, deadline: float) -> Optional[Tuple[str, Any]]:
        """Ask; returns the answer, or None at ``deadline``. Raises Broken if it died, and leaves that to the turn."""
        self.questions += 1
        number = self.questions

        def wait() -> None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise OutOfTime
            run.wait(run.ends.control, select.POLLOUT, left)

        with suppress(OutOfTime):
            run.questions.write(pickle.dumps(number), wait)
            while True:
                reply = run.answers.read_within(deadline, lambda left: run.wait(run.ends.control, select.POLLIN, left))
                if reply is None:
                    break
                kind, (answered, detail) = ForkingPickler.loads(reply)
                if answered != number:  # it came too late for its question
                    continue
                return kind, detail
        return None

    def stop_soon(self, timeout: float) -> None:
        """Ask for an orderly end, after the messages that are in the inbox."""
        deadline = time.monotonic() + timeout
        with self.turn.within(deadline) as is_our_turn:
            if is_our_turn and self.run is not None:
                with suppress(Broken, OutOfTime):
                    self.write(pickle.dumps((worker.STOP, None)), deadline, bool)

    def record_death(self) -> WorkerDied:
        """Note how the process ended, once. It has ended."""
        if self.died is None:
            self.died = WorkerDied(self._present().obituary(self.restarts, self.allowed))
        return self.died

    def bury(self) -> WorkerDied:
        """Note how it died and close its channels. With ``turn`` held, or before others know of the pool."""
        self._present().end()
        death = self.record_death()
        self.close_ends(END_GRACE)
        return death

    def close_ends(self, patience: float) -> None:
        """Close the channels of a process that has ended, once no other thread uses them.

        A thread that does not let go within ``patience`` seconds keeps them open: their numbers must not be reused
        under it.
        """
        deadline = time.monotonic() + patience
        with self.turn.within(deadline) as unused, self.asking.within(deadline) as unasked:
            if unused and unasked and self.run is not None:
                self.run.close()

    def failure(self) -> WorkerDied:
        """What to raise for a worker that has ended."""
        self.told = True
        return self.died or WorkerDied(f"worker {self.name!r} is not running")

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
