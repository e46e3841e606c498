from __future__ import annotations

import array
import math
import os
import pickle
import signal
import threading
import time
from typing import Any, Callable, Dict, List

import pytest

from shmstate import (
    CodecMismatch,
    CorruptSegment,
    DecodeError,
    InvalidName,
    InvalidOption,
    NotPublished,
    Overwritten,
    ReaderClosed,
    ReadTimeout,
    Snapshot,
    StateNotFound,
    StateReader,
    StateWriter,
)
from shmstate.layout import INTENT
from shmstate.memory import path_of
from tests.core import children
from tests.core.children import Child, until

Start = Callable[..., Child]


# Reading.


@pytest.mark.parametrize("checksum", [False, True])
def test_every_way_to_read_gives_the_state_published_last(name: str, checksum: bool) -> None:
    with StateWriter(name, checksum=checksum) as writer, StateReader(name) as reader:
        writer.publish("old")
        version = writer.publish({"jobs": 3})
        buffer = bytearray(100)

        assert reader.get() == {"jobs": 3}
        assert reader.read_bytes() == writer.encode({"jobs": 3})
        assert reader.read()[:2] == ({"jobs": 3}, version)
        assert reader.read_with_staleness()[0] == reader.read()
        assert bytes(reader.read_into(buffer).value) == reader.read_bytes()
        assert reader.version == version == 2
        assert reader.nbytes == len(reader.read_bytes())
        assert 0 < reader.age < 60
        assert 0 < reader.staleness < 60


READS: Dict[str, Callable[[StateReader], object]] = {
    "get": lambda reader: reader.get(),
    "read": lambda reader: reader.read(),
    "read_with_staleness": lambda reader: reader.read_with_staleness(),
    "read_bytes": lambda reader: reader.read_bytes(),
    "read_into": lambda reader: reader.read_into(bytearray(10)),
    "get_if_newer": lambda reader: reader.get_if_newer(-1),
    "nbytes": lambda reader: reader.nbytes,
    "age": lambda reader: reader.age,
    "staleness": lambda reader: reader.staleness,
    "view": lambda reader: reader.view(),
    "apply": lambda reader: reader.apply(bytes),
}
LOOKS: Dict[str, Callable[[StateReader], object]] = {
    "version": lambda reader: reader.version,
    "writer_alive": lambda reader: reader.writer_alive,
    "read_version": lambda reader: reader.read_version(1),
    "read_since": lambda reader: reader.read_since(0),
}


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_state_that_is_not_published_yet_is_said_so(
    name: str, read: Callable[[StateReader], object], checksum: bool
) -> None:
    with StateWriter(name, checksum=checksum), StateReader(name) as reader:
        assert reader.version == 0
        with pytest.raises(NotPublished, match=f"'{name}': nothing has been published yet"):
            read(reader)


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_that_nobody_disturbs_is_not_retried(
    name: str, read: Callable[[StateReader], object], checksum: bool
) -> None:
    with StateWriter(name, checksum=checksum) as writer, StateReader(name) as reader:
        writer.publish(7)

        read(reader)

        assert reader.retries == 0


def test_the_time_of_publishing_is_on_the_monotonic_clock(name: str) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        before = time.monotonic_ns()
        writer.publish(1)
        after = time.monotonic_ns()

        assert before <= reader.read().published_ns <= after


def test_age_grows_while_nothing_is_published(name: str) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish(1)
        snapshot = reader.read()
        first, first_of_reader = snapshot.age, reader.age

        until(lambda: snapshot.age > first)
        until(lambda: reader.age > first_of_reader)
        writer.publish(2)

        assert reader.age < snapshot.age


def test_staleness_is_the_age_until_the_writer_beats(name: str) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish(1)
        assert math.isclose(reader.staleness, reader.age, abs_tol=0.5)
        until(lambda: reader.age > 0.01)

        writer.beat()
        snapshot, staleness = reader.read_with_staleness()

        assert snapshot.age - staleness > 0.01


