"""Who keeps to no protocol, or to another one: the gateway goes on, the asker says so, and others' answers are unharmed."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from typing import Any, Callable, Dict, Iterator, List, Tuple

import msgpack
import pytest

from shmstate import StateWriter
from shmstate.fleet import FleetQuery, Gateway, Replies, wire
from shmstate.fleet.wire import End, Facts
from tests.core.children import until
from tests.fleet import others
from tests.fleet.others import REQUEST, once, said_to, sent_to

zenoh = pytest.importorskip("zenoh", reason="needs eclipse-zenoh: the extra `fleet`")

Endpoint = Callable[[], str]


# Who asks.


@pytest.fixture
def gateway(endpoint: Endpoint, name: str) -> Iterator[Gateway]:
    with StateWriter(name) as writer, Gateway("h1", states=[name], listen=[endpoint()]) as gateway:
        writer.publish(1)
        yield gateway


@pytest.fixture
def asking(gateway: Gateway) -> Iterator[Any]:
    """A session of zenoh's that is connected to the gateway."""
    with others.session(connect=gateway.listen) as asking:
        until(lambda: said_to(asking, "shmstate/state/h1/*", REQUEST))
        yield asking


def answers_still(gateway: Gateway, name: str) -> bool:
    with FleetQuery(name, connect=gateway.listen, deadline=30) as query:
        return bool(query.ask().only().value == 1)


@pytest.mark.parametrize(
    ("attachment", "why"),
    [
        (None, "no header of shmstate's"),
        (b"", "no header of shmstate's"),
        (b"GET / HTTP/1.1", "no header of shmstate's"),
        (b"S\x01", "does not decode"),
        (b"S\x01" + bytes(range(200, 256)), "Unreadable|does not decode|no map"),
        (b"S\x01\x80", "'max_payload' is NoneType"),
        (b"S\x01" + msgpack.packb({"max_payload": -1}), "'max_payload' is -1"),
        (b"S\x00\x80", "this end has a newer shmstate; upgrade that end"),
        (b"S\x02\x80", "that end has a newer shmstate; upgrade this end"),
    ],
    ids=["nothing", "empty", "text", "short", "random", "no field", "negative", "older", "newer"],
)
def test_who_asks_with_something_else_is_told_and_others_are_answered(
    gateway: Gateway, name: str, asking: Any, attachment: Any, why: str
) -> None:
    before = gateway.stats.problems

    (header,) = said_to(asking, f"shmstate/state/h1/{name}", attachment)
    end = wire.end_in(header)

    assert end[:2] == (gateway.id, 0)
    assert end.problem.startswith("was asked by one who ")
    assert any(words in end.problem for words in why.split("|"))
    until(lambda: gateway.stats.problems == before + 1)
    assert answers_still(gateway, name)


def test_random_bytes_in_place_of_a_question_stop_no_gateway(gateway: Gateway, name: str, asking: Any) -> None:
    for length in range(300):
        assert len(said_to(asking, f"shmstate/state/h1/{name}", b"S\x01" + os.urandom(length))) in (1, 2)

    assert answers_still(gateway, name)


def test_a_question_with_megabytes_of_header_stops_no_gateway(gateway: Gateway, name: str, asking: Any) -> None:
    (header,) = said_to(asking, f"shmstate/state/h1/{name}", b"S\x01" + bytes(wire.LONGEST_HEADER))
    assert "4,194,304 are the most" in wire.end_in(header).problem

    # The engine does not take it at all; who asks so gets nothing.
    assert sent_to(asking, f"shmstate/state/h1/{name}", bytes(30 << 20), timeout=0.5) == []

    assert answers_still(gateway, name)


@pytest.mark.parametrize("key", ["shmstate/**", "**", "*/*/*/*", "shmstate/state/h1/**", "shmstate/state/h$*/*"])
def test_a_question_by_a_key_that_we_never_ask_with_is_answered(
    gateway: Gateway, name: str, asking: Any, key: str
) -> None:
    keys = [answered for answered, _ in sent_to(asking, key, REQUEST)]

    assert keys == [wire.state_key("h1", name), wire.gateway_key("h1", gateway.id)]


