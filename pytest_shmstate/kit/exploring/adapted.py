"""Anybody's structure, explored in one process: its own code over blocks.py, each access a place for others to come in.

Memory is sequential here, there is one pid, and each process has a clock of its own that stands still. What hands
``shm.buf`` to C (``struct``, NumPy) cannot be stopped in between: ``out_of_reach`` says so then, and what was found says
nothing about the structure. The stepper takes such code line by line.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Callable, Dict, Hashable, Iterator, Optional, Tuple

from pytest_shmstate.kit.exploring.actors import Actor, Run, Violation
from pytest_shmstate.kit.exploring.alone import Alone
from pytest_shmstate.kit.exploring.explorer import Scenario
from pytest_shmstate.kit.exploring.register import Register
from pytest_shmstate.kit.oracle.payload import payload_of, version_in, what_is_wrong_with
from pytest_shmstate.kit.seams import blocks
from pytest_shmstate.kit.seams.adapter import Adapter
from pytest_shmstate.kit.seams.blocks import Blocks, ObservedBuffer
from pytest_shmstate.kit.seams.gates import Copying
from pytest_shmstate.kit.seams.own_time import OwnTime

#: Payloads take turns in being so long; a resize makes room for four times as much, and the next payload needs it.
LENGTHS = (24, 40)
ROOM = 64
_LARGER = 4

_HANDS_ON = (
    "it hands shm.buf to C, or asks of it what only a memoryview has. That cannot be stopped in between: have the stepper"
    " take its module line by line, with by_line=[...]"
)
_NOT_OURS = (
    "it made nothing with multiprocessing.shared_memory.SharedMemory: what it maps by itself, or with a class that is"
    " derived from that one, is left to the stepper (by_line=[...]) and to stress"
)


class OutOfReach(Exception):
    """The structure does what cannot be explored."""


class Kernel:
    """What the kernel knows: blocks, and nobody's locks."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    def key(self) -> Hashable:
        """Equal for equal blocks."""
        return self.blocks.key()

    def mourn(self, process: str) -> None:
        """There are no locks."""


