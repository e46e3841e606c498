"""A trial: one state of one peer, and the processes that use it. A with-block that leaves nothing behind."""

from __future__ import annotations

import os
import secrets
import string
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import resource_tracker
from types import TracebackType
from typing import Any, List, Optional, Set, Type

from benchmarks.peers.leftovers import MARK, left, processes, remove
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


class Trial:
    """``readers`` processes beside the writer; attached when told, since some may come late.

    ``kept``: readers of earlier trials of this kind, which are taken first; those of this one are put there in their
    place. They are the caller's to kill. To start a process takes longer than most of what is done with it.
    """

    def __init__(self, kind: Type[Peer], size: int, readers: int = 1, kept: Optional[List[Process]] = None) -> None:
        self._kept: List[Process] = [] if kept is None else kept
        self._keeps = kept is not None and not kind.handed_at_start
        self._count = readers
        self.folder = tempfile.mkdtemp(prefix="shmstate-peer-")
        # Nine small letters: every library takes such a name as it is.
        name = "p" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(8))
        self.peer = kind(name, size // 8 * 8, self.folder)  # as states.stamped does
        self.readers: List[Process] = []
        self._processes: List[Process] = []
        self._over = False

    @property
    def writer(self) -> Process:
        """Has published its first version."""
        return self._processes[0]

    def __enter__(self) -> Trial:
        resource_tracker.ensure_running()  # outside of the mark: it is not part of this
        os.environ[MARK] = self.peer.name
        try:
            self.peer.begin()
            self._start()
            self.peer.handed_over()
        except BaseException:
            self._clear(failed=True)
            raise
        finally:
            os.environ.pop(MARK, None)
        return self

    def _start(self) -> None:
        used = self._kept[: self._count] if self._keeps else []
        sides = [(WriterSide, self.peer.for_writer())]
        sides += [(ReaderSide, self.peer.for_reader())] * (self._count - len(used))  # type: ignore[list-item]
        with ThreadPoolExecutor(len(sides)) as starters:
            begun = [starters.submit(Process, *side) for side in sides]
        self._processes = [one.result() for one in begun if one.exception() is None]
        for one in begun:
            one.result()
        for process in used:
            process.call("renew", self.peer.for_reader())
        self.readers = [*used, *self._processes[1:]]
        if self._keeps:
            self._kept[:] = [*self.readers, *self._kept[self._count :]]

    def part_with(self, reader: Process) -> None:
        """Let it close as one should; it ends, unless it is kept."""
        if self._keeps:
            reader.call("close")
        else:
            reader.close()

    def give_up(self, reader: Process) -> None:
        """Kill it, kept or not."""
        reader.kill()
        if reader in self._kept:
            self._kept.remove(reader)

    def close(self) -> List[str]:
        """Have all close as one should, readers first; then tell what is left."""
        for reader in self.readers:
            self.part_with(reader)
        self.writer.close()
        return self.over()

    def over(self) -> List[str]:
        """What is left, now that all processes have parted or been killed."""
        self._end()
        return left(self.peer.marks, self.folder, self._pids(self._processes), self._pids(self._kept))

    @staticmethod
    def _pids(those: List[Process]) -> Set[int]:
        return {process.pid for process in those}

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self.peer.end()

    def _clear(self, *, failed: bool) -> None:
        if failed:  # who knows how they are
            for process in self._kept:
                process.kill()
            self._kept.clear()
        for process in self._processes:
            if process not in self._kept:
                process.kill()
        self._end()
        for pid in set(processes(self.peer.name)) - self._pids(self._kept):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        remove(self.peer.marks, self.folder, self._pids(self._processes))

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._clear(failed=error is not None)
