"""The leak detector: what came, whose it is, and whether it was still there when it was due.

One Watch stands in each process that runs tests. At the boundaries of its timeline it takes in what is new (``attend``)
and gives each thing to a span; when spans are due it looks whether their things are gone (``judge``).
"""

from __future__ import annotations

import gc
import os
from time import monotonic, monotonic_ns, sleep  # by name: a test may put another clock into the module
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from pytest_shmstate import census, reach, recorder
from pytest_shmstate.attribution import Attribution, Found, inode_of
from pytest_shmstate.known import is_process_wide
from pytest_shmstate.leak import DIRECTORY, PROCESS, SEGMENT, SEMAPHORE, SYSV, Owner
from pytest_shmstate.ledger import LATEST_BIRTH, Ledger
from pytest_shmstate.notices import UNSAID, Notice, Notices
from pytest_shmstate.timeline import Span, Timeline

#: Freed with the objects that hold them: not to be judged while a failed test's traceback keeps those alive.
FREED_WITH_OBJECTS = (SEMAPHORE, DIRECTORY, PROCESS)
#: While others make and remove things all the time, the queue of notices may never be empty.
MOST_LOOKS = 10
#: Beyond this many, those that are gone are forgotten.
MOST_STRANGE = 10_000
#: A segment that is made for a SharedMemoryManager has these on its stack.
MANAGERS = os.path.join("multiprocessing", "managers.py")
MADE_FOR_MANAGER = ("SharedMemory", "ShareableList")
FIRST_PAUSE, LONGEST_PAUSE = 0.0005, 0.05
#: Seconds between two looks which processes have ended.
BETWEEN_ENDS = 0.2
#: What a resource tracker gets whose process has ended, in seconds.
TRACKER_PATIENCE = 10.0