class Adapted(Scenario):
    """One writer publishes, readers read.

    ``publishes``  how often each writer does; the second creates when the first was killed, unless they share
    ``resized``    before which of its publishes the first writer makes room for more
    ``late``       the last reader attaches while the others are at work
    ``waits``      reads may wait for a writer that stands still
    """

    must_meet: Tuple[str, ...] = ("reads that a publish overlapped",)

    def __init__(
        self,
        adapter: Adapter,
        *,
        publishes: Tuple[int, ...] = (2,),
        readers: int = 1,
        reads: int = 2,
        resized: Optional[int] = None,
        late: bool = False,
        waits: bool = False,
        parts: int = 2,
        downward: bool = False,
    ) -> None:
        self._adapter, self._publishes, self._reads = adapter, publishes, reads
        self._resized, self._late, self._waits = resized, late, waits
        self._copying = Copying(parts, downward)
        self._name = f"kit-{os.getpid()}-explored"
        self._alone = Alone()
        #: Why nothing that was found says anything about the structure; empty if it does.
        self.out_of_reach = ""
        writers = tuple(f"writer {n + 1}" for n in range(len(publishes)))
        self.processes = (*writers, *(f"reader {n + 1}" for n in range(readers)))
        self.kills: Dict[str, int] = {}
        if len(publishes) > 1 and not adapter.is_shared:
            self.kills = {writers[0]: 1}
            self.must_meet += ("kills",)
        said = [f"{adapter.title}: {' + '.join(f'{n} publishes' for n in publishes)}", f"{readers} x {reads} reads"]
        said += ["a writer killed anywhere, and its heir"] if self.kills else []
        said += ["resized"] if resized is not None else []
        said += ["a reader attaches meanwhile"] if late else []
        said += ["copied from the far end"] if downward else []
        self.title = ", ".join(said)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Where it can be explored: the stand-ins are there."""
        time = OwnTime(self._alone.who, self._alone.stop)
        self._alone.time = time
        try:
            with blocks.in_place(time):
                yield
        finally:
            time.end()

    def begin(self, run: Run) -> Register:
        """One state has been published; the first writer and the readers are there. Raises OutOfReach."""
        self._alone.begin(run, self._waits)
        held = Blocks(self._alone.stop, self._alone.observe, self._copying, self._name)
        play = Register(run, Kernel(held))
        blocks.begin(held)
        try:
            self._set_up(run, play)
        except Exception as error:
            self._let_go(held)
            raise OutOfReach(self.out_of_reach or f"it could not be set up: it raised {_told(error)}") from error
        if not held.all:
            self._let_go(held)
            raise OutOfReach(_NOT_OURS)
        play.programs = [partial(self._performed, actor, program) for actor, program in zip(run.actors, play.programs)]
        return play

    def _performed(self, actor: Actor, program: Callable[[], None]) -> None:
        try:
            program()
        except Violation:
            if not self._alone.has_stopped(actor):  # the schedule has not begun, and could not be told
                actor.system_call("no access at all")
            raise

    def _set_up(self, run: Run, play: Register) -> None:
        name, adapter = self._name, self._adapter
        with self._reached():
            writer = adapter.create(name, ROOM)
            adapter.publish(writer, self._payload(1))
            play.begun = 1
            play.took_effect(1)
            for number, times in enumerate(self._publishes):
                actor = run.actors[number]
                open_writer: Callable[[], Any] = partial(_same, writer)
                if number and adapter.is_shared:
                    open_writer = partial(_same, adapter.create(name, ROOM))
                elif number:
                    open_writer = partial(self._inherit, run, actor, name)
                play.programs.append(partial(self._write, play, actor, open_writer, times))
            for actor in run.actors[len(self._publishes) :]:
                attach = partial(adapter.attach, name)
                if not (self._late and actor is run.actors[-1]):
                    attach = partial(_same, attach())
                play.programs.append(partial(self._read_on, play, actor, attach))

    def _let_go(self, held: Blocks) -> None:
        """Of what it made that is none of ours."""
        if not held.all:
            with suppress(Exception):
                self._adapter.remove(self._name)

    @contextmanager
    def _reached(self, who: str = "", what: str = "") -> Iterator[None]:
        """What the structure raises is a violation, or shows that it cannot be explored."""
        try:
            yield
        except self._adapter.refusals:
            raise
        except Exception as error:
            if _is_of_the_stand_in(error):
                self.out_of_reach = f"{_HANDS_ON} ({_told(error)})"
            if not who or isinstance(error, Violation):
                raise
            raise Violation(f"{who}: {what} raised {_told(error)}") from error

    def _payload(self, number: int, larger: bool = False) -> bytes:
        length = LENGTHS[number // 2 % 2]
        return payload_of(number, length * _LARGER if larger else length)

    def _inherit(self, run: Run, actor: Actor, name: str) -> Any:
        actor.system_call("wait for the end of the first", lambda: run.actors[0].is_over)
        return self._adapter.create(name, ROOM)

    def _write(self, play: Register, actor: Actor, open_writer: Callable[[], Any], times: int) -> None:
        self._alone.begins(actor, "create")
        with self._reached(actor.name, "create"):
            writer = open_writer()
        is_larger = False
        for turn in range(times):
            if turn == self._resized:
                self._alone.begins(actor, "resize")
                with self._reached(actor.name, "resize"):
                    self._adapter.resize(writer, ROOM * _LARGER)
                is_larger = True
            number = play.begun + 1
            actor.observe(number)
            play.publishing(actor, number)
            self._alone.begins(actor, "publish")
            try:
                with self._reached(actor.name, "publish"):
                    self._adapter.publish(writer, self._payload(number, is_larger))
            except self._adapter.refusals:
                play.gave_up(actor)
            else:
                play.published(actor, number, number)

    def _read_on(self, play: Register, actor: Actor, attach: Callable[[], Any]) -> None:
        self._alone.begins(actor, "attach")
        with self._reached(actor.name, "attach"):
            reader = attach()
        for _ in range(self._reads):
            self._alone.begins(actor, "read")
            play.begins(actor)
            try:
                with self._reached(actor.name, "read"):
                    payload = self._adapter.read(reader)
            except self._adapter.refusals:
                play.gave_up(actor)
                continue
            play.read(actor, _number_of(payload))


def _same(handle: Any) -> Any:
    return handle


def _number_of(payload: Optional[bytes]) -> int:
    if payload is None:
        return 0
    wrong = what_is_wrong_with(payload)
    if wrong:
        raise Violation(f"a read returned a torn state: {wrong}")
    return version_in(payload)


def _is_of_the_stand_in(error: Optional[BaseException]) -> bool:
    """Whether it was raised since ``shm.buf`` is none; also where the structure raised another in its place."""
    while error is not None:
        if isinstance(error, (TypeError, AttributeError)) and ObservedBuffer.__name__ in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
