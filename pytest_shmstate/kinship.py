"""Which processes came from a worker, as the kernel shows it. Needs /proc, and no package.

A worker leads a session of its own. What it starts is in that session, or can be reached from it through living
parents; only what left the session *and* lost its parent is out of reach.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Collection, Dict, Iterator, List, NamedTuple, Optional, Set

_ENDED = "ZX"
_STANDS_STILL = "Tt" + _ENDED


class Process(NamedTuple):
    """A process, and no other one that has its pid later. ``started`` is in clock ticks since boot."""

    pid: int
    started: int


class Row(NamedTuple):
    """What the kernel shows of a process; ``state`` is the letter that ``ps`` shows."""

    process: Process
    state: str
    parent: int
    session: int
    threads: int

    @property
    def has_ended(self) -> bool:
        """Whether nothing runs in it. A process whose first thread ended is a zombie, but holds all it had."""
        return self.state in _ENDED and self.threads <= 1


def look_up(pid: int) -> Optional[Row]:
    """The process that has this pid now, zombies too."""
    return _row(pid, f"/proc/{pid}/stat")


def _row(pid: int, path: str) -> Optional[Row]:
    try:
        with open(path, "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # and no other error: out of descriptors is not out of life
        return None
    return Row(Process(pid, int(words[19])), words[0].decode(), int(words[1]), int(words[3]), int(words[17]))


def is_running(process: Process) -> bool:
    """Whether it has not ended. One that is stopped has not; a zombie has."""
    row = look_up(process.pid)
    return row is not None and row.process == process and not row.has_ended


def is_stopped(process: Process) -> bool:
    """Whether it stands still, with all of its threads."""
    if not is_running(process):
        return False
    tasks = f"/proc/{process.pid}/task"
    with suppress(FileNotFoundError):
        rows = [_row(process.pid, f"{tasks}/{thread}/stat") for thread in os.listdir(tasks)]
        return all(row.state in _STANDS_STILL for row in rows if row is not None)
    return False


def family(leaders: Collection[Process]) -> List[Process]:
    """Those of ``leaders`` that run, what runs in sessions that they lead or led, and all that came from these."""
    return [row.process for row in _family(leaders) if not row.has_ended]


def reap(leaders: Collection[Process]) -> None:
    """Ask how the dead of the family ended, where this process became their parent after their own had died.

    The leaders themselves are left to whoever started them.
    """
    led = {leader.pid for leader in leaders}
    for row in _family(leaders):
        if row.has_ended and row.parent == os.getpid() and row.process.pid not in led:
            with suppress(ChildProcessError):
                os.waitpid(row.process.pid, os.WNOHANG)


def _family(leaders: Collection[Process]) -> List[Row]:
    table = {row.process.pid: row for row in _all()}
    # A pid stays taken while its session has a member. One that leads to another process by now leads none of ours.
    sessions = {leader.pid for leader in leaders if leader.pid not in table or table[leader.pid].process == leader}
    members: Set[int] = {pid for pid, row in table.items() if row.session in sessions or row.process in leaders}
    while True:
        more = {pid for pid, row in table.items() if row.parent in members} - members
        if not more:
            break
        members |= more
    return [table[pid] for pid in sorted(members - {os.getpid()})]


def _all() -> Iterator[Row]:
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            row = look_up(int(pid))
            if row is not None:
                yield row


def send(process: Process, number: signal.Signals) -> None:
    """Send it a signal, if it is still there."""
    row = look_up(process.pid)
    if row is not None and row.process == process:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


#: For messages.
STATES: Dict[str, str] = {"R": "running", "S": "asleep", "D": "waiting for the kernel", "T": "stopped", "t": "traced"}
