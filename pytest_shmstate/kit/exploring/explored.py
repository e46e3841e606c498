"""What shmstate's protocol is explored in: each a scenario, and the memory that it plays on. All pass; mutants do not."""

from __future__ import annotations

from typing import Any, Callable, Dict, NamedTuple, Optional

from pytest_shmstate.kit.exploring.explorer import Certificate, Scenario, explore
from pytest_shmstate.kit.exploring.models import BUFFERED, REORDERING, SEQUENTIAL, Model
from pytest_shmstate.kit.exploring.scenarios import PRODUCTION, Code, Sleepers, States


class Stage(NamedTuple):
    """A scenario of any code. ``preemptions``: the bound for those that are too many without one."""

    model: Model
    build: Callable[[Code], Scenario]
    preemptions: Optional[int] = None


def _states(model: Model, preemptions: Optional[int] = None, **options: Any) -> Stage:
    return Stage(model, lambda code: States(code=code, **options), preemptions)


def _sleepers(model: Model, **options: Any) -> Stage:
    return Stage(model, lambda code: Sleepers(code=code, **options))


_SHARED: Dict[str, Any] = {"shared": True, "read": "snapshot"}
_WEAK: Dict[str, Any] = {"weak": True, "pieces": 1}
_FIRST_MOVES: Dict[str, Any] = {"growing": ((0, 0),)}
_SECOND_MOVES: Dict[str, Any] = {"growing": ((0, 1),)}
_HEIR_MOVES: Dict[str, Any] = {"growing": ((1, 0),)}

#: Some seconds each.
QUICK: Dict[str, Stage] = {
    "one writer": _states(SEQUENTIAL, slots=2, publishes=(3,), reads=2),
    "one writer, K = 4": _states(SEQUENTIAL, slots=4, publishes=(3,), reads=2),
    "one writer, K = 3, downwards": _states(SEQUENTIAL, slots=3, publishes=(3,), before=2, reads=1, down=True),
    "one writer, versions told": _states(SEQUENTIAL, slots=2, publishes=(2,), before=1, reads=1, read="snapshot"),
    "one writer, checksums": _states(SEQUENTIAL, slots=2, publishes=(2,), before=1, reads=1, checksum=True),
    "two readers": _states(SEQUENTIAL, slots=2, publishes=(1,), before=1, readers=2, reads=1),
    "a kill and an heir": _states(SEQUENTIAL, slots=2, publishes=(1, 1), before=1, reads=1),
    "a move": _states(SEQUENTIAL, slots=2, publishes=(3,), **_SECOND_MOVES, reads=2),
    "a move, versions told": _states(SEQUENTIAL, slots=2, publishes=(3,), **_SECOND_MOVES, read="snapshot", reads=1),
    "a move, and a reader that comes": _states(
        SEQUENTIAL, slots=2, publishes=(1,), before=1, **_FIRST_MOVES, readers=2, reads=1, late=True
    ),
    "a kill, and an heir that moves": _states(
        SEQUENTIAL, slots=2, publishes=(2, 1), before=1, **_HEIR_MOVES, read="snapshot", reads=1, tries=2
    ),
    "a kill in a move, and an heir": _states(SEQUENTIAL, slots=2, publishes=(2, 1), **_SECOND_MOVES, reads=1, tries=2),
    "writers in turns": _states(SEQUENTIAL, slots=2, publishes=(1, 1), **_SHARED, reads=1),
    "writers in turns, and a move": _states(
        SEQUENTIAL, slots=2, publishes=(1, 1), **_SHARED, **_FIRST_MOVES, reads=1, tries=1
    ),
    "sleepers": _sleepers(SEQUENTIAL, slots=2, publishes=(2,)),
    "sleepers, and a move": _sleepers(SEQUENTIAL, slots=2, publishes=(2,), **_SECOND_MOVES),
    "store buffers": _states(BUFFERED, slots=2, publishes=(2,), before=1, reads=1),
    "store buffers, a sleeper": _sleepers(BUFFERED, slots=2, publishes=(2,)),
    "reordering": _states(REORDERING, slots=2, publishes=(2,), before=1, read="snapshot", reads=1, tries=2, **_WEAK),
}

#: Minutes each.
THOROUGH: Dict[str, Stage] = {
    "more retries": _states(SEQUENTIAL, slots=2, publishes=(4,), reads=2, tries=4),
    "two readers, two publishes": _states(SEQUENTIAL, slots=2, publishes=(2,), before=1, readers=2, reads=1),
    "two readers that read twice": _states(SEQUENTIAL, 3, slots=2, publishes=(3,), readers=2, reads=2),
    "a kill, an heir, two publishes each": _states(SEQUENTIAL, slots=2, publishes=(2, 2), reads=1),
    "a kill in a move, an heir that publishes twice": _states(
        SEQUENTIAL, slots=2, publishes=(2, 2), **_SECOND_MOVES, reads=1
    ),
    "two heirs' worth of versions, K = 4": _states(SEQUENTIAL, 3, slots=4, publishes=(3, 3), before=3, reads=2),
    "writers in turns, twice": _states(SEQUENTIAL, 3, slots=2, publishes=(2, 2), **_SHARED, reads=2),
    "writers in turns, and a move between": _states(
        SEQUENTIAL, slots=2, publishes=(2, 1), **_SHARED, **_FIRST_MOVES, reads=1
    ),
    "two moves": _states(SEQUENTIAL, slots=2, publishes=(3,), growing=((0, 0), (0, 2)), reads=3),
    "two sleepers": _sleepers(SEQUENTIAL, slots=2, publishes=(2,), readers=2),
    "store buffers, two sleepers": _sleepers(BUFFERED, slots=2, publishes=(1,), readers=2),
    "store buffers, three publishes": _states(BUFFERED, slots=2, publishes=(3,), reads=2),
    "store buffers, a kill and an heir": _states(BUFFERED, slots=2, publishes=(1, 1), before=1, reads=1),
    "store buffers, a move": _states(BUFFERED, slots=2, publishes=(3,), **_SECOND_MOVES, reads=2),
    "reordering, longer payloads": _states(REORDERING, slots=2, publishes=(2,), before=1, reads=1, weak=True, pieces=2),
    "reordering, K = 3": _states(REORDERING, slots=3, publishes=(3,), before=1, reads=1, tries=2, **_WEAK),
    "reordering, a move": _states(REORDERING, slots=2, publishes=(2,), before=1, **_SECOND_MOVES, reads=1, **_WEAK),
    "reordering, the quick way": _states(REORDERING, slots=2, publishes=(2,), before=1, reads=1, **_WEAK),
}


def certify(stage: Stage, code: Code = PRODUCTION, budget: int = 5_000_000) -> Certificate:
    """Explore it."""
    return explore(stage.build(code), stage.model, preemptions=stage.preemptions, budget=budget)
