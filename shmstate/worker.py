"""The inside of a worker process: a state machine, its inbox, and its state kept in shared memory.

Three channels lead to the pool (wire.py). The inbox carries messages one way. The control channel carries questions and
their answers; it is served between messages, ahead of the inbox, and an answer that is not read delays no message. The
report channel carries READY, the traceback a worker dies with, and ENDED. The exit code alone does not tell an orderly
end: the interpreter's own exit can fail, as it does in a process that was forked by a thread of an executor.

How a worker ends, and what becomes of its segment:

    STOP in the inbox, after all messages before it     final state published, segment removed
    the pool's process is gone (end of file, or pid)    the same
    an exception, or SIGTERM                            segment left, last state and all: to a successor, or the pool
    SIGKILL                                             the same, by the kernel
"""

from __future__ import annotations

import pickle
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, Callable, Iterator, NamedTuple, NoReturn, Optional, Protocol, Sequence, Tuple, Union

from shmstate.codecs import CodecLike
from shmstate.lifeline import Lifeline
from shmstate.reader import StateReader
from shmstate.sync import StateSync
from shmstate.wire import Broken, Inlet, Outlet, wait_for
from shmstate.writer import StateWriter

# What goes through the channels: a kind, then what belongs to it.
MESSAGE = "message"
STOP = "stop"
READY = "ready"
ANSWER = "answer"
REFUSAL = "refusal"
DIED = "died"
ENDED = "ended"


class Machine(Protocol):
    """What a worker runs. If it also has ``restore(state)``, a restarted one is given the last published state."""

    def handle(self, message: Any) -> None:
        """Take one message."""

    def state(self) -> Any:
        """The present state, for the codec to encode."""


class Order(NamedTuple):
    """All that a worker process needs to know when it starts."""

    name: str
    factory: Callable[[], Machine]
    interval: float
    codec: CodecLike
    slots: int
    max_size: int


class Unpicklable(Exception):
    """An order does not pickle. ``__cause__`` is why."""


class Sealed:
    """An order on its way to a worker, which opens it where a failure to do so can be reported."""

    def __init__(self, order: Union[Order, bytes]) -> None:
        self._order = order

    def __reduce__(self) -> Tuple[Any, ...]:
        try:
            return Sealed, (bytes(ForkingPickler.dumps(self._order)),)
        except Exception as error:
            raise Unpicklable from error

    def open(self) -> Order:
        """Return the order. Raises what unpickling it raises."""
        return ForkingPickler.loads(self._order) if isinstance(self._order, bytes) else self._order


class Ends(NamedTuple):
    """One side's ends of the channels between a pool and a worker."""

    inbox: Connection
    control: Connection
    report: Connection


_LOOK_AT_POOL = 1.0  # seconds between two looks at whether the pool's process runs
_STALL = 0.05  # seconds that an answer may make no progress before messages are handled meanwhile
_FAREWELL = 1.0  # seconds that a dying worker waits for room for its traceback
_LONGEST_TRACEBACK = 32768


def main(sealed: Sealed, ends: Ends, pool: Lifeline, not_mine: Sequence[Connection]) -> None:
    """Run a worker: the body of its process."""
    for inherited in not_mine:  # under fork: the pool's ends, which would keep channels open after the pool is gone
        inherited.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the pool decides what it means
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _leave)
    report = Outlet(ends.report)
    try:
        _run(sealed.open(), ends, report, pool)
        with suppress(Broken, _NoRoom):
            _report(ends, report, ENDED, None)
    except Exception:
        with suppress(Broken, _NoRoom):  # no pool is left to read it
            _report(ends, report, DIED, _shortened(traceback.format_exc()))
        sys.exit(1)


def _leave(signum: int, _frame: Any) -> NoReturn:
    sys.exit(128 + signum)


class _NoRoom(Exception):
    """The pool took nothing for too long."""


def _report(ends: Ends, report: Outlet, kind: str, detail: Any) -> None:
    deadline = time.monotonic() + _FAREWELL

    def wait() -> None:
        if time.monotonic() > deadline:
            raise _NoRoom
        wait_for(ends.report, select.POLLOUT, _FAREWELL)

    report.write(pickle.dumps((kind, detail)), wait)


def _shortened(text: str) -> str:
    half = _LONGEST_TRACEBACK // 2
    return text if len(text) <= 2 * half else f"{text[:half]}\n[...]\n{text[-half:]}"


def _run(order: Order, ends: Ends, report: Outlet, pool: Lifeline) -> None:
    writer = StateWriter(order.name, codec=order.codec, slots=order.slots, max_size=order.max_size)
    ended_well = False
    try:
        machine = order.factory()
        if writer.version and hasattr(machine, "restore"):
            with StateReader(order.name, codec=order.codec) as reader:
                machine.restore(reader.get())
        sync = StateSync(writer, machine.state, interval=order.interval, min_interval=order.interval)
        sync.flush()
        with suppress(Broken):
            _report(ends, report, READY, None)
            _serve(machine, sync, ends, pool)
        sync.flush()
        ended_well = True
    finally:
        writer.close(unlink=ended_well)


def _serve(machine: Machine, sync: StateSync, ends: Ends, pool: Lifeline) -> None:
    """Handle messages until told to stop, or until the pool's process has ended."""
    inbox, desk = Inlet(ends.inbox), _Desk(machine, ends.control)
    poll = select.poll()
    poll.register(ends.inbox.fileno(), select.POLLIN)
    next_look = 0.0
    while True:
        if time.monotonic() >= next_look:
            if pool.has_ended():
                return
            next_look = time.monotonic() + _LOOK_AT_POOL
        waits_for_room = desk.serve()
        left = sync.poll()
        received = inbox.read()
        if received is not None:
            kind, message = ForkingPickler.loads(received)
            if kind == STOP:
                return
            machine.handle(message)
            sync.notify()
        else:
            poll.register(ends.control.fileno(), select.POLLIN | (select.POLLOUT if waits_for_room else 0))
            poll.poll(1000 * min(left, _LOOK_AT_POOL))


class _Desk:
    """Answers the pool's questions. An answer that is not read waits here; the next question takes its place."""

    def __init__(self, machine: Machine, control: Connection) -> None:
        self._machine = machine
        self._control = control
        self._questions = Inlet(control)
        self._answers = Outlet(control)
        self._answer: Optional[Iterator[bool]] = None
        self._stalled = False

    def serve(self) -> bool:
        """Answer the latest question, as far as the pool reads; returns whether a part is left. Raises Broken."""
        received = None
        more = self._questions.read()
        while more is not None:
            received, more = more, self._questions.read()
        if received is not None:
            self._answer, self._stalled = self._answers.begin(self._reply(ForkingPickler.loads(received))), False
        while self._answer is not None:
            progress = next(self._answer, None)
            if progress is None:
                self._answer = None
            elif progress:
                self._stalled = False
            elif self._stalled:
                break
            else:
                self._stalled = not wait_for(self._control, select.POLLIN | select.POLLOUT, _STALL)
                if not self._stalled and wait_for(self._control, select.POLLIN, 0):
                    break  # a newer question
        return self._answer is not None

    def _reply(self, number: int) -> bytes:
        try:
            return bytes(ForkingPickler.dumps((ANSWER, (number, self._machine.state()))))
        except Exception:  # a question does not kill
            return pickle.dumps((REFUSAL, (number, _shortened(traceback.format_exc()))))
