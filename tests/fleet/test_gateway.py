"""Gateways and those who ask them, several at a time: bounds, hosts that stop, vanish, return, or are not what they say."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import tracemalloc
from contextlib import ExitStack
from typing import Any, Callable, Dict, Iterator, List

import pytest

from shmstate import FleetError, StateWriter, reclaim
from shmstate.errors import SystemRefused
from shmstate.fleet import FleetQuery, Gateway
from shmstate.fleet.outgoing import HostStates
from tests.core.children import Child, until
from tests.fleet import others
from tests.fleet.others import once

zenoh = pytest.importorskip("zenoh", reason="needs eclipse-zenoh: the extra `fleet`")

Start = Callable[..., Child]
Endpoint = Callable[[], str]


@pytest.fixture
def several() -> Iterator[ExitStack]:
    """Where a test puts what it opens."""
    with ExitStack() as several:
        yield several


def gateway_of(start: Start, place: str, host: str, **options: Any) -> Child:
    """One in a process of its own, which answers."""
    child = start(others.answer, place, host, json.dumps(options))
    child.line()
    return child


def hosts_of(replies: Any) -> List[str]:
    return [answer.host for answer in replies.answers]


# Bounds.


def test_a_state_of_as_many_bytes_as_a_gateway_may_send_is_sent_and_one_of_one_more_is_named(
    endpoint: Endpoint, name: str
) -> None:
    place = endpoint()
    with StateWriter(name, codec="raw") as writer, Gateway("h1", states=[name], listen=[place], max_payload=5000):
        with FleetQuery(name, connect=[place], deadline=30) as query:
            writer.publish(bytes(5000))
            assert query.ask().only().nbytes == 5000

            writer.publish(bytes(5001))
            (problem,) = query.ask().problems

    assert problem.text.startswith("its 5,001 bytes are more than the 5,000 that may be sent; raise max_payload")


def test_a_state_of_as_many_bytes_as_are_asked_for_comes_and_one_of_one_more_is_named(
    endpoint: Endpoint, name: str
) -> None:
    place = endpoint()
    with StateWriter(name, codec="raw") as writer, Gateway("h1", states=[name], listen=[place]):
        with FleetQuery(name, connect=[place], deadline=30, max_payload=5000) as query:
            writer.publish(bytes(5000))
            assert query.ask().only().nbytes == 5000

            writer.publish(bytes(5001))
            (problem,) = query.ask().problems

    assert problem.text.startswith("its 5,001 bytes are more than the 5,000 that may be sent; raise max_payload")


def test_a_state_that_is_too_large_is_not_copied_to_find_out(name: str) -> None:
    with StateWriter(name, codec="raw") as writer:
        writer.publish(bytes(32 << 20))
        states = HostStates("g", [name])
        tracemalloc.start()
        try:
            facts, payload = states.take(name, 1000)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert (payload, facts.nbytes, facts.version) == (b"", 32 << 20, 1)
    assert most < 1 << 20


def test_the_largest_that_may_be_sent_comes(endpoint: Endpoint, name: str) -> None:
    place = endpoint()
    with StateWriter(name, codec="raw") as writer, Gateway("h1", states=[name], listen=[place]):
        with FleetQuery(name, connect=[place], deadline=30) as query:
            writer.publish(bytes(16 << 20))

            assert query.ask().only().nbytes == 16 << 20


def test_all_of_one_question_take_no_more_than_its_total_and_what_is_dropped_is_named(
    endpoint: Endpoint, prefix: str, several: ExitStack
) -> None:
    place = endpoint()
    for index in range(4):
        writer = several.enter_context(StateWriter(f"{prefix}-{index}", codec="raw"))
        writer.publish(bytes(1000))
    several.enter_context(Gateway("h1", states=[f"{prefix}*"], listen=[place]))

    for total, come in ((4000, 4), (3999, 3), (999, 0)):
        with FleetQuery(f"{prefix}*", connect=[place], deadline=30, max_total=total) as query:
            replies = query.ask()

        assert len(replies.answers) == come
        assert len(replies.problems) == 4 - come
        assert all(f"max_total={total:,}" in problem.text for problem in replies.problems)


def test_a_gateway_counts_what_it_has_done(endpoint: Endpoint, name: str) -> None:
    place = endpoint()
    with StateWriter(name, codec="raw") as writer, Gateway(
        "h1", states=[name], listen=[place], max_payload=10
    ) as gateway:
        with FleetQuery(name, connect=[place], deadline=30) as query:
            for size in (10, 11, 7):
                writer.publish(bytes(size))
                query.ask()

        until(lambda: gateway.stats.queries == 3)
        assert gateway.stats == (3, 3, 17, 1, 0)
        assert gateway.states() == [name]


# Whom one asks.


def test_hosts_are_asked_by_name_by_pattern_and_several(endpoint: Endpoint, name: str, several: ExitStack) -> None:
    places = {host: endpoint() for host in ("rack1-a", "rack1-b", "rack2-a")}
    several.enter_context(StateWriter(name)).publish(1)
    for host, place in places.items():
        several.enter_context(Gateway(host, states=[name], listen=[place]))

    def asked(hosts: Any) -> List[str]:
        with FleetQuery(name, hosts=hosts, connect=list(places.values()), deadline=30) as query:
            replies = query.ask()
            assert query.hosts_there() == sorted(set(hosts_of(replies)))
        assert (replies.silent, replies.problems) == ({}, ())
        return hosts_of(replies)

    assert asked("*") == ["rack1-a", "rack1-b", "rack2-a"]
    assert asked("rack1-*") == ["rack1-a", "rack1-b"]
    assert asked("rack2-a") == ["rack2-a"]
    assert asked(["rack2-*", "rack1-b"]) == ["rack1-b", "rack2-a"]
    assert asked(["rack1-b", "rack1-*"]) == ["rack1-a", "rack1-b"]  # one that is asked twice answers as one


def test_several_hosts_that_have_a_state_are_not_one(endpoint: Endpoint, name: str, several: ExitStack) -> None:
    places = [endpoint(), endpoint()]
    several.enter_context(StateWriter(name)).publish(1)
    for host, place in zip("ab", places):
        several.enter_context(Gateway(host, states=[name], listen=[place]))
    query = several.enter_context(FleetQuery(name, connect=places, deadline=30))

    replies = query.ask()

    assert {host: list(states) for host, states in replies.by_host().items()} == {"a": [name], "b": [name]}
    with pytest.raises(FleetError, match="2 states answer, not one"):
        replies.only()


def test_a_gateway_that_comes_after_the_query_answers(endpoint: Endpoint, name: str) -> None:
    place = endpoint()
    with StateWriter(name) as writer, FleetQuery(name, connect=[place]) as query:
        writer.publish(1)
        assert query.ask().silent.keys() == {place}

        with Gateway("h1", states=[name], listen=[place]):
            replies = once(query, lambda replies: replies.answers)

    assert hosts_of(replies) == ["h1"]


def test_two_gateways_of_one_name_are_told_apart_and_named(endpoint: Endpoint, name: str, several: ExitStack) -> None:
    places = [endpoint(), endpoint()]
    several.enter_context(StateWriter(name)).publish(1)
    ids = sorted(several.enter_context(Gateway("h1", states=[name], listen=[place])).id for place in places)
    query = several.enter_context(FleetQuery(name, connect=places, deadline=30))

    replies = query.ask()

    assert hosts_of(replies) == ["h1"]
    assert query.roster.gateways("h1") == 2
    (problem,) = replies.problems
    assert problem.text == f"2 gateways call themselves so ({ids[0]}, {ids[1]}); give each its own --host"


# Hosts that stop, vanish and return.


def test_a_stopped_host_is_silent_within_the_deadline_and_answers_when_it_goes_on(
    endpoint: Endpoint, name: str, start: Start, several: ExitStack
) -> None:
    places = [endpoint(), endpoint()]
    several.enter_context(StateWriter(name)).publish(1)
    stopped = gateway_of(start, places[0], "h1", states=[name])
    gateway_of(start, places[1], "h2", states=[name])
    query = several.enter_context(FleetQuery(name, connect=places, deadline=30))
    assert hosts_of(query.ask()) == ["h1", "h2"]

    stopped.signal(signal.SIGSTOP)
    replies = query.ask(0.3)
    stopped.signal(signal.SIGCONT)

    assert hosts_of(replies) == ["h2"]
    assert replies.silent == {"h1": "there, but did not answer in 0.3 s"}
    assert 0.3 <= replies.seconds < 1
    assert hosts_of(once(query, lambda replies: not replies.silent)) == ["h1", "h2"]


def test_questions_keep_their_deadline_also_when_a_stopped_host_takes_no_more_of_them(
    endpoint: Endpoint, name: str, start: Start
) -> None:
    place = endpoint()
    stopped = gateway_of(start, place, "h1", states=[name])
    longest = []

    # So many that what lies between the two is full before the connection counts as dead.
    with FleetQuery(name + "x" * 150 + "*", connect=[place]) as query:
        query.ask(30)
        stopped.signal(signal.SIGSTOP)
        ends = time.monotonic() + 2.5

        def ask() -> None:
            while time.monotonic() < ends:
                longest.append(query.ask(0.001).seconds)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stopped.kill()

    assert max(longest) < 1


def test_closing_ends_in_seconds_while_a_connection_to_a_stopped_host_is_being_opened(
    endpoint: Endpoint, name: str, start: Start
) -> None:
    place = endpoint()
    stopped = gateway_of(start, place, "h1", states=[name])
    stopped.signal(signal.SIGSTOP)
    began = time.monotonic()

    with FleetQuery(name, connect=[place]) as query:
        assert query.ask().silent.keys() == {place}
    took = time.monotonic() - began
    stopped.kill()

    assert took < 6


def test_a_host_that_is_killed_is_gone_and_answers_when_its_gateway_is_back(
    endpoint: Endpoint, name: str, start: Start, several: ExitStack
) -> None:
    place = endpoint()
    several.enter_context(StateWriter(name)).publish(1)
    first = gateway_of(start, place, "h1", states=[name])
    query = several.enter_context(FleetQuery(name, connect=[place]))
    assert hosts_of(query.ask(30)) == ["h1"]

    first.kill()
    silent = once(query, lambda replies: "gone" in replies.silent.get("h1", "")).silent
    assert query.hosts_there() == []
    gateway_of(start, place, "h1", states=[name])
    replies = once(query, lambda replies: replies.answers)

    assert silent[place] == "no connection; is a gateway running there?"
    assert (hosts_of(replies), replies.silent, query.hosts_there()) == (["h1"], {}, ["h1"])
    assert query.roster.gateways("h1") == 1


def test_a_host_that_is_gone_for_good_can_be_forgotten(endpoint: Endpoint, name: str) -> None:
    place = endpoint()
    with FleetQuery(name, connect=[place]) as query:
        with Gateway("h1", states=[name], listen=[place]):
            until(lambda: query.hosts_there() == ["h1"])
            query.roster.forget("h1")
            assert query.roster.due() == ["h1"]
        until(lambda: query.hosts_there() == [])
        assert "gone" in query.ask(0.1).silent["h1"]

        query.roster.forget("h1")

        assert "h1" not in query.ask(0.1).silent


def test_one_who_takes_none_of_his_answers_holds_up_others_for_seconds_only(
    endpoint: Endpoint, name: str, start: Start
) -> None:
    place = endpoint()
    with StateWriter(name, codec="raw") as writer, Gateway("h1", states=[name], listen=[place]):
        writer.publish(bytes(8 << 20))
        greedy = start(others.ask_and_stop, place, name, 12)
        greedy.line()
        with FleetQuery(name, connect=[place], deadline=0.5) as query:
            greedy.say("now")
            until(lambda: query.ask().silent, name="to be held up")
            began = time.monotonic()

            once(query, lambda replies: replies.answers)
            took = time.monotonic() - began
        greedy.signal(signal.SIGCONT)

    assert took < 8


# Many at a time.


def test_nothing_is_torn_and_nothing_goes_back_while_four_ask_and_a_writer_never_rests(
    endpoint: Endpoint, name: str, start: Start
) -> None:
    place = endpoint()
    writing = start(others.publish_certified_without_rest, name)
    writing.line()
    wrong: List[BaseException] = []
    numbers: Dict[int, List[int]] = {thread: [] for thread in range(4)}

    def ask(seen: List[int], query: FleetQuery) -> None:
        try:
            for _ in range(150):
                answer = query.ask().only()
                assert others.number_in(answer.value) == answer.version
                seen.append(answer.version)
        except BaseException as error:
            wrong.append(error)

    with Gateway("h1", states=[name], listen=[place]), FleetQuery(name, connect=[place], deadline=30) as query:
        until(lambda: query.ask().answers)
        threads = [threading.Thread(target=ask, args=(seen, query)) for seen in numbers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    writing.kill()
    reclaim(name)

    assert wrong == []
    for seen in numbers.values():
        assert seen == sorted(seen)
        assert len(set(seen)) > 50


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """In this test a process may have some 40 more open than it has."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, before[1]))
    for fd in taken:
        os.close(fd)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif("sys.version_info >= (3, 13)", reason="from 3.13 an attached state takes no descriptor")
def test_a_gateway_that_can_open_no_more_states_names_them_and_sends_the_others(
    endpoint: Endpoint, prefix: str, several: ExitStack, few_descriptors: None
) -> None:
    place = endpoint()
    with Gateway("h1", states=[f"{prefix}*"], listen=[place]), FleetQuery(f"{prefix}*", connect=[place]) as query:
        query.ask(30)
        writers = []
        with pytest.raises(SystemRefused, match="Too many open files"):
            for index in range(100):
                writers.append(several.enter_context(StateWriter(f"{prefix}-{index}", max_size=4096)))
                writers[-1].publish(index)
        for _ in range(10):
            writers.pop().close()

        replies = query.ask(30)

    assert replies.silent == {}
    assert len(replies.answers) + len(replies.problems) == len(writers)
    assert 0 < len(replies.problems) < len(writers)
    assert all("Too many open files" in problem.text for problem in replies.problems)
