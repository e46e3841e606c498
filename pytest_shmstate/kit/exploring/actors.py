"""The processes of an explored schedule: greenlets that stop before each shared access, until they are told to go on."""

from __future__ import annotations

from typing import Any, Callable, Dict, Hashable, List, NamedTuple, Optional, Sequence, Set, Tuple

from greenlet import GreenletExit, getcurrent, greenlet

from pytest_shmstate.kit.exploring.models import Cell, Cells, Model

LOAD, STORE, FENCE, CALL = "load", "store", "fence", "system call"
GO, DRAIN, KILL = "go", "drain", "kill"


class Access(NamedTuple):
    """What a process is about to do. ``is_enabled``: whether it can be done now; it waits until then."""

    kind: str
    label: str
    cell: int = -1
    value: Any = None
    is_enabled: Optional[Callable[[], bool]] = None


class Choice(NamedTuple):
    """One step of a schedule: a process goes on, has a store of its own seen, or dies; ``which`` of its loads or stores."""

    kind: str
    process: int
    which: int = 0


class Step(NamedTuple):
    """What was done: an access, the store of one being seen, or a death."""

    process: str
    kind: str
    label: str
    value: Any = None


class NotPrivate(Exception):
    """A cell that was taken to be one process's is another's as well."""

    def __init__(self, cell: int) -> None:
        super().__init__(cell)
        self.cell = cell


class Violation(Exception):
    """The property does not hold; the text says what was seen, in one sentence."""


