from __future__ import annotations

import array
import gc
import os
import pickle
import signal
import threading
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest

from shmstate import (
    Codec,
    EncodeError,
    InvalidName,
    InvalidOption,
    NameInUse,
    StateReader,
    StateTooLarge,
    StateWriter,
    WriterClosed,
    ownership,
)
from shmstate.compat import STRONGLY_ORDERED
from shmstate.memory import path_of
from tests.core import children
from tests.core.children import Child, run, until

Start = Callable[..., Child]


def exists(name: str) -> bool:
    return os.path.exists(path_of(name))


# Publishing.


def test_publish_returns_versions_that_count_up_from_1(name: str) -> None:
    with StateWriter(name) as writer:
        assert writer.version == 0
        assert [writer.publish({"jobs": jobs}) for jobs in range(10)] == list(range(1, 11))
        assert writer.version == 10


@pytest.mark.parametrize("slots", [2, 3, 32])
def test_each_state_published_is_the_one_that_is_read(name: str, slots: int) -> None:
    with StateWriter(name, slots=slots) as writer, StateReader(name) as reader:
        for number in range(3 * slots):
            writer.publish([number] * number)
            assert reader.get() == [number] * number


@pytest.mark.parametrize(
    "payload",
    [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"memoryview")[2:5],
        array.array("d", [1.5, -2.5]),
        memoryview(array.array("i", [1, 2, 3, 4])).cast("B").cast("i", shape=[2, 2]),
        b"",
    ],
    ids=["bytes", "bytearray", "memoryview", "array of doubles", "two dimensions", "empty"],
)
@pytest.mark.parametrize("codec", ["msgpack", "raw"])
def test_contiguous_bytes_of_any_kind_are_published_as_they_are(name: str, payload: Any, codec: str) -> None:
    with StateWriter(name, codec=codec) as writer, StateReader(name) as reader:
        writer.publish_bytes(payload)

        assert reader.read_bytes() == bytes(payload)


@pytest.mark.parametrize(
    "payload", [memoryview(b"abcdef")[::2], "text", 5, None, [1]], ids=["strided", "str", "int", "None", "list"]
)
@pytest.mark.parametrize("how", ["publish_bytes", "publish raw"])
def test_what_is_not_contiguous_bytes_is_refused_and_the_last_state_stands(name: str, payload: Any, how: str) -> None:
    with StateWriter(name, codec="raw") as writer, StateReader(name) as reader:
        writer.publish_bytes(b"before")

        with pytest.raises(EncodeError, match=f"'{name}': a {type(payload).__name__} .*nothing was published"):
            (writer.publish_bytes if how == "publish_bytes" else writer.publish)(payload)

        assert (reader.get(), reader.version) == (b"before", 1)


@pytest.mark.parametrize("codec", ["msgpack", "json", "pickle"])
def test_a_value_that_does_not_encode_publishes_nothing(name: str, codec: str) -> None:
    with StateWriter(name, codec=codec) as writer, StateReader(name, codec=codec) as reader:
        writer.publish("before")

        with pytest.raises(
            EncodeError, match=f"'{name}': a generator did not encode .*the last state stands"
        ) as caught:
            writer.publish(i for i in range(3))

        assert caught.value.__cause__ is not None
        assert (reader.get(), reader.version) == ("before", 1)
        assert writer.publish("after") == 2
        assert reader.get() == "after"


def test_a_state_beyond_max_size_publishes_nothing_if_it_may_not_grow(name: str) -> None:
    with StateWriter(name, codec="raw", max_size=5000, grow=False) as writer, StateReader(name) as reader:
        writer.publish(b"before")

        with pytest.raises(StateTooLarge, match=f"'{name}': 8193 bytes are more than its max_size of 8192"):
            writer.publish(bytes(8193))

        assert (reader.get(), reader.version) == (b"before", 1)
        assert writer.publish(bytes(8192)) == 2
        assert reader.nbytes == 8192


def test_a_state_may_grow_and_shrink(name: str) -> None:
    with StateWriter(name, codec="raw", slots=2) as writer, StateReader(name) as reader:
        for size in (0, 1, 5000, 3_000_000, 10, 3_000_001, 0):
            writer.publish(b"x" * size)
            assert reader.get() == b"x" * size


def test_encode_gives_the_bytes_that_publish_would_publish(name: str) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish({"a": [1, 2]})

        assert writer.encode({"a": [1, 2]}) == reader.read_bytes()
        with pytest.raises(EncodeError, match=f"'{name}': a object did not encode"):
            writer.encode(object())
        assert writer.version == 1


