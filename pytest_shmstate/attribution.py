"""Whose it is: each thing that came is given to the span that has to clean it up, with the evidence for that.

First hit wins:

    1  the ledger: a process wrote down that it made it, and comes from this one
    2  the kernel: fanotify says which process made it

Who holds it is told, and proves nothing: one may hold what another made. So does a pid in its name: another pid namespace
has the same.
A process belongs to the span in which the outermost process on the way down to it was started, so a fixture's pool
answers for all that its workers make. What none of this explains is left to the end of the run, and is never touched.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from time import monotonic_ns  # by name: a test may put another clock into the module
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from pytest_shmstate import census, recorder
from pytest_shmstate.known import is_service
from pytest_shmstate.leak import FILE, PROCESS, SEGMENT, SEMAPHORE, SYSV, Frame
from pytest_shmstate.ledger import Begun, Ledger, Made
from pytest_shmstate.notices import SOMEBODY_ELSE
from pytest_shmstate.timeline import Span, Timeline

#: How a record says that something was made -> its kind, where that says more than the entry itself.
KIND_BY_HOW = {"open": FILE, "sqlite3": FILE, "bind": FILE, "symlink": FILE, "semaphore": SEMAPHORE}
#: The calls by which processes that keep the ledger make shared memory.
OF_SEGMENTS = ("truncate", "untracked", "link", "rename")


def kind_of(entry: census.Entry, how: str) -> str:
    """Says what an entry is that a record tells of."""
    return SEGMENT if entry.kind == FILE and how in OF_SEGMENTS else KIND_BY_HOW.get(how, entry.kind)


@dataclass
class Found:
    """Something that belongs to a span. ``mark`` tells it from others of its name: inode, shmid or start time."""

    kind: str
    name: str
    mark: int
    span: Span
    evidence: str
    pid: int = 0
    stack: Tuple[Frame, ...] = ()
    #: How a record says that it was made; empty without one.
    how: str = ""
    #: What a process is called whose command line does not tell it from others.
    title: str = ""

    @property
    def key(self) -> Tuple[str, str, int, int]:
        """What no other thing has at the same time. Of forks in one clock tick, the pid alone tells them apart."""
        return (self.kind, self.name, self.mark, self.pid if self.kind == PROCESS else 0)

    def as_told(self) -> List[Any]:
        """Return what another process of the run needs to find it again, as JSON can keep it."""
        return [self.kind, self.name, self.mark, self.pid]

    def there(self) -> bool:
        """Whether it still is."""
        if self.kind == PROCESS:
            return census.runs(self.pid, self.mark)
        if self.kind == SYSV:
            return self.mark in census.sysv(census.sysv_table())
        return inode_of(self.name) == self.mark


def inode_of(name: str) -> Optional[int]:
    """The inode behind a name in /dev/shm."""
    try:
        return os.lstat(os.path.join(census.SHM_DIR, name)).st_ino
    except OSError:
        return None


class Attribution:
    """Knows the processes of one that runs tests, and whose turn it was when."""

    def __init__(self, ledger: Ledger, timeline: Timeline, pid: int) -> None:
        self._ledger = ledger
        self._timeline = timeline
        self._pid = pid
        #: (pid, start) of processes that were seen to run -> when that was first, and whose they are.
        self._born: Dict[Tuple[int, int], Tuple[int, Span]] = {}
        #: Pid -> the start of the process that had it, and when that was seen to have ended: CLOCK_MONOTONIC, ns.
        self._ended: Dict[int, Tuple[int, int]] = {}
        #: Services below this process that were seen to run: what a fork server forks is looked for at every test.
        self.services: Set[int] = set()
        #: Threads of this process, by ident -> the span in which each was first seen.
        self._threads: Dict[Optional[int], Span] = {}
        #: (pid, start) of processes that a wider span turned out to keep -> that span, which answers for their children.
        self._given: Dict[Tuple[int, int], Span] = {}

    def entry(self, entry: census.Entry, span: Span, pid: int) -> Optional[Found]:
        """Whose entry of /dev/shm it is; None: not ours. ``span``: now; ``pid``: what the kernel said of its maker."""
        return self._by_ledger(entry, pid) or self._by_kernel(entry, span, pid)

    def segment(self, segment: census.SysV, span: Span) -> Optional[Found]:
        """Whose System V segment it is; the kernel keeps its maker's pid."""
        creator = segment.creator
        if creator == 0:  # of another pid namespace
            return None
        if creator != self._pid:
            self._ledger.refresh()
            if self._has_ended(creator):  # segments of its own were taken in before it was seen to have ended
                return None
        whose = span if creator == self._pid else self.span_of(creator, None)
        if whose is None:
            return None
        evidence = f"the kernel: made by pid {creator}"
        return Found(SYSV, f"shmid {segment.shmid}", segment.shmid, whose, evidence, creator)

    def process(self, pid: int, span: Span) -> Optional[Found]:
        """Whose process it is that was not there before; None: one that serves, or is over."""
        itself = census.process(pid)
        if itself is None or itself.state in census.OVER:
            return None
        begun = self._ledger.process(pid)
        whose = self.span_of(pid, None) if begun is not None and begun.start == itself.start else None
        self._born[pid, itself.start] = (monotonic_ns(), whose or span)
        command = census.command_once_known(pid)
        if not command:
            return None
        if self.serves(pid):
            self.services.add(pid)
            return None
        is_child = self._pid in census.ancestors(pid)  # what cut itself off is none
        evidence = "the kernel: it is a child, and runs" if is_child else "its own ledger, and it runs"
        found = Found(PROCESS, command, itself.start, whose or span, evidence, pid)
        self.see_start(found)
        return found

    def see_start(self, found: Found) -> None:
        """Adds where a process was started; a fork, which has the command line of its parent, is called by that."""
        tell_start(found, self._ledger)

    def give(self, found: Found, span: Span) -> None:
        """A process, and with it all that it makes, is another span's than the one that it was started in."""
        self._given[found.pid, found.mark] = span

    def is_new(self, pid: int) -> bool:
        """Whether it runs and was not asked about before."""
        itself = census.process(pid)
        return itself is not None and pid != self._pid and (pid, itself.start) not in self._born

    def is_below(self, pid: int) -> bool:
        """Whether it came from this process."""
        return self._pid in self._ledger.lineage(pid)[1:]

    def serves(self, pid: int) -> bool:
        """Whether the process is one of those that serve a whole interpreter. What a fork server forks is not."""
        return bool(is_service(census.command_of(pid), self._server_of(pid))) and not _is_fork(
            self._ledger.process(pid)
        )

    def _server_of(self, pid: int) -> str:
        """The command line of its parent, if that is a service: what that forks may not have recorded its fork yet."""
        itself = census.process(pid)
        return census.command_of(itself.parent) if itself is not None and itself.parent in self.services else ""

    def outlived_its_process(self, pid: int) -> bool:
        """Whether the process is a service of an interpreter that has ended: it will clean up, and end."""
        parent = census.environment(pid, recorder.PARENT) or ""
        return self.serves(pid) and census.at_work(pid) and parent.isdigit() and not census.at_work(int(parent))

    def is_stranger(self, pid: int) -> bool:
        """Whether the process surely has nothing to do with this run: it is there to be asked, and says so."""
        if census.process(pid) is None or pid in self._ledger.begun or self._pid in self._ledger.lineage(pid):
            return False
        return self._ledger.folder not in (census.environment(pid, recorder.LEDGERS) or "")

    def relatives(self) -> Iterable[int]:
        """Everybody who came from this process, also those whose parents are gone. Asks all processes there are."""
        yield from census.descendants(self._pid)
        for pid in census.everybody():
            parent = census.environment(pid, recorder.PARENT)
            if pid in self._ledger.begun or (parent and parent.isdigit()):
                came_from = pid if pid in self._ledger.begun else int(parent or 0)
                if pid != self._pid and self._pid in self._ledger.lineage(came_from):
                    yield pid

    def span_of(self, pid: int, at: Optional[int]) -> Optional[Span]:
        """The span that answers for what this process makes (made at that moment); None if it is not one of ours."""
        if pid == self._pid:
            return self._timeline.current if at is None else self._timeline.at(at)
        top = self._top(pid, at)
        if top is None:
            return None
        begun = self._ledger.process(top, at)
        itself = census.process(top)
        key = (top, begun.start if begun else itself.start if itself else 0)
        if key in self._given:
            return self._given[key]
        seen = self._born.get(key)
        if begun is not None and (seen is None or begun.at < seen[0]):
            return self._timeline.at(begun.at)
        return seen[1] if seen is not None else self._timeline.current

    def _by_ledger(self, entry: census.Entry, pid: int) -> Optional[Found]:
        made = self._ledger.maker(entry.name, entry.inode)
        if made is None:
            return None
        if made.inode == 0 and ((pid == SOMEBODY_ELSE and made.pid == self._pid) or 0 < pid != made.pid):
            return None  # the name was ours once; this one is another's, says the kernel
        span = self._of_thread(made) or self.span_of(made.pid, made.at)
        if span is None:
            return None
        kind = kind_of(entry, made.how)
        whose = "this process" if made.pid == self._pid else f"pid {made.pid}, {self._way_to(made.pid, made.at)}"
        return Found(kind, entry.name, entry.inode, span, f"the ledger of {whose}", made.pid, made.stack, made.how)

    def span_of_holder(self, found: Found) -> Optional[Span]:
        """The span of a fixture that lives on, one of whose processes has the entry open."""
        entry = census.look(found.name)
        if entry is None:
            return None
        for holder in census.holders([entry], census.descendants(self._pid))[entry.name]:
            span = self.span_of(holder.pid, None)
            if span is not None and span.owner.what == "fixture" and span is not found.span and not span.due:
                return span
        return None

    def see_threads(self, span: Span) -> None:
        """Threads that are new are the span's, and so is what they make; those of a test are no wider than it."""
        if threading.active_count() == len(self._threads) == 1:
            return
        alive = {thread.ident for thread in threading.enumerate()}
        if alive == self._threads.keys():
            return
        self._threads = {ident: whose for ident, whose in self._threads.items() if ident in alive}
        for ident in alive:
            self._threads.setdefault(ident, span)

    def _of_thread(self, made: Made) -> Optional[Span]:
        if made.pid != self._pid or made.thread == threading.main_thread().ident:
            return None
        span = self._threads.get(made.thread)
        return span if span is not None and span.owner.what == "fixture" and not span.due else None

    def _by_kernel(self, entry: census.Entry, span: Span, pid: int) -> Optional[Found]:
        if pid <= 0 or self._is_another(pid, entry.name):
            return None
        whose = span if pid == self._pid else self.span_of(pid, None)
        if whose is None:
            return None
        kind = SEGMENT if entry.kind == FILE and entry.is_regular and self._keeps_ledger(pid) else entry.kind
        return Found(kind, entry.name, entry.inode, whose, f"the kernel: made by pid {pid}", pid)

    def see_ends(self) -> None:
        """Note which processes have ended: their pids may be other programs' from now on."""
        now = monotonic_ns()
        for pid, begun in list(self._ledger.unended.items()):
            if not census.runs(pid, begun.start):
                del self._ledger.unended[pid]
                self._ended[pid] = begun.start, now

    @property
    def may_see_ends(self) -> bool:
        """Whether a process of this run may have ended unseen."""
        return bool(self._ledger.unended)

    def _has_ended(self, pid: int) -> int:
        """When the process of this run that had the pid last was seen to have ended; 0: it was not."""
        start, seen = self._ended.get(pid, (0, 0))
        begun = self._ledger.process(pid) if seen else None
        return seen if begun is not None and begun.start == start else 0

    def _is_another(self, pid: int, name: str) -> bool:
        """Whether the pid was no process of this run any more when the entry was made."""
        ended = self._has_ended(pid)
        born = census.born(name) if ended else None
        return bool(ended) and (born is None or born > ended)

    def _keeps_ledger(self, pid: int) -> bool:
        """Whether the process would have written down a file that it opened: what it made silently, C code made."""
        begun = self._ledger.process(pid)
        return pid == self._pid or (begun is not None and census.command_of(pid).startswith(begun.command or " "))

    def _top(self, pid: int, at: Optional[int]) -> Optional[int]:
        """The outermost process between this one and ``pid`` that is no service; None if ``pid`` is not below."""
        chain = self._ledger.lineage(pid, at)
        if self._pid not in chain[1:]:
            return None
        below = chain[: chain.index(self._pid)]
        for one in reversed(below):
            begun = self._ledger.process(one, at)
            command = begun.command if begun else census.command_of(one)
            if not is_service(command) or _is_fork(begun):
                return one
        return below[-1]

    def _way_to(self, pid: int, at: Optional[int]) -> str:
        begun = self._ledger.process(pid, at)
        command = census.shortened(begun.command) if begun else ""
        return f"a {'fork' if _is_fork(begun) else 'child'} of pid {begun.parent}: {command}" if begun else "a child"


def tell_start(found: Found, ledger: Ledger) -> None:
    """Adds to a process where it was started, and to a fork a title, since its command line is its parent's."""
    itself = census.process(found.pid)
    begun = ledger.process(found.pid)
    if itself is None or itself.start != found.mark:
        return
    start = ledger.start_of(found.pid, census.born_at(itself), found.name)
    if start is not None:
        found.stack = start.stack
    is_fork = _is_fork(begun) or (begun is None and census.command_of(itself.parent) == found.name)
    if is_fork or (start is not None and start.title):
        parent = begun.parent if begun is not None else itself.parent
        found.title = (start.title if start is not None else "") or f"fork of pid {parent}"
        own = [frame for frame in found.stack if frame.function != "_spawn" and not frame.file.startswith("<")]
        if own and not (start is not None and start.title):
            found.title = f"fork in {own[-1].function} ({os.path.basename(own[-1].file)}:{own[-1].line})"


def _is_fork(begun: Optional[Begun]) -> bool:
    return begun is not None and begun.how == "fork"
