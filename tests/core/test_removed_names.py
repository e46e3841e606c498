"""A name that another program removes, or gives to another file, under a living writer."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any, Callable, Dict, List

import pytest

import shmstate
from shmstate import (
    NameInUse,
    NotPublished,
    StateNotFound,
    StateReader,
    StateWriter,
    WaitTimeout,
    list_states,
    ownership,
    reclaim,
    turns,
)
from shmstate.layout import SHM_DIR
from shmstate.title import SharedTitle
from tests.core import children
from tests.core.children import PATIENCE, until

#: A writer looks ten times a second.
BOUND = 5.0


def lend(writer: StateWriter) -> None:
    with writer.loan(5) as view:
        view[:] = b"again"


USES: Dict[str, Callable[[StateWriter], object]] = {
    "publish": lambda writer: writer.publish(b"again"),
    "publish_bytes": lambda writer: writer.publish_bytes(b"again"),
    "loan": lend,
    "beat": StateWriter.beat,
}


def has_beaten(writer: StateWriter) -> bool:
    writer.beat()
    return True


def path_of(name: str) -> str:
    return f"{SHM_DIR}/shmstate.{name}"


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_writer_gives_a_removed_name_back_within_a_bounded_time(
    name: str, use: Callable[[StateWriter], object], shared: bool, caplog: Any
) -> None:
    with StateWriter(name, codec="raw", shared=shared, notify=True) as writer, StateReader(name) as attached:
        for number in range(6):
            writer.publish(b"%d" % number)
        for _ in range(2):
            os.unlink(path_of(name))
            assert attached.writer_alive
            with caplog.at_level(logging.WARNING, "shmstate"):
                until(lambda: (use(writer), os.path.exists(path_of(name)))[1], BOUND)

            with StateReader(name) as fresh:
                assert fresh.read() == attached.read()
                assert fresh.version == writer.version >= 6
                assert fresh.writer_alive
                assert attached.writer_alive
                assert attached.wait(after=5, timeout=BOUND).version == writer.version
        assert f"'{name}': its name was removed by another program; this writer has given it back" in caplog.text
        assert [state.alive for state in list_states(name)] == [True]
        assert reclaim(name) == []
    assert [file for file in os.listdir(SHM_DIR) if name in file] == []


def test_a_state_that_was_never_published_gets_its_name_back_too(name: str) -> None:
    with StateWriter(name, notify=True) as writer, StateReader(name) as reader:
        os.unlink(path_of(name))
        until(lambda: has_beaten(writer) and os.path.exists(path_of(name)), BOUND)

        with pytest.raises(NotPublished):
            reader.get()
        assert writer.publish(1) == 1
        assert reader.get() == StateReader(name).get() == 1


@pytest.mark.parametrize("use", [*USES.values(), lambda writer: writer.trim()], ids=[*USES, "trim"])
def test_a_writer_whose_name_leads_elsewhere_says_so_within_a_bounded_time(
    name: str, use: Callable[[StateWriter], object]
) -> None:
    with StateWriter(name, codec="raw") as writer:
        writer.publish(b"ours")
        os.unlink(path_of(name))
        with StateWriter(name, codec="raw") as another:
            another.publish(b"theirs")

            def is_refused() -> bool:
                try:
                    use(writer)
                except (StateNotFound, NameInUse) as error:
                    return "was replaced by another program" in str(error)
                return False

            until(is_refused, BOUND)
            # And ever after.
            with pytest.raises(StateNotFound, match="close this writer and open a new one"):
                use(writer)
            writer.close()
            assert StateReader(name).get() == b"theirs"


def test_a_writer_that_dies_without_its_name_is_dead(name: str, start: Any) -> None:
    child = start(children.echo, name)
    assert child.line() == "ready"
    child.say("1")
    with StateReader(name, timeout=BOUND) as reader:
        until(lambda: reader.version == 1, BOUND)
        os.unlink(path_of(name))
        alive = [reader.writer_alive]
        child.kill()
        alive.append(reader.writer_alive)
        assert alive == [True, False]
        with pytest.raises(shmstate.WriterGone):
            reader.wait(after=1, timeout=BOUND)


# What adoption says.


def left_by_a_dead_writer(name: str) -> None:
    writer = StateWriter(name)
    writer.publish("old")
    writer.close(unlink=False)


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"slots": 8}, {"notify": True}], ids=str)
def test_adopting_a_state_confirms_nothing(name: str, options: Any) -> None:
    left_by_a_dead_writer(name)
    published = time.monotonic()
    until(lambda: time.monotonic() > published + 0.05, BOUND)

    with StateWriter(name, **options) as heir, StateReader(name) as reader:
        assert reader.staleness >= 0.05
        heir.beat()
        assert reader.staleness < time.monotonic() - published
        before = reader.staleness
        with StateWriter(name + "-other", shared=True) as first:
            first.publish(1)
            other = StateReader(name + "-other")
            was = other._steps.heartbeat()
            with StateWriter(name + "-other", shared=True):
                assert other._steps.heartbeat() == was
        assert reader.staleness >= before


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"slots": 8}, {"checksum": True}], ids=str)
def test_a_fresh_start_shows_nothing_until_its_first_publish(name: str, options: Any) -> None:
    left_by_a_dead_writer(name)
    with StateReader(name) as attached:
        assert attached.get() == "old"
        with StateWriter(name, fresh=True, **options) as writer, StateReader(name) as reader:
            for one in (attached, reader):
                for read in (one.get, one.read, one.read_bytes, one.view, lambda one=one: one.field("x")):
                    with pytest.raises(NotPublished, match="begun afresh after version 1"):
                        read()
                with pytest.raises(shmstate.Overwritten):
                    one.read_version(1)
            assert writer.version == 1
            assert writer.publish("new") == 2
            assert attached.get() == reader.get() == "new"
            assert reader.read_since(0).missed == 1


@pytest.mark.parametrize("notify", [False, True])
def test_what_waits_for_a_state_that_begins_afresh_waits_for_its_first_publish(
    name: str, notify: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def first(reader: StateReader) -> Any:
        return (await reader.changes().__anext__()).value

    looks = []
    get_if_newer = StateReader.get_if_newer

    def look(reader: StateReader, version: int) -> Any:
        looks.append(version)
        return get_if_newer(reader, version)

    monkeypatch.setattr(StateReader, "get_if_newer", look)
    with StateWriter(name) as dead:
        dead.publish("old")
        dead.close(unlink=False)
    with StateWriter(name, fresh=True, notify=notify) as writer, StateReader(name) as reader:
        assert reader.get_if_newer(0) is None
        with pytest.raises(WaitTimeout):
            reader.wait(after=0, timeout=0.02)
        with pytest.raises(asyncio.TimeoutError):
            asyncio.run(asyncio.wait_for(first(reader), 0.02))
        assert len(looks) < 200  # it sleeps in between
        writer.publish("new")
        assert reader.wait(after=0, timeout=PATIENCE).value == asyncio.run(first(reader)) == "new"


def test_a_fresh_start_with_nothing_before_it_is_an_ordinary_one(name: str) -> None:
    with StateWriter(name, fresh=True) as writer, StateReader(name) as reader:
        with pytest.raises(NotPublished, match="nothing has been published yet"):
            reader.get()
        assert writer.publish(1) == 1


def test_a_fresh_start_beside_living_writers_is_refused(name: str) -> None:
    with StateWriter(name, shared=True) as first:
        first.publish(1)
        with pytest.raises(NameInUse, match="fresh=True would hide"):
            StateWriter(name, shared=True, fresh=True)
        assert StateReader(name).get() == 1
        assert first.publish(2) == 2


def test_a_fresh_start_hides_nothing_of_a_writer_that_joins_meanwhile(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by_a_dead_writer(name)
    take_turn = SharedTitle.take_turn
    joined: List[StateWriter] = []

    def take_turn_after_another(title: SharedTitle) -> None:
        monkeypatch.undo()
        joined.append(StateWriter(name, shared=True))
        joined[0].publish("kept")
        take_turn(title)

    monkeypatch.setattr(SharedTitle, "take_turn", take_turn_after_another)
    with pytest.raises(NameInUse, match="fresh=True would hide"):
        StateWriter(name, shared=True, fresh=True)
    assert StateReader(name).get() == "kept"
    joined[0].close()
    assert not os.path.exists(path_of(name))


@pytest.mark.parametrize("options", [{"fresh": True}, {"codec": "json"}], ids=str)
def test_a_writer_that_is_refused_leaves_nothing_where_the_others_close_meanwhile(
    name: str, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = StateWriter(name, shared=True)
    other.publish(1)
    are_others_present = ownership.are_others_present

    def are_others_present_and_then_close(segment: Any) -> bool:
        found = are_others_present(segment)
        if "fresh" not in options or is_in_turn(segment):
            other.close()
        return found

    monkeypatch.setattr(ownership, "are_others_present", are_others_present_and_then_close)
    with pytest.raises((NameInUse, shmstate.CodecMismatch)):
        StateWriter(name, shared=True, **options)
    assert not os.path.exists(path_of(name))


def is_in_turn(segment: Any) -> bool:
    with open(segment.path, "rb+") as file:
        return not turns.take_within(file.fileno(), 0)
