"""After the tests: what is still there once everybody who ran tests is gone, from what they wrote down.

Here stand the leaks of workers that were killed, of what was due only when its process ended, and what came during the
run and cannot be shown to be anybody's.
"""

from __future__ import annotations

import os
import time
from operator import itemgetter
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from pytest_shmstate import census, recorder
from pytest_shmstate.attribution import Found, inode_of, kind_of, tell_start
from pytest_shmstate.known import is_process_wide, is_service
from pytest_shmstate.leak import PROCESS, SYSV, UNATTRIBUTED, Frame, Owner
from pytest_shmstate.ledger import Begun, Ledger
from pytest_shmstate.pipes import pipes
from pytest_shmstate.timeline import Span

PAUSE = 0.02


class Past:
    """Who was at work when, in processes that may be gone, as their ledgers tell."""

    def __init__(self, ledger: Ledger, ended: Iterable[str]) -> None:
        """``ended``: workers that came to their end as they should."""
        self._ledger = ledger
        self._ended = set(ended)
        #: Pid -> name of those that ran tests.
        self.workers = {pid: str(rest[0]) for _, pid, rest in ledger.others.get("worker", ())}

    def worker_of(self, pid: int, at: Optional[int]) -> Optional[Tuple[str, int, int]]:
        """Which worker the process is or came from: its name, its pid, and when the way down to ``pid`` began."""
        chain = self._ledger.lineage(pid, at)
        for position, one in enumerate(chain):
            if one in self.workers:
                moment = at
                for below in reversed(chain[:position]):
                    begun = self._ledger.process(below, at)
                    if begun is not None and (begun.how == "fork" or not is_service(begun.command)):
                        moment = begun.at
                        break
                return self.workers[one], one, moment if moment is not None else time.monotonic_ns()
        return None

    def span_at(self, worker: str, pid: int, moment: int) -> Span:
        """Whose turn it was then; not complete if the worker never came to its end."""
        owner = Owner("session", "the run, between tests", worker=worker)
        test = None
        turns = [turn for turn in self._ledger.turns() if turn[1] == pid and turn[0] <= moment]
        for _, _, word, rest in sorted(turns, key=itemgetter(0)):
            if word == "test":
                nodeid, file, line, attempt = rest
                owner = test = Owner(
                    "test", nodeid, file=file, line=line, during=nodeid, worker=worker, attempt=attempt
                )
            elif word == "fixture":
                name, scope, file, line, during = rest
                owner = Owner("fixture", name, scope=scope, file=file, line=line, during=during, worker=worker)
            elif test is not None:
                owner = test
        span = Span(owner, None)
        span.due = True
        span.complete = worker in self._ended
        return span


