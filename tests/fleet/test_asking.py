"""FleetQuery: what is asked for comes, as it was published, with the facts; and what does not is named."""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Iterator, List

import numpy as np
import pytest

import shmstate
from shmstate import Codec, FleetError, InvalidOption, StateNotFound, StateWriter, WaitTimeout
from shmstate.fleet import FleetQuery, Gateway, Problem
from shmstate.layout import SHM_DIR
from shmstate.memory import path_of
from tests.core import children
from tests.core.children import Child, until
from tests.fleet.others import once

zenoh = pytest.importorskip("zenoh", reason="needs eclipse-zenoh: the extra `fleet`")

Start = Callable[..., Child]


@pytest.fixture
def place(endpoint: Callable[[], str]) -> str:
    """Where the gateway of these tests is."""
    return endpoint()


@pytest.fixture
def gateway(place: str, prefix: str) -> Iterator[Gateway]:
    with Gateway("h1", states=[f"{prefix}*"], listen=[place]) as gateway:
        yield gateway


@pytest.fixture
def query(place: str, name: str, gateway: Gateway) -> Iterator[FleetQuery]:
    with FleetQuery(name, connect=[place], deadline=30) as query:
        yield query


# Facts.

VALUES = [
    ("msgpack", {"jobs": [1, "two", None, b"\0"]}),
    ("json", {"jobs": [1.5, "zwei \u6c34"]}),
    ("raw", b"\0\xff" * 5),
]


@pytest.mark.parametrize(("codec", "value"), VALUES)
def test_an_answer_is_the_state_as_it_was_published_with_the_facts(
    query: FleetQuery, name: str, codec: str, value: Any
) -> None:
    with StateWriter(name, codec=codec) as writer:
        writer.publish(value)
        writer.publish(value)
        with shmstate.StateReader(name) as reader:
            nbytes = len(reader.read_bytes())

        answer = query.ask().only()

    assert (answer.host, answer.state, answer.value) == ("h1", name, value)
    assert (answer.version, answer.alive, answer.codec, answer.nbytes) == (2, True, codec, nbytes)
    assert 0 < answer.staleness <= answer.age < 60


def test_arrays_come_as_arrays(query: FleetQuery, name: str) -> None:
    with StateWriter(name, codec="array") as writer:
        writer.publish(np.arange(5))

        answer = query.ask().only()

    assert answer.codec == "array"
    assert answer.value.tolist() == [0, 1, 2, 3, 4]


def test_what_msgspec_has_written_comes(query: FleetQuery, name: str) -> None:
    pytest.importorskip("msgspec")
    with StateWriter(name, codec="msgspec") as writer:
        writer.publish({"a": 1})

        answer = query.ask().only()

    assert (answer.codec, answer.value) == ("msgspec", {"a": 1})


