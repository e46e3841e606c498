"""What a register says of publishes and reads that come one after another: each rule, and its like that breaks none."""

from __future__ import annotations

from functools import partial
from typing import Any, List, Optional, Tuple

import pytest

from pytest_shmstate.kit.exploring.actors import Actor, Run
from pytest_shmstate.kit.exploring.explorer import Play, Scenario, explore
from pytest_shmstate.kit.exploring.models import REORDERING, SEQUENTIAL
from pytest_shmstate.kit.exploring.register import Register

#: ("publish", "publishing", which does not end, or "read", the number of the state, the version that is told).
Done = Tuple[str, int, Optional[int]]


class Nothing:
    """A kernel that knows of nothing."""

    def key(self) -> None:
        return None

    def mourn(self, process: str) -> None:
        pass


class Said(Scenario):
    """A process that says that it has done these things, and touches a cell for each, which is not its alone."""

    title = "what was said"
    processes = ("somebody", "bystander")

    def __init__(self, done: List[Done], *, by_version: bool) -> None:
        self.done, self.by_version = done, by_version

    def begin(self, run: Run) -> Play:
        play = Register(run, Nothing(), by_version=self.by_version)
        somebody, bystander = run.actors
        cell = run.cells.number("cell")
        play.programs = [partial(self._say, somebody, play, cell), partial(bystander.load, cell, "load")]
        return play

    def _say(self, actor: Actor, play: Register, cell: Any) -> None:
        for what, number, version in self.done:
            if what in ("publish", "publishing"):
                play.publishing(actor, number)
                actor.store(cell, number, "store")
                if what == "publish":
                    play.published(actor, version or 0, number)
            else:
                play.begins(actor)
                actor.load(cell, "load")
                play.read(actor, number, version)


def said(*done: Done, by_version: bool = False, model: Any = SEQUENTIAL) -> str:
    """The violation, or nothing."""
    certificate = explore(Said(list(done), by_version=by_version), model)
    assert certificate.is_complete or certificate.failure
    return certificate.failure.sentence if certificate.failure else ""


def publish(number: int, version: Optional[int] = None) -> Done:
    return "publish", number, version or number


def read(number: int, version: Optional[int] = None) -> Done:
    return "read", number, version


def test_what_goes_up_is_right() -> None:
    assert said(read(0), publish(1), read(1), publish(2), read(2), read(2)) == ""
    assert said(publish(7, 1), read(7, 1), publish(3, 2), read(3, 2), by_version=True) == ""


@pytest.mark.parametrize("second", [2, 1])
def test_a_publish_gets_a_higher_place_than_all_that_was_there(second: int) -> None:
    sentence = f"somebody published {second}, though 2 was there before it began"

    assert said(publish(2), publish(second)) == sentence
    assert said(publish(1, 2), publish(2, second), by_version=True) == sentence


def test_a_read_gets_no_less_than_was_there() -> None:
    assert said(publish(1), publish(2), read(1)) == "somebody read 1, though 2 was there before it began"
    assert said(publish(1), read(0)) == "somebody read 0, though 1 was there before it began"


def test_what_was_seen_of_a_publish_that_has_not_ended_counts() -> None:
    assert said(("publishing", 1, None), read(0), read(1)) == ""
    assert said(("publishing", 1, None), read(1), read(0)) == "somebody read 0, though 1 was there before it began"


def test_a_read_gets_nothing_that_nobody_began_to_publish() -> None:
    assert said(publish(1), read(2)) == "somebody read 2, which nobody had begun to publish"


def test_a_version_is_one_state() -> None:
    assert said(publish(1), publish(2), read(1, 2)) == "state 1 goes as version 2, which state 2 went as"


def test_where_loads_may_be_stale_only_who_has_seen_it_must_see_it_again() -> None:
    assert said(publish(1), publish(2), read(1), model=REORDERING) == ""
    assert said(publish(1), publish(2), read(2), read(1), model=REORDERING).startswith("somebody read 1, though 2")
