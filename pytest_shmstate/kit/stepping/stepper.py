"""Real processes in lock-step: each stops before every shared access, and whoever drives says who goes on.

    with Stepper(ShmstateAdapter()) as stepper:
        writer, reader = stepper.process("writer"), stepper.process("reader")
        writer.begin("create", 64), writer.run()
        reader.begin("attach"), reader.run()
        writer.begin("publish", 24)
        writer.run(until="store LATEST")       # and there it stands
        reader.begin("read")
        reader.run(limit=20)                   # Done((0, "")): nothing is published yet
        writer.kill()
        stepper.judge()                        # raises Violated, with the schedule as a table

One process runs at a time, nothing depends on the time, and what is published is a number: a schedule gives the same
every time. Memory is sequential here, as the processes take turns; weaker orders are the explorer's subject.
"""

from __future__ import annotations

import os
import pickle
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Callable, Dict, List, Optional, Sequence, Type, Union

from pytest_shmstate.kit.oracle.checkers import check
from pytest_shmstate.kit.oracle.history import Event
from pytest_shmstate.kit.oracle.verdict import Verdict
from pytest_shmstate.kit.seams.adapter import Adapter
from pytest_shmstate.kit.stepping import schedules
from pytest_shmstate.kit.stepping.nursery import Child, Lost, Nursery, drafts_of
from pytest_shmstate.kit.stepping.process import Process
from pytest_shmstate.kit.stepping.schedules import Turn
from pytest_shmstate.kit.stepping.stepped import Setup
from pytest_shmstate.kit.stepping.tellings import table

_ROOT = "/dev/shm"
#: How the sentence begins that says what nobody has removed.
LEFT = "left in /dev/shm: "
_numbers = count(1)


class Violated(AssertionError):
    """The structure broke a rule. The message is the schedule as a table, the rule, and the line that replays it."""

    def __init__(self, message: str, turns: Sequence[Turn] = ()) -> None:
        super().__init__(message)
        #: The schedule.
        self.turns = list(turns)


