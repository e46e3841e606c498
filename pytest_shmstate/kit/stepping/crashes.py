"""The crash and pause matrix: a writer is killed, stopped, or gets an exception, before every access that it makes.

    with Stepper(ShmstateAdapter()) as stepper:
        matrix = crash_matrix(stepper)
        print(matrix)                          # operation, gate, what was done there, what was read then
        matrix.judge()

Enumerated, not sampled. A process dies between two instructions, and what it has stored stays: what a death can leave
behind are the prefixes of what it does, and the parts of a copy. Each time, afterwards:

    a reader that was attached before, and one that attaches now, come to the end of a read, in so many steps
    no acknowledged state is lost; one that was begun may be seen, and is then seen for ever
    ``writer_alive``, where there is such a thing, is false of the dead and true of the stopped
    the next writer, or the same one, goes on, and both readers see what it publishes
    nothing is left in ``/dev/shm``

A reader that waits for ever breaks none of the rules about what is read. So that it ends is a rule of its own.
"""

from __future__ import annotations

from typing import Callable, Container, List, NamedTuple, Optional, Sequence, Tuple

from pytest_shmstate.kit.stepping.nursery import StepperFailed
from pytest_shmstate.kit.stepping.process import At, Blocked, Done, Outcome, Process, Raised, StillRunning
from pytest_shmstate.kit.stepping.stepper import LEFT, Stepper, Violated

KINDS = ("kill", "stop", "throw")
#: What a writer is disturbed at; "growing publish" is one that does not fit, "take over" the create of a dead one's heir.
OPERATIONS = ("first create", "take over", "publish", "growing publish", "resize", "hand over", "close")
_VERBS = {"first create": "create", "take over": "create", "growing publish": "publish"}


class Cell(NamedTuple):
    """One place of the matrix. ``seen``: the versions that were read then; ``failure``: empty, or a whole report."""

    operation: str
    number: int
    gate: str
    kind: str
    seen: str
    failure: str = ""


