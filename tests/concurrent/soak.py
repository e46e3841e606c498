"""A chaos soak of shared writers that move: ``python -m tests.concurrent.soak --seconds 600 --seed N``.

Rounds of some seconds. In each, several processes write the same two states as shared writers: they publish, move them (a
larger state, other options, ``trim``), lend, close, join again, exit. Readers never rest. This process kills writers, stops
and continues them, has signal handlers cut them short, starts others in their place, and reclaims. In half of the rounds
one writer of each state stays; in half of them none is killed. What must hold is in soak_bodies.py and soak_books.py.

Ends with a table of what was done, or at the first fault with what is wrong and exit status 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Dict, List, NamedTuple, Set

import shmstate
from shmstate import StateReader, StateWriter, makers, ownership, predecessors
from shmstate.layout import NEW_PREFIX, OLD_PREFIX, PREFIX, SHM_DIR
from tests.concurrent.soak_bodies import Place, Readers, Writer
from tests.concurrent.soak_books import DOOMED, OPENING, STOP, Fault, Log, Table, certified, judge, payload_of
from tests.core.children import PATIENCE, until


class Became(BaseException):
    """Raised in a forked child: it leaves what this process was doing, and exits as any Python does."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body


class Process(NamedTuple):
    """A child, its first row in the table, and which state it stays at or how many threads it has."""

    kind: str
    row: int
    number: int = 0


WRITERS = [Process("writer", row) for row in (1, 3, 5, 7)]
ANCHORS = [Process("anchor", 9, 0), Process("anchor", 11, 1)]
READERS = [Process("readers", 13, 1), Process("readers", 15, 4)]


