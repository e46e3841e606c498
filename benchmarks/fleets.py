"""Fleets of worker processes that can be asked for their states: by queues, by pipes, through shared memory, or not at all.

A fleet lives in one process, its main process, which forks the workers. They end with it, however it ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import multiprocessing
import os
import random
import select
import signal
import socket
import statistics
import traceback
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Dict, List, NoReturn, Tuple

import shmstate
from benchmarks import account, states
from benchmarks.harness import each

#: Called by a worker as soon as it can be asked.
Announce = Callable[[], object]
#: What a worker does, until it is told to end.
Serve = Callable[[Announce], None]

#: Seconds for a worker to get ready.
_PATIENCE = 60.0
_F_GETPIPE_SZ = 1032
_PR_SET_PDEATHSIG = 1


class Silent:
    """Workers that nobody can ask: what the others are compared with."""

    def __init__(self, name: str) -> None:
        self._name = name

    def prepare(self, number: int) -> Serve:
        """Make what must be there before the worker is; returns what the worker does."""
        del number
        return _idle

    def forked(self, number: int) -> None:
        """The worker is there."""

    def ask(self, number: int) -> Any:
        """The state of one."""

    def ask_all(self) -> Any:
        """The states of all."""

    def buffers(self) -> List[int]:
        """The most bytes that each of its pipes makes the kernel keep."""
        return []

    def names_if_spawned(self) -> int:
        """Entries of ``/dev/shm`` a worker, if workers are spawned instead of forked."""
        return 0

    def close(self) -> None:
        """The workers have ended."""


class Shared(Silent):
    """Workers that publish their states."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._service = shmstate.QueryService(name)

    def prepare(self, number: int) -> Serve:
        """Nothing has to be there."""
        return partial(_publish, f"{self._name}.{number}")

    def ask(self, number: int) -> Any:
        """Attaches, the first time."""
        return self._service.query(str(number)).value

    def ask_all(self) -> Any:
        """Looks into ``/dev/shm`` who is there, each time."""
        return self._service.query_all()

    def names_if_spawned(self) -> int:
        """The same."""
        return 1

    def close(self) -> None:
        """Detaches."""
        self._service.close()


class Queues(Silent):
    """Workers with a queue of requests and a queue of responses each."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._context = multiprocessing.get_context("fork")
        self._pairs: List[Tuple[Any, Any]] = []

    def prepare(self, number: int) -> Serve:
        """Both queues."""
        del number
        requests, responses = self._context.Queue(), self._context.Queue()
        self._pairs.append((requests, responses))
        return partial(_serve, requests.get, responses.put)

    def ask(self, number: int) -> Any:
        """One of each."""
        requests, responses = self._pairs[number]
        requests.put("state")
        return responses.get()

    def ask_all(self) -> Any:
        """All requests first, so that the workers answer side by side."""
        for requests, _ in self._pairs:
            requests.put("state")
        return [responses.get() for _, responses in self._pairs]

    def buffers(self) -> List[int]:
        """Of a pipe for each queue."""
        readers = [queue._reader.fileno() for pair in self._pairs for queue in pair]  # noqa: SLF001 - nobody else tells
        return [fcntl.fcntl(reader, _F_GETPIPE_SZ) for reader in readers]

    def names_if_spawned(self) -> int:
        """Semaphores keep their names then, as a spawned worker opens them by name."""
        before = account.shared_memory().named
        context = multiprocessing.get_context("spawn")
        pair = context.Queue(), context.Queue()
        return account.shared_memory().named - before if pair else 0

    def close(self) -> None:
        """Ends the threads that write to the pipes."""
        for pair in self._pairs:
            for queue in pair:
                queue.close()


class Pipes(Silent):
    """Workers with a two-way pipe each."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._ours: List[Any] = []
        self._theirs: Any = None

    def prepare(self, number: int) -> Serve:
        """The pipe."""
        del number
        ours, self._theirs = multiprocessing.Pipe()
        self._ours.append(ours)
        return partial(_serve, self._theirs.recv, self._theirs.send)

    def forked(self, number: int) -> None:
        """Their end is theirs."""
        del number
        self._theirs.close()

    def ask(self, number: int) -> Any:
        """A message there, and one back."""
        self._ours[number].send("state")
        return self._ours[number].recv()

    def ask_all(self) -> Any:
        """All requests first, so that the workers answer side by side."""
        for ours in self._ours:
            ours.send("state")
        return [ours.recv() for ours in self._ours]

    def buffers(self) -> List[int]:
        """Of a socket, which is what a two-way pipe is, in each direction."""
        found = []
        for ours in self._ours:
            with socket.socket(fileno=os.dup(ours.fileno())) as end:
                found += [end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)] * 2
        return found

    def close(self) -> None:
        """Closes our ends."""
        for ours in self._ours:
            ours.close()


