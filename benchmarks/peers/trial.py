"""A trial: one state of one peer, and the processes that use it. A with-block that leaves nothing behind."""

from __future__ import annotations

import os
import secrets
import string
import tempfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from types import TracebackType
from typing import Any, List, Optional, Set, Type

from benchmarks.peers.leftovers import MARK, end_all, left, remove
from benchmarks.peers.peer import Peer
from benchmarks.peers.sides import ReaderSide, WriterSide
from benchmarks.remote import Remote, RemoteFailed

#: Seconds that anything may take before it counts as stuck, where nothing else is said.
PATIENCE = 30.0


class Blocked(RemoteFailed):
    """No answer in time. The process is still at it."""


class Process(Remote):
    """One that is not waited for longer than is said."""

    _asked = ""

    def ask(self, name: str, *args: Any) -> None:
        """Have it begin a method; ``answer`` gives the result."""
        self._asked = name
        self._send((name, False, args))

    def answer(self, seconds: float = PATIENCE) -> Any:
        """Of what was asked. Raises Blocked; then the process is good for nothing but ``kill``."""
        if not self._line.poll(max(0.0, seconds)):
            raise Blocked(f"{self._asked} did not end in time")
        return self._receive()

    def call(self, name: str, *args: Any) -> Any:
        self.ask(name, *args)
        return self.answer()


class Company:
    """Processes that serve one trial after another: to start them takes longer than most of what they do in one."""

    def __init__(self) -> None:
        self.writer: Optional[Process] = None
        self.readers: List[Process] = []

    @property
    def pids(self) -> Set[int]:
        """Of all of them."""
        return {process.pid for process in (self.writer, *self.readers) if process is not None}

    def give_up(self, process: Process) -> None:
        """Kill one; another takes its place in the next trial."""
        process.kill()
        if process is self.writer:
            self.writer = None
        else:
            self.readers.remove(process)

    def kill(self) -> None:
        """All of them."""
        for process in (self.writer, *self.readers):
            if process is not None:
                process.kill()
        self.writer, self.readers = None, []

    def __enter__(self) -> Company:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.kill()


class Trial:
    """``readers`` processes beside the writer; attached when told, since some may come late.

    A ``company`` is of the caller, and all of one kind. Those who part from the trial serve its next one; the others are
    killed in the end.
    """

    def __init__(self, kind: Type[Peer], size: int, readers: int = 1, company: Optional[Company] = None) -> None:
        self._alone = company is None or kind.handed_at_start
        self._company = Company() if company is None or kind.handed_at_start else company
        self._kind, self._size, self._count = kind, size, readers
        self.peer: Peer
        self.writer: Process
        self.readers: List[Process] = []
        self._makers: Set[int] = set()
        self._parted: List[Process] = []
        self._over = False

    def __enter__(self) -> Trial:
        # Nine small letters: every library takes such a name as it is.
        name = "p" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(8))
        folder = tempfile.mkdtemp(prefix="shmstate-peer-")
        self.peer = self._kind(name, self._size // 8 * 8, folder)  # as states.stamped does
        resource_tracker.ensure_running()  # outside of the mark: it is not part of this
        os.environ[MARK] = self.peer.name
        try:
            self.peer.begin()
            self._gather()
            self.peer.handed_over()
        except BaseException:
            self._clear()
            raise
        finally:
            os.environ.pop(MARK, None)
        return self

    def _gather(self) -> None:
        """Those that there are, told of this state; and those that lack, started all at once."""
        company, writers, readers = self._company, self.peer.for_writer(), self.peer.for_reader()
        there = company.readers[: self._count]
        lacking = self._count - len(there)
        with ThreadPoolExecutor(1 + lacking) as starters:
            writer = None if company.writer else starters.submit(Process, WriterSide, writers)
            others = [starters.submit(Process, ReaderSide, readers) for _ in range(lacking)]
        if writer is not None and writer.exception() is None:
            company.writer = writer.result()
        company.readers += [one.result() for one in others if one.exception() is None]
        for one in filter(None, [writer, *others]):
            one.result()
        if company.writer is None:
            raise RemoteFailed("there is no writer")
        self.writer, self.readers = company.writer, company.readers[: self._count]
        self._makers = company.pids
        if writer is None:
            self.writer.call("renew", writers)
        for reader in there:
            reader.call("renew", readers)

    def part_with(self, process: Process) -> None:
        """Let it close as one should."""
        if self._alone:
            process.close()
        else:
            process.call("close")
        self._parted.append(process)

    def give_up(self, process: Process) -> None:
        """SIGKILL, wherever it is."""
        self._company.give_up(process)

    def close(self) -> List[str]:
        """Have all close as one should, readers first; then tell what is left."""
        for process in [*self.readers, self.writer]:
            self.part_with(process)
        return self.over()

    def over(self) -> List[str]:
        """What is left, now that all processes have parted or been killed."""
        self._end()
        return left(self.peer.marks, self.peer.folder, self._makers, self._company.pids)

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self.peer.end()

    def _clear(self) -> None:
        company = self._company
        for process in filter(None, [company.writer, *company.readers]):
            if self._alone or process not in self._parted:
                company.give_up(process)
        self._end()
        end_all(self.peer.name, company.pids)
        remove(self.peer.marks, self.peer.folder, self._makers)

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._clear()
