"""Which process of an explored schedule is at work, at what, and how many accesses in a row; others stand still then."""

from __future__ import annotations

from typing import Dict, Hashable, Optional, Set

from greenlet import getcurrent, greenlet

from pytest_shmstate.kit.exploring.actors import Actor, Run, Violation
from pytest_shmstate.kit.seams.gates import WouldBlock
from pytest_shmstate.kit.seams.own_time import OwnTime

#: Accesses after which an operation that nobody disturbs is believed never to end.
BOUND = 200
_LOADS = ("load ", "copy ")


class Alone:
    """Stops whoever is at work before each access; whoever only sets up is not stopped."""

    def __init__(self) -> None:
        self.time: Optional[OwnTime] = None
        self._operation: Dict[str, str] = {}
        self._has_stopped: Set[str] = set()
        #: What the one at work has loaded since another moved, or it began, or stored something.
        self._loaded: Set[str] = set()
        self._run: Optional[Run] = None
        self._waits = False
        self._last: Optional[Actor] = None
        self._times = 0
        self._waiting: Dict[str, bool] = {}
        self._known: Dict[greenlet, Actor] = {}

    def begin(self, run: Run, waits: bool) -> None:
        """Another schedule."""
        self._run, self._waits, self._last, self._times = run, waits, None, 0
        self._operation.clear()
        self._has_stopped.clear()
        self._loaded.clear()
        self._waiting.clear()
        self._known.clear()
        if self.time is not None:
            self.time.begin()

    def who(self) -> str:
        """Whose program this is; empty if it is nobody's."""
        actor = self._actor_here()
        return "" if actor is None else actor.name

    def begins(self, actor: Actor, operation: str) -> None:
        """What a process is at from now on."""
        self._operation[actor.name] = operation
        if self._last is actor:
            self._loaded.clear()

    def has_stopped(self, actor: Actor) -> bool:
        """Whether it has come to an access at all."""
        return actor.name in self._has_stopped

    def stop(self, access: str, would_block: WouldBlock = None) -> None:  # noqa: ARG002
        """A gate. Raises Violation if there were too many in a row."""
        actor = self._actor_here()
        if actor is None or self._run is None or self._run.is_quiet:
            return
        self._has_stopped.add(actor.name)
        if self._last is actor and self._times >= BOUND:
            raise Violation(
                f"liveness: {actor.name}: {self._operation[actor.name]} had not ended after {BOUND} accesses of its own,"
                " though nobody else moved meanwhile"
            )
        is_load = access.startswith(_LOADS)
        if self._waits and is_load and self._last is actor and access in self._loaded:  # it would see what it saw
            self._waiting[actor.name] = True
            actor.system_call("wait for others", lambda: self._last is not actor or not self._others_move(actor))
            self._waiting[actor.name] = False
        actor.system_call(access)
        if self._last is not actor:
            self._last, self._times = actor, 0
            self._loaded.clear()
        self._times += 1
        if is_load:
            self._loaded.add(access)
        else:
            self._loaded.clear()

    def observe(self, seen: Hashable) -> None:
        """Something that was loaded."""
        actor = self._actor_here()
        if actor is not None:
            actor.observe(seen)

    def _actor_here(self) -> Optional[Actor]:
        here = getcurrent()
        if here not in self._known:
            actors = () if self._run is None else self._run.actors
            found = next((actor for actor in actors if actor.greenlet is here), None)
            if found is None:  # it only sets up, or lets go
                return None
            self._known[here] = found
        return self._known[here]

    def _others_move(self, actor: Actor) -> bool:
        others = [one for one in self._run.actors if one is not actor] if self._run else []
        return any(not self._waiting.get(one.name) and one.can_go_on() for one in others)
