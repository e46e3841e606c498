"""A fleet of several hosts, each a set of namespaces: what is asked from one of what is in the others' memory."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from shmstate.fleet.engine import LEASE
from tests.core.children import until
from tests.fleet.places import Place, endpoint_of
from tests.hosts import Hosts, why_not

pytest.importorskip("zenoh", reason="needs eclipse-zenoh: the extra `fleet`")
pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "there are hosts")

#: Runs the command with another wire format than this one's.
OF_FORMAT_2 = """
import sys
from shmstate.fleet import wire
wire.FORMAT = 2
from shmstate.cli import main
sys.exit(main(sys.argv[1:]))
"""
#: Runs it with headers that say more than anybody here knows of.
WHO_SAYS_MORE = """
import sys
import msgpack
from shmstate.fleet import wire
pack = wire.pack
def say_more(content):
    header = pack(content)
    return header[:2] + msgpack.packb({**msgpack.unpackb(header[2:]), "mood": [1, {"good": True}]})
wire.pack = say_more
from shmstate.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Fleet:
    """Hosts by name, each a place; ``desk`` asks the others."""

    def __init__(self, hosts: Hosts, places: Dict[str, Place]) -> None:
        self.hosts = hosts
        self.places = places
        self.desk = places["desk"]

    def __getitem__(self, name: str) -> Place:
        return self.places[name]

    def ask_from_the_desk(self, states: str, **options: Any) -> None:
        others = [place.host for name, place in self.places.items() if name != "desk"]
        self.desk.do("open", states, {"connect": [endpoint_of(host) for host in others], **options})


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Hosts("desk", "h1", "h2") as hosts, ExitStack() as stack:
        yield Fleet(hosts, {name: stack.enter_context(Place(hosts[name])) for name in ("desk", "h1", "h2")})


@pytest.fixture
def asked(fleet: Fleet) -> Fleet:
    """Both hosts have a state of the same name and a gateway, and the desk has had an answer of each."""
    for name in ("h1", "h2"):
        fleet[name].do("publish", "fleet.w1", {"of": name})
        fleet[name].gateway()
    fleet.ask_from_the_desk("fleet.w1")
    assert fleet.desk.values() == [["h1", {"of": "h1"}], ["h2", {"of": "h2"}]]
    return fleet


def changes_until(place: Place, *wanted: Tuple[str, str]) -> List[Dict[str, Any]]:
    """What happens, until each wanted (kind, host) has."""
    seen: List[Dict[str, Any]] = []

    def all_seen() -> bool:
        seen.append(place.do("next_change", 1.0))
        return set(wanted) <= {(change["kind"], change.get("host", "")) for change in seen}

    until(all_seen, name=f"the changes {wanted}")
    return [change for change in seen if change["kind"] != "nothing"]


def test_each_host_answers_for_its_own_state_of_the_same_name(asked: Fleet) -> None:
    asked["h1"].do("publish", "fleet.w1", {"of": "h1", "more": 1})

    replies = asked.desk.ask()

    assert replies["silent"] == {}
    assert replies["problems"] == []
    assert {host: (answer["value"], answer["version"]) for (host, _), answer in replies["answers"].items()} == {
        "h1": ({"of": "h1", "more": 1}, 2),
        "h2": ({"of": "h2"}, 1),
    }
    assert all(answer["alive"] and 0 <= answer["age"] < 60 for answer in replies["answers"].values())


@pytest.mark.parametrize(("hosts", "expected"), [("h1", ["h1"]), ("h*", ["h1", "h2"]), (["h2", "h1"], ["h1", "h2"])])
def test_one_host_is_asked_or_some_and_the_others_say_nothing(fleet: Fleet, hosts: Any, expected: List[str]) -> None:
    for name in ("desk", "h1", "h2"):
        fleet[name].do("publish", "fleet.w1", name)
        fleet[name].gateway()
    fleet.ask_from_the_desk("fleet.*", hosts=hosts)

    assert fleet.desk.values() == [[name, name] for name in expected]
    assert fleet.desk.ask()["silent"] == {}


def test_gateways_and_those_who_ask_leave_nothing_in_shared_memory(fleet: Fleet) -> None:
    running = []
    for name in ("h1", "h2"):
        # Large enough for zenoh's own transport through shared memory, if that were on.
        fleet[name].do("publish", "fleet.large", "x" * 100_000)
        running.append(fleet[name].gateway())
    fleet.ask_from_the_desk("fleet.large")
    assert [len(value) for _, value in fleet.desk.values()] == [100_000, 100_000]
    during = {name: fleet[name].do("entries") for name in ("desk", "h1", "h2")}

    for gateway in running:
        gateway.end(signal.SIGTERM)

    assert during == {"desk": [], "h1": ["shmstate.fleet.large"], "h2": ["shmstate.fleet.large"]}
    assert {name: fleet[name].do("entries") for name in ("desk", "h1", "h2")} == during


