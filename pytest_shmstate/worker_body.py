"""The inside of a worker process: its function, run between a handshake and a report.

How it ends                                   what the other end of the pipe gets
    the function returns                      RETURNED, or UNSENDABLE
    it raises                                 RAISED; exit status 1
    ``sys.exit``                              nothing; that exit status
    SIGTERM, or the process that spawned it   the same as ``sys.exit``: with-blocks are left, segments removed,
    is gone                                   unless the function has another handler
    ``os._exit``, any other signal            nothing

A worker does not see Ctrl-C, which goes to the terminal's group: whoever spawned it decides what that means.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from pytest_shmstate import kinship
from pytest_shmstate.lifeline import Held
from pytest_shmstate.worker_pipe import RAISED, READY, RETURNED, UNSENDABLE, Outgoing, PipeLost

#: What a worker gets to leave its with-blocks once whoever would kill it has died.
_LAST_GRACE = 10.0

#: The way out of this process, if it is a worker's, or was forked from one's.
_outgoing: List[Outgoing] = []


def ready(value: object = None) -> None:
    """Called by a worker's function once it is set up: lets ``Worker.wait_ready()`` return ``value``, pickled.

    Waits while a large value is on its way. Raises RuntimeError outside a worker and when called again, and whatever
    pickling the value raises.
    """
    if not _outgoing:
        raise RuntimeError(
            f"ready() was called in pid {os.getpid()}, which is no worker; it is for functions given to Workers.spawn()"
        )
    if _outgoing[0].pid != os.getpid():
        raise RuntimeError(
            f"ready() was called in pid {os.getpid()}, which worker pid {_outgoing[0].pid} forked;"
            f" the worker itself must call it"
        )
    if READY in _outgoing[0].sent:
        raise RuntimeError("ready() was called again; a worker gets ready once")
    _outgoing[0].send(READY, ForkingPickler.dumps(value))


class NotPicklable(Exception):
    """A function or its arguments cannot be sent to a process that is not a fork."""


class Order:
    """What a worker is to run."""

    def __init__(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Dict[str, Any]) -> None:
        self._function, self._args, self._kwargs = function, args, kwargs

    def run(self) -> Any:
        """Run it."""
        return self._function(*self._args, **self._kwargs)

    def __reduce__(self) -> Tuple[Any, ...]:
        # Sealed, so that what does not unpickle fails where errors are reported, and what importing it starts is born
        # into the worker's group. Pickled only now, as locks and pipes ask to be, while a process is being spawned.
        try:
            sealed = ForkingPickler.dumps((self._function, self._args, self._kwargs))
        except Exception as error:
            raise NotPicklable(f"{type(error).__name__}: {error}") from error
        return SealedOrder, (bytes(sealed), name_of(self._function))


class SealedOrder:
    """An order that is unpickled when it is run."""

    def __init__(self, sealed: bytes, name: str) -> None:
        self._sealed, self._name = sealed, name

    def run(self) -> Any:
        """Unpickle it and run it."""
        try:
            function, args, kwargs = ForkingPickler.loads(self._sealed)
        except Exception as error:
            raise ImportError(
                f"{self._name} or its arguments did not unpickle in a new process ({type(error).__name__}: {error});"
                f" what they are made of must be importable there, which test modules are not under"
                f" --import-mode=importlib"
            ) from error
        return function(*args, **kwargs)


def name_of(function: Any) -> str:
    """How messages call it."""
    name = getattr(function, "__qualname__", None)
    return f"{function.__module__}.{name}" if name else repr(function)


def main(
    order: Union[Order, SealedOrder], pipe: Connection, lifeline: Connection, handlers: Dict[signal.Signals, Any]
) -> None:
    """The body of a worker process. A fork is given the ``handlers`` that were replaced while it started."""
    os.setsid()
    # A fork server hands on what was blocked when it was started, by whoever in the process was the first to need it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    for number, handler in handlers.items():
        signal.signal(number, handler)
    leave = _Leave(Held(lifeline))
    signal.signal(signal.SIGTERM, leave)
    os.register_at_fork(after_in_child=leave.begin_fork)
    if leave.lifeline.is_cut:  # before it was held
        sys.exit(128 + signal.SIGTERM)
    _outgoing[:] = [Outgoing(pipe)]
    _report(order, _outgoing[0])


class _Leave:
    """The handler of SIGTERM: leaves all blocks, once. A second one would interrupt what they do on the way out.

    One that nobody sends comes of the lifeline: the kernel tells its holders again whenever another of them lets go.
    A fork of the worker has no handler: what is sent only once must not be missed by it, and a handler of Python's is
    not run if the signal comes between the last look for one and a call that waits.
    """

    def __init__(self, lifeline: Held) -> None:
        self.lifeline, self._pid = lifeline, os.getpid()
        self._is_leaving = self._is_orphan = False

    def __call__(self, signum: int, _frame: object) -> None:
        if os.getpid() != self._pid:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        is_leaving, self._is_leaving = self._is_leaving, True
        if self.lifeline.is_cut and not self._is_orphan:
            self._is_orphan = True  # nobody is left to kill what hangs
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, _LAST_GRACE)
            me = kinship.look_up(self._pid)
            for process in kinship.family([me.process]) if me else ():
                kinship.send(process, signal.SIGTERM)
        if not is_leaving:
            sys.exit(128 + signum)

    def begin_fork(self) -> None:
        """In a fork: end as others do that have no handler, also of what came before Python had set it up."""
        if signal.getsignal(signal.SIGTERM) is self:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self.lifeline.is_cut:
            os.kill(os.getpid(), signal.SIGTERM)


def _report(order: Union[Order, SealedOrder], outgoing: Outgoing) -> None:
    """Run the order and send what came of it, unless this is a fork that came out of the function beside it."""
    try:
        value = order.run()
    except SystemExit:
        raise
    except BaseException as error:
        if os.getpid() != outgoing.pid:
            raise
        _send(outgoing, RAISED, _told(error))
        sys.exit(1)
    if os.getpid() != outgoing.pid:
        return
    try:
        pickled = ForkingPickler.dumps(value)
    except Exception as error:
        reason = f"a {type(value).__qualname__} that does not pickle ({type(error).__name__}: {error})"
        _send(outgoing, UNSENDABLE, ForkingPickler.dumps(reason))
    else:
        _send(outgoing, RETURNED, pickled)


def _send(outgoing: Outgoing, kind: int, payload: Any) -> None:
    try:
        outgoing.send(kind, payload)
    except PipeLost as lost:
        sys.exit(f"worker pid {outgoing.pid}: {lost}")


def _told(error: BaseException) -> Any:
    """An error, for RAISED."""
    kind, trace = type(error), _below_this_file(error.__traceback__)
    line = "".join(traceback.format_exception_only(kind, error)).strip()
    text = "".join(traceback.format_exception(kind, error, trace))
    pickled = None
    with suppress(Exception):  # not all errors pickle; their text does
        pickled = bytes(ForkingPickler.dumps(error))
    return ForkingPickler.dumps((line, text, pickled))


def _below_this_file(trace: Optional[TracebackType]) -> Optional[TracebackType]:
    below = trace
    while below is not None and below.tb_frame.f_code.co_filename == __file__:
        below = below.tb_next
    return below or trace