def test_a_beat_vouches_for_the_last_state_without_publishing(name: str) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish(1)
        until(lambda: reader.age > 0.01)

        writer.beat()

        # The age is taken after the staleness, so the difference is that of the two times, and more.
        assert reader.age - reader.staleness > 0.009
        assert reader.version == 1


def test_an_exception_from_a_signal_leaves_the_writer_usable(name: str) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def encode(number: int) -> bytes:
        if number:
            signal.raise_signal(number)
        return b"encoded"

    before = signal.signal(signal.SIGUSR1, interrupt)
    codec = Codec("interrupted", encode, bytes)
    try:
        with StateWriter(name, codec=codec) as writer, StateReader(name, codec=codec) as reader:
            writer.publish(0)
            with pytest.raises(KeyboardInterrupt):
                writer.publish(signal.SIGUSR1)

            assert reader.version == 1
            assert writer.publish(0) == 2
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_threads_may_share_a_writer(name: str) -> None:
    versions: List[int] = []
    with StateWriter(name, slots=2, checksum=True) as writer, StateReader(name) as reader:

        def publish(letter: str) -> None:
            for length in range(200):
                versions.append(writer.publish(letter * length * 50))

        threads = [threading.Thread(target=publish, args=(letter,)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if reader.version:
                assert len(set(reader.get())) <= 1
        for thread in threads:
            thread.join()

        assert sorted(versions) == list(range(1, 801))
        assert writer.version == 800


# What it says of itself.


def test_a_writer_tells_its_options(name: str) -> None:
    with StateWriter(name, codec="json", slots=3, max_size=5000) as writer:
        assert (writer.name, writer.codec, writer.slots, writer.max_size) == (name, "json", 3, 8192)


def test_a_writer_tells_name_and_version_and_that_it_is_closed(name: str) -> None:
    writer = StateWriter(name)
    writer.publish(1)
    assert repr(writer) == f"<StateWriter '{name}' version 1>"

    writer.close()

    assert repr(writer) == f"<StateWriter '{name}' closed>"


@pytest.mark.parametrize(("asked", "stored"), [(True, True), (False, False), (None, not STRONGLY_ORDERED)])
def test_a_checksum_is_stored_if_asked_for_or_where_the_machine_is_weak(name: str, asked: bool, stored: bool) -> None:
    with StateWriter(name, checksum=asked) as writer:
        assert writer._segment.layout.checksum == stored


@pytest.mark.parametrize(
    ("option", "value"),
    [("slots", 1), ("slots", 0), ("max_size", 0), ("max_size", -5), ("max_size", True), ("codec", "yaml")],
)
def test_an_invalid_option_is_refused_and_makes_nothing(name: str, option: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=option):
        StateWriter(name, **{option: value})

    assert not exists(name)


@pytest.mark.parametrize("name", ["", "a/b", "x" * 300, 7])
def test_an_invalid_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidName):
        StateWriter(name)


# Closing.


def test_close_removes_the_segment_and_may_be_repeated(name: str) -> None:
    writer = StateWriter(name)
    assert exists(name)

    writer.close()
    writer.close()

    assert not exists(name)


def test_close_can_leave_the_segment_to_the_next_writer(name: str) -> None:
    writer = StateWriter(name)
    writer.publish(1)

    writer.close(unlink=False)
    writer.close()

    assert exists(name)
    with StateWriter(name) as heir:
        assert heir.version == 1


def test_leaving_the_with_block_removes_the_segment_also_after_an_error(name: str) -> None:
    with pytest.raises(LookupError), StateWriter(name):
        raise LookupError

    assert not exists(name)


USES = {
    "publish": lambda writer: writer.publish(1),
    "publish_bytes": lambda writer: writer.publish_bytes(b"x"),
    "beat": lambda writer: writer.beat(),
    "version": lambda writer: writer.version,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_closed_writer_says_so(name: str, use: Callable[[StateWriter], object]) -> None:
    writer = StateWriter(name)
    writer.publish(1)
    writer.close()

    with pytest.raises(WriterClosed, match=f"'{name}': its writer was closed; open a new StateWriter"):
        use(writer)


@pytest.mark.parametrize("method", ["publish", "publish_bytes", "beat"])
def test_a_method_kept_from_a_closed_writer_says_so_too(name: str, method: str) -> None:
    writer = StateWriter(name)
    kept = getattr(writer, method)
    writer.close()

    with pytest.raises(WriterClosed, match=name):
        kept() if method == "beat" else kept(b"x")


def test_a_closed_writer_still_tells_its_options(name: str) -> None:
    writer = StateWriter(name, slots=3)
    writer.close()

    assert (writer.name, writer.slots, writer.codec) == (name, 3, "msgpack")


def test_a_writer_that_is_let_go_of_removes_its_segment(name: str) -> None:
    gc.disable()
    try:
        writer = StateWriter(name)
        writer.publish(1)
        assert exists(name)

        del writer

        assert not exists(name)
    finally:
        gc.enable()


#: Functions of a writer, and what they publish.
KEPT: Dict[str, Tuple[Dict[str, Any], Callable[[StateWriter], Any], Any]] = {
    "publish": ({}, lambda writer: writer.publish, 1),
    "publish_bytes": ({}, lambda writer: writer.publish_bytes, b"1"),
    "shared": ({"shared": True}, lambda writer: writer.publish, 1),
    "array": ({"codec": "array"}, lambda writer: writer.publish, np.arange(3)),
    "encode and publish": ({}, lambda writer: lambda value: writer.publish_bytes(writer.encode(value)), 1),
}


@pytest.mark.parametrize(("options", "function_of", "value"), KEPT.values(), ids=KEPT)
def test_a_function_that_is_kept_keeps_its_writer(
    name: str, options: Any, function_of: Callable[[StateWriter], Any], value: Any
) -> None:
    gc.disable()
    try:
        assert function_of(StateWriter(name, **options))(value) == 1
        assert not exists(name)
        kept = function_of(StateWriter(name, **options))
        assert [kept(value), kept(value)] == [1, 2]
        assert exists(name)
        del kept
        assert not exists(name)
    finally:
        gc.enable()


def test_a_loan_that_is_kept_keeps_its_writer(name: str) -> None:
    loan = StateWriter(name, codec="raw").loan(3)
    with loan as view:
        view[:] = b"abc"
    assert loan.version == 1
    assert StateReader(name).get() == b"abc"
    del loan
    assert not exists(name)


@pytest.mark.parametrize(("way", "code"), [("end", 0), ("exit", 3), ("error", 1)])
def test_a_process_that_ends_removes_its_segments(name: str, way: str, code: int) -> None:
    done = run(children.own_and_exit, name, way)

    assert (done.code, done.out) == (code, "1\n")
    assert not exists(name)
    assert ("LookupError: uncaught" in done.err) == (done.err != "") == (way == "error")


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_child_of_multiprocessing_that_ends_removes_its_segments(name: str, method: str) -> None:
    done = run(children.own_in_a_process, name, method)

    assert done == (0, "1\n0 []\n", "")


def test_a_process_that_is_killed_leaves_its_segment(start: Start, name: str) -> None:
    child = start(children.own, name)
    child.line()

    child.kill()

    assert exists(name)
    assert ownership.remove_if_dead(path_of(name), name)


# Copies.


def test_a_pickled_writer_claims_the_name_anew_and_is_refused_while_the_first_lives(name: str) -> None:
    with StateWriter(name, slots=3, codec="json") as writer:
        pickled = pickle.dumps(writer)

        with pytest.raises(NameInUse, match=f"pid {os.getpid()}"):
            pickle.loads(pickled)


def test_a_pickled_writer_takes_its_options_along(name: str) -> None:
    writer = StateWriter(name, slots=3, codec="json", max_size=5000, checksum=True)
    pickled = pickle.dumps(writer)
    writer.close()

    with pickle.loads(pickled) as again:
        assert (again.name, again.slots, again.codec, again.max_size) == (name, 3, "json", 8192)
        assert again._segment.layout.checksum


@pytest.mark.parametrize(("way", "code"), [("os.fork", 7), ("multiprocessing", 0)])
def test_a_forked_child_cannot_publish_and_its_exit_leaves_the_state_to_its_parent(
    name: str, way: str, code: int
) -> None:
    done = run(children.own_and_fork, name, way)

    assert done == (0, f"{code} True of the parent 2\n", "")
    assert not exists(name)


@pytest.mark.parametrize("method", ["publish", "publish_bytes"])
def test_a_forked_child_is_told_so_at_once_also_if_a_thread_was_publishing(name: str, method: str) -> None:
    done = run(children.fork_in_the_middle_of_a_publish, name, method)

    assert done == (0, "refused\n", "")
