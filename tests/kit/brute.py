"""The checkers' rules told in another way: try every order. For histories of a dozen operations."""

from __future__ import annotations

from typing import Callable, FrozenSet, List, NamedTuple, Sequence, Set, Tuple

from pytest_shmstate.kit.oracle.history import PUBLISH, READ, Event

NEVER = float("inf")
#: A number between two, both included: Hypothesis's choice, or that of a random.Random.
Draw = Callable[[int, int], int]


class Kind(NamedTuple):
    """What is known of the order of publishes."""

    one_writer: bool
    ranked: bool


ONE_WRITER, RANKED, UNRANKED = Kind(True, False), Kind(False, True), Kind(False, False)


def is_atomic(history: Sequence[Event], kind: Kind) -> bool:
    """Whether there is an order of all operations that explains what was read."""
    publishes = [event for event in history if event.operation == PUBLISH]
    reads = [event for event in history if event.operation == READ and event.ended is not None and not event.error]
    return _Search(sorted(publishes, key=lambda event: event.began), reads, kind).succeeds(frozenset(), 0)


def is_regular(history: Sequence[Event], kind: Kind) -> bool:
    """Whether there is one for each read by itself."""
    reads = [event for event in history if event.operation == READ]
    others = [event for event in history if event.operation != READ]
    return is_atomic(others, kind) and all(is_atomic([*others, read], kind) for read in reads)


def is_safe(history: Sequence[Event], kind: Kind) -> bool:
    """Whether there is one for each read that met no publish."""
    others = [event for event in history if event.operation != READ]
    alone = [event for event in history if event.operation == READ and not _meets_one(event, others, kind)]
    return is_regular([*others, *alone], kind)


def _meets_one(read: Event, publishes: Sequence[Event], kind: Kind) -> bool:
    for publish in publishes:
        later = [end(other) for other in publishes if kind.one_writer and other.began > publish.began]
        if publish.began <= end(read) and read.began <= min([end(publish), *later]):
            return True
    return False


def end(event: Event) -> float:
    return NEVER if event.ended is None else event.ended


class _Search:
    """From a set of operations that are over, and the version in effect, to all orders of the others."""

    def __init__(self, publishes: List[Event], reads: List[Event], kind: Kind) -> None:
        self._operations = [*publishes, *reads]
        self._kind = kind
        self._owed = {at for at, event in enumerate(self._operations) if end(event) < NEVER and not event.error}
        self._hopeless: Set[Tuple[FrozenSet[int], int]] = set()

    def succeeds(self, over: FrozenSet[int], version: int) -> bool:
        if self._owed <= over:
            return True
        if (over, version) in self._hopeless:
            return False
        for at, event in enumerate(self._operations):
            if at in over or not self._may_be_next(at, over):
                continue
            if event.operation == PUBLISH and self.succeeds(over | {at}, event.version):
                return True
            if event.operation == READ and event.version == version and self.succeeds(over | {at}, version):
                return True
        self._hopeless.add((over, version))
        return False

    def _may_be_next(self, at: int, over: FrozenSet[int]) -> bool:
        event = self._operations[at]
        owed = [self._operations[other] for other in self._owed - over]
        if any(end(other) < event.began for other in owed):
            return False
        if event.operation == READ:
            return True
        if self._kind.one_writer:
            before = [other for other in owed if other.operation == PUBLISH and other.began < event.began]
            is_too_late = any(
                self._operations[other].operation == PUBLISH and self._operations[other].began > event.began
                for other in over
            )
            return not before and not is_too_late
        if self._kind.ranked and event.rank:
            return not any(other.operation == PUBLISH and other.rank < event.rank for other in owed)
        return True


def draw_history(draw: Draw, kind: Kind) -> List[Event]:
    """Any history of a few operations, most of them nearly right."""
    publishes = _one_after_the_other(draw) if kind.one_writer else _side_by_side(draw, kind.ranked)
    latest = max((event.began for event in publishes), default=0) + 4
    history = list(publishes)
    for number in range(draw(1, 4)):
        began = draw(0, latest)
        ended = began + draw(0, 5)
        version = _likely(draw, publishes, began, ended)
        is_refused = draw(0, 19) == 0
        history.append(Event(f"reader-{number}", READ, began, ended, version, error="later" if is_refused else ""))
    return history


def _likely(draw: Draw, publishes: Sequence[Event], began: int, ended: int) -> int:
    """A version that may be read then; now and then, any."""
    if draw(0, 7) == 0 or not publishes:
        return draw(0, len(publishes))
    near = [event.version for event in publishes if event.began <= ended and end(event) >= began - 2]
    return near[draw(0, len(near) - 1)] if near else draw(0, len(publishes))


def _one_after_the_other(draw: Draw) -> List[Event]:
    events = []
    clock = draw(0, 3)
    for version in range(1, draw(1, 5) + 1):
        ended = clock + draw(0, 4)
        how = draw(0, 5)
        is_refused = how == 1
        process = f"writer-{version}" if how == 0 else "writer"
        events.append(
            Event(process, PUBLISH, clock, None if how == 0 else ended, version, error="full" if is_refused else "")
        )
        clock = max(ended, clock + 1) + draw(0, 2)
    return events


def _side_by_side(draw: Draw, ranked: bool) -> List[Event]:
    events: List[Event] = []
    for version in range(1, draw(1, 4) + 1):
        began = draw(0, 8)
        ended = None if draw(0, 4) == 0 else began + draw(0, 6)
        events.append(Event(f"writer-{version}", PUBLISH, began, ended, version))
    if ranked:
        # Most often by a moment within each publish, which is an order that the clock allows.
        by_moment = sorted(events, key=lambda event: draw(event.began, int(min(end(event), 14))))
        if draw(0, 9) == 0:
            by_moment.reverse()
        ranks = {event.version: rank for rank, event in enumerate(by_moment, 1) if event.ended is not None}
        events = [event._replace(rank=ranks.get(event.version, 0)) for event in events]
    return events