class Stepper:
    """A pool of processes that use one structure, a run after the other. Use it as a with-block.

    ``prepare``       called in the processes before anything of shmstate is imported there; it must pickle
    ``start_method``  forkserver (a killed process costs a fork), or spawn
    ``parts``, ``downward``  how payloads are copied: in so many parts, from the far end or not
    ``by_line``       modules whose every line is a gate, for structures that hand ``shm.buf`` to C; it has no gates then
    ``patience``      seconds within which a process must come to its next gate, or it hangs

    Raises StepperFailed if processes cannot be prepared.
    """

    def __init__(
        self,
        adapter: Adapter,
        *,
        prepare: Optional[Callable[[], object]] = None,
        start_method: str = "forkserver",
        parts: int = 2,
        downward: bool = False,
        by_line: Sequence[str] = (),
        patience: float = 10.0,
    ) -> None:
        setup = Setup(False, pickle.dumps(prepare), (parts, downward), tuple(by_line))
        self._nursery = Nursery(setup, start_method, patience)
        self._owner = os.getpid()
        self._idle: List[Child] = []
        self._killed: List[int] = []
        self._pickled = b""
        try:
            self._begin(adapter)
        except BaseException:
            self._nursery.close()
            raise

    def _begin(self, adapter: Adapter) -> None:
        #: What the structure is called in this run.
        self.name = f"kit-{os.getpid()}-{next(_numbers)}"
        pickled = pickle.dumps(adapter)
        if pickled != self._pickled:
            self._nursery.use(pickled, self.name)
        self.adapter, self._pickled = adapter, pickled
        #: All turns of this run.
        self.turns: List[Turn] = []
        #: The processes of this run by name, in the order in which they were first asked for.
        self.processes: Dict[str, Process] = {}
        self.now = 0
        self._sentence = ""
        self._version = 0
        self._line_began = 0

    # ---- processes

    def process(self, name: str) -> Process:
        """The process called ``name``; started if it is not there, or has been killed."""
        process = self.processes.get(name)
        if process is None or not process.is_alive:
            incarnation = 1 if process is None else process.incarnation + 1
            earlier = [] if process is None else process.events
            process = self.processes[name] = Process(self, name, incarnation, self._child(), earlier)
        return process

    def _child(self) -> Child:
        child = self._idle.pop() if self._idle else self._nursery.start()
        child.ask("use", self._pickled, self.name)
        return child

    def next_version(self) -> int:
        """A number that was never published in this run."""
        self._version += 1
        return self._version

    def tick(self, steps: int = 1) -> int:
        """Let that many steps pass; the time now."""
        self.now += steps
        return self.now

    def note(self, turn: Turn) -> None:
        """A process has taken a turn."""
        self.turns.append(turn)

    def mourn(self, pid: int) -> None:
        """A process was killed, and may have left drafts."""
        self._killed.append(pid)

    # ---- what came of it

    @property
    def history(self) -> List[Event]:
        """What was published and read in this run, in steps of its schedule."""
        events = [event for process in self.processes.values() for event in process.events]
        return sorted((event for event in events if event.began >= self._line_began), key=lambda event: event.began)

    def begin_anew(self) -> None:
        """From now on it is another structure: the one before was closed, and its readers are told nothing more."""
        self._line_began = self.tick()
        self.note(Turn("", schedules.ANEW, (), (), schedules.ANEW, None))

    @property
    def has_failed(self) -> bool:
        """Whether a rule was broken in this run."""
        return bool(self._sentence)

    def verdict(self) -> Verdict:
        """What the history proves."""
        return check(self.history, shared=self.adapter.is_shared)

    def judge(self) -> Verdict:
        """The verdict, if it is OK and nothing failed in an undocumented way; otherwise raises Violated."""
        verdict = self.verdict()
        faults = [fault for process in self.processes.values() for fault in process.faults]
        if faults or not verdict:
            raise self.violated(faults[0] if faults else str(verdict))
        return verdict

    def violated(self, sentence: str) -> Violated:
        """What to raise when a rule is broken: the sentence, and all that led to it."""
        self._sentence = sentence
        return Violated(self.report(sentence), self.turns)

    def report(self, sentence: str) -> str:
        """The run as a table, the sentence that says what is wrong, and the line that replays it."""
        title = f"{self.adapter.title}: {sentence}"
        return "\n".join([title, "", table(self.turns, list(self.processes)), "", title, self.replay_line()])

    def replay_line(self) -> str:
        """What takes this run's schedule again."""
        return f"replay: Stepper(adapter).replay({schedules.to_text(self._kept())!r})"

    def save(self, path: Union[str, Path]) -> None:
        """Write the schedule to a file, for ``replay``."""
        schedules.save(self._kept(), path)

    def _kept(self) -> List[Turn]:
        came_to = Turn("", schedules.VIOLATED, (), (), schedules.VIOLATED, self._sentence)
        return self.turns + [came_to] * self.has_failed

    def replay(self, source: Union[str, Path, Sequence[Turn]]) -> Verdict:
        """Take a schedule again in a new run: turns, what ``replay_line`` says, or a file that ``save`` wrote.

        Compares it gate by gate. Raises Diverged where it goes another way, and Violated if it breaks a rule: of turns
        alone, one that a history shows; of what was kept of a run that failed, the one that it broke.
        """
        turns = schedules.load(source) if isinstance(source, (str, Path)) else list(source)
        self.reset()
        for number, turn in enumerate(turns, 1):
            if turn.action == schedules.VIOLATED:
                self._break_again(turn.told)
            elif turn.action == schedules.ANEW:
                self.begin_anew()
            else:
                self.process(turn.process).take(turn.action, turn.arguments)
                schedules.compare(number, turn, self.turns[number - 1])
        return self.judge()

    def _break_again(self, sentence: str) -> None:
        self.judge()
        # What no history shows: that somebody waits for ever, or failed. The turns show that, and were the same.
        if sentence.startswith(LEFT) and not self.clear_up():
            raise schedules.Diverged(f"diverged at the end: expected what was {sentence!r}, came nothing")
        raise self.violated(sentence)

    # ---- the end

    def reset(self, adapter: Optional[Adapter] = None) -> List[str]:
        """``clear_up()``, and begin another run, of another structure if one is given."""
        left = self.clear_up()
        self._begin(adapter or self.adapter)
        return left

    def clear_up(self) -> List[str]:
        """End the processes' part in this run. What happened in it stays to be told, until the next begins.

        Processes let go of what they hold; who is in the middle of something gets an exception before. Returns the files
        that were left in ``/dev/shm`` after ``remove``; they are gone now.
        """
        used = [process for process in self.processes.values() if process.is_alive]
        # Who is killed between making a file and naming it cannot remove it, nor can who is kept from removing it.
        excused = self._killed + [
            process.child.pid for process in used if process.operation or process.was_kept_tidying
        ]
        for process in used:
            if self._leaves(process):
                self._idle.append(process.child)
            else:
                excused.append(process.child.pid)
        drafts_of(excused)
        left = drafts_of([process.child.pid for process in used])
        left += self._remove() if used or self._killed else []
        self._killed.clear()
        for process in used:
            process.leave()
        return left

    @staticmethod
    def _leaves(process: Process) -> bool:
        """Have it let go of all it holds. False if it would not, and is dead."""
        try:
            if process.is_stopped:
                process.child.cont()
            if process.operation:
                process.child.ask("abandon")
            process.child.ask("drop")
        except Lost:
            return False
        return True

    def _remove(self) -> List[str]:
        child = self._child()
        child.ask("remove")
        self._idle.append(child)
        left = sorted(file for file in os.listdir(_ROOT) if self.name in file)
        for file in left:
            os.unlink(os.path.join(_ROOT, file))
        return left

    def close(self) -> None:
        """End all processes, and remove what they left. Idempotent."""
        if os.getpid() != self._owner:
            return
        try:
            self.reset()
        finally:
            for child in self._idle:
                child.kill()
            self._idle = []
            self._nursery.close()

    def __enter__(self) -> Stepper:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