class Soak:
    """One run, of many rounds."""

    def __init__(self, folder: str, prefix: str, seed: int) -> None:
        self.folder, self.prefix, self.random = folder, prefix, Random(seed)
        self.errors = os.path.join(folder, "errors")
        self.started = self.kills = 0
        self.pids: Set[int] = set()
        self.there_before = set(os.listdir(SHM_DIR))  # of processes with the same pids, perhaps
        self.processes: Dict[int, Process] = {}
        self.doomed: Set[int] = set()
        self.continue_at: Dict[int, float] = {}
        self.seen: Dict[str, int] = {}
        self.began = self.reported = time.monotonic()
        self.place: Place

    # ---- processes

    def start(self, process: Process) -> None:
        self.started += 1
        seed = self.random.getrandbits(60)
        pid = os.fork()
        if not pid:
            os.dup2(os.open(self.errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
            if process.kind == "readers":
                raise Became(Readers(self.place, process.row, self.started, seed, process.number))
            anchored = process.number if process.kind == "anchor" else None
            raise Became(Writer(self.place, process.row, self.started, seed, anchored))
        self.pids.add(pid)
        self.processes[pid] = process

    def kill(self, pid: int) -> None:
        self.place.table.set(self.processes[pid].row, DOOMED, 1)
        os.kill(pid, signal.SIGKILL)
        self.doomed.add(pid)
        self.kills += 1
        self.note("kills")

    def reap(self) -> List[Process]:
        """Collect children that have ended. Raises Fault unless each ended as it should."""
        ended = []
        for pid in list(self.processes):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                if status and not (pid in self.doomed and os.WIFSIGNALED(status)):
                    del self.processes[pid]
                    raise Fault(f"a process ended with status {status:#x}")
                process = self.processes.pop(pid)
                self.continue_at.pop(pid, None)
                self.place.table.set(process.row, OPENING, 0)
                self.place.table.set(process.row, DOOMED, 0)
                ended.append(process)
        if os.path.exists(self.errors) and os.path.getsize(self.errors):
            raise Fault("a process wrote to its standard error")
        return ended

    def continue_all(self) -> None:
        for pid in list(self.continue_at):
            del self.continue_at[pid]
            os.kill(pid, signal.SIGCONT)

    def wait_for(self, *kinds: str) -> None:
        """Wait until no process of these kinds is left. Raises Fault, with their stacks, if one does not end."""

        def are_gone() -> bool:
            self.reap()
            return not any(process.kind in kinds for process in self.processes.values())

        try:
            until(are_gone, PATIENCE)
        except AssertionError:
            self.print_stacks()
            raise Fault(f"they do not end: {self.processes}") from None

    def print_stacks(self) -> None:
        """Have each process write its stacks to the file of errors, and wait until they stand there."""
        for pid in self.processes:
            os.kill(pid, signal.SIGUSR2)
        with suppress(AssertionError):  # one that is stopped writes none
            until(lambda: Path(self.errors).read_text("utf-8").count("Current thread") >= len(self.processes), 5)

    def end_all(self) -> None:
        for process in self.processes.values():
            self.place.table.set(process.row, DOOMED, 1)  # readers may still look
        for pid in self.processes:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.processes.clear()

    # ---- a round

    def round(self, seconds: float, has_anchor: bool, may_kill: bool) -> None:
        number = self.note("rounds")
        folder = os.path.join(self.folder, f"round{number}")
        os.mkdir(folder)
        names = [f"{self.prefix}.{number}.{index}" for index in range(2)]
        self.place = Place(folder, names, Table(os.path.join(folder, "table")), has_anchor)
        table = self.place.table
        self.kills = 0
        # With few writers a state is often without one.
        writers = self.random.sample(WRITERS, self.random.choice((2, 4)))
        for process in [*(ANCHORS if has_anchor else ()), *writers, *READERS]:
            self.start(process)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self.random.choice((0.005, 0.02, 0.05)))
            for process in self.reap():
                self.start(process)
            now = time.monotonic()
            for pid in [pid for pid, due in self.continue_at.items() if due < now]:
                del self.continue_at[pid]
                os.kill(pid, signal.SIGCONT)
            self.disturb(may_kill)
            self.report()
        self.end_writers(may_kill and self.random.random() < 0.5)
        if not may_kill and any(os.path.exists(f"{SHM_DIR}/{PREFIX}{name}") for name in names):
            raise Fault(f"a state of {names} is left by writers that have all ended by themselves")
        self.after_all_writers()
        table.set(0, STOP, 2)
        self.wait_for("readers")
        totals = table.totals()
        lines = judge(folder, totals["publishes cut short"] + 2 * self.kills)
        self.nothing_is_left(lines, may_kill)
        for what, count in totals.items():
            self.note(what, count)
        shutil.rmtree(folder)

    def disturb(self, may_kill: bool) -> None:
        """Do one thing to one writer, or look at what is there."""
        draw = self.random
        writers = [
            pid
            for pid, process in self.processes.items()
            if process.kind != "readers" and pid not in self.doomed and pid not in self.continue_at
        ]
        kind = draw.random()
        if not writers or kind < 0.1:
            self.look_or_reclaim(draw.random() < 0.5)
            return
        pid = draw.choice(writers)
        if kind < 0.4:
            self.continue_at[pid] = time.monotonic() + draw.choice((0.001, 0.03, 0.1, 0.3))
            os.kill(pid, signal.SIGSTOP)
            self.note("stops")
            if may_kill and draw.random() < 0.3 and self.processes[pid].kind == "writer":
                self.kill(pid)
        elif kind < 0.6:
            self.note("signals that cut short")
            os.kill(pid, signal.SIGUSR1)
        elif self.processes[pid].kind == "writer":
            if may_kill and kind < 0.85:
                self.kill(pid)
            elif kind > 0.93:
                self.note("ends by a signal handler")
                os.kill(pid, signal.SIGTERM)

    def look_or_reclaim(self, is_look: bool) -> None:
        place, table = self.place, self.place.table
        before = table.open_now()
        if is_look:
            table.count(0, "looks at all states")
            for state in shmstate.list_states(f"{self.prefix}."):
                if state.problem:
                    raise Fault(f"list_states: {state}")
                if not state.alive and state.name in place.names:
                    place.must_be_there(place.names.index(state.name), before, f"list_states says {state}")
            return
        table.count(0, "reclaims")
        name = self.random.choice(place.names)
        for removed in shmstate.reclaim(name=name) if self.random.random() < 0.5 else shmstate.reclaim(self.prefix):
            table.count(0, "names reclaimed")
            place.must_be_there(place.names.index(removed), before, "it was reclaimed")

    def end_writers(self, by_kills: bool) -> None:
        if by_kills:
            for pid, process in self.processes.items():
                if process.kind != "readers" and pid not in self.doomed:
                    self.kill(pid)
        else:
            self.place.table.set(0, STOP, 1)
        self.continue_all()
        self.wait_for("writer", "anchor")

    def after_all_writers(self) -> None:
        """What killed writers left is the newest state, and a new writer goes on from it."""
        log = Log(self.place.folder, "published", 0)
        for index, name in enumerate(self.place.names):
            with suppress(shmstate.StateNotFound), StateReader(name) as reader:
                created = reader._segment.identity().created_ns
                floor = self.place.table.floor(created)
                with StateWriter(name, shared=True, codec="raw", slots=self.random.choice((2, 4))) as heir:
                    version = heir.version
                    if reader.version != version or version < floor:
                        raise Fault(f"{name}: {floor} had been published, left is {reader.version}, heir has {version}")
                    if floor and not self.place.table.get(0, 1 + index):
                        certified(reader.get())
                    payload = payload_of(1, index, 5000)
                    if heir.publish(payload) != version + 1 or reader.read()[:2] != (payload, version + 1):
                        raise Fault(f"{name}: the heir's publish is not what is read")
                    log.add(created, version + 1, version + 1, *certified(payload))
                    self.note("states taken over at the end")
                    heir.close(unlink=self.random.random() < 0.5)
            shmstate.reclaim(name=name)

    def nothing_is_left(self, lines: Set[int], may_kill: bool) -> None:
        drafts = tuple(f"{NEW_PREFIX}{pid}." for pid in self.pids)
        olds = tuple(f"{OLD_PREFIX}{line:x}." for line in lines)
        for file in set(os.listdir(SHM_DIR)) - self.there_before:
            path = os.path.join(SHM_DIR, file)
            if file.startswith(f"{PREFIX}{self.prefix}."):
                raise Fault(f"{path} is left")
            if file.startswith(drafts) or (olds and file.startswith(olds)):
                is_draft = file.startswith(drafts)
                self.note("drafts of killed writers" if is_draft else "second names that killed writers left")
                if not may_kill:
                    raise Fault(f"{path} is left, and no writer was killed")
                if makers.maker_is_alive(file) if is_draft else False:
                    raise Fault(f"{path} is said to be of a living process")
                removed = ownership.remove_if_dead(path, None) if is_draft else predecessors.remove_if_left(path)
                if not removed:
                    raise Fault(f"{path} cannot be reclaimed")

    # ---- what is said

    def note(self, what: str, count: int = 1) -> int:
        self.seen[what] = self.seen.get(what, 0) + count
        return self.seen[what]

    def report(self) -> None:
        now = time.monotonic()
        if now - self.reported > 9:
            self.reported = now
            totals = self.place.table.totals()
            shown = {
                what: self.seen.get(what, 0) + totals.get(what, 0) for what in ("rounds", "publishes", "reads", "kills")
            }
            print(f"{now - self.began:5.0f} s", *(f"{what} {count}" for what, count in shown.items()), flush=True)

    def summary(self) -> str:
        return "\n".join(f"{count:>12,}  {what}" for what, count in self.seen.items())


def main() -> None:
    """Run rounds for so many seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--round", type=float, default=12.0, help="seconds of one round, at most")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    options = parser.parse_args()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until a child has its own handlers
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    folder = tempfile.mkdtemp(prefix="soak-")
    prefix = os.environ.get("SHMSTATE_TEST_PREFIX", f"soak{os.getpid()}")
    soak = Soak(folder, prefix, options.seed)
    print(f"seed {options.seed}, names {prefix}.*, Python {sys.version.split()[0]}", flush=True)
    end = time.monotonic() + options.seconds
    kinds = [(True, True), (False, True), (True, False), (False, False)]
    try:
        while time.monotonic() < end or soak.seen.get("rounds", 0) < len(kinds):
            has_anchor, may_kill = kinds[soak.seen.get("rounds", 0) % len(kinds)]
            soak.round(min(options.round, options.seconds / len(kinds)), has_anchor, may_kill)
    except Became:
        raise
    except BaseException:
        soak.end_all()
        print(soak.summary(), f"\nFAULT, seed {options.seed}; the logs are in {folder}", flush=True)
        with suppress(FileNotFoundError), open(soak.errors) as errors:
            print(errors.read())
        raise
    shutil.rmtree(folder)
    print(soak.summary(), flush=True)


if __name__ == "__main__":
    body = None
    try:
        main()
    except Became as became:
        body = became.body
    if body is not None:
        body.run()
