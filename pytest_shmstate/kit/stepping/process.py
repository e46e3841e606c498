"""One process under test, as whoever drives sees it: what it is at, what it holds, what it has seen."""

from __future__ import annotations

import signal
from typing import Any, List, NamedTuple, Optional, Protocol, Sequence, Tuple, Union

from pytest_shmstate.kit.oracle.history import PUBLISH, READ, Event
from pytest_shmstate.kit.stepping.nursery import Child, Hang, Lost, StepperFailed
from pytest_shmstate.kit.stepping.schedules import BEGIN, CONT, GO, KILL, STOP, THROW, Turn

#: Steps after which an operation that nobody disturbs is believed never to end.
MANY_STEPS = 1000
#: Operations on a writer's side, on a reader's side, and those that make one; all that there are.
OF_WRITERS = ("publish", "resize", "hand over", "close")
OF_READERS = ("read", "detach", "alive")
MAKING = ("create", "attach")


class At(NamedTuple):
    """It stands before a gate."""

    gate: str


class Blocked(NamedTuple):
    """It stands before a gate, and would wait in the kernel behind it: another has the lock that it wants."""

    gate: str


class Done(NamedTuple):
    """Its operation has ended. ``result``: of a read ``(version, what is wrong with it)``, of a publish its rank."""

    result: Any


class Raised(NamedTuple):
    """Its operation ended with an error; ``is_refusal``: with one that the adapter says may come."""

    error: str
    is_refusal: bool


Outcome = Union[At, Blocked, Done, Raised]


class StillRunning(Exception):
    """An operation had not ended after as many steps of its own as it was given, with all others standing still."""


class Run(Protocol):
    """What a process reports to; a Stepper."""

    def next_version(self) -> int:
        """A number that was never published."""

    def tick(self, steps: int = 1) -> int:
        """Let that many steps pass; the time then."""

    def note(self, turn: Turn) -> None:
        """A turn was taken."""

    def mourn(self, pid: int) -> None:
        """A process was killed."""

    def violated(self, sentence: str) -> AssertionError:
        """What to raise when a rule is broken."""


