"""What a state promises, judged while a schedule runs: one whole published payload, none older than was seen or told of.

The rules are those that checkers.py has for histories, in a form that fits into the state of an exploration: of all that was,
only the highest version matters. Which of them hold depends on the memory:

    sequential, store buffers   no read returns less than was published, and seen, before it began. (With store buffers a
                                publish counts from when its stores are seen, nanoseconds later, by which no fence and no
                                lock is meant to be waited for.)
    reordering                  no reader goes back
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, Dict, Hashable, List, Optional

from pytest_shmstate.kit.exploring.actors import Actor, Run, Violation
from pytest_shmstate.kit.exploring.explorer import Play


class Register(Play):
    """Judges reads and publishes of one state by what was done before.

    Each state has a number, which its pieces say; a writer alone gives them in order. ``by_version``: writers take turns,
    and the versions that they are told, as readers are, say in what order they did. ``world`` is what the kernel knows: it
    has a ``key()``, and is told with ``mourn()`` whose locks are to go.
    """

    def __init__(self, run: Run, world: Any, *, by_version: bool = False) -> None:
        self.by_version = by_version
        self.met: Counter[str] = Counter()
        self.programs: List[Callable[[], None]] = []
        self.world = world
        self.run = run
        self._acked = 0
        self._seen = 0
        #: The highest number of a state that somebody began to publish.
        self.begun = 0
        self._own: Dict[str, int] = {}
        self._undrained: Dict[int, int] = {}
        self._floors: Dict[str, int] = {}
        self._begun_at: Dict[str, int] = {}
        #: Which number was published as which version, where that is told.
        self._published: Dict[int, int] = {}

    def key(self) -> Hashable:
        """What later reads are judged by, and the world."""
        books = (self._own, self._undrained, self._floors, self._published)
        return self._acked, self._seen, *(tuple(sorted(book.items())) for book in books), self.world.key()

    def mourn(self, process: str) -> None:
        """Its locks are gone; its last store is seen."""
        self.met["kills"] += 1
        self.world.mourn(process)
        self.note_drained()

    def note_drained(self) -> None:
        """A publish counts from when its last store is seen."""
        for process in [p for p in self._undrained if self.run.cells.is_drained(p)]:
            self._acked = max(self._acked, self._undrained.pop(process))

    def begins(self, actor: Actor) -> None:
        """An operation begins with the next access."""

        def note() -> Hashable:
            floor = max(self._acked, self._seen)
            if self.run.model.is_stale:
                floor = self._own.get(actor.name, 0)
            self._floors[actor.name], self._begun_at[actor.name] = floor, self.begun
            return floor

        actor.before_next_access(note)

    def published(self, actor: Actor, version: int, number: int) -> None:
        """A publish has returned."""
        actor.note_before()
        floor = self._floors.pop(actor.name)
        place = version if self.by_version else number
        if place <= floor and not self.run.model.is_stale:
            raise Violation(f"{actor.name} published {place}, though {floor} was there before it began")
        self._record(version, number)
        self._undrained[actor.number] = place
        self.note_drained()

    def took_effect(self, place: int) -> None:
        """So much was published before anybody else came."""
        self._acked = max(self._acked, place)

    def publishing(self, actor: Actor, number: int) -> None:
        """A publish is about to begin."""
        self.begins(actor)
        self.begun = max(self.begun, number)

    def gave_up(self, actor: Actor) -> None:
        """A read ended with an error that its documentation allows."""
        self.met["reads that gave up"] += 1
        actor.note_before()
        self._floors.pop(actor.name)

    def read(self, actor: Actor, number: int, version: Optional[int] = None) -> None:
        """A read has returned the state ``number``, and the version if it is told; 0: that nothing is published."""
        actor.note_before()
        floor, begun = self._floors.pop(actor.name), self._begun_at[actor.name]
        self.met["reads"] += 1
        self.met["reads that a publish overlapped"] += self.begun > begun or self.begun > self._acked
        told = version or 0 if self.by_version else number
        if version is not None and number:
            self._record(version, number)
        if told > self.begun and not self.by_version:
            raise Violation(f"{actor.name} read {told}, which nobody had begun to publish")
        if told < floor:
            raise Violation(f"{actor.name} read {told}, though {floor} was there before it began")
        self._seen = max(self._seen, told)
        self._own[actor.name] = max(self._own.get(actor.name, 0), told)

    def _record(self, version: int, number: int) -> None:
        if self._published.setdefault(version, number) != number:
            raise Violation(f"state {number} goes as version {version}, which state {self._published[version]} went as")