def test_a_beat_makes_an_answer_fresh_without_making_it_young(query: FleetQuery, name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        until(lambda: query.ask().only().age > 0.01)

        writer.beat()
        answer = query.ask().only()

    assert answer.age - answer.staleness > 0.01


def test_each_question_sees_what_was_published_last(query: FleetQuery, name: str) -> None:
    with StateWriter(name) as writer:
        for jobs in range(50):
            writer.publish(jobs)
            assert query.ask().only().value == jobs


# Codecs that run code, or that nobody here knows.


def test_pickle_is_not_read_unless_it_is_named_and_the_problem_says_how(
    query: FleetQuery, place: str, name: str
) -> None:
    with StateWriter(name, codec="pickle") as writer:
        writer.publish({1, 2})

        (problem,) = query.ask().problems
        with FleetQuery(name, connect=[place], codec="pickle", deadline=30) as named:
            answer = named.ask().only()

    assert problem[:2] == ("h1", name)
    assert "'pickle'" in problem.text
    assert "FleetQuery(..., codec='pickle')" in problem.text
    assert "--codec pickle" in problem.text
    assert "StateReader" not in problem.text
    assert (answer.value, answer.codec) == ({1, 2}, "pickle")


def test_a_codec_of_ones_own_is_not_read_unless_it_is_named(query: FleetQuery, place: str, name: str) -> None:
    own = Codec("shout", lambda value: value.upper().encode(), lambda payload: payload.decode())
    with StateWriter(name, codec=own) as writer:
        writer.publish("hello")

        (problem,) = query.ask().problems
        with FleetQuery(name, connect=[place], codec=own, deadline=30) as named:
            answer = named.ask().only()

    assert "'shout'" in problem.text
    assert "FleetQuery(..., codec=...)" in problem.text
    assert answer.value == "HELLO"


def test_a_codec_that_is_not_the_writers_is_a_problem(place: str, gateway: Gateway, name: str) -> None:
    with StateWriter(name) as writer, FleetQuery(name, connect=[place], codec="json", deadline=30) as query:
        writer.publish(1)

        (problem,) = query.ask().problems

    assert "'msgpack'" in problem.text
    assert "'json'" in problem.text


def test_what_does_not_decode_is_a_problem_of_that_state_alone(place: str, gateway: Gateway, prefix: str) -> None:
    with StateWriter(f"{prefix}-bad") as bad, StateWriter(f"{prefix}-good") as good:
        bad.publish_bytes(b"\xc1")
        good.publish(1)
        with FleetQuery(f"{prefix}*", connect=[place], deadline=30) as query:
            replies = query.ask()

    assert [answer.state for answer in replies.answers] == [f"{prefix}-good"]
    assert [problem.state for problem in replies.problems] == [f"{prefix}-bad"]
    assert "version 1, 1 bytes, does not decode as msgpack" in replies.problems[0].text
    assert not replies.complete


# What is not there, or not any more, or anew.


def test_a_state_that_nobody_has_is_not_found(query: FleetQuery) -> None:
    replies = query.ask()

    assert replies.complete
    assert replies.answers == ()
    with pytest.raises(StateNotFound):
        replies.only()


def test_a_state_in_which_nothing_was_published_is_named(query: FleetQuery, name: str) -> None:
    with StateWriter(name) as writer:
        problems = query.ask().problems
        writer.publish(1)

        assert query.ask().only().value == 1

    assert problems == (Problem("h1", name, "nothing has been published in it yet"),)


def test_a_dead_writers_last_state_comes_and_it_is_not_alive(query: FleetQuery, name: str, start: Start) -> None:
    child = start(children.own, name)
    child.line()
    assert query.ask().only().alive

    child.kill()
    answer = once(query, lambda replies: not replies.only().alive).only()

    assert (answer.value, answer.version) == ({"from": child.pid}, 1)
    shmstate.reclaim(name)


def test_a_state_that_was_closed_is_not_answered_any_more(query: FleetQuery, name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        query.ask().only()

    assert query.ask().answers == ()


def test_a_state_that_is_made_anew_under_its_name_is_the_new_one(query: FleetQuery, name: str) -> None:
    for turn in range(5):
        with StateWriter(name) as writer:
            writer.publish(turn)

            answer = query.ask().only()

            assert (answer.value, answer.version, answer.alive) == (turn, 1, True)


def test_a_state_that_moves_because_it_grows_is_followed(query: FleetQuery, name: str) -> None:
    with StateWriter(name, codec="raw", max_size=4096) as writer:
        for version, size in enumerate((10, 5000, 100_000, 7, 1_000_000), start=1):
            writer.publish(bytes(size))

            answer = query.ask().only()

            assert (answer.version, answer.nbytes, len(answer.value)) == (version, size, size)


def test_files_that_are_no_states_are_named_and_others_are_answered(place: str, gateway: Gateway, prefix: str) -> None:
    corrupt = path_of(f"{prefix}-corrupt")
    with open(corrupt, "wb") as file:
        file.write(b"\0" * 8192)
    folder = path_of(f"{prefix}-folder")
    os.mkdir(folder)
    try:
        with StateWriter(f"{prefix}-good") as writer, FleetQuery(f"{prefix}*", connect=[place], deadline=30) as query:
            writer.publish(1)
            replies = query.ask()
    finally:
        os.unlink(corrupt)
        os.rmdir(folder)

    assert [answer.value for answer in replies.answers] == [1]
    assert [problem.state for problem in replies.problems] == [f"{prefix}-corrupt", f"{prefix}-folder"]
    assert all(problem.text for problem in replies.problems)
    assert replies.silent == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to make a file that is another user's")
def test_a_state_of_another_user_is_named_unless_that_user_is_trusted(
    place: str, endpoint: Callable[[], str], query: FleetQuery, name: str
) -> None:
    trusting = endpoint()
    with StateWriter(name) as writer, Gateway("h2", states=[name], listen=[trusting], trust_uid=65534):
        writer.publish(1)
        os.chown(path_of(name), 65534, 65534)

        (problem,) = query.ask().problems
        with FleetQuery(name, connect=[trusting], deadline=30) as other:
            assert other.ask().only().value == 1

    assert problem[:2] == ("h1", name)
    assert "65534" in problem.text


@pytest.mark.parametrize("file", ["shmstate.", b"shmstate.\xff\xfe-PREFIX"])
def test_no_file_in_shared_memory_silences_a_host(endpoint: Callable[[], str], prefix: str, file: Any) -> None:
    place = endpoint()
    path = os.path.join(os.fsencode(SHM_DIR), os.fsencode(file).replace(b"PREFIX", prefix.encode()))
    with StateWriter(f"{prefix}-good") as writer, Gateway("h1", listen=[place]):
        writer.publish(1)
        with open(path, "xb"):
            pass
        try:
            with FleetQuery("*", connect=[place], deadline=30) as query:  # also for others' states, which come and go
                replies = query.ask()
        finally:
            os.unlink(path)

    assert replies.silent == {}
    assert f"{prefix}-good" in [answer.state for answer in replies.answers]


def test_a_pattern_is_answered_by_the_names_that_it_stands_for_alone(place: str, prefix: str) -> None:
    # %A* and x%2A end alike in a key.
    names = [f"{prefix}-{rest}" for rest in ("a", "b.a", "x*", "ba", "q?#$@%", "caf\u00e9")]
    writers = [StateWriter(name) for name in names]
    with Gateway("h1", states=[f"{prefix}*"], listen=[place]):
        for writer in writers:
            writer.publish(1)

        def states(pattern: str) -> List[str]:
            with FleetQuery(prefix + pattern, connect=[place], deadline=30) as query:
                replies = query.ask()
            assert replies.complete
            return sorted(answer.state[len(prefix) + 1 :] for answer in replies.answers)

        assert states("-*a") == ["a", "b.a", "ba"]
        assert states("*A") == []
        assert states("*9") == []
        assert states("-b*") == ["b.a", "ba"]
        assert states("-q?#$@%") == ["q?#$@%"]
        assert states("-*\u00e9") == ["caf\u00e9"]
        assert states("**") == sorted(name[len(prefix) + 1 :] for name in names)
    for writer in writers:
        writer.close()


# The deadline, closing.


@pytest.mark.parametrize("deadline", [0.000001, 0.0005, 0.05])
def test_a_question_takes_no_longer_than_its_deadline(query: FleetQuery, name: str, deadline: float) -> None:
    with StateWriter(name, codec="raw") as writer:
        writer.publish(bytes(4 << 20))
        began = time.monotonic()

        replies = query.ask(deadline)

        assert time.monotonic() - began < deadline + 1
        assert replies.answers or replies.silent.keys() == {"h1"}


def test_who_has_closed_a_query_is_told_so(query: FleetQuery) -> None:
    query.close()
    query.close()

    with pytest.raises(FleetError, match="was it closed"):
        query.ask()


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), 3601])
def test_a_deadline_out_of_range_is_refused(query: FleetQuery, deadline: float) -> None:
    with pytest.raises(InvalidOption, match="deadline="):
        query.ask(deadline)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("states", ""),
        ("states", "a/b"),
        ("states", "\ud800"),
        ("hosts", ""),
        ("hosts", ()),
        ("hosts", ["a", ""]),
        ("hosts", "\ud800"),
        ("deadline", 0),
        ("deadline", float("nan")),
        ("max_payload", 0),
        ("max_payload", (1 << 40) + 1),
        ("max_total", 0),
        ("codec", "yaml"),
        ("connect", ["nowhere"]),
        ("connect", "tcp/127.0.0.1:7447"),
        ("config", {"no/such/key": 1}),
        ("config", {"mode": object()}),
        ("config", "/no/such/file.json5"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option: str, value: Any) -> None:
    shown = {"codec": "yaml", "config": "query of", "connect": "connect/endpoints"}.get(option, f"{option}=")

    with pytest.raises(InvalidOption, match=shown):
        FleetQuery(**{"states": "a", "connect": [], option: value})


def test_nobody_to_ask_is_nobody_silent() -> None:
    with FleetQuery("a", connect=[]) as query:
        assert query.ask()[:3] == ((), {}, ())


def test_an_endpoint_where_nobody_listens_is_silent_and_so_is_a_host_that_was_never_seen(place: str) -> None:
    with FleetQuery("a", hosts=["h1", "h2-*"], connect=[place]) as query:
        replies = query.ask()

    assert replies.silent == {"h1": "never seen", place: "no connection; is a gateway running there?"}
    assert not replies.complete
    with pytest.raises(WaitTimeout, match="never seen"):
        replies.only()