def test_nothing_newer_is_none_and_something_newer_is_read(name: str) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        assert reader.get_if_newer(0) is None
        writer.publish("a")

        newer = reader.get_if_newer(0)

        assert newer is not None
        assert newer.value == "a"
        assert reader.get_if_newer(newer.version) is None
        assert reader.get_if_newer(newer.version + 100) is None


def test_nothing_newer_is_decoded_not_even_once(name: str) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish_bytes(b"\xc1")

        assert reader.get_if_newer(1) is None
        with pytest.raises(DecodeError):
            reader.get_if_newer(0)


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize(
    "buffer",
    [bytearray(8), bytearray(50), memoryview(bytearray(9))[1:], array.array("Q", [0, 0])],
    ids=["exact", "larger", "a part", "of words"],
)
def test_read_into_fills_the_front_of_the_buffer_and_returns_that_part(name: str, buffer: Any, checksum: bool) -> None:
    with StateWriter(name, codec="raw", checksum=checksum) as writer, StateReader(name) as reader:
        writer.publish(b"12345678")

        filled, version, _ = reader.read_into(buffer)

        assert bytes(buffer)[:8] == b"12345678"
        assert (bytes(filled), version) == (b"12345678", 1)
        assert not any(bytes(buffer)[8:])


def test_read_into_a_buffer_that_is_too_small_is_refused(name: str) -> None:
    with StateWriter(name, codec="raw") as writer, StateReader(name) as reader:
        writer.publish(b"12345678")

        with pytest.raises(InvalidOption, match=f"'{name}': 8 bytes do not fit a buffer of 7"):
            reader.read_into(bytearray(7))


@pytest.mark.parametrize(
    "buffer", [b"12345678", memoryview(b"12345678"), "text", None], ids=["bytes", "view", "str", "None"]
)
def test_read_into_what_cannot_be_written_is_a_type_error(name: str, buffer: Any) -> None:
    with StateWriter(name, codec="raw") as writer, StateReader(name) as reader:
        writer.publish(b"12345678")

        with pytest.raises(TypeError):
            reader.read_into(buffer)


def test_older_versions_are_read_while_they_last(name: str) -> None:
    with StateWriter(name, slots=4) as writer, StateReader(name) as reader:
        for number in range(1, 11):
            writer.publish({"number": number})

        assert [reader.read_version(version).value["number"] for version in (8, 9, 10)] == [8, 9, 10]
        assert reader.read_version(10) == reader.read()
        with pytest.raises(Overwritten, match="version 5 is gone"):
            reader.read_version(5)
        with pytest.raises(NotPublished, match="version 11 is not published yet; the latest is 10"):
            reader.read_version(11)


@pytest.mark.parametrize(("since", "there", "missed"), [(0, [7, 8, 9, 10], 6), (7, [8, 9, 10], 0), (9, [10], 0)])
def test_what_was_published_since_is_read_and_what_was_missed_is_counted(
    name: str, since: int, there: List[int], missed: int
) -> None:
    with StateWriter(name, slots=4) as writer, StateReader(name) as reader:
        for number in range(1, 11):
            writer.publish(number)

        history = reader.read_since(since)

        assert [snapshot.value for snapshot in history.snapshots] == there
        assert [snapshot.version for snapshot in history.snapshots] == there
        assert history.missed == missed


@pytest.mark.parametrize("since", [10, 11, 1000])
def test_nothing_was_published_since(name: str, since: int) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        assert reader.read_since(0) == ((), 0)
        for number in range(1, 11):
            writer.publish(number)

        assert reader.read_since(since) == ((), 0)


def test_what_is_overwritten_while_it_is_read_counts_as_missed(name: str) -> None:
    with StateWriter(name, slots=4) as writer, StateReader(name) as reader:
        for number in range(1, 11):
            writer.publish(number)
        read_version = reader.read_version

        def overtaken(version: int) -> Snapshot:
            if version == 8:
                writer.publish(11)
                writer.publish(12)
            return read_version(version)

        reader.read_version = overtaken  # type: ignore[method-assign]
        history = reader.read_since(6)

    assert [snapshot.version for snapshot in history.snapshots] == [7, 9, 10]
    assert history.missed == 1


