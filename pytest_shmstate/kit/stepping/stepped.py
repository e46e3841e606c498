"""A process under test: does one operation at a time, and stops at each gate until it is told to go on.

It is forked from a nursery, a process that has imported all there is to import and then does nothing but that, or is
spawned for itself. Nothing of shmstate is imported before ``prepare`` has run, so that it may put something else there.

Messages, each a pickled tuple in one packet. To a nursery:

    ("fork",) with descriptors  -> ("forked", (), pid)    ("reap", pid) -> ("reaped", (), wait status)
    ("use", adapter, name)      -> ("done", (), None), or ("failed", (), why)

To a process, and what it answers:

    ("use", adapter, name)  ("drop",)  ("remove",)        -> ("done", (), None), or ("failed", (), why)
    ("begin", operation, arguments, steps, until)  ("go", steps, until)  ("throw",)  ("abandon",)
        -> ("at", gates passed, gate)            it stands before that gate
           ("blocked", gates passed, gate)       and would wait in the kernel behind it
           ("done", gates passed, result)
           ("refused" or "raised", gates passed, what)

To throw is to raise an exception in place of the access; to abandon is to do so, and to stop at no gate any more.
"""

from __future__ import annotations

import array
import faulthandler
import gc
import mmap
import os
import pickle
import signal
import socket
import sys
import traceback
from contextlib import suppress
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from pytest_shmstate.kit.oracle.payload import payload_of, version_in, what_is_wrong_with
from pytest_shmstate.kit.seams.buffers import gate_shared_memory, line_tracer
from pytest_shmstate.kit.seams.gates import Copying, Gates, WouldBlock, gate_shmstate
from pytest_shmstate.kit.seams.system_calls import gate_system_calls

#: No message is longer: payloads are judged where they are.
MOST = 1 << 16
TELL_STACKS = signal.SIGUSR1
LAST_GATE = 128


class Setup(NamedTuple):
    """What processes are told before anything else. ``prepare`` is pickled by itself, and called first."""

    is_nursery: bool
    prepare: bytes
    copying: Tuple[int, bool]
    by_line: Tuple[str, ...]


class Thrown(BaseException):
    """Raised in place of an access, as a signal handler's exception would be."""


