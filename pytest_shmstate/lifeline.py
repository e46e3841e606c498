"""A pipe that tells processes when the one that spawned them is gone, be it by SIGKILL: the kernel signals them then.

No thread waits for that. The process that must be outlived by nobody holds the only end for writing: forked children
close theirs at once, executed ones do not inherit it. The others hold an end for reading, and have the kernel send them
a signal when the last writer is gone (``O_ASYNC``, fcntl(2)). Unlike ``PR_SET_PDEATHSIG`` that means a process, not the
thread that was its parent, and works where a fork server stands between.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import List
from weakref import WeakSet

#: First told to end, then woken, in case it is stopped.
_SIGNALS = (signal.SIGTERM, signal.SIGCONT)


class Lifeline:
    """This process's end; it is cut when this process ends, or with ``close()``."""

    def __init__(self) -> None:
        #: The end to send to processes.
        self.far_end: Connection
        self.far_end, self._near_end = get_context().Pipe(duplex=False)
        _held.add(self)

    def let_go(self) -> None:
        """Close this process's end, leaving the lifeline whole if it is a fork's."""
        self._near_end.close()

    def close(self) -> None:
        """Cut it. Idempotent."""
        self.let_go()
        self.far_end.close()


_held: WeakSet[Lifeline] = WeakSet()


def _let_go_of_all() -> None:
    for lifeline in list(_held):
        lifeline.let_go()
    _held.clear()


os.register_at_fork(after_in_child=_let_go_of_all)


class Held:
    """The other end, in a process that must not outlive the first: it gets SIGTERM, and SIGCONT, when that is gone."""

    def __init__(self, far_end: Connection) -> None:
        # Opened anew: what is forked with an end shares its settings, among them who gets which signal.
        self._files: List[int] = []
        self._inode = os.fstat(far_end.fileno()).st_ino
        with suppress(OSError):  # no /proc: a safety net less
            for number in _SIGNALS:
                file = os.open(f"/proc/self/fd/{far_end.fileno()}", os.O_RDONLY | os.O_NONBLOCK)
                self._files.append(file)
                fcntl.fcntl(file, fcntl.F_SETOWN, os.getpid())
                fcntl.fcntl(file, fcntl.F_SETSIG, number)
                fcntl.fcntl(file, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        far_end.close()

    @property
    def is_cut(self) -> bool:
        """Whether the first process is gone. False if what this held was closed, as code that makes daemons does."""
        poll = select.poll()
        for file in self._files:
            with suppress(OSError):
                if os.fstat(file).st_ino == self._inode:
                    poll.register(file, 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))