def test_a_host_that_is_cut_off_is_named_and_answers_again_when_it_is_back(asked: Fleet) -> None:
    asked.hosts.cut("h2")

    at_once = asked.desk.ask(1.0)
    until(lambda: asked.desk.do("hosts_there") == ["h1"], name="the end of the lease")
    later = asked.desk.ask()

    assert [host for host, _ in at_once["answers"]] == ["h1"]
    assert at_once["silent"] == {"h2": "there, but did not answer in 1 s"}
    assert 1.0 <= at_once["seconds"] < 1.0 + LEASE / 2
    assert [host for host, _ in later["answers"]] == ["h1"]
    assert later["silent"]["h2"].startswith("gone ")
    assert later["seconds"] < 5.0, "nobody waits for a host that is known to be gone"

    asked["h2"].do("publish", "fleet.w1", {"of": "h2", "back": True})
    asked.hosts.mend("h2")

    until(lambda: asked.desk.do("hosts_there") == ["h1", "h2"], name="its return")
    assert asked.desk.values() == [["h1", {"of": "h1"}], ["h2", {"of": "h2", "back": True}]]
    assert asked.desk.ask()["silent"] == {}


def test_a_slow_host_holds_up_nobody_for_longer_than_the_deadline(fleet: Fleet) -> None:
    gateways = {}
    for name in ("h1", "h2"):
        fleet[name].do("publish", "fleet.w1", 1)
        gateways[name] = fleet[name].gateway()
    fleet.ask_from_the_desk("fleet.w1")
    assert fleet.desk.values() == [["h1", 1], ["h2", 1]]

    gateways["h2"].send(signal.SIGSTOP)
    slow = fleet.desk.ask(0.5)
    fleet["h2"].do("publish", "fleet.w1", 2)
    gateways["h2"].send(signal.SIGCONT)

    assert [host for host, _ in slow["answers"]] == ["h1"]
    assert slow["silent"] == {"h2": "there, but did not answer in 0.5 s"}
    assert 0.5 <= slow["seconds"] < 2.0
    # What it says late to the first question is no answer to the second.
    assert fleet.desk.values() == [["h1", 1], ["h2", 2]]


def test_a_gateway_that_is_killed_and_started_again_answers_for_the_states_that_lived_on(fleet: Fleet) -> None:
    fleet["h1"].do("publish", "fleet.w1", "before")
    killed = fleet["h1"].gateway()
    fleet.ask_from_the_desk("fleet.w1", hosts="h1")
    assert fleet.desk.values() == [["h1", "before"]]

    killed.end(signal.SIGKILL)
    until(lambda: fleet.desk.do("hosts_there") == [], name="its end")
    meanwhile = fleet.desk.ask()
    fleet["h1"].gateway()
    until(lambda: fleet.desk.do("hosts_there") == ["h1"], name="its return")
    back = fleet.desk.ask()

    assert meanwhile["answers"] == {}
    assert meanwhile["silent"]["h1"].startswith("gone ")
    assert back["answers"]["h1", "fleet.w1"]["value"] == "before"
    assert back["answers"]["h1", "fleet.w1"]["version"] == 1
    assert "h1" not in back["silent"]


def test_a_host_with_a_newer_wire_format_is_told_apart_and_the_others_answer(fleet: Fleet) -> None:
    for name in ("h1", "h2"):
        fleet[name].do("publish", "fleet.w1", name)
    fleet["h1"].gateway()
    fleet["h2"].gateway(program=("-c", OF_FORMAT_2))
    fleet.ask_from_the_desk("fleet.w1")

    replies = fleet.desk.ask()

    assert [host for host, _ in replies["answers"]] == ["h1"]
    assert [(host, "speaks wire format 2, this end 1" in text) for host, _, text in replies["problems"]] == [
        ("h2", True)
    ]
    assert "that end has a newer shmstate; upgrade this end" in replies["problems"][0][2]


def test_what_a_header_says_beyond_what_is_known_here_is_left(fleet: Fleet) -> None:
    fleet["h1"].do("publish", "fleet.w1", {"a": 1})
    fleet["h1"].gateway(program=("-c", WHO_SAYS_MORE))
    fleet.ask_from_the_desk("fleet.w1", hosts="h1")

    assert fleet.desk.values() == [["h1", {"a": 1}]]
    assert fleet.desk.ask()["problems"] == []


def test_two_hosts_that_call_themselves_the_same_are_found_out(fleet: Fleet) -> None:
    for name in ("h1", "h2"):
        fleet[name].do("publish", "fleet.w1", name)
        fleet[name].gateway("--host", "twin")
    fleet.ask_from_the_desk("fleet.w1")

    replies = fleet.desk.ask()

    assert [host for host, _ in replies["answers"]] == ["twin"]
    assert [(host, text.partition("(")[0]) for host, _, text in replies["problems"]] == [
        ("twin", "2 gateways call themselves so ")
    ]


def test_who_follows_learns_of_a_cut_of_the_return_and_of_what_was_published_meanwhile(asked: Fleet) -> None:
    asked.desk.do("follow")
    first = changes_until(asked.desk, ("state", "h1"), ("state", "h2"))
    asked.hosts.cut("h2")
    lost = changes_until(asked.desk, ("lost", "h2"))
    asked["h2"].do("publish", "fleet.w1", "while cut")
    asked["h1"].do("publish", "fleet.w1", "meanwhile")
    other = changes_until(asked.desk, ("state", "h1"))
    asked.hosts.mend("h2")
    back = changes_until(asked.desk, ("state", "h2"))

    assert {change["kind"] for change in first} == {"found", "state"}
    assert [(change["kind"], change["host"]) for change in lost] == [("lost", "h2")]
    assert [(change["host"], change["answer"]["value"]) for change in other] == [("h1", "meanwhile")]
    assert [(change["kind"], change["host"]) for change in back] == [("found", "h2"), ("state", "h2")]
    assert back[-1]["answer"]["value"] == "while cut"
    assert back[-1]["answer"]["version"] == 2