def test_states_that_a_gateway_is_not_to_send_are_not_sent_however_they_are_asked_for(
    gateway: Gateway, name: str, asking: Any
) -> None:
    with StateWriter(f"{name}-hidden") as hidden:
        hidden.publish(1)
        for key in (f"{name}-hidden", f"{name}$*", "*", "**"):
            states = [answered for answered, _ in sent_to(asking, f"shmstate/state/h1/{key}", REQUEST)][:-1]

            assert states in ([], [wire.state_key("h1", name)])


# Who answers.

Reply = Tuple[str, Any, bytes]
GOOD = Facts("0f", 1, 1, 1, 0, 0, True, "raw", 3)


@pytest.fixture
def asked_of(endpoint: Endpoint, name: str) -> Iterator[Callable[..., Replies]]:
    """What comes of a question that a host h1 answers well, and a stranger with these (key, header, payload)."""
    with ExitStack() as stack:
        writer = stack.enter_context(StateWriter(name))
        writer.publish(1)
        places = [endpoint(), endpoint()]
        stack.enter_context(Gateway("h1", states=[name], listen=places[:1]))
        answering = stack.enter_context(others.session(listen=places[1:]))

        def ask(*replies: Reply, hosts: str = "*", **options: Any) -> Replies:
            def answer(query: Any) -> None:
                with query:
                    for key, header, payload in replies:
                        query.reply(key, payload, attachment=header if isinstance(header, bytes) else wire.pack(header))

            stack.enter_context(answering.declare_queryable("shmstate/state/*/*", others.directly(answer)))
            query = stack.enter_context(FleetQuery(name, hosts=hosts, connect=places, **options))
            return once(query, lambda replies: replies.problems or "h2" in replies.silent or len(replies.answers) > 1)

        yield ask


def answers_of(replies: Replies) -> Dict[str, Any]:
    return {answer.host: answer.value for answer in replies.answers}


def texts_of(replies: Replies) -> List[Tuple[str, str]]:
    return [(problem.host, problem.text) for problem in replies.problems]


def state(host: str, name: str) -> str:
    return wire.state_key(host, name)


H2 = wire.gateway_key("h2", "0f")


def test_one_who_does_it_right_is_a_host_as_any_other(asked_of: Callable[..., Replies], name: str) -> None:
    replies = asked_of((state("h2", name), GOOD, b"abc"), (H2, End("0f", 1), b""))

    assert answers_of(replies) == {"h1": 1, "h2": b"abc"}
    assert replies.complete


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"", "no header of shmstate's"),
        (b"garbage", "no header of shmstate's"),
        (b"S\x01\xc1", "does not decode"),
        (b"S\x01\x80", "'gateway' is NoneType"),
        (b"S\x02\x80", "speaks wire format 2, this end 1: that end has a newer shmstate; upgrade this end"),
        (b"S\x00\x80", "this end has a newer shmstate; upgrade that end"),
        (GOOD._replace(nbytes=4), "sends 3 bytes of"),
    ],
    ids=["nothing", "garbage", "undecodable", "no field", "newer", "older", "another length"],
)
def test_an_answer_that_cannot_be_read_is_a_problem_of_its_host_alone(
    asked_of: Callable[..., Replies], name: str, header: Any, why: str
) -> None:
    replies = asked_of((state("h2", name), header, b"abc"), (state("h2", name), header, b"abc"))

    assert answers_of(replies) == {"h1": 1}
    ((host, text),) = texts_of(replies)
    assert host == "h2"
    assert why in text


def test_a_host_whose_answers_are_lost_on_the_way_is_silent(asked_of: Callable[..., Replies], name: str) -> None:
    replies = asked_of((H2, End("0f", 3), b""))

    assert answers_of(replies) == {"h1": 1}
    assert replies.silent == {"h2": "0 of its 3 answers have come; the others were lost, or kept back, on the way"}


