"""What happens to the states of a fleet, told as it happens: nothing lost in the end, nothing told twice, nothing piled up."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from shmstate import FleetError, StateWriter, WaitTimeout
from shmstate.fleet import Change, Changes, FleetQuery, Gateway, wire
from tests.core import children
from tests.core.children import PATIENCE, until

zenoh = pytest.importorskip("zenoh", reason="needs eclipse-zenoh: the extra `fleet`")

#: Much longer than the way of a change takes, and short enough to wait for nothing.
SOON = 0.3


@pytest.fixture
def place(endpoint: Callable[[], str]) -> str:
    return endpoint()


@pytest.fixture
def gateway(place: str, prefix: str) -> Iterator[Gateway]:
    with Gateway("h1", states=[f"{prefix}*"], listen=[place], interval=0.005, pulse=0.05) as gateway:
        yield gateway


@pytest.fixture
def query(place: str, prefix: str, gateway: Gateway) -> Iterator[FleetQuery]:
    with FleetQuery(f"{prefix}*", connect=[place]) as query:
        yield query


def told(changes: Changes, count: int) -> List[Tuple[str, Any]]:
    """Kind and value of the next changes."""
    return [
        (change.kind, change.answer and change.answer.value) for change in (changes.get(PATIENCE) for _ in range(count))
    ]


def test_it_begins_with_the_hosts_and_the_states_that_are_there(query: FleetQuery, name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish({"a": 1})

        with Changes(query) as changes:
            found, state = changes.get(PATIENCE), changes.get(PATIENCE)

    assert found == Change("found", "h1")
    assert state.answer is not None
    assert (state.kind, state.host, state.state) == ("state", "h1", name)
    assert (state.answer.value, state.answer.version, state.answer.alive) == ({"a": 1}, 1, True)


def test_a_version_that_is_published_is_told_once_and_those_that_nobody_took_are_left_out(
    query: FleetQuery, name: str
) -> None:
    with StateWriter(name) as writer, Changes(query) as changes:
        assert told(changes, 1) == [("found", None)]
        seen = []
        for value in range(1, 51):
            writer.publish(value)
            seen += told(changes, 1)
        began = time.monotonic()
        for value in range(51, 1051):
            writer.publish(value)
        last = told(changes, 1)
        while last[-1] != ("state", 1050):
            last += told(changes, 1)
        took = time.monotonic() - began

        assert seen == [("state", value) for value in range(1, 51)]
        assert len(last) <= took / 0.005 + 2, "more were told than the gateway's interval allows"
        assert [value for _, value in last] == sorted({value for _, value in last})
        with pytest.raises(WaitTimeout, match=f"none within {SOON} s"):
            changes.get(SOON)


def test_of_what_nobody_takes_one_change_a_state_is_kept(query: FleetQuery, prefix: str) -> None:
    with StateWriter(prefix + "a") as a, StateWriter(prefix + "b") as b, Changes(query) as changes:
        assert told(changes, 1) == [("found", None)]
        for value in range(100):
            a.publish(value)
            b.publish(-value)
            until(lambda: changes._held.get(("h1", prefix + "b")), name="a push")
        until(lambda: changes._held["h1", prefix + "a"].facts.version == 100)
        until(lambda: changes._held["h1", prefix + "b"].facts.version == 100)

        assert len(changes._waiting) == 2
        assert sorted(told(changes, 2), key=str) == [("state", -99), ("state", 99)]


def test_the_death_of_a_writer_and_its_heir_are_told_with_the_state_seen_last(
    query: FleetQuery, name: str, start: Callable[..., children.Child]
) -> None:
    child = start(children.own, name)
    assert child.line() == "ready"
    with Changes(query) as changes:
        until(lambda: ("h1", name) in changes._held, name="the state")
        before = [changes.get(PATIENCE) for _ in range(2)]
        child.kill()
        dead = changes.get(PATIENCE)
        with StateWriter(name) as writer:
            alive = changes.get(PATIENCE)
            version = writer.publish("of the heir")
            state = changes.get(PATIENCE)

    assert [change.kind for change in before] == ["found", "state"]
    assert dead.answer is not None
    assert alive.answer is not None
    assert state.answer is not None
    assert before[1].answer is not None
    assert (dead.kind, dead.answer.alive, dead.answer.value) == ("writer", False, before[1].answer.value)
    assert (alive.kind, alive.answer.alive) == ("writer", True)
    assert (state.answer.value, state.answer.version) == ("of the heir", version)


def test_a_state_that_is_closed_is_gone_and_one_made_anew_is_a_state_again(query: FleetQuery, name: str) -> None:
    with Changes(query) as changes:
        with StateWriter(name) as writer:
            for value in range(5):
                writer.publish(value)
            until(lambda: changes._held.get(("h1", name), (None,))[0], name="the state")
            until(lambda: changes._held["h1", name].facts.version == 5)
        first = told(changes, 1)
        kinds = [changes.get(PATIENCE).kind]
        while kinds[-1] != "gone":
            kinds.append(changes.get(PATIENCE).kind)
        with StateWriter(name) as writer:
            writer.publish("anew")  # version 1, of another line
            again = told(changes, 1)

    assert first == [("found", None)]
    assert set(kinds) <= {"state", "writer", "gone"}
    assert again == [("state", "anew")]


def test_a_push_that_is_lost_comes_by_asking_when_a_pulse_tells_of_it(query: FleetQuery, name: str) -> None:
    with StateWriter(name) as writer, Changes(query) as changes:
        writer.publish("first")
        assert told(changes, 2) == [("found", None), ("state", "first")]
        pushed = changes._pushed
        lost = []

        def lose_states(sample: Any) -> None:
            if wire.is_gateway(str(sample.key_expr)):
                pushed(sample)
            else:
                lost.append(sample)

        for subscriber in changes._subscribers:
            subscriber.undeclare()
        session = query.session
        changes._subscribers = [session.declare_subscriber(f"{wire.HOSTS}/*/*", lose_states)]
        changes._subscribers.append(session.declare_subscriber(f"{wire.STATES}/**", lose_states))
        writer.publish("lost on the way")

        assert told(changes, 1) == [("state", "lost on the way")]
        until(lambda: lost, name="the push itself, which nobody took")


def test_what_is_pushed_late_by_a_gateway_of_before_changes_nothing(query: FleetQuery, name: str) -> None:
    with Changes(query) as changes:
        assert told(changes, 1) == [("found", None)]
        key = wire.state_key("h1", name)

        def push(gateway: str, seq: int, version: int, created: int, value: bytes) -> None:
            facts = wire.Facts(gateway, seq, version, created, 0, 0, True, "raw", len(value))
            changes._came(key, wire.pack(facts), value)

        push("former", 7, 3, 1, b"three")
        push("latter", 1, 4, 1, b"four")
        assert told(changes, 1) == [("state", b"four")]
        push("former", 8, 3, 1, b"three again")
        push("latter", 1, 4, 1, b"four again")
        push("latter", 0, 3, 1, b"an answer to what was asked before four")
        with pytest.raises(WaitTimeout):
            changes.get(0.0)
        push("latter", 2, 1, 2, b"one, of another line")

        assert told(changes, 1) == [("state", b"one, of another line")]


def test_a_gateway_that_is_started_again_tells_nothing_anew(place: str, prefix: str, name: str) -> None:
    options: Any = {"states": [f"{prefix}*"], "listen": [place], "interval": 0.005, "pulse": 0.05}
    with StateWriter(name) as writer, Gateway("h1", **options) as first:
        writer.publish(1)
        with FleetQuery(name, connect=[place]) as query, Changes(query) as changes:
            assert told(changes, 2) == [("found", None), ("state", 1)]
            first.close()
            assert told(changes, 1) == [("lost", None)]
            with Gateway("h1", **options):
                assert told(changes, 1) == [("found", None)]
                writer.publish(2)

                assert told(changes, 1) == [("state", 2)]


def test_a_state_that_cannot_be_decoded_is_a_problem_and_its_next_version_a_state(query: FleetQuery, name: str) -> None:
    with StateWriter(name) as writer, Changes(query) as changes:
        writer.publish_bytes(b"\xc1")  # which msgpack never begins with
        assert told(changes, 1) == [("found", None)]
        problem = changes.get(PATIENCE)
        writer.publish("whole")

        assert (problem.kind, problem.state) == ("problem", name)
        assert "does not decode as msgpack" in problem.problem
        assert told(changes, 1) == [("state", "whole")]


def test_a_header_of_another_format_is_a_problem_of_its_host(query: FleetQuery, name: str) -> None:
    with Changes(query) as changes:
        assert told(changes, 1) == [("found", None)]
        query.session.put(wire.state_key("h1", name), b"", attachment=b"S\x02")

        change = changes.get(PATIENCE)

    assert (change.kind, change.host) == ("problem", "h1")
    assert "wire format 2" in change.problem


def test_nobody_is_sent_anything_who_does_not_follow(query: FleetQuery, gateway: Gateway, name: str) -> None:
    with StateWriter(name) as writer:
        for value in range(50):
            writer.publish(value)
            assert query.ask(PATIENCE).only().value == value
        without = gateway.stats.pushed
        with Changes(query) as changes:
            until(lambda: gateway.stats.pushed > 0, name="a push")
            changes.get(PATIENCE)

    assert without == 0


def test_who_waits_is_told_when_it_is_closed(query: FleetQuery) -> None:
    ended: List[str] = []
    changes = Changes(query)
    assert told(changes, 1) == [("found", None)]

    def wait() -> None:
        try:
            changes.get()
        except FleetError as error:
            ended.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    changes.close()
    waiting.join(PATIENCE)
    changes.close()

    assert len(ended) == 1
    assert "closed" in ended[0]
    assert list(changes) == []
    assert query.ask(PATIENCE).complete, "the query is not closed with it"


def test_a_change_comes_within_the_interval_not_with_the_pulse(place: str, prefix: str, name: str) -> None:
    with Gateway("h1", states=[f"{prefix}*"], listen=[place], interval=0.005, pulse=3600.0):
        with FleetQuery(name, connect=[place]) as query, StateWriter(name) as writer, Changes(query) as changes:
            writer.publish(0)
            assert told(changes, 2) == [("found", None), ("state", 0)]
            began = time.monotonic()
            for value in range(1, 21):
                writer.publish(value)
                assert told(changes, 1) == [("state", value)]

            assert time.monotonic() - began < PATIENCE


def test_nobody_hears_of_what_was_not_asked_for(query: FleetQuery, prefix: str) -> None:
    with Changes(query) as changes:
        assert told(changes, 1) == [("found", None)]
        facts = wire.Facts("stranger", 1, 1, 1, 0, 0, True, "raw", 1)
        for host, state in (("h1", "another" + prefix), ("h1", "x")):
            changes._came(wire.state_key(host, state), wire.pack(facts), b"?")

        with pytest.raises(WaitTimeout):
            changes.get(0.0)


def test_a_state_without_a_version_is_told_when_it_has_one(query: FleetQuery, name: str) -> None:
    with StateWriter(name) as writer, Changes(query) as changes:
        assert told(changes, 1) == [("found", None)]
        assert query.ask(PATIENCE).problems, "it is there, and says that nothing has been published"
        writer.publish("first")

        assert told(changes, 1) == [("state", "first")]


def test_a_process_that_leaves_it_open_ends(gateway: Gateway, place: str, name: str) -> None:
    program = (
        "from shmstate.fleet import Changes, FleetQuery\n"
        f"changes = Changes(FleetQuery({name!r}, connect=[{place!r}]))\n"
        "print(changes.get(30).kind)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=children.ROOT, stdout=subprocess.PIPE, timeout=PATIENCE, check=True
    )

    assert done.stdout == b"found\n"