class Actor:
    """One process of a schedule. Its program calls ``load``, ``store``, ``fence`` and ``system_call``, and stops in each.

    Whatever its program does next must follow from what these returned and from what it told ``observe``: that, and no
    more, is how two states are known to be the same.
    """

    def __init__(self, run: Run, number: int, name: str) -> None:
        self.run = run
        self.number = number
        self.name = name
        self.is_dead = False
        self.pending: Optional[Access] = None
        self._memories = 0
        self._before_first: Optional[Callable[[], Hashable]] = None
        self.greenlet: Optional[greenlet] = None

    def load(self, cell: int, label: str) -> Any:
        """What a cell holds; ``cell`` is its number."""
        run = self.run
        if run.is_quiet or run.is_private(cell, self.number):
            return run.cells.load(self.number, cell, -1)
        return self._stop(Access(LOAD, label, cell))

    def store(self, cell: int, value: Any, label: str) -> None:
        """Have a cell hold that, in the end."""
        run = self.run
        if run.is_quiet or run.is_private(cell, self.number):
            run.cells.put(cell, value)
        else:
            self._stop(Access(STORE, label, cell, value))

    def fence(self, label: str = "fence") -> None:
        """Order everything before it before everything after it."""
        if not self.run.is_quiet:
            self._stop(Access(FENCE, label))

    def system_call(self, label: str, is_enabled: Optional[Callable[[], bool]] = None) -> None:
        """Ask something of the kernel, which fences as well; wait until that can be done. The caller does it."""
        if not self.run.is_quiet:
            self._stop(Access(CALL, label, is_enabled=is_enabled))

    def observe(self, seen: Hashable) -> None:
        """Remember something that what the program does next depends on."""
        self._memories = self.run.remember((self._memories, seen))

    def forget_all_but(self, summary: Hashable) -> None:
        """Say that what the program does from here on depends on this alone: states that were different are one again."""
        self._memories = self.run.remember(("all", summary))

    def before_next_access(self, action: Callable[[], Hashable]) -> None:
        """Do that just before the next access, wherever others have got by then, and remember what it returned."""
        self._before_first = action

    def note_before(self) -> None:
        """Do now what was to be done before the next access, if there was none."""
        action, self._before_first = self._before_first, None
        if action is not None:
            self.observe(action())

    def _stop(self, access: Access) -> Any:
        self.pending = access
        returned = getcurrent().parent.switch()
        self.observe(returned)  # of a store or a fence nothing, but that it was done
        return returned

    # The other side: the run's.

    def begin(self, program: Callable[[], None]) -> None:
        """Start the program, up to its first access."""
        self.greenlet = greenlet(program)
        self.greenlet.switch()
        self._note_end()

    def go_on(self, which: int, steps: List[Step]) -> None:
        """Do the access, note it, and run on to the next."""
        access, cells = self.pending, self.run.cells
        if access is None or self.greenlet is None:
            raise RuntimeError(f"{self.name} has ended, and cannot go on")
        self.note_before()
        value = None
        if access.kind == LOAD:
            value = cells.load(self.number, access.cell, which)
            steps.append(Step(self.name, LOAD, access.label, value))
        elif access.kind == STORE:
            cells.store(self.number, access.cell, access.value)
            steps.append(Step(self.name, STORE, access.label, access.value))
        else:
            cells.forget(self.number)
            steps.append(Step(self.name, access.kind, access.label))
        self.greenlet.switch(value)
        if self.greenlet.dead:
            self.pending = None

    def _note_end(self) -> None:
        if self.greenlet is not None and self.greenlet.dead:
            self.pending = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or died."""
        return self.pending is None

    def can_go_on(self) -> bool:
        """Whether its next access can be done now."""
        access = self.pending
        if access is None:
            return False
        if access.kind in (FENCE, CALL) and not self.run.cells.is_drained(self.number):
            return False
        return access.is_enabled is None or access.is_enabled()

    def die(self) -> None:
        """Be killed. Its stores are seen before anybody can learn of its death."""
        self.run.cells.drain_all(self.number)
        self.run.cells.forget(self.number)
        self.is_dead, self.pending = True, None

    def key(self) -> Hashable:
        """Equal for equal states of the program."""
        return self._memories, self.is_dead, self.pending is None, self._before_first is None

    def end(self) -> None:
        """Let go of the program, wherever it is."""
        if self.greenlet is not None and not self.greenlet.dead:
            self.greenlet.throw(GreenletExit)
        self.greenlet = None


class Run:
    """One schedule under way: the memory, the actors, and what was done so far."""

    def __init__(self, names: Sequence[str], model: Model, shared: Shared) -> None:
        self.shared = shared
        self.model = model
        self.cells = Cells(model, len(names), shared.numbers)
        self.actors = [Actor(self, number, name) for number, name in enumerate(names)]
        self.is_quiet = True
        self._loading: Optional[int] = None

    def actor(self, name: str) -> Actor:
        """By its name."""
        return next(actor for actor in self.actors if actor.name == name)

    def remember(self, what: Hashable) -> int:
        """A number for something remembered, the same for the same in all runs."""
        memories = self.shared.memories
        return memories.setdefault(what, len(memories) + 1)

    def is_private(self, cell: int, process: int) -> bool:
        """Whether nobody else ever touches a cell, so that nothing can come of stopping there. Raises NotPrivate."""
        if self.shared.touched.setdefault(cell, process) != process and cell not in self.shared.everybodys:
            self.shared.everybodys.add(cell)
            if cell in self.shared.private:
                self.shared.private.discard(cell)
                raise NotPrivate(cell)
        return cell in self.shared.private

    def begin(self, programs: Sequence[Callable[[], None]]) -> None:
        """Start them all, each up to its first access."""
        self.is_quiet = False
        for actor, program in zip(self.actors, programs):
            actor.begin(program)

    def choices(self, kills: Sequence[int]) -> List[Choice]:
        """What can happen next, but for what can as well happen later. ``kills``: how often each may still be killed.

        Where stores wait, to put one there concerns nobody else: it is done at once. So is a fence, for the earlier one
        is, the more may be loaded after it. Where loads may return what was there a while ago, those that follow one
        another are done together: whatever comes in between might as well have come before, and the load not noticed.
        """
        if self.model.buffers:
            for actor in self.actors:
                access = actor.pending
                if access is not None and self._is_nobody_elses(actor, access):
                    return self._of(actor, access, kills)
        found = []
        for actor in self.actors:
            access = actor.pending
            if access is not None and actor.can_go_on():
                found += self._of(actor, access, kills)
            elif access is not None and kills[actor.number]:
                found.append(Choice(KILL, actor.number))
            found += [Choice(DRAIN, actor.number, which) for which in self.cells.drainable(actor.number)]
        return found

    def _is_nobody_elses(self, actor: Actor, access: Access) -> bool:
        if access.kind == LOAD:
            return self.model.is_stale and self._loading == actor.number
        return access.kind == STORE or (access.kind == FENCE and actor.can_go_on())

    def _of(self, actor: Actor, access: Access, kills: Sequence[int]) -> List[Choice]:
        loadable = len(self.cells.loadable(actor.number, access.cell)) if access.kind == LOAD else 1
        found = [Choice(GO, actor.number, which) for which in range(loadable - 1, -1, -1)]
        return [*found, Choice(KILL, actor.number)] if kills[actor.number] else found

    def take(self, choice: Choice, steps: List[Step]) -> None:
        """Have it happen, and note it. Raises what the program raises: Violation, if the property does not hold."""
        actor = self.actors[choice.process]
        self._loading = None
        if choice.kind == GO:
            actor.go_on(choice.which, steps)
            self._loading = choice.process if steps[-1].kind == LOAD else None
        elif choice.kind == KILL:
            steps.append(Step(actor.name, KILL, ""))
            actor.die()
        else:
            cell, value = self.cells.waiting(choice.process, choice.which)
            steps.append(Step(actor.name, DRAIN, self.shared.name_of(cell), value))
            self.cells.drain(choice.process, choice.which)

    def key(self) -> Tuple[Hashable, ...]:
        """Equal for equal states."""
        return (
            self._loading if self.model.is_stale else None,
            self.cells.key(),
            *(actor.key() for actor in self.actors),
        )

    def end(self) -> None:
        """Let go of all programs."""
        self.is_quiet = True
        for actor in self.actors:
            actor.end()


class Shared:
    """What all runs of one exploration have in common: numbers for cells and for memories, and whose the cells are."""

    def __init__(self) -> None:
        self.numbers: Dict[Cell, int] = {}
        self.memories: Dict[Hashable, int] = {}
        self.touched: Dict[int, int] = {}
        self.private: Set[int] = set()
        self.everybodys: Set[int] = set()
        #: What some values are called, in reports.
        self.called: Dict[Any, str] = {}
        #: Whatever the stand-ins need not look up in each run.
        self.tables: Dict[Hashable, Any] = {}
        self._names: List[str] = []

    def find_private(self) -> None:
        """Take the cells that one process alone has touched so far to be its own, until another does."""
        self.private = set(self.touched) - self.everybodys

    def name_of(self, number: int) -> str:
        """What a cell is called."""
        if len(self._names) < len(self.numbers):
            self._names = [str(cell) for cell in self.numbers]
        return self._names[number]

    def text_of(self, step: Step) -> str:
        """A step in words."""
        if step.kind == KILL:
            return "KILLED here"
        value = step.value.hex() if isinstance(step.value, bytes) else self.called.get(step.value, str(step.value))
        if step.kind == DRAIN:
            return f"(its store {step.label} = {value} is seen)"
        return step.label if step.kind in (FENCE, CALL) else f"{step.label} = {value}"
