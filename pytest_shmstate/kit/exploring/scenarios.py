"""Scenarios of shmstate's own protocol: the production code, over explored memory."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from pytest_shmstate.kit.exploring.actors import Actor, Run
from pytest_shmstate.kit.exploring.explorer import Scenario
from pytest_shmstate.kit.exploring.register import Register
from pytest_shmstate.kit.exploring.stand_in import CALLED, Owner, Visitor, World, number_in, payload_of, shape
from shmstate import publishing, reading
from shmstate.errors import NotPublished, ReadTimeout
from shmstate.protocol import Publishing

NAME = "explored"


class Code(NamedTuple):
    """The steps of both sides: production's, or a mutant's."""

    open_publishing: Callable[..., Publishing] = publishing.open_publishing
    open_reading: Callable[..., reading.Reading] = reading.open_reading


PRODUCTION = Code()

#: What a reader does: returns the payload, and the version if it is told.
Read = Callable[[reading.Reading], Tuple[bytes, Optional[int]]]


def read_bytes(reader: reading.Reading) -> Tuple[bytes, Optional[int]]:
    """The quick way."""
    return reader.read_bytes(), None


def snapshot(reader: reading.Reading) -> Tuple[bytes, Optional[int]]:
    """The way that tells the version."""
    payload, version, _ = reader.snapshot()
    return payload, version


Attach = Callable[[], Tuple[Visitor, reading.Reading]]

READS: Dict[str, Read] = {"read_bytes": read_bytes, "snapshot": snapshot}


class States(Scenario):
    """Writers publish, readers read.

    ``publishes`` of each writer: how many; ``growing``: which of them are larger than a slot and so move the state, as
    (writer, turn) from 0. ``shared``: the writers take turns, and all are there from the beginning. Otherwise the
    second is the first one's heir, who begins when the first is dead, which can be killed at each access. ``late``: the
    last reader attaches while all this goes on. ``pieces``: of a payload; every other one has one more.
    """

    called = CALLED

    def __init__(
        self,
        *,
        slots: int = 4,
        publishes: Tuple[int, ...] = (3,),
        readers: int = 1,
        reads: int = 2,
        read: str = "read_bytes",
        growing: Tuple[Tuple[int, int], ...] = (),
        notify: bool = False,
        shared: bool = False,
        weak: bool = False,
        checksum: bool = False,
        down: bool = False,
        tries: int = 3,
        pieces: int = 2,
        late: bool = False,
        before: int = 0,
        code: Code = PRODUCTION,
    ) -> None:
        self._slots, self._publishes, self._readers, self._reads = slots, publishes, readers, reads
        self._read, self._growing, self._shared, self._weak = READS[read], growing, shared, weak
        self._notify, self._pieces, self._late = notify, pieces, late
        self._checksum, self._down, self._tries, self._before, self._code = checksum, down, tries, before, code
        writers = tuple(f"writer {n + 1}" for n in range(len(publishes)))
        self.processes = (*writers, *(f"reader {n + 1}" for n in range(readers)))
        self.kills = {writers[0]: 1} if len(publishes) > 1 and not shared else {}
        self.must_meet = ("reads that a publish overlapped",) if readers else ()
        if self.kills:
            self.must_meet += ("kills",)
        if growing and readers:
            self.must_meet += ("moves that a reader followed",)
        self.title = ", ".join(
            [
                f"K={slots}",
                " + ".join(f"{n} publishes" for n in publishes) + (" in turns" if shared else ""),
                f"{readers} x {reads} {read}",
                *(["a writer killed anywhere, and its heir"] if self.kills else []),
                *(["the state moves"] if growing else []),
                *(["with fences"] if weak else []),
                *(["with checksums"] if checksum else []),
                *(["copied downwards"] if down else []),
                *(["the last reader attaches meanwhile"] if late else []),
            ]
        )

    def begin(self, run: Run) -> Register:
        """The state is there; ``before`` versions have been published."""
        world = World(shape(self._slots, checksum=self._checksum), weak=self._weak, down=self._down)
        first = run.actors[0]
        world.lay_out(first, 0, None)
        play = Register(run, world, by_version=self._shared)
        owners: List[Any] = []
        for number, times in enumerate(self._publishes):
            actor = run.actors[number]
            if self._shared or number == 0:
                owner = Owner(world, actor, shared=self._shared)
                publish = self._open(owner)
                owners.append(publish)
                play.programs.append(self._writing(play, actor, publish, number, times))
            else:
                play.programs.append(self._inheriting(play, actor, number, times))
        for number in range(1, self._before + 1):
            owners[0](payload_of(number, self._pieces))
        play.begun = self._before
        play.took_effect(self._before)
        for number in range(self._readers):
            actor = run.actors[len(self._publishes) + number]
            attach = partial(self._attach, world, actor)
            if not (self._late and number + 1 == self._readers):
                attach = partial(_as_it_is, attach())
            play.programs.append(self._reading(play, actor, attach))
        return play

    def _open(self, owner: Owner) -> Callable[[bytes], int]:
        steps = self._code.open_publishing(owner, NAME, notify=self._notify)
        return steps.through(_as_it_is, _unchanged)

    def _writing(
        self, play: Register, actor: Actor, publish: Callable[[bytes], int], number: int, times: int
    ) -> Callable[[], None]:
        def program() -> None:
            for turn in range(times):
                which = self._before + 1 + number + turn * len(self._publishes) if self._shared else play.begun + 1
                actor.observe(which)
                play.publishing(actor, which)
                version = publish(payload_of(which, self._pieces, (number, turn) in self._growing))
                play.met["moves"] += (number, turn) in self._growing
                play.published(actor, version, which)

        return program

    def _inheriting(self, play: Register, actor: Actor, number: int, times: int) -> Callable[[], None]:
        def program() -> None:
            first = play.run.actors[0]
            # Its lock goes when it closes, or dies: both are system calls, before which its stores are seen.
            actor.system_call("claim the state", lambda: first.is_over and play.run.cells.is_drained(first.number))
            publish = self._open(Owner(play.world, actor))
            self._writing(play, actor, publish, number, times)()

        return program

    def _attach(self, world: World, actor: Actor) -> Tuple[Visitor, reading.Reading]:
        actor.system_call("attach")
        actor.observe(world.named)
        visitor = Visitor(world, actor)
        return visitor, self._code.open_reading(visitor, NAME, self._tries)

    def _reading(self, play: Register, actor: Actor, attach: Attach) -> Callable[[], None]:
        def program() -> None:
            visitor, reader = attach()
            retries, segment = 0, visitor.segment.number
            for turn in range(self._reads):
                play.begins(actor)
                visitor.attempts.begin(turn)
                try:
                    payload, version = self._read(reader)
                    play.read(actor, number_in(payload, self._pieces), version)
                except NotPublished:
                    play.read(actor, 0)
                except ReadTimeout:
                    play.gave_up(actor)
                play.met["retries"] += reader.retries() - retries
                retries = reader.retries()
                play.met["moves that a reader followed"] += visitor.segment.number != segment
                segment = visitor.segment.number
                actor.forget_all_but((turn, segment))

        return program


class Sleepers(States):
    """One writer that wakes those who wait, and readers that sleep until a version is newer than the last they saw.

    Nobody wakes up by himself here, so a wake-up that is lost is one that nobody can go on after.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, notify=True)
        self.must_meet = ("sleeps",)
        self.title = f"{self.title}, asleep until the last"

    def _reading(self, play: Register, actor: Actor, attach: Attach) -> Callable[[], None]:
        last = self._before + sum(self._publishes)

        def program() -> None:
            visitor, reader = attach()
            version = self._before
            while version < last:
                newest = reader.latest()
                if newest > version:
                    version = newest
                else:
                    play.met["sleeps"] += 1
                    reader.rest(version, 1.0)
                actor.forget_all_but((version, visitor.segment.number))

        return program


def _as_it_is(given: Any) -> Any:
    return given


def _unchanged(payload: bytes, error: Exception) -> Exception:  # noqa: ARG001
    return error