KINDS: Dict[str, Callable[[str], Silent]] = {"none": Silent, "shmstate": Shared, "queues": Queues, "pipes": Pipes}


def _idle(announce: Announce) -> None:
    announce()
    while True:
        signal.pause()


def _publish(name: str, announce: Announce) -> None:
    with shmstate.StateWriter(name) as writer:
        for _ in range(5):  # one more than there are slots: all have memory behind them
            writer.publish(states.small())
        _idle(announce)


def _serve(receive: Callable[[], Any], send: Callable[[Any], None], announce: Announce) -> None:
    state = states.small()
    announce()
    while True:
        receive()
        send(state)


class Fleet:
    """The main process of a fleet. Its methods are called from another process: see Remote."""

    def __init__(self, kind: str, name: str) -> None:
        account.raise_limits()
        _practise(name)
        self._name = name
        self._kind = KINDS[kind](name)
        self._pids: List[int] = []
        self._told_ready, self._ready = os.pipe()
        # Loaded before there are workers, which would each load it again.
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl

    def start(self, count: int) -> None:
        """Fork so many, each as soon as the one before it can be asked."""
        for number in range(count):
            serve = self._kind.prepare(number)
            gc.freeze()  # or a collection in the worker would write to all that was made so far, and so copy it
            self._fork(serve)
            self._kind.forked(number)
            # All at once they would crowd out whatever else runs on the machine.
            if not select.select([self._told_ready], [], [], _PATIENCE)[0]:
                raise RuntimeError(f"worker {number} of {count} did not get ready")
            os.read(self._told_ready, 1)

    def _fork(self, serve: Serve) -> None:
        parent = os.getpid()
        # Ctrl-C is for this process alone: held back until the worker is known, and in the worker for ever.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            pid = os.fork()
            if not pid:
                self._work(serve, parent)
            self._pids.append(pid)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def _work(self, serve: Serve, parent: int) -> NoReturn:
        """All that a worker does."""
        try:
            signal.signal(signal.SIGTERM, _leave)
            self._prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
            if os.getppid() == parent:  # otherwise it ended before that was said
                _practise(f"{self._name}-{os.getpid()}")
                serve(partial(os.write, self._ready, b"."))
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)

    def ask_each(self) -> None:
        """Ask every worker once: what the first question makes, be it a thread or a map, is there from then on."""
        for number in range(len(self._pids)):
            self._kind.ask(number)

    def account(self) -> Dict[str, Any]:
        """Of the main process and the workers, as they are now."""
        main = account.own()
        workers = [account.of(pid) for pid in self._pids]
        both = main
        for one in workers:
            both = both.plus(one)
        buffers = self._kind.buffers()
        return {
            "main": main,
            "both": both,
            "worker_descriptors": statistics.median(one.descriptors for one in workers),
            "shared": account.shared_memory(),
            "buffers_bytes": sum(buffers),
            "smallest_buffer_bytes": min(buffers, default=0),
            "spawned_names": self._kind.names_if_spawned(),
        }

    def query(self, count: int) -> List[float]:
        """Microseconds of so many questions to workers at random."""
        chosen = random.Random(4).choices(range(len(self._pids)), k=count)
        return each(lambda: self._kind.ask(chosen.pop()), count)

    def query_all(self, rounds: int) -> List[float]:
        """Microseconds of so many questions to all."""
        return each(self._kind.ask_all, rounds)

    def end(self) -> None:
        """End all workers, one after the other, and wait for it. Idempotent."""
        while self._pids:
            with suppress(ProcessLookupError, ChildProcessError):  # ended by a call of this that Ctrl-C cut short
                os.kill(self._pids[-1], signal.SIGTERM)
                os.waitpid(self._pids[-1], 0)
            self._pids.pop()

    def close(self) -> None:
        """End all workers, and what they were asked by."""
        self.end()
        self._kind.close()


def _practise(name: str) -> None:
    """Do once what workers of any kind do.

    A forked process gets a copy of its own of each page of Python's code and modules that it runs, a megabyte or so. What
    one kind takes more than another is then what it keeps, and not that.
    """
    with shmstate.StateWriter(name) as writer, shmstate.StateReader(name) as reader:
        writer.publish(states.small())
        reader.get()
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        ours.send("state")
        theirs.recv()
    queue = multiprocessing.get_context(
        "fork"
    ).SimpleQueue()  # without the thread of a Queue, which would leave its stack
    queue.put("state")
    queue.get()


def _leave(signum: int, _frame: Any) -> NoReturn:
    signal.signal(signum, signal.SIG_IGN)  # once is enough
    raise SystemExit