class Watch:
    """See above. Belongs to the process that made it; in its forks it does nothing."""

    def __init__(self, folder: str, owner: Owner, grace: float, outer: Sequence[str] = ()) -> None:
        """``folder``: the ledger; ``outer``: others to read. ``grace``: seconds that what is due may take to go."""
        self.timeline = Timeline(owner)
        self.grace = grace
        self.pid = os.getpid()
        #: Objects of wider scope that live now: (their span, the object). Set by who knows them.
        self.keepers: Callable[[], Iterable[Tuple[Span, Any]]] = tuple
        #: Called when something due is still there: lets go of references that nobody needs any more.
        self.release: Callable[[], None] = _nothing
        self._records = recorder.listen()
        self._ledger = Ledger(folder, recorder.file(), outer)
        # What was made before is nobody's here, and a long session's ledger has much of it. Who was started before counts:
        # they may start others.
        self._ledger.refresh(since=monotonic_ns() - LATEST_BIRTH)
        self._notices = Notices(census.SHM_DIR)
        self._table = census.sysv_table()
        self._shmids: Set[int] = set(census.sysv(self._table))
        self._pending: Dict[Tuple[str, str, int, int], Found] = {}
        #: (name, inode) that were looked at and are not ours.
        self._strange: Set[Tuple[str, int]] = set()
        #: Of those, which were made by processes that surely are strangers: (name, inode) -> pid.
        self.makers: Dict[Tuple[str, int], int] = {}
        self._attribution = Attribution(self._ledger, self.timeline, self.pid)
        self._folder_stamp = 0
        self._ends_due = 0.0
        #: Threads that were there before: xdist's, or those of a library.
        self._threads = set(os.listdir("/proc/self/task"))
        self._take_in_processes(self.timeline.root, self._ledger_has_new_processes())
        self._pending.clear()

    @property
    def source(self) -> str:
        """Where its notices come from."""
        return self._notices.source

    def close(self) -> None:
        """Stop watching."""
        recorder.unlisten(self._records)
        self._notices.close()

    def pending(self) -> List[Found]:
        """What is not judged yet and still there."""
        return [found for found in self._pending.values() if found.there()]

    def pending_of(self, span: Span) -> List[Found]:
        """What is not judged yet of a span's."""
        return [found for found in self._pending.values() if found.span is span]

    def forget(self, found: Found) -> None:
        """It is dealt with; should it stay, it is not found again."""
        self._pending.pop(found.key, None)
        self._strange.add((found.name, found.mark))

    def attend(self) -> None:
        """Take in what is new; what only the kernel saw belongs to the span of this moment."""
        if os.getpid() != self.pid:
            return
        span = self.timeline.current
        notices = self._notices.drain()
        if notices or self._records:
            self._look(notices, span)
        self._attribution.see_threads(span)
        self._take_in_sysv(span)
        # What cut itself off, as a daemon does, is no child any more; its ledger names it all the same.
        has_news = self._ledger_has_new_processes()
        if has_news or census.has_children():
            self._take_in_processes(span, has_news)
        if self._attribution.may_see_ends and monotonic() > self._ends_due:
            self._attribution.see_ends()  # last: what they made is taken in
            self._ends_due = monotonic() + BETWEEN_ENDS

    def due(self, unless: Callable[[Found], bool] = lambda _: False) -> List[Found]:
        """What is due and does not go. Waits up to the grace, but only if something is there that may yet go."""
        if os.getpid() != self.pid:
            return []
        self.attend()
        due = [found for found in self._pending.values() if found.span.due and not unless(found)]
        if not due:
            return []
        due = self._still_there(due)
        for free in (_nothing, self.release):
            if due:
                free()
                gc.collect()
                due = self._still_there(due)
        # Processes first: who keeps one keeps what it made.
        due = [found for found in due if found.kind != PROCESS or not self._is_kept(found)]
        due = [found for found in due if found.kind == PROCESS or not self._is_kept(found)]
        due = self._wait(due)
        for found in due:
            if found.kind == PROCESS:
                # It may have recorded its start only after it was seen first.
                self._attribution.see_start(found)
        return due

    # What is new.

    def _look(self, notices: List[Notice], span: Span) -> None:
        makers = dict.fromkeys(self._hear(), UNSAID)
        entries: Dict[str, Optional[census.Entry]] = {}
        makers.update(notices)
        for _ in range(MOST_LOOKS):
            entries.update((name, census.look(name)) for name in (dict(notices) if entries else makers))
            # Somebody else may have taken a name between the notice and the look: then there is another notice.
            notices = self._notices.drain() if makers else []
            if not notices:
                break
            makers.update(notices)
        self._take_in_entries(entries, makers, span)

    def _hear(self) -> List[str]:
        heard, self._records[:] = list(self._records), []
        for record in heard:
            self._ledger.add(record)
        return [str(record[4]) for record in heard if record[0] == "made"]

    def _take_in_entries(self, entries: Dict[str, Optional[census.Entry]], makers: Dict[str, int], span: Span) -> None:
        refreshed = False
        for name, entry in entries.items():
            pid = makers[name]
            if entry is None or (name, entry.inode) in self._strange:
                continue
            if not refreshed:
                self._ledger.refresh()
                refreshed = True
            found = self._attribution.entry(entry, span, pid)
            if found is None:
                self._strange.add((name, entry.inode))
                if pid > 0 and self._attribution.is_stranger(pid):
                    self.makers[name, entry.inode] = pid
            self._add(found)
        self._ledger.prune()
        if len(self._strange) > MOST_STRANGE:
            self._strange = {(name, inode) for name, inode in self._strange if inode_of(name) == inode}
            self.makers = {key: pid for key, pid in self.makers.items() if key in self._strange}

    def _take_in_sysv(self, span: Span) -> None:
        table = census.sysv_table()
        if table == self._table:
            return
        self._table = table
        there = census.sysv(table)
        self._shmids &= set(there)
        for shmid in set(there) - self._shmids:
            self._shmids.add(shmid)
            self._add(self._attribution.segment(there[shmid], span))

    def _ledger_has_new_processes(self) -> bool:
        try:
            stamp = os.stat(self._ledger.folder).st_mtime_ns
        except OSError:
            return False
        changed, self._folder_stamp = stamp != self._folder_stamp, stamp
        return changed

    def _take_in_processes(self, span: Span, has_news: bool) -> None:
        if has_news:
            self._ledger.refresh()
            for pid in list(self._ledger.begun):
                if self._attribution.is_new(pid) and self._attribution.is_below(pid):
                    self._add(self._attribution.process(pid, span))
        for pid in self._reachable():
            if self._attribution.is_new(pid):
                self._ledger.refresh()
                self._add(self._attribution.process(pid, span))

    def _reachable(self) -> Iterable[int]:
        """Children, and those of the services among them: what the fork server forks is ours."""
        for child in census.children(self.pid):
            yield child
            # A service is known as one once it has been yielded.
            if child in self._attribution.services:
                yield from census.children(child)

    def _add(self, found: Optional[Found]) -> None:
        if found is not None:
            self._pending.setdefault(found.key, found)

    # Whether it goes.

    def _still_there(self, due: List[Found]) -> List[Found]:
        if any(found.kind == PROCESS for found in due):
            self._ledger.refresh()
        left = []
        for found in due:
            if found.kind == PROCESS and self._attribution.serves(found.pid):
                # When it was first seen, it had not yet become what it is.
                self._attribution.services.add(found.pid)
                self._pending.pop(found.key, None)
            elif found.there():
                left.append(found)
            else:
                self._pending.pop(found.key, None)
        return left

    def _is_kept(self, found: Found) -> bool:
        """Give it to a wider span if that has it: a process-wide service, or a fixture whose object leads to it."""
        root = self.timeline.root
        if found.span is root:
            return False
        if is_process_wide(found.name):
            found.span = root
            return not root.due
        maker = self._attribution.span_of(found.pid, None) if found.pid not in (0, self.pid) else None
        if maker is not None and maker is not found.span and not maker.due and found.kind != PROCESS:
            found.span = maker
            return True
        span = self._keeper(found)
        if span is None:
            return False
        found.span = span
        found.evidence += f"; kept by fixture `{span.owner.name}`"
        if found.kind == PROCESS:
            self._attribution.give(found, span)
        return True

    def _keeper(self, found: Found) -> Optional[Span]:
        """The span of a fixture that lives on and has it: in its object, or in one of its processes."""
        is_it = reach.names_entry(found.name)
        if found.kind == PROCESS:
            is_it = reach.is_process(found.pid)
        if found.kind == SYSV:
            is_it = reach.is_number(found.mark)
        if is_of_a_manager(found):
            # It told its server, which unlinks it at its end; the object itself does not remember.
            is_it = reach.is_instance("SharedMemoryManager")
        for span, keeper in self.keepers():
            if span is not found.span and not span.due and reach.leads_to(keeper, is_it):
                return span
        if found.kind in (PROCESS, SYSV):
            return None
        return self._attribution.span_of_holder(found)

    def _wait(self, due: List[Found]) -> List[Found]:
        """Leave time to processes that are ending, and to those that clean up after others."""
        began = monotonic()
        pause = FIRST_PAUSE
        while due and (self._may_go(due) if monotonic() < began + self.grace else self._is_being_cleaned(due, began)):
            sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            due = self._still_there(due)
        # What was waited for may have been through, and gone, since the last look.
        return self._still_there(due) if due else due

    def _may_go(self, due: List[Found]) -> bool:
        """Whether anything runs that could still remove it. Trackers and servers that wait for this process do not."""
        if any(found.kind == PROCESS for found in due) or not self._threads.issuperset(os.listdir("/proc/self/task")):
            return True
        self._ledger.refresh()
        mine = set(census.children(self.pid))
        waiting = {pid for pid in mine if self._attribution.serves(pid)}
        return any(pid not in waiting and census.at_work(pid) for pid in {*mine, *self._attribution.relatives()})

    def _is_being_cleaned(self, due: List[Found], began: float) -> bool:
        """Whether a tracker's turn has come: nobody but it removes these, and how soon is up to the machine's load."""
        if monotonic() > began + TRACKER_PATIENCE or not any(found.kind in (SEGMENT, SEMAPHORE) for found in due):
            return False
        return any(self._attribution.outlived_its_process(pid) for pid in self._attribution.relatives())


def is_of_a_manager(found: Found) -> bool:
    """Whether a SharedMemoryManager has it: its server unlinks it at its end."""
    return any(frame.file.endswith(MANAGERS) and frame.function in MADE_FOR_MANAGER for frame in found.stack)


def _nothing() -> None:
    pass
