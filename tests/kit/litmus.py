"""Small programs of loads, stores and fences: what the explorer says can come of them, and what an interpreter says.

The interpreter shares nothing with the explorer and leaves nothing out: it tries every order of every step, and its
memory is the list of all stores that were seen, with times, where models.py has what each process may still load.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, FrozenSet, List, NamedTuple, Optional, Sequence, Set, Tuple

from pytest_shmstate.kit.exploring import explorer
from pytest_shmstate.kit.exploring.actors import Actor, Run
from pytest_shmstate.kit.exploring.models import SEQUENTIAL, Model

#: ("load", cell), ("store", cell, value), ("fence",)
Operation = Tuple[Any, ...]
Program = Sequence[Operation]
#: What each process loaded, in order; and what the cells hold in the end.
Outcome = Tuple[Tuple[Tuple[int, ...], ...], Tuple[int, ...]]
CELLS = ("x", "y")


class Litmus(explorer.Scenario):
    """The explorer's side."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self.title = "litmus"
        self.programs = programs
        self.processes = tuple(f"process {number}" for number in range(len(programs)))
        self.outcomes: Set[Outcome] = set()

    def begin(self, run: Run) -> _Played:
        return _Played(self, run)


class _Played(explorer.Play):
    def __init__(self, litmus: Litmus, run: Run) -> None:
        self.met: Counter[str] = Counter()
        self._litmus, self._run = litmus, run
        self._loaded: List[List[int]] = [[] for _ in litmus.programs]
        self._cells = [run.cells.number(cell) for cell in CELLS]
        self.programs = [partial(self._do, actor, program) for actor, program in zip(run.actors, litmus.programs)]

    def _do(self, actor: Actor, program: Program) -> None:
        for kind, *details in program:
            if kind == "fence":
                actor.fence()
            elif kind == "load":
                self._loaded[actor.number].append(actor.load(self._cells[CELLS.index(details[0])], kind))
            else:
                actor.store(self._cells[CELLS.index(details[0])], details[1], kind)

    def key(self) -> None:
        return None

    def conclude(self) -> None:
        in_the_end = tuple(self._run.cells.load(number, cell, -1) for number, cell in [(0, c) for c in self._cells])
        self._litmus.outcomes.add((tuple(map(tuple, self._loaded)), in_the_end))


def explored(programs: Sequence[Program], model: Model, preemptions: Optional[int] = None) -> Set[Outcome]:
    litmus = Litmus(programs)
    certificate = explorer.explore(litmus, model, preemptions=preemptions)
    assert certificate.is_complete, certificate
    return litmus.outcomes


class State(NamedTuple):
    """All there is: how far each process is, what it loaded, its waiting stores, its window, and the stores seen."""

    at: Tuple[int, ...]
    loaded: Tuple[Tuple[int, ...], ...]
    waiting: Tuple[Tuple[Tuple[str, int], ...], ...]
    fenced: Tuple[int, ...]
    coherent: Tuple[Tuple[Tuple[str, int], ...], ...]
    seen: Tuple[Tuple[str, int], ...]


def _beginning(programs: Sequence[Program]) -> State:
    nothing: Tuple[Any, ...] = ((),) * len(programs)
    return State((0,) * len(programs), nothing, nothing, (0,) * len(programs), nothing, ())


def _outcome(state: State) -> Outcome:
    return state.loaded, tuple(_value(state.seen, cell, len(state.seen)) for cell in CELLS)


def interpreted(programs: Sequence[Program], model: Model) -> Set[Outcome]:
    outcomes: Set[Outcome] = set()
    known: Set[State] = set()
    left = [_beginning(programs)]
    while left:
        state = left.pop()
        if state in known:
            continue
        known.add(state)
        following = [after for who in range(len(programs)) for after in _steps(state, who, programs[who], model)]
        left += following
        if not following:
            outcomes.add(_outcome(state))
    return outcomes


def interpreted_within(programs: Sequence[Program], preemptions: int) -> Set[Outcome]:
    """What can come of it where nothing is reordered, and no state is taken for another: each schedule from its start."""
    outcomes: Set[Outcome] = set()
    left: List[Tuple[State, Optional[int], int]] = [(_beginning(programs), None, 0)]
    while left:
        state, last, preempted = left.pop()
        able = [who for who, program in enumerate(programs) if state.at[who] < len(program)]
        if not able:
            outcomes.add(_outcome(state))
        for who in able:
            price = preempted + (who != last and last in able)
            if price <= preemptions:
                left += [(after, who, price) for after in _steps(state, who, programs[who], SEQUENTIAL)]
    return outcomes


def _value(seen: Sequence[Tuple[str, int]], cell: str, time: int) -> int:
    return next((value for where, value in reversed(seen[:time]) if where == cell), 0)


def _put(parts: Tuple[Any, ...], who: int, part: Any) -> Tuple[Any, ...]:
    return (*parts[:who], part, *parts[who + 1 :])


def _steps(state: State, who: int, program: Program, model: Model) -> List[State]:
    waiting = state.waiting[who]
    found = []
    for number, (cell, _) in enumerate(waiting):
        is_first = number == 0 if not model.overtakes else all(cell != other for other, _ in waiting[:number])
        if is_first:
            left = waiting[:number] + waiting[number + 1 :]
            found.append(_see(state._replace(waiting=_put(state.waiting, who, left)), who, *waiting[number]))
    if state.at[who] == len(program):
        return found
    kind, *details = program[state.at[who]]
    ahead = state._replace(at=_put(state.at, who, state.at[who] + 1))
    if kind == "fence" and not waiting:
        found.append(ahead._replace(fenced=_put(state.fenced, who, len(state.seen))))
    elif kind == "store" and model.buffers:
        found.append(ahead._replace(waiting=_put(state.waiting, who, (*waiting, tuple(details)))))
    elif kind == "store":
        found.append(_see(ahead, who, *details))
    elif kind == "load":
        found += _loads(ahead, who, details[0], model)
    return found


def _see(state: State, who: int, cell: str, value: int) -> State:
    seen = (*state.seen, (cell, value))
    return _not_before(state._replace(seen=seen), who, cell, len(seen))


def _not_before(state: State, who: int, cell: str, time: int) -> State:
    coherent = {**dict(state.coherent[who]), cell: time}
    return state._replace(coherent=_put(state.coherent, who, tuple(sorted(coherent.items()))))


def _loads(state: State, who: int, cell: str, model: Model) -> List[State]:
    own = [value for where, value in state.waiting[who] if where == cell]
    if own:
        return [_loaded(state, who, own[-1])]
    now = len(state.seen)
    if not model.is_stale:
        return [_loaded(state, who, _value(state.seen, cell, now))]
    since = max(state.fenced[who], dict(state.coherent[who]).get(cell, 0))
    return [
        _loaded(_not_before(state, who, cell, time), who, _value(state.seen, cell, time))
        for time in range(since, now + 1)
    ]


def _loaded(state: State, who: int, value: int) -> State:
    return state._replace(loaded=_put(state.loaded, who, (*state.loaded[who], value)))


def loads_of(outcomes: Set[Outcome]) -> FrozenSet[Tuple[Tuple[int, ...], ...]]:
    """What was loaded, whatever the cells hold in the end."""
    return frozenset(loaded for loaded, _ in outcomes)