class Aftermath:
    """Looks once, at the end, in the process that outlives those that ran tests (or is one of them)."""

    def __init__(
        self,
        ledger: Ledger,
        before: Dict[str, int],
        sysv_before: Set[int],
        told: Sequence[Tuple[str, str, Any]],
        residents: Sequence[int] = (),
    ) -> None:
        """``before``: what was there when the run began. ``told``: what the workers found.

        ``residents``: processes that ran tests, have told what they found, and live on, beside this one.
        """
        self._ledger = ledger
        self._sysv_before = sysv_before
        self._told = told
        ended = {worker for worker, word, _ in told if word == "end"}
        done = [content for _, word, content in told if word in ("allowed", "left")]
        self._done = {(kind, name, mark) for kind, name, mark, _ in done if kind != PROCESS}
        self._done_processes = {(pid, mark) for kind, _, mark, pid in done if kind == PROCESS}
        self._come = {name: inode for name, inode in census.listing().items() if before.get(name) != inode}
        ledger.refresh(only=self._come)
        self._past = Past(ledger, ended)
        self._residents = {os.getpid(), *residents}

    def wait_for_processes(self, patience: float) -> List[Found]:
        """Processes of the run that do not end. Those below a resident are its own affair: it has judged them.

        Services are waited for as well, since they clean up; one that stays waits for another that stays.
        """
        deadline = time.monotonic() + patience
        running = list(self._running())
        while running and time.monotonic() < deadline:
            time.sleep(PAUSE)
            running = [begun for begun in running if census.runs(begun.pid, begun.start)]
        found = []
        # Who has told of itself meanwhile is believed: the kernel counts in clock ticks when it began.
        self._ledger.refresh()
        for begun in running:
            known = begun.pid in self._ledger.begun
            whose = self._past.worker_of(begun.pid if known else begun.parent, begun.at)
            serves = begun.how != "fork" and is_service(begun.command)
            if whose is not None and not serves and (begun.pid, begun.start) not in self._done_processes:
                span = self._past.span_at(*whose)
                command = census.command_of(begun.pid)
                evidence = "its own ledger" if known else f"its environment: started by pid {begun.parent}"
                one = Found(PROCESS, command, begun.start, span, evidence, begun.pid)
                tell_start(one, self._ledger)
                found.append(one)
        return found

    def _running(self) -> Iterator[Begun]:
        mine = {pid for one in self._residents for pid in (one, *census.descendants(one), *ancestors(one))}
        for known in self._ledger.begun.values():
            if known[-1].pid not in mine and census.runs(known[-1].pid, known[-1].start):
                yield known[-1]
        # Programs in other languages keep no ledger, but their environment tells what started them.
        for pid in census.everybody():
            ledgers = census.environment(pid, recorder.LEDGERS) or ""
            parent = census.environment(pid, recorder.PARENT) or ""
            itself = census.process(pid)
            if pid in mine or pid in self._ledger.begun or itself is None or itself.state in census.OVER:
                continue
            if self._ledger.folder in ledgers.split(os.pathsep) and parent.isdigit():
                command = census.command_of(pid)
                at = self._ledger.started_at(int(parent), census.born_at(itself), command)
                yield Begun(pid, itself.start, int(parent), at, "exec", command)

    def owed(self) -> List[Found]:
        """What is left though the process that was to remove it at its end is gone, or does not hold it any more."""
        found = []
        for worker, word, plain in self._told:
            # A fork may have judged what the process that forked it has seen, too.
            if word == "owed" and not self._is_done(plain["kind"], plain["name"], plain["mark"], plain["pid"]):
                whose = self._past.worker_of(plain["pid"], None)
                if whose is not None and whose[0].startswith(f"{worker}."):
                    span = self._past.span_at(*whose)  # of the test that a fork of the worker ran
                else:
                    span = Span(Owner(**plain["owner"]), None)
                    span.due = span.complete = True
                stack = tuple(Frame(*frame) for frame in plain["stack"])
                one = Found(plain["kind"], plain["name"], plain["mark"], span, plain["evidence"], plain["pid"], stack)
                if one.there() and not (self._lives(worker) and self._is_in_use(one)):
                    found.append(one)
        return found

    def _is_done(self, kind: str, name: str, mark: int, pid: int) -> bool:
        return (pid, mark) in self._done_processes if kind == PROCESS else (kind, name, mark) in self._done

    def _lives(self, worker: str) -> bool:
        return any(self._past.workers.get(pid) == worker for pid in self._residents)

    def _is_in_use(self, found: Found) -> bool:
        """A resident, or what it started, still has it: then it is not over yet, and nobody will see the end."""
        if found.kind in (PROCESS, SYSV) or is_process_wide(found.name):
            return True
        entry = census.look(found.name)
        mine = [pid for one in self._residents for pid in (one, *census.descendants(one))]
        return entry is not None and bool(census.holders([entry], mine)[found.name])

    def recorded(self, known: Iterable[Found]) -> List[Found]:
        """What the ledger says was made in this run, is still there, and was judged by nobody: the killed had no time."""
        skip = {(one.name, one.mark) for one in known} | {(name, mark) for _, name, mark in self._done}
        found = []
        for name, inode in self._come.items():
            made = self._ledger.maker(name, inode)
            if made is None or (name, inode) in skip or inode_of(name) != inode:
                continue
            whose = self._past.worker_of(made.pid, made.at)
            entry = census.look(name)
            if whose is None or entry is None or whose[1] in self._residents:
                continue
            span = self._past.span_at(*whose)
            evidence = f"the ledger of pid {made.pid}, of {whose[0]}"
            kind = kind_of(entry, made.how)
            found.append(Found(kind, name, inode, span, evidence, made.pid, made.stack, made.how))
        return found

    def sysv(self) -> List[Found]:
        """System V segments of processes that are gone; the kernel keeps the makers' pids."""
        judged = {(kind, mark) for kind, _, mark in self._done}
        found = []
        for shmid, segment in census.sysv(census.sysv_table()).items():
            whose = self._past.worker_of(segment.creator, None) if shmid not in self._sysv_before else None
            if whose is not None and whose[1] not in self._residents and (SYSV, shmid) not in judged:
                span = self._past.span_at(*whose)
                evidence = f"the kernel: made by pid {segment.creator}, of {whose[0]}"
                found.append(Found(SYSV, f"shmid {shmid}", shmid, span, evidence, segment.creator))
        return found

    def foreign_maker(self, entry: census.Entry) -> Optional[int]:
        """The process outside this run that made it, if the kernel named it to one of the workers while it ran."""
        for _, word, content in self._told:
            if word == "maker" and (content[0], content[1]) == (entry.name, entry.inode):
                return int(content[2])
        return None

    def unknown(self, known: Iterable[Found]) -> List[census.Entry]:
        """What came during the run and stayed, and is in no record."""
        skip = {one.name for one in known} | {name for _, name, _ in self._done}
        skip |= {plain["name"] for _, word, plain in self._told if word == "owed"}
        entries = []
        for name, inode in self._come.items():
            entry = census.look(name)
            if entry is None or entry.inode != inode or name in skip:
                continue
            made = self._ledger.maker(name, inode)
            if made is None or self._past.worker_of(made.pid, made.at) is None:
                entries.append(entry)
        return entries


