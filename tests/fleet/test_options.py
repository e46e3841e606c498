"""Where a gateway listens, and is found to; and the options that are refused."""

from __future__ import annotations

import socket
import threading
import time
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from shmstate import FleetError, InvalidOption, StateWriter
from shmstate.fleet import FleetQuery, Gateway
from shmstate.fleet.links import Links
from tests.core.children import until

zenoh = pytest.importorskip("zenoh", reason="needs eclipse-zenoh: the extra `fleet`")

Endpoint = Callable[[], str]


# Options, and where one listens.


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("host", ""),
        ("host", "a*"),
        ("host", "a\nb"),
        ("host", "x" * 256),
        ("states", []),
        ("states", "a*"),
        ("states", [""]),
        ("max_payload", 0),
        ("max_payload", (1 << 30) + 1),
        ("interval", 0),
        ("interval", float("nan")),
        ("pulse", 3601),
        ("listen", ["nowhere"]),
        ("connect", ["nowhere"]),
        ("config", {"no/such/key": 1}),
        ("config", {"mode": object()}),
        ("config", "/no/such/file.json5"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(endpoint: Endpoint, option: str, value: Any) -> None:
    shown = {"listen": "listen/endpoints", "connect": "connect/endpoints", "config": "gateway 'h'"}.get(
        option, f"{option}="
    )

    with pytest.raises(InvalidOption, match=shown):
        Gateway(**{"host": "h", "listen": [endpoint()], option: value})


def test_a_host_of_any_name_answers(endpoint: Endpoint, name: str) -> None:
    place, host = endpoint(), "h/1 ?#$@% caf\u00e9 \U0001f600"
    with StateWriter(name) as writer, Gateway(host, states=[name], listen=[place]):
        writer.publish(1)
        with FleetQuery(name, hosts=[host], connect=[place], deadline=30) as query:
            assert query.ask().only().host == host


def test_an_address_that_is_taken_is_an_error_that_says_which() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"tcp/127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(FleetError, match=f"gateway 'h1' could not listen on {place} .*free") as refused:
            Gateway("h1", listen=[place])

    assert "/root/" not in str(refused.value)


def test_an_endpoint_with_a_name_is_known_to_be_connected(endpoint: Endpoint, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = f"tcp/localhost:{port}"
    with Gateway("h1", states=[name], listen=[f"tcp/127.0.0.1:{port}"]), FleetQuery(name, connect=[place]) as query:
        assert query.ask(30).silent == {}

    with FleetQuery(name, connect=[place]) as query:
        assert query.ask(30).silent.keys() == {place}


def test_a_name_server_that_does_not_answer_holds_up_no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = [], threading.Event()

    def resolve(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        answers.wait()
        return [(0, 0, 0, "", ("192.0.2.1", 7447))]

    session = SimpleNamespace(
        info=SimpleNamespace(links=lambda: [SimpleNamespace(dst="tcp/192.0.2.1:7447")]),
    )

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    links = Links(session, ["tcp/gateway.example:7447", "tcp/192.0.2.1:7447"])
    began = time.monotonic()

    before = links.missing()
    took = time.monotonic() - began
    links.missing()
    answers.set()

    assert (before, asked) == (["tcp/gateway.example:7447"], ["gateway.example"])
    assert took < 5
    until(lambda: links.missing() == [])
