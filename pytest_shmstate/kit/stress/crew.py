"""The processes of a stress run, and what is done to them: a plan of acts, each ending with a kill or a handover.

    act 1  publish, read; stop and continue, resize; then one writer is killed, or hands over, and a successor creates
    act 2  the same
    ...
    last   the same; then the readers end, then the writers

All processes are started before the first act, successors too, so an act begins when the one before it has ended.
An act lasts so many seconds, or until a writer has done its share of operations: logs have an end.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from multiprocessing import Pipe
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

from pytest_shmstate import kinship
from pytest_shmstate.kit.oracle.logs import Progress
from pytest_shmstate.kit.seams.adapter import Adapter
from pytest_shmstate.kit.stress.crew_bodies import (
    CREATED,
    END,
    GO,
    HAND_OVER,
    RESIZE,
    RESIZED,
    STACKS,
    TELL_STACKS,
    Post,
    read,
    write,
)
from pytest_shmstate.worker import Worker, WorkerTimeout
from pytest_shmstate.workers import Workers

KILL, STOP = "kill", "stop"

#: Nothing tells of a count in a map: it is looked at so often.
_NAP = 0.002
#: Reads by every reader that are waited for while a writer stands still, and so long at most.
_READS_AT_REST, _LONGEST_REST = 20, 0.25
#: Newer versions that each reader is to meet before the run ends, and how much of its patience that may take.
_MOVES, _PATIENCE_FOR_MOVES = 10, 0.3
_LONGEST_WAIT_FOR_STACKS = 2.0


class Plan(NamedTuple):
    """What is to happen."""

    adapter: Adapter
    writers: int
    readers: int
    seconds: float
    operations: int
    sizes: Sequence[int]
    kills: int
    stops: int
    resizes: int
    handovers: int
    seed: int
    start_method: str
    patience: float

    @property
    def acts(self) -> int:
        """How many there are."""
        return self.kills + self.handovers + 1


class NoAnswer(Exception):
    """A process did not do in time what it was asked for. The text says which and what, ``stacks`` where it was."""

    def __init__(self, text: str, stacks: str) -> None:
        super().__init__(text)
        self.stacks = stacks


class _Member(NamedTuple):
    """A process and the ways to it."""

    post: Post
    worker: Worker
    orders: Any

    def await_report(self, report: str, patience: float) -> None:
        """Wait for it to say something."""
        deadline = time.monotonic() + patience
        while self.worker.alive and time.monotonic() < deadline:
            if self.orders.poll(0.1):
                with suppress(EOFError, OSError):
                    if self.orders.recv()[0] == report:
                        return
        if not self.worker.alive:
            self.worker.result()  # raises WorkerFailed if it failed
            raise Ended(self.post.process)
        raise self.no_answer(f"say {report!r}", patience)

    def await_end(self, patience: float) -> None:
        """Wait for it to end."""
        try:
            self.worker.join(patience)
        except WorkerTimeout:
            raise self.no_answer("end", patience) from None

    def no_answer(self, what: str, patience: float) -> NoAnswer:
        """What to raise when it did not do what it should."""
        path = os.path.join(self.post.folder, self.post.process + STACKS)
        kinship.send(self.worker.process, TELL_STACKS)
        deadline = time.monotonic() + _LONGEST_WAIT_FOR_STACKS
        while not os.path.getsize(path) and time.monotonic() < deadline:
            time.sleep(_NAP)
        with open(path, encoding="utf-8") as file:
            stacks = file.read()
        return NoAnswer(f"{self.post.process} was to {what}, and has not within {patience:g} s", stacks)

    def order(self, *order: Any) -> None:
        """Have it do something. One that has ended hears nothing."""
        with suppress(OSError):
            self.orders.send(order)


class Ended(Exception):
    """A process ended before it was told to: its log says why."""


class Crew:
    """Writers, their successors, and readers, all of one structure called ``name``; logs go into ``folder``."""

    def __init__(self, plan: Plan, workers: Workers, name: str, folder: str) -> None:
        self._plan = plan
        self._workers = workers
        self._name = name
        self._folder = folder
        self._draw = random.Random(plan.seed)  # noqa: S311  # a plan, no secret
        #: What was done, by name.
        self.done: Dict[str, int] = dict.fromkeys(("kills", "stops", "resizes", "handovers", "at_rest", "attached"), 0)
        self._lives = 0
        #: Of each writer, how many operations it had begun when the act before ended.
        self._done_before: Dict[str, int] = {}
        endings = [KILL] * plan.kills + [HAND_OVER] * plan.handovers
        self._draw.shuffle(endings)
        #: Of each act but the last, how it ends, whose turn it is, and who comes after.
        slots = [self._draw.randrange(plan.writers) for _ in endings]
        self._writers = [self._start_writer(slot) for slot in range(plan.writers)]
        self._endings = [(how, slot, self._start_writer(slot)) for how, slot in zip(endings, slots)]
        self._readers = [self._start(f"reader {number + 1}", read, 0) for number in range(plan.readers)]
        everyone = [*self._writers, *(successor for _, _, successor in self._endings), *self._readers]
        self._everyone = everyone
        for member in everyone:
            member.worker.wait_ready(plan.patience)
        self._progress = {member.post.process: Progress(folder, member.post.process) for member in everyone}

    def _start_writer(self, slot: int) -> _Member:
        self._lives += 1
        first = 1 + (self._lives - 1) * self._plan.operations
        return self._start(f"writer {slot + 1}.{self._lives}", write, first)

    def _start(self, process: str, body: Callable[..., Any], first: int) -> _Member:
        plan = self._plan
        seed = self._draw.getrandbits(32)
        post = Post(process, plan.adapter, self._name, self._folder, plan.operations, plan.sizes, seed, first)
        ours, theirs = Pipe()
        worker = self._workers.spawn(body, post, theirs, start_method=plan.start_method)
        theirs.close()
        return _Member(post, worker, ours)

    def run(self) -> None:
        """All acts. Raises NoAnswer, WorkerFailed."""
        with suppress(Ended):
            for member in self._writers:
                self._create(member)
            for member in self._readers:
                member.order(GO)
            self._await(lambda: all(map(self._begun, self._readers)), self._plan.patience)
            for member in self._writers:
                member.order(GO)
            incidents = self._incidents()
            for act in range(self._plan.acts):
                self._act(incidents[act])
                if act < len(self._endings):
                    self._end_act(*self._endings[act])
            self._await_moves()
        self._end()

    def close(self) -> None:
        """Let go of pipes and logs."""
        for member in self._everyone:
            member.orders.close()
        for progress in self._progress.values():
            progress.close()

    def _incidents(self) -> List[List[Any]]:
        """Of each act, what happens in it, and when: 0 is its beginning, 1 its end."""
        incidents: List[List[Any]] = [[] for _ in range(self._plan.acts)]
        for what in [STOP] * self._plan.stops + [RESIZE] * self._plan.resizes:
            self._draw.choice(incidents).append((self._draw.random(), what))
        return [sorted(some) for some in incidents]

    def _act(self, incidents: Sequence[Any]) -> None:
        began = time.monotonic()
        seconds = self._plan.seconds / self._plan.acts
        share = max(self._plan.operations // (self._plan.acts + 1), 1)

        def has_come(moment: float) -> bool:
            done = max(self._begun(member) - self._done_before.get(member.post.process, 0) for member in self._writers)
            return time.monotonic() - began >= moment * seconds or done >= moment * share

        for moment, what in (*incidents, (1.0, "")):
            self._await(lambda moment=moment: has_come(moment), seconds + 1)  # type: ignore[misc]
            writer = self._draw.choice(self._writers)
            if what == STOP:
                self._rest(writer)
                writer.worker.cont()
                self.done["stops"] += 1
            elif what == RESIZE:
                writer.order(RESIZE, self._draw.choice(self._plan.sizes))
                writer.await_report(RESIZED, self._plan.patience)
                self.done["resizes"] += 1

        self._done_before = {member.post.process: self._begun(member) for member in self._writers}

    def _end_act(self, how: str, slot: int, successor: _Member) -> None:
        member = self._writers[slot]
        if how == KILL:
            if self._draw.random() < 0.5:
                self._rest(member)
            member.worker.kill(self._plan.patience)
            self.done["kills"] += 1
        else:
            member.order(HAND_OVER)
            member.await_end(self._plan.patience)
            self.done["handovers"] += 1
        self._writers[slot] = successor
        self._await_reads()  # of what was left
        self._create(successor)
        successor.order(GO)

    def _create(self, writer: _Member) -> None:
        writer.order(GO)
        writer.await_report(CREATED, self._plan.patience)

    def _rest(self, writer: _Member) -> None:
        writer.worker.stop(self._plan.patience)
        self.done["at_rest"] += self._await_reads()

    def _await_reads(self) -> int:
        before = [self._begun(member) for member in self._readers]

        def least() -> int:
            return min(self._begun(member) - began for member, began in zip(self._readers, before))

        self._await(lambda: least() >= _READS_AT_REST, _LONGEST_REST)
        return sum(max(self._begun(member) - began - 1, 0) for member, began in zip(self._readers, before))

    def _await_moves(self) -> None:
        """With fewer cores than processes, thousands of reads can fall into one rest of the writer's, proving nothing."""

        def is_enough() -> bool:
            moves = (self._progress[member.post.process].moves for member in self._readers)
            have_room = any(self._begun(member) < self._plan.operations for member in self._writers)
            return min(moves) >= _MOVES or not have_room

        self._await(is_enough, self._plan.patience * _PATIENCE_FOR_MOVES)

    def _await(self, done: Callable[[], bool], longest: float) -> None:
        """Wait for that, so long at most. Raises Ended if somebody has ended."""
        deadline = time.monotonic() + longest
        while not done() and time.monotonic() < deadline:
            for member in (*self._writers, *self._readers):
                if not member.worker.alive:
                    raise Ended(member.post.process)
            time.sleep(_NAP)

    def _begun(self, member: _Member) -> int:
        return self._progress[member.post.process].begun

    def _end(self) -> None:
        """Readers first: a writer that closes takes its structure along."""
        writers = [member for member in self._everyone if member not in self._readers]
        for members in (self._readers, writers):
            for member in members:
                member.worker.cont()  # somebody may have ended while it stood still
                member.order(END)
            for member in members:
                member.await_end(self._plan.patience)
        for member in self._readers:
            if member.worker.exitcode == 0:  # what failed is told when the workers are left
                self.done["attached"] += member.worker.result()