class Matrix:
    """All places, in order."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = list(cells)

    @property
    def failures(self) -> List[Cell]:
        """Those where a rule was broken."""
        return [cell for cell in self.cells if cell.failure]

    def judge(self) -> None:
        """Raise Violated with the first report, if any rule was broken; StepperFailed if there is no place at all."""
        if not self.cells:
            raise StepperFailed("the matrix is empty: no operation passes any gate, so nothing has been proved")
        for cell in self.failures:
            raise Violated(cell.failure)

    def __str__(self) -> str:
        rows = [(cell.operation, str(cell.number), cell.gate, cell.kind, _ending(cell)) for cell in self.cells]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
        return "\n".join("  ".join([*(map(str.ljust, row, widths)), row[4]]) for row in rows)


def _ending(cell: Cell) -> str:
    return cell.failure.splitlines()[0] if cell.failure else cell.seen


class Sizes(NamedTuple):
    """What the structure is made for; what is published; what makes it grow, 0 if it does not."""

    made_for: int = 64
    published: int = 24
    larger: int = 0


def crash_matrix(
    stepper: Stepper,
    *,
    operations: Optional[Sequence[str]] = None,
    kinds: Sequence[str] = KINDS,
    sizes: Sizes = Sizes(),  # noqa: B008 - a tuple
    bound: int = 200,
) -> Matrix:
    """Disturb a writer before every access of every operation. Runs to the end, whatever fails on the way.

    ``operations``  some of OPERATIONS; by default all that the adapter has. Those that a kill is the end of, by the
                    adapter's word, are not killed
    ``bound``       steps in which every operation ends while all others stand still

    Raises StepperFailed if an operation passes other gates the second time: the matrix would have holes.
    """
    adapter = stepper.adapter
    cells = []
    for operation in _available(stepper, sizes) if operations is None else operations:
        gates = _gates(stepper, operation, sizes, bound)
        for kind in kinds:
            if kind == "kill" and not adapter.survives_death:
                continue
            cells += [_cell(stepper, operation, number, gates, kind, sizes, bound) for number in range(len(gates))]
    return Matrix(cells)


def crash_pairs(
    stepper: Stepper,
    *,
    firsts: Optional[Container[str]] = None,
    sizes: Sizes = Sizes(),  # noqa: B008 - a tuple
    bound: int = 200,
) -> Matrix:
    """Kill a writer before every access of a publish, and whoever takes over before every access until it has published.

    ``firsts``: only before these gates, the first time.
    """
    cells: List[Cell] = []
    for first, gate in enumerate(_gates(stepper, "publish", sizes, bound)):
        if firsts is not None and gate not in firsts:
            continue
        for verb in ("create", "publish"):
            number = 0
            while True:
                trial = _Trial(stepper, "publish", sizes, bound)
                trial.begin(first)
                trial.writer.kill()
                where = trial.heir_comes_to(verb, number)
                if not where:
                    break
                what = f"publish, killed before {first} ({gate}), then {verb}"
                cells.append(Cell(what, number, where, "kill", *trial.told(trial.after_a_kill)))
                number += 1
    stepper.clear_up()
    return Matrix(cells)


def _available(stepper: Stepper, sizes: Sizes) -> List[str]:
    left_out = {
        "take over": not stepper.adapter.survives_death,
        "growing publish": not sizes.larger,
        "resize": not stepper.adapter.can_resize,
    }
    return [operation for operation in OPERATIONS if not left_out.get(operation)]


def _gates(stepper: Stepper, operation: str, sizes: Sizes, bound: int) -> Tuple[str, ...]:
    trial = _Trial(stepper, operation, sizes, bound)
    trial.begin()
    gates: List[str] = []
    while trial.writer.operation:
        gates.append(trial.writer.gate)
        trial.writer.step()
    return tuple(gates)


def _cell(
    stepper: Stepper, operation: str, number: int, gates: Sequence[str], kind: str, sizes: Sizes, bound: int
) -> Cell:
    trial = _Trial(stepper, operation, sizes, bound)
    trial.begin(number)
    if trial.writer.gate != gates[number]:
        raise StepperFailed(
            f"{operation!r} came to {trial.writer.gate!r} after {number} steps, and to {gates[number]!r} before: what it"
            f" does depends on more than the schedule"
        )
    after = {"kill": trial.killed, "stop": trial.stopped, "throw": trial.thrown_at}[kind]
    return Cell(operation, number, gates[number], kind, *trial.told(after))


class _Trial:
    """One writer, disturbed once; and all that is asked afterwards."""

    def __init__(self, stepper: Stepper, operation: str, sizes: Sizes, bound: int) -> None:
        stepper.reset()
        self._stepper, self._operation, self._sizes, self._bound = stepper, operation, sizes, bound
        self._seen: List[str] = []
        #: Nothing need be there to attach to, or to be read.
        self._may_be_gone = operation in ("first create", "close")

    @property
    def writer(self) -> Process:
        return self._stepper.process("writer")

    def begin(self, steps: int = 0) -> None:
        """All that must have happened before; then the writer begins, and goes so many steps."""
        made_for, published, larger = self._sizes
        if self._operation != "first create":
            self._do("writer", "create", made_for)
            self._do("writer", "publish", larger if self._operation == "resize" and larger else published)
            self._do("reader before", "attach")
            self._do("reader before", "read")
        if self._operation == "take over":
            self.writer.begin("publish", published)
            self.writer.kill()
        verb = _VERBS.get(self._operation, self._operation)
        size = {"create": made_for, "resize": made_for}.get(verb, published)
        self.writer.begin(verb, larger if self._operation == "growing publish" else size, steps=steps)

    def told(self, after: Callable[[], None]) -> Tuple[str, str]:
        """What was seen, and what failed, when that is done."""
        try:
            after()
            self._stepper.judge()
        except Violated as failure:
            self._stepper.clear_up()
            return ", ".join(self._seen), str(failure)
        left = self._stepper.clear_up()
        return ", ".join(self._seen), str(self._violated(f"{LEFT}{', '.join(left)}")) if left else ""

    # ---- what is done

    def killed(self) -> None:
        self.writer.kill()
        self.after_a_kill()

    def after_a_kill(self) -> None:
        self._look_round(is_alive=False)
        self._go_on("heir")

    def stopped(self) -> None:
        self.writer.stop()
        self._look_round(is_alive=True if self._operation in ("publish", "growing publish", "resize") else None)
        if self._stepper.adapter.is_shared and not self._may_be_gone:
            self._do("heir", "create", self._sizes.made_for, waits=True)
            if self._stepper.process("heir").has_writer:
                self._do("heir", "publish", self._sizes.published, waits=True)
        self.writer.cont()
        for name in ("writer", "heir"):
            process = self._stepper.processes.get(name)
            if process is not None and process.operation:
                self._to_the_end(process)
        self._go_on("writer" if self.writer.has_writer else "heir")

    def thrown_at(self) -> None:
        outcome: Outcome = self.writer.throw()
        if isinstance(outcome, (At, Blocked)):
            outcome = self._to_the_end(self.writer, may_fail=True)
        self._look_round(is_alive=None)
        if isinstance(outcome, Raised) and self._operation in ("hand over", "close"):
            self._do("writer", self._operation)  # once more, as a with-block would not; then it is over
        self._go_on("writer" if self.writer.has_writer else "heir")

    def heir_comes_to(self, verb: str, number: int) -> str:
        """Have an heir killed there; the gate, or nothing if it does not come so far."""
        heir = self._stepper.process("heir")
        if verb == "publish":
            self._do("heir", "create", self._sizes.made_for)
        heir.begin(verb, self._sizes.published if verb == "publish" else self._sizes.made_for, steps=number)
        return heir.kill().gate if heir.operation else ""

    # ---- what is asked

    def _look_round(self, is_alive: Optional[bool]) -> None:
        if self._operation != "first create":
            self._read("reader before")
        attached = self._do("reader now", "attach", may_fail=self._may_be_gone)
        if isinstance(attached, Raised):
            self._seen.append("nothing to attach to")
            return
        if self._operation != "first create":
            self._read("reader now")
        told = self._do("reader now", "alive")
        if isinstance(told, Done) and is_alive is not None and told.result not in (None, is_alive):
            raise self._violated(
                f"writer_alive is {told.result}, of a writer that is {'' if is_alive else 'not '}alive"
            )
        if self._may_be_gone:
            self._do("reader now", "detach")

    def _go_on(self, name: str) -> None:
        """A writer, new or the same, publishes, and both readers see it."""
        process = self._stepper.process(name)
        if self._operation == "close":
            self._stepper.judge()
            self._stepper.begin_anew()
        if not process.has_writer:
            self._do(name, "create", self._sizes.made_for)
        self._do(name, "publish", self._sizes.published)
        if self._may_be_gone:  # a state that was closed and made anew is another: its readers attach anew
            self._do("reader now", "attach")
        else:
            self._read("reader before")
        self._read("reader now")

    def _read(self, name: str) -> None:
        outcome = self._do(name, "read")
        if isinstance(outcome, Done):
            self._seen.append(str(outcome.result[0]))

    def _do(self, name: str, verb: str, size: int = 0, *, may_fail: bool = False, waits: bool = False) -> Outcome:
        process = self._stepper.process(name)
        return self._ended(process, lambda: process.do(verb, size, limit=self._bound), may_fail, waits)

    def _to_the_end(self, process: Process, may_fail: bool = False) -> Outcome:
        return self._ended(process, lambda: process.run(self._bound), may_fail)

    def _ended(self, process: Process, go: Callable[[], Outcome], may_fail: bool, waits: bool = False) -> Outcome:
        try:
            outcome = go()
        except StillRunning as error:
            raise self._violated(f"liveness: {error}") from None
        if isinstance(outcome, Blocked) and not waits:
            raise self._violated(
                f"liveness: {process.label} waits for a lock at {outcome.gate!r}, and nobody gives it back"
            )
        return self._judged(process, outcome, may_fail)

    def _judged(self, process: Process, outcome: Outcome, may_fail: bool) -> Outcome:
        if isinstance(outcome, Raised) and not may_fail:
            raise self._violated(f"{process.label} raised {outcome.error}")
        return outcome

    def _violated(self, sentence: str) -> Violated:
        return self._stepper.violated(sentence)