def ancestors(pid: int) -> List[int]:
    """The processes that this one came from."""
    found: List[int] = []
    while True:
        itself = census.process(pid)
        if itself is None or itself.parent == 0 or itself.parent in found:
            return found
        pid = itself.parent
        found.append(pid)


def strangers(ledger: Ledger, residents: Sequence[int] = ()) -> List[int]:
    """Processes outside this run that see the same /dev/shm and may write there: it may be theirs.

    Those above this one and above residents (the shell, the CI's runner) wait for it and make nothing meanwhile. Nor do
    those that read what this one prints, or print what it reads, unless they have a file of /dev/shm open or mapped.
    """
    ours: Set[int] = set(ledger.begun)
    for one in {os.getpid(), *residents}:
        ours |= {one, *ancestors(one), *census.descendants(one)}
    found = []
    for pid in census.everybody():
        if pid in ours or not census.command_of(pid) or census.command_of(pid).startswith("["):
            continue
        try:
            if os.stat(f"/proc/{pid}").st_uid not in (os.getuid(), 0):
                continue
            there = os.stat(f"/proc/{pid}/root{census.SHM_DIR}")
            here = os.stat(census.SHM_DIR)
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                found.append(pid)
        except PermissionError:
            found.append(pid)
        except OSError:
            continue
    beside = pipeline({os.getpid(), *residents}, found) if found else set()
    return [pid for pid in found if pid not in beside or census.uses_shm(pid)]


def pipeline(mine: Iterable[int], others: Iterable[int]) -> Set[int]:
    """Return those of the others that stand in one pipeline with a process of mine: ``a | pytest | tee log | b``.

    By the pipes themselves: a script without job control has all its processes in one group, a server that it started
    beside pytest as well. A reader has the pipe as its standard input, a writer as its standard output or error.
    """
    above = {pid for one in mine for pid in ancestors(one)}
    reads = {pid: pipes(pid, os.O_RDONLY, (0,)) for pid in others}
    writes = {pid: pipes(pid, os.O_WRONLY, (1, 2)) for pid in reads}
    # pytest keeps its standard streams under other numbers while it captures. Those above may feed other programs by
    # pipes: only what they print is of this pipeline.
    printed = set().union(*(pipes(pid, os.O_WRONLY) for pid in mine))
    printed |= set().union(*(pipes(pid, os.O_WRONLY, (1, 2)) for pid in above))
    read = set().union(*(pipes(pid, os.O_RDONLY) for pid in mine))
    read |= set().union(*(pipes(pid, os.O_RDONLY, (0,)) for pid in above))
    found: Set[int] = set()
    while True:
        more = {pid for pid in reads if pid not in found and (reads[pid] & printed or writes[pid] & read)}
        if not more:
            return found
        found |= more
        for pid in more:
            if reads[pid] & printed:
                printed |= pipes(pid, os.O_WRONLY)
            else:
                read |= pipes(pid, os.O_RDONLY)


def unknown_owner(entry: census.Entry) -> Owner:
    """What is said instead of an owner."""
    return Owner("unknown", f"came during the run; of user {entry.uid}")


__all__ = ["Aftermath", "Past", "UNATTRIBUTED", "ancestors", "strangers", "unknown_owner"]
