"""The inside of a worker process: a state machine, its inbox, and its state kept in shared memory.

Two pipes lead to the pool. The inbox carries messages one way. The control pipe carries READY, the answers to
ask(), and the traceback a worker dies with; it is served between messages, ahead of the inbox.

How a worker ends, and what becomes of its segment:

    STOP in the inbox, after all messages before it     final state published, segment removed
    the pool's process is gone (end of file)            the same
    an exception, or SIGTERM                            segment left, last state and all: to a successor, or the pool
    SIGKILL                                             the same, by the kernel
"""

from __future__ import annotations

import math
import select
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, Callable, NamedTuple, NoReturn, Protocol, Sequence

from shmstate.codecs import CodecLike
from shmstate.reader import StateReader
from shmstate.sync import StateSync
from shmstate.writer import StateWriter

# What goes through the pipes: a kind, then what belongs to it.
MESSAGE = "message"
STOP = "stop"
READY = "ready"
ASK = "ask"
ANSWER = "answer"
REFUSAL = "refusal"
DIED = "died"


class Machine(Protocol):
    """What a worker runs. If it also has ``restore(state)``, a restarted one is given the last published state."""

    def handle(self, message: Any) -> None:
        """Take one message."""

    def state(self) -> Any:
        """The present state, for the codec to encode."""


class Order(NamedTuple):
    """All that a worker process is told when it starts."""

    name: str
    factory: Callable[[], Machine]
    interval: float
    codec: CodecLike
    slots: int
    max_size: int


def main(order: Order, inbox: Connection, control: Connection, not_mine: Sequence[Connection]) -> None:
    """The body of a worker process."""
    for inherited in not_mine:  # under fork: the pool's ends, which would keep pipes open after the pool is gone
        inherited.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the pool decides what it means
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _leave)
    try:
        _run(order, inbox, control)
    except Exception:
        with suppress(_PoolIsGone):  # then nobody is left to tell
            _send(control, DIED, traceback.format_exc())
        sys.exit(1)


def _leave(signum: int, _frame: Any) -> NoReturn:
    sys.exit(128 + signum)


class _PoolIsGone(Exception):
    """The other end of a pipe was closed. Never raised for what a machine does with pipes of its own."""


def _run(order: Order, inbox: Connection, control: Connection) -> None:
    writer = StateWriter(order.name, codec=order.codec, slots=order.slots, max_size=order.max_size)
    ended_well = False
    try:
        machine = order.factory()
        if writer.version and hasattr(machine, "restore"):
            with StateReader(order.name, codec=order.codec) as reader:
                machine.restore(reader.get())
        sync = StateSync(writer, machine.state, interval=order.interval, min_interval=order.interval)
        sync.flush()
        with suppress(_PoolIsGone):
            _send(control, READY, None)
            _serve(machine, sync, inbox, control)
        sync.flush()
        ended_well = True
    finally:
        writer.close(unlink=ended_well)


def _serve(machine: Machine, sync: StateSync, inbox: Connection, control: Connection) -> None:
    """Handle messages until told to stop."""
    poll = select.poll()
    poll.register(inbox.fileno(), select.POLLIN)
    poll.register(control.fileno(), select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll(math.ceil(sync.poll() * 1000))}
        if control.fileno() in ready:
            _, number = _receive(control)
            _answer(machine, number, control)
        elif inbox.fileno() in ready:
            kind, message = _receive(inbox)
            if kind == STOP:
                return
            machine.handle(message)
            sync.notify()


def _answer(machine: Machine, number: int, control: Connection) -> None:
    try:
        _send(control, ANSWER, (number, machine.state()))
    except _PoolIsGone:
        raise
    except Exception:  # a question does not kill
        _send(control, REFUSAL, (number, traceback.format_exc()))


def _receive(end: Connection) -> Any:
    try:
        pickled = end.recv_bytes()
    except (EOFError, OSError) as error:
        raise _PoolIsGone from error
    return ForkingPickler.loads(pickled)


def _send(end: Connection, kind: str, detail: Any) -> None:
    pickled = ForkingPickler.dumps((kind, detail))
    try:
        end.send_bytes(pickled)
    except OSError as error:
        raise _PoolIsGone from error