class Process:
    """A real process. It does one operation at a time, and moves only when it is told to."""

    def __init__(self, run: Run, name: str, incarnation: int, child: Child, events: Sequence[Event]) -> None:
        self.name = name
        #: How many processes had this name, with this one.
        self.incarnation = incarnation
        self.child = child
        self.is_alive, self.is_stopped = True, False
        #: What it is in the middle of, and before which gate; empty if nothing.
        self.operation = self.gate = ""
        self.is_blocked = False
        self.has_writer = self.has_reader = False
        #: ``hand over`` or ``close``, if an exception cut that short: the writer may be closed by then, or not.
        self.leaving = ""
        #: Steps of the operation that it is at, or did last.
        self.steps = 0
        #: Errors that nobody documented, in words.
        self.faults: List[str] = []
        #: Exceptions were thrown into the operation that it is at.
        self.was_thrown_at = False
        #: An exception came in place of removing a file.
        self.was_kept_tidying = False
        self._run = run
        self._earlier = list(events)
        self._began = self._version = 0

    # ---- turns

    def begin(self, operation: str, size: int = 0, *, steps: int = 0, until: str = "") -> Outcome:
        """Begin an operation, and come to its first gate, or go through ``steps`` at once, or to the gate ``until``.

        One of ``create``, ``publish``, ``resize`` (which take a size), ``hand over``, ``close`` on a writer's side;
        ``attach``, ``read``, ``detach``, ``alive`` (``reader.writer_alive``, None if there is no such thing) on a
        reader's. What is published is a number that was never published before in this run.
        """
        self._require(not self.operation, f"is at {self.operation!r} and cannot begin {operation!r}; run() it first")
        has_side = self.has_writer if operation in OF_WRITERS else self.has_reader
        if operation not in MAKING:
            self._require(has_side, f"has nothing to {operation} with: let it create, or attach, before")
        self._version = self._run.next_version() if operation == PUBLISH else 0
        given = {PUBLISH: (self._version, size), "create": (size,), "resize": (size,)}.get(operation, ())
        self.operation, self.steps, self.was_thrown_at = operation, 0, False
        self._began = self._run.tick()
        turn = Turn(self.name, BEGIN, (operation, size, self._version, steps, until), (), "", None)
        return self._ask(turn, BEGIN, operation, given, steps, until)

    def do(self, operation: str, size: int = 0, *, limit: int = MANY_STEPS, until: str = "") -> Outcome:
        """``begin()`` and ``run()``."""
        return self._ended(self.begin(operation, size, steps=limit, until=until), limit, until)

    def step(self, steps: int = 1) -> Outcome:
        """Go through the gate that it stands before, or so many, and come to the next, or to the end."""
        return self._go(steps, "")

    def run(self, limit: int = MANY_STEPS, *, until: str = "") -> Outcome:
        """Go on to the end of the operation, or to the gate ``until``, in ``limit`` steps of its own at most.

        Stops before a lock that it would wait for: Blocked. Raises StillRunning if it comes to no end.
        """
        return self._ended(self._go(limit, until), limit, until)

    def _ended(self, outcome: Outcome, limit: int, until: str) -> Outcome:
        if isinstance(outcome, At) and outcome.gate != until:
            raise StillRunning(
                f"{self.name}: {self.operation!r} had not ended after {limit} steps of its own, and stands before"
                f" {outcome.gate!r}, though nobody else moved meanwhile"
            )
        return outcome

    def throw(self) -> Outcome:
        """Raise an exception in place of the access that it stands before, as a signal handler may."""
        self._require_moving()
        self.was_thrown_at = True
        self.was_kept_tidying |= self.gate.startswith("unlink ")
        return self._ask(Turn(self.name, THROW, (self.gate,), (), "", None), THROW)

    def kill(self) -> At:
        """SIGKILL it, where it stands. Returns the gate, empty if it was at nothing."""
        self._require(True, "")
        where = self.gate
        self._run.tick()
        died_of = self.child.kill()
        if died_of != signal.SIGKILL:
            raise StepperFailed(f"{self.name} was to be killed by SIGKILL, and died of signal {died_of}")
        self._note_end()
        self._run.note(Turn(self.name, KILL, (), (), KILL, where))
        self._run.mourn(self.child.pid)
        return At(where)

    def stop(self) -> None:
        """SIGSTOP it, and wait until it is stopped."""
        self._require(not self.is_stopped, "is stopped already")
        self.child.stop()
        self.is_stopped = True
        self._run.tick()
        self._run.note(Turn(self.name, STOP, (), (), STOP, self.gate))

    def cont(self) -> None:
        """SIGCONT it."""
        self._require(self.is_stopped, "is not stopped")
        self.child.cont()
        self.is_stopped = False
        self._run.tick()
        self._run.note(Turn(self.name, CONT, (), (), CONT, self.gate))

    def take(self, action: str, arguments: Tuple[Any, ...]) -> None:
        """Take a turn that was noted."""
        if action == BEGIN:
            operation, size, _, steps, until = arguments
            self.begin(operation, size, steps=steps, until=until)
        elif action == GO:
            self._go(*arguments)
        else:
            {KILL: self.kill, STOP: self.stop, CONT: self.cont, THROW: self.throw}[action]()

    def leave(self) -> None:
        """Take no more part in this run; what it did stays."""
        self._note_end()

    # ---- what came of it

    @property
    def label(self) -> str:
        """Its name in histories: those who had the same name before it are others."""
        return self.name if self.incarnation == 1 else f"{self.name} ({self.incarnation})"

    @property
    def events(self) -> List[Event]:
        """Publishes and reads of all who had this name, the one that it is at too."""
        pending = [self._event(None)] if self.operation in (PUBLISH, READ) else []
        return self._earlier + pending

    def _event(self, ended: Optional[int], **what: Any) -> Event:
        return Event(self.label, self.operation, self._began, ended, **{"version": self._version, **what})

    def _go(self, steps: int, until: str) -> Outcome:
        self._require_moving()
        return self._ask(Turn(self.name, GO, (steps, until), (), "", None), GO, steps, until)

    def _ask(self, turn: Turn, *message: Any) -> Outcome:
        self._require(not self.is_stopped, "is stopped: cont() it first")
        try:
            what, passed, told = self.child.ask(*message)
        except Lost as error:
            operation, how = self.operation, "hang" if isinstance(error, Hang) else "died"
            self._note_end()
            self._run.note(turn._replace(outcome=how, told=error.gate))
            self._run.mourn(self.child.pid)
            raise self._run.violated(f"liveness: {self.label}, {operation!r} behind {error.gate!r}: {error}") from None
        self._run.tick(len(passed))
        self.steps += len(passed)
        self._run.note(turn._replace(passed=passed, outcome=what, told=told))
        self.is_blocked = what == "blocked"
        if what in ("at", "blocked"):
            self.gate = told
            return Blocked(told) if self.is_blocked else At(told)
        return self._finish(what, told)

    def _finish(self, what: str, told: Any) -> Outcome:
        now, operation = self._run.tick(), self.operation
        if what == "done":
            if operation == READ:
                self._earlier.append(self._event(now, version=told[0], problem=told[1]))
            elif operation == PUBLISH:
                self._earlier.append(self._event(now, rank=told))
            self.has_writer = (self.has_writer or operation == "create") and operation not in ("hand over", "close")
            self.has_reader = (self.has_reader or operation == "attach") and operation != "detach"
            self.leaving = ""
        else:
            if operation in ("hand over", "close"):
                self.leaving = operation
            if operation in (PUBLISH, READ):
                self._earlier.append(self._event(now, error=told))
            if what == "raised" and not self.was_thrown_at and operation not in MAKING:
                self.faults.append(f"{operation!r} by {self.label} raised {told}")
        self.operation = self.gate = ""
        return Done(told) if what == "done" else Raised(told, is_refusal=what == "refused")

    def _note_end(self) -> None:
        self._earlier = self.events
        self.is_alive = self.is_stopped = self.is_blocked = self.has_writer = self.has_reader = False
        self.operation = self.gate = self.leaving = ""

    def _require_moving(self) -> None:
        self._require(bool(self.operation), "is at no operation: begin() one")

    def _require(self, holds: bool, otherwise: str) -> None:
        if not self.is_alive:
            raise StepperFailed(f"{self.name} was killed; ask for process({self.name!r}) again to have another")
        if not holds:
            raise StepperFailed(f"{self.name} {otherwise}")