def main(descriptor: int) -> None:
    """Be a nursery, or a process, at the other end of a socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's affair
    line = socket.socket(fileno=descriptor)
    setup: Setup = pickle.loads(line.recv(MOST))  # noqa: S301 - from whoever started this process
    stepped = Stepped()
    try:
        prepare = pickle.loads(setup.prepare)  # noqa: S301 - the same
        if prepare is not None:
            prepare()
        copying = Copying(*setup.copying)
        gate_system_calls(stepped.gates)  # first: shmstate keeps the clock that it finds
        gate_shmstate(stepped.gates, copying)
        gate_shared_memory(stepped.gates, copying, leave_buffers=bool(setup.by_line))
        stepped.by_line = setup.by_line
    except BaseException:
        line.send(pickle.dumps(("failed", (), traceback.format_exc()[-MOST // 2 :])))
        return
    line.send(pickle.dumps(("ready", (), os.getpid())))
    # Who gets an exception anywhere, as here, cannot always let go of all it has; that is told no better by __del__.
    sys.unraisablehook = _say_nothing
    gc.disable()  # finalizers run where they are due, not where the collector happens to come by
    gc.collect()
    gc.freeze()
    if setup.is_nursery:
        _nurse(line, stepped)
    else:
        message, descriptors = receive_with_descriptors(line)
        if message:
            stepped.serve(*descriptors)


def _nurse(line: socket.socket, stepped: Stepped) -> None:
    children: List[int] = []
    while True:
        message, descriptors = receive_with_descriptors(line)
        if not message:
            break
        if message[0] == "fork":
            pid = os.fork()
            if not pid:
                line.close()
                stepped.serve(*descriptors)
                os._exit(0)
            for descriptor in descriptors:
                os.close(descriptor)
            children.append(pid)
            line.send(pickle.dumps(("forked", (), pid)))
        elif message[0] == "use":  # so that those who are forked from now on need not import it
            what, told = stepped.prepare(*message)
            line.send(pickle.dumps((what, (), told)))
            gc.freeze()
        else:
            children.remove(message[1])
            line.send(pickle.dumps(("reaped", (), os.waitpid(message[1], 0)[1])))
    for pid in children:  # the driver is gone; some may be stopped, and would never notice
        os.kill(pid, signal.SIGKILL)


def receive_with_descriptors(line: socket.socket) -> Tuple[Tuple[Any, ...], List[int]]:
    """One message, and what came with it; an empty one when the other end is closed."""
    packet, ancillary, _, _ = line.recvmsg(MOST, socket.CMSG_SPACE(4 * array.array("i").itemsize))
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content)
    return (pickle.loads(packet) if packet else ()), list(descriptors)  # noqa: S301 - from whoever started this


class Stepped:
    """The process's side of the conversation."""

    def __init__(self) -> None:
        self.gates = Gates(self._stop)
        self.by_line: Tuple[str, ...] = ()
        self._line: socket.socket
        self._last_gate: mmap.mmap
        self._passed: List[str] = []
        self._left, self._until = 0, ""
        self._is_abandoned = False
        self._adapter: Any = None
        self._pickled = b""
        self._writer: Any = None
        self._reader: Any = None
        self._tracer: Optional[Callable[..., Any]] = None
        self._operations: Dict[str, Callable[..., Any]] = {
            "create": self._create,
            "publish": self._publish,
            "resize": lambda size: self._adapter.resize(self._writer, size),
            "hand over": self._hand_over,
            "close": self._close,
            "attach": self._attach,
            "read": self._read,
            "detach": self._detach,
            "alive": lambda: getattr(self._reader, "writer_alive", None),
        }

    def serve(self, line: int, stacks: int) -> None:
        """Do what is said until the other end is closed.

        The file ``stacks`` begins with the gate that was passed last, for who finds this process dead, or not coming to
        the next; on TELL_STACKS the stacks of its threads are written behind that.
        """
        os.ftruncate(stacks, LAST_GATE)
        os.lseek(stacks, 0, os.SEEK_END)
        self._last_gate = mmap.mmap(stacks, LAST_GATE)
        faulthandler.register(TELL_STACKS, file=stacks, all_threads=True)
        self._line = socket.socket(fileno=line)
        with suppress(EOFError, ConnectionError):
            while True:
                message = self._receive()
                self._passed, self._is_abandoned = [], False
                answer = self._perform(*message[1:]) if message[0] == "begin" else self.prepare(*message)
                self._send(*answer)
        os._exit(0)  # whoever was told to end in the middle leaves everything as a kill would

    def _send(self, what: str, told: Any) -> None:
        self._line.send(pickle.dumps((what, tuple(self._passed), told)))
        self._passed = []

    def _receive(self) -> Tuple[Any, ...]:
        packet = self._line.recv(MOST)
        if not packet:
            raise EOFError
        message: Tuple[Any, ...] = pickle.loads(packet)  # noqa: S301 - from the driver
        return message

    # ---- at the gates

    def _stop(self, access: str, would_block: WouldBlock = None) -> None:
        if self._is_abandoned:
            return
        if self._left <= 0 or access == self._until:
            self._ask("at", access)
        while would_block is not None and would_block():
            self._ask("blocked", access)
        self._left -= 1
        self._passed.append(sys.intern(access))  # in the message each is spelt once, however often it was passed
        self._last_gate[:] = access.encode()[:LAST_GATE].ljust(LAST_GATE, b"\0")

    def _ask(self, what: str, access: str) -> None:
        self._send(what, access)
        try:
            order = self._receive()
        except EOFError:
            os._exit(0)
        if order[0] == "abandon":
            self._is_abandoned = True
        if order[0] != "go":
            raise Thrown(access)
        self._left, self._until = order[1:]

    # ---- operations

    def _perform(self, operation: str, arguments: Tuple[Any, ...], steps: int, until: str) -> Tuple[str, Any]:
        self._left, self._until = steps, until
        try:
            with self.gates.watching():
                if self._tracer is not None:
                    sys.settrace(self._tracer)
                return "done", self._operations[operation](*arguments)
        except BaseException as error:
            is_refusal = isinstance(error, tuple(self._adapter.refusals))
            return ("refused" if is_refusal else "raised"), _told(error)
        finally:
            sys.settrace(None)

    def _create(self, size: int) -> None:
        self._writer = self._adapter.create(self.gates.name, size)

    def _publish(self, version: int, size: int) -> int:
        return self._adapter.publish(self._writer, payload_of(version, size)) or 0

    def _hand_over(self) -> None:
        self._adapter.hand_over(self._writer)
        self._writer = None

    def _close(self) -> None:
        self._adapter.close(self._writer)
        self._writer = None

    def _attach(self) -> None:
        self._reader = self._adapter.attach(self.gates.name)

    def _read(self) -> Tuple[int, str]:
        payload = self._adapter.read(self._reader)
        if payload is None:
            return 0, ""
        return max(version_in(payload), 0), what_is_wrong_with(payload)

    def _detach(self) -> None:
        self._adapter.close(self._reader)
        self._reader = None

    # ---- between runs, where nobody is stopped

    def prepare(self, what: str, *arguments: Any) -> Tuple[str, Any]:
        """Do what is asked for between operations."""
        try:
            if what == "use":
                self._use(*arguments)
            elif what == "drop":
                self._drop()
            else:
                self._adapter.remove(self.gates.name)
        except BaseException:
            return "failed", traceback.format_exc()[-MOST // 2 :]
        return "done", None

    def _use(self, pickled: bytes, name: str) -> None:
        self.gates.name = name
        if pickled != self._pickled:
            self._adapter, self._pickled = pickle.loads(pickled), pickled  # noqa: S301 - from the driver
            self._tracer = line_tracer(self.gates, self.by_line) if self.by_line else None

    def _drop(self) -> None:
        for handle in (self._reader, self._writer):
            if handle is not None:
                self._adapter.close(handle)
        self._reader = self._writer = None
        gc.collect()


def _say_nothing(_: object) -> None:
    pass


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:2000]