def test_a_version_below_0_is_an_invalid_option(name: str) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish(1)
        with pytest.raises(InvalidOption, match="version=-1: a whole number, 0 to "):
            reader.read_since(-1)
        with pytest.raises(InvalidOption, match="version=0: a whole number, 1 to "):
            reader.read_version(0)


def test_what_was_read_does_not_change_when_more_is_published(name: str) -> None:
    with StateWriter(name, codec="raw", slots=2) as writer, StateReader(name) as reader:
        writer.publish(b"first")
        payload, buffer = reader.read_bytes(), bytearray(5)
        filled = reader.read_into(buffer).value

        for _ in range(4):
            writer.publish(b"other")

        assert payload == bytes(filled) == b"first"


@pytest.mark.parametrize("payload", [b"\xc1", b"\xa5abc", b"", b"\x92\x01"], ids=repr)
def test_whole_bytes_that_do_not_decode_are_told_with_version_and_first_bytes(name: str, payload: bytes) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish("fine")
        writer.publish_bytes(payload)

        for read in (reader.get, reader.read):
            with pytest.raises(DecodeError, match=rf"'{name}': version 2.* {len(payload)} whole bytes starting b['\"]"):
                read()
        assert reader.read_bytes() == payload
        writer.publish("fine again")
        assert reader.get() == "fine again"


# Errors of the segment under it.


def test_a_checksum_that_differs_is_corruption(name: str) -> None:
    with StateWriter(name, codec="raw", checksum=True) as writer, StateReader(name, tries=3) as reader:
        writer.publish(b"payload")
        writer._segment.data[writer._segment.layout.where[1].start] ^= 1

        for read in [READS[way] for way in ("get", "read", "read_bytes", "read_into", "read_with_staleness")]:
            with pytest.raises(CorruptSegment, match=f"'{name}': version 1 is not whole .*checksum differs"):
                read(reader)
        assert reader.nbytes == 7


def test_a_read_whose_tries_run_out_says_how_many(name: str) -> None:
    with StateWriter(name, codec="raw", slots=2) as writer, StateReader(name, tries=5) as reader:
        writer.publish(b"1")

        def spoil(view: memoryview, start: int, stop: int) -> None:
            writer.publish(b"2")
            writer.publish(b"3")

        with pytest.raises(ReadTimeout, match=f"'{name}': no whole copy in 5 tries, from version 1 to 11"):
            reader._steps.snapshot(spoil)
        assert reader.retries == 5


def test_a_word_that_somebody_overwrote_is_corruption(name: str) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish(1)
        writer._segment.words[INTENT] = 99

        with pytest.raises(CorruptSegment, match="INTENT 99"):
            reader.get()


# Attaching.


def test_a_state_that_is_not_there_is_not_found_and_is_a_lookup_error(name: str) -> None:
    with pytest.raises(StateNotFound, match=f"no state '{name}'") as caught:
        StateReader(name)

    assert isinstance(caught.value, LookupError)


def test_a_timeout_is_waited_for_and_no_longer(name: str) -> None:
    began = time.monotonic()

    with pytest.raises(StateNotFound):
        StateReader(name, timeout=0.05)

    assert time.monotonic() - began >= 0.05


def test_a_state_that_appears_within_the_timeout_is_attached(start: Start, name: str) -> None:
    start(children.own, name)

    with StateReader(name, timeout=30) as reader:
        until(lambda: reader.version)
        assert list(reader.get()) == ["from"]


@pytest.mark.parametrize("tries", [0, -1])
def test_no_tries_are_an_invalid_option(name: str, tries: int) -> None:
    with pytest.raises(InvalidOption, match=f"tries={tries}"):
        StateReader(name, tries=tries)


@pytest.mark.parametrize("name", ["", "a/b", "x" * 300, 7])
def test_an_invalid_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidName):
        StateReader(name)


def test_a_codec_that_does_not_match_leaves_no_map_behind(name: str) -> None:
    with StateWriter(name, codec="pickle") as writer:
        writer.publish(1)
        before = children.descriptors_before()

        for _ in range(5):
            with pytest.raises(CodecMismatch, match=f"'{name}' is written with codec 'pickle'"):
                StateReader(name)

        assert children.open_descriptors() == before