def test_a_host_that_does_not_say_that_it_has_answered_is_silent(asked_of: Callable[..., Replies], name: str) -> None:
    replies = asked_of((state("h2", name), GOOD, b"abc"))

    assert answers_of(replies) == {"h1": 1, "h2": b"abc"}
    assert list(replies.silent) == ["h2"]
    assert re.fullmatch(
        r"answered for 1 states, and has not said that these are all, in [0-9.e-]+ s", replies.silent["h2"]
    )


def test_one_who_answers_as_another_host_is_told_of(asked_of: Callable[..., Replies], name: str) -> None:
    replies = asked_of((state("h1", name), GOOD, b"abc"), (wire.gateway_key("h1", "0f"), End("0f", 1), b""))

    ((host, text),) = texts_of(replies)
    assert host == "h1"
    assert "2 gateways call themselves so" in text
    assert not replies.complete


def test_one_who_answers_as_another_gateway_is_told_of(asked_of: Callable[..., Replies], name: str) -> None:
    replies = asked_of((H2, End("another", 0), b""))

    assert texts_of(replies) == [("h2", "answers as gateway 'another' under the key of '0f'")]


def test_one_who_sends_more_in_a_gateways_name_than_that_has_sent_is_told_of(
    asked_of: Callable[..., Replies], name: str
) -> None:
    replies = asked_of((state("h2", name), GOOD, b"abc"), (state("h2", name), GOOD, b"xyz"), (H2, End("0f", 1), b""))

    assert texts_of(replies) == [("h2", "2 answers came of 1 that it sent; who sends the others?")]


def test_one_who_was_not_asked_is_told_of(asked_of: Callable[..., Replies], name: str) -> None:
    replies = asked_of((state("other", name), GOOD, b"abc"), hosts="h*")

    assert answers_of(replies) == {"h1": 1}
    assert texts_of(replies) == [("other", "answers, and was not asked")]


def test_a_state_that_was_not_asked_for_is_told_of(asked_of: Callable[..., Replies], name: str) -> None:
    replies = asked_of((state("h2", "other"), GOOD, b"abc"), (H2, End("0f", 1), b""))

    assert answers_of(replies) == {"h1": 1}
    assert texts_of(replies) == [("h2", f"answers for 'other', which is not {name!r}")]


def test_keys_that_are_nobodys_are_told_of_once(asked_of: Callable[..., Replies], name: str) -> None:
    replies = asked_of(*[("some/where/else", GOOD, b"abc")] * 50)

    assert answers_of(replies) == {"h1": 1}
    assert texts_of(replies) == [("", "somebody answers under the key 'some/where/else', which is none of shmstate's")]


def test_more_bytes_than_were_asked_for_are_not_taken(asked_of: Callable[..., Replies], name: str) -> None:
    size = 8 << 20
    replies = asked_of(
        *((state("h2", name), GOOD._replace(nbytes=size), bytes(size)), (H2, End("0f", 1), b"")), max_payload=1000
    )

    assert answers_of(replies) == {"h1": 1}
    assert "h2" in replies.silent


def test_numbers_as_large_as_they_can_be_are_no_crash(asked_of: Callable[..., Replies], name: str) -> None:
    most = 2**64 - 1
    facts = GOOD._replace(seq=most, version=most, created_ns=most, age_ns=most, stale_ns=most)

    replies = asked_of((state("h2", name), facts, b"abc"), (H2, End("0f", 1), b""))

    assert replies.by_host()["h2"][name].version == most


# Tokens.


def test_tokens_that_are_no_gateways_are_no_hosts(endpoint: Endpoint) -> None:
    place = endpoint()
    with others.session(listen=[place]) as stranger:
        tokens = [
            stranger.liveliness().declare_token(key)
            for key in (
                "shmstate/host/a/b/c",
                "shmstate/host",
                "somewhere",
                "shmstate/host/other/1",
                "shmstate/host/h1/1",
            )
        ]
        with FleetQuery("a", hosts="h*", connect=[place]) as query:
            until(lambda: query.hosts_there() == ["h1"])
        assert len(tokens) == 5
