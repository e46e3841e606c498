"""Where processes under test come from, the driver's side: started, spoken to, stopped, killed, and none left behind."""

from __future__ import annotations

import array
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Callable, List, Optional, Tuple

from pytest_shmstate import kinship
from pytest_shmstate.kit.stepping.stepped import LAST_GATE, MOST, TELL_STACKS, Setup

START_METHODS = ("forkserver", "spawn")
#: Seconds: for a Python to start and be prepared, to end when it is told to, to write its stacks.
_START_TAKES, _END_TAKES, _STACKS_TAKE = 60.0, 5.0, 2.0

Answer = Tuple[str, Tuple[str, ...], Any]


class StepperFailed(Exception):
    """The driver could not do what it was asked to; nothing has been found out about the structure."""


class Lost(Exception):
    """A process came to no gate and to no end; it is dead now. ``gate``: what it had passed last."""

    def __init__(self, what: str, gate: str) -> None:
        super().__init__(what)
        self.gate = gate


class Hang(Lost):
    """Not in the time that it had. Says where it was."""


class Died(Lost):
    """It ended by itself in the middle of something: a crash, or a call of ``os._exit``. Says how."""


class Nursery:
    """Processes that are alike, forked from one that has imported everything (forkserver), or each spawned for itself.

    ``prepare`` is called in that one, or in each, before anything of shmstate is imported there.
    """

    def __init__(self, setup: Setup, start_method: str, patience: float) -> None:
        if start_method not in START_METHODS:
            raise StepperFailed(f"start_method={start_method!r}: choose one of {', '.join(START_METHODS)}")
        self._setup = setup._replace(is_nursery=start_method == "forkserver")
        self._patience = patience
        self._root: Optional[_Root] = _Root(self._setup, patience) if self._setup.is_nursery else None

    def start(self) -> Child:
        """A new process, which holds nothing yet."""
        root = self._root or _Root(self._setup, self._patience)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stacks = os.memfd_create("stacks")
        with theirs:
            root.send(("fork",), (theirs.fileno(), stacks))
        if self._root is None:
            return Child(root.pid, ours, stacks, root.wait, self._patience)
        pid: int = root.receive()[2]

        def reap() -> int:
            root.send(("reap", pid))
            status: int = root.receive()[2]
            return status

        return Child(pid, ours, stacks, reap, self._patience)

    def use(self, pickled: bytes, name: str) -> None:
        """Have processes that are started from now on know a structure. Raises StepperFailed."""
        if self._root is not None:
            self._root.send(("use", pickled, name))
            what, _, told = self._root.receive()
            if what != "done":
                raise StepperFailed(f"an adapter could not be unpickled in a process of its own:\n{told}")

    def close(self) -> None:
        """End the one that the others were forked from. Idempotent."""
        if self._root is not None:
            self._root.close()


class _Root:
    """A Python started for this: the nursery, or with spawn a process itself. Leads a session of its own."""

    def __init__(self, setup: Setup, patience: float) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = "import sys; sys.path[:] = sys.argv[2:]; from pytest_shmstate.kit.stepping.stepped import main; main(int(sys.argv[1]))"
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this Python, this program
                [sys.executable, "-c", program, str(theirs.fileno()), *sys.path],
                env={**os.environ, "PYTHONHASHSEED": "0"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._line.settimeout(max(patience, _START_TAKES))
        try:
            self.send(setup)
            what, _, told = self.receive()
        except BaseException:
            self.close()
            raise
        if what != "ready":
            self.close()
            raise StepperFailed(f"a process could not be prepared:\n{told}")

    def send(self, message: Tuple[Any, ...], descriptors: Tuple[int, ...] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._line.sendmsg([pickle.dumps(message)], rights)

    def receive(self) -> Answer:
        packet = self._line.recv(MOST)
        if not packet:
            raise StepperFailed(
                f"the process that others are forked from ended by itself, status {self._process.wait()}"
            )
        answer: Answer = pickle.loads(packet)  # noqa: S301 - from the process that was started above
        return answer

    def wait(self) -> int:
        """The wait status, once it has ended."""
        self._line.close()
        code = self._process.wait()
        return -code if code < 0 else code << 8

    def close(self) -> None:
        self._line.close()
        try:
            self._process.wait(_END_TAKES)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Child:
    """One process: what is said to it, and what it answers."""

    def __init__(self, pid: int, line: socket.socket, stacks: int, reap: Callable[[], int], patience: float) -> None:
        self.pid = pid
        self.is_running = True
        self._line, self._stacks, self._reap, self._patience = line, stacks, reap, patience
        line.settimeout(patience)

    def ask(self, *message: Any) -> Answer:
        """Say something, and wait for the answer. Raises Lost, StepperFailed."""
        self._line.send(pickle.dumps(message))
        try:
            packet = self._line.recv(MOST)
        except socket.timeout:
            stacks, gate = self._tell_stacks(), self._last_gate()
            self.kill()
            raise Hang(f"came to no gate within {self._patience:g} s. It was here:\n{stacks}", gate) from None
        except ConnectionError:
            packet = b""
        if not packet:
            gate = self._last_gate()
            raise Died(f"its process ended by itself: {_how(self._end())}", gate)
        answer: Answer = pickle.loads(packet)  # noqa: S301 - from the process that was started above
        if answer[0] == "failed":
            raise StepperFailed(f"a process could not do {message[0]!r}:\n{answer[2]}")
        return answer

    def kill(self) -> int:
        """SIGKILL it, stopped or not; the number of the signal that it died of, 0 if of none."""
        os.kill(self.pid, signal.SIGKILL)
        status = self._end()
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    def stop(self) -> None:
        """SIGSTOP it, and wait until it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        self._wait_until_state("Tt", has_it=True)

    def cont(self) -> None:
        """SIGCONT it, and wait until it does not stand still any more."""
        os.kill(self.pid, signal.SIGCONT)
        self._wait_until_state("Tt", has_it=False)

    def _wait_until_state(self, states: str, has_it: bool) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            row = kinship.look_up(self.pid)
            if row is not None and (row.state in states) == has_it:
                return
            if time.monotonic() > deadline:
                raise StepperFailed(f"process {self.pid} is in state {row.state if row else 'gone'} after a signal")
            os.sched_yield()

    def _tell_stacks(self) -> str:
        os.kill(self.pid, TELL_STACKS)
        deadline = time.monotonic() + _STACKS_TAKE
        told = ""
        while time.monotonic() < deadline and not told.rstrip().endswith("<module>"):  # the bottom of the main thread's
            os.sched_yield()
            told = os.pread(self._stacks, MOST, LAST_GATE).decode("utf-8", "replace")
        return told

    def _last_gate(self) -> str:
        return os.pread(self._stacks, LAST_GATE, 0).rstrip(b"\0").decode("utf-8", "replace")

    def _end(self) -> int:
        self._line.close()
        os.close(self._stacks)
        self.is_running = False
        return self._reap()


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    return f"exit status {os.WEXITSTATUS(status)}"


def drafts_of(pids: List[int]) -> List[str]:
    """Files that dead processes were about to give a name: shmstate's drafts. Removed."""
    found = [file for pid in pids for file in os.listdir("/dev/shm") if file.startswith(f"shmstate-new.{pid}.")]
    for file in found:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join("/dev/shm", file))
    return found