def test_a_codec_that_is_invalid_is_refused(name: str) -> None:
    with StateWriter(name), pytest.raises(InvalidOption, match="codec 'yaml'"):
        StateReader(name, codec="yaml")


# What it says of itself and of the writer.


def test_a_reader_tells_the_writers_options(name: str) -> None:
    with StateWriter(name, codec="json", slots=3, max_size=1), StateReader(name) as reader:
        assert (reader.name, reader.codec, reader.slots, reader.max_size) == (name, "json", 3, 4096)


def test_a_reader_tells_name_and_version_and_that_it_is_closed(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        reader = StateReader(name)
        assert repr(reader) == f"<StateReader '{name}' version 1>"

        reader.close()

        assert repr(reader) == f"<StateReader '{name}' closed>"


def test_the_state_of_a_writer_that_closed_is_still_read(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish("last")
        reader = StateReader(name)
        before = (reader.writer_alive, reader.superseded)

    with reader:
        after = (reader.writer_alive, reader.superseded)
        assert (before, after) == ((True, False), (False, False))
        assert reader.get() == "last"


def test_a_reader_stays_with_its_segment_when_the_name_leads_to_another(name: str) -> None:
    with StateWriter(name) as first:
        first.publish("first")
        reader = StateReader(name)
    with reader, StateWriter(name) as second:
        second.publish("second")

        assert reader.get() == "first"
        assert reader.superseded
        assert not reader.writer_alive


def test_asking_whether_the_writer_lives_does_not_disturb_it(name: str) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        for _ in range(50):
            assert reader.writer_alive
            writer.publish(1)


# Closing.


USES: Dict[str, Callable[[StateReader], object]] = {**READS, **LOOKS}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_closed_reader_says_so(name: str, use: Callable[[StateReader], object]) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        reader = StateReader(name)
        reader.close()
        reader.close()

        with pytest.raises(ReaderClosed, match=f"'{name}': this reader was closed; open a new StateReader"):
            use(reader)


@pytest.mark.parametrize("method", ["get", "read", "read_bytes"])
def test_a_method_kept_from_a_closed_reader_says_so_too(name: str, method: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        with StateReader(name) as reader:
            kept = getattr(reader, method)
            assert kept()

        with pytest.raises(ReaderClosed, match=name):
            kept()


def test_closing_a_reader_leaves_the_state(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        StateReader(name).close()

        assert os.path.exists(path_of(name))
        with StateReader(name) as reader:
            assert reader.get() == 1


def test_a_reader_that_is_let_go_of_keeps_nothing_open(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        before = children.descriptors_before()

        for _ in range(5):
            assert StateReader(name).get() == 1

        assert children.open_descriptors() == before


# Copies and threads.


def test_a_pickled_reader_attaches_anew_with_its_options(name: str) -> None:
    with StateWriter(name, codec="pickle") as writer, StateReader(name, codec="pickle", tries=7) as reader:
        writer.publish(["any", {"object"}])

        with pickle.loads(pickle.dumps(reader)) as again:
            reader.close()
            assert again.get() == ["any", {"object"}]
            assert again._options == reader._options


def test_a_reader_works_in_a_forked_child(name: str) -> None:
    done = children.run(children.read_in_a_fork, name)

    assert done == (0, "in the child: 1\nin the parent: 2\n", "")


def test_threads_may_share_a_reader(name: str) -> None:
    torn = []
    with StateWriter(name, codec="raw") as writer, StateReader(name) as reader:
        writer.publish(b"\0" * 3000)
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                payload = reader.get()
                if len(set(payload)) != 1:
                    torn.append(payload)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(3000):
            writer.publish(bytes([number % 256]) * 3000)
        done.set()
        for thread in threads:
            thread.join()

    assert torn == []


def test_what_writes_through_a_readers_map_is_ended_and_changes_nothing(start: Start, name: str) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish("untouched")
        child = start(children.write_through_a_readers_map, name)
        assert child.line() == "untouched"

        assert child.finish()[0] == -signal.SIGSEGV

        assert reader.read()[:2] == ("untouched", 1)
        assert writer.publish("on") == 2
