"""Who may ask: the engine's own TLS, passwords and access control, passed through; and where is listened if nothing is said."""

from __future__ import annotations

import fcntl
import json
import socket
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

import psutil
import pytest

from shmstate import StateWriter
from shmstate.fleet import FleetQuery, Gateway
from tests.core.children import Child, say, wait_for_the_test
from tests.fleet import others
from tests.fleet.others import once

zenoh = pytest.importorskip("zenoh", reason="needs eclipse-zenoh: the extra `fleet`")

Start = Callable[..., Child]


@pytest.fixture
def port() -> int:
    """One that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
        return number


@pytest.fixture
def state(name: str) -> Iterator[str]:
    with StateWriter(name) as writer:
        writer.publish(1)
        yield name


# TLS.


class Certificates(NamedTuple):
    """Configurations: of a gateway that wants to know who asks, of one whom it knows, and of two whom it does not."""

    gateway: Dict[str, Any]
    known: Dict[str, Any]
    without: Dict[str, Any]
    of_another_authority: Dict[str, Any]


TLS = "transport/link/tls/"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    trustme = pytest.importorskip("trustme")
    ours, others_ = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    for who, authority in (("gateway", ours), ("known", ours), ("stranger", others_)):
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(tmp_path / f"{who}.key")
        (tmp_path / f"{who}.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    def of(who: str, does: str) -> Dict[str, Any]:
        named = {f"{does}_private_key": tmp_path / f"{who}.key", f"{does}_certificate": tmp_path / f"{who}.pem"}
        return {f"{TLS}{key}": str(path) for key, path in named.items()}

    base = {f"{TLS}root_ca_certificate": tmp_path / "ca.pem"}  # a path is fine, too
    mutual = {**base, f"{TLS}enable_mtls": True}
    return Certificates(
        {**mutual, **of("gateway", "listen")},
        {**mutual, **of("known", "connect")},
        base,
        {**mutual, **of("stranger", "connect")},
    )


def test_one_with_a_certificate_is_answered_and_those_without_get_nothing_and_are_told_so(
    port: int, state: str, certificates: Certificates
) -> None:
    place = f"tls/127.0.0.1:{port}"
    refused = []
    with Gateway("h1", states=[state], listen=[place], config=certificates.gateway) as gateway:
        with FleetQuery(state, connect=[place], config=certificates.known) as query:
            value = once(query, lambda replies: replies.answers).only().value
        for config in (certificates.without, certificates.of_another_authority, {}):
            with FleetQuery(state, hosts="h1", connect=[place], config=config) as query:
                refused.append(query.ask(0.5))

    assert value == 1
    assert gateway.open_to_others == []
    for replies in refused:
        assert replies.answers == ()
        assert replies.silent == {"h1": "never seen", place: "no connection; is a gateway running there?"}
        assert replies.seconds < 1


def nested(config: Dict[str, Any]) -> Dict[str, Any]:
    """As a file has it."""
    tree: Dict[str, Any] = {}
    for key, value in config.items():
        at = tree
        *parents, last = key.split("/")
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return tree


def test_the_same_in_files(port: int, state: str, certificates: Certificates, tmp_path: Path) -> None:
    place = f"tls/127.0.0.1:{port}"
    gateway, known = tmp_path / "gateway.json5", tmp_path / "known.json5"
    gateway.write_text(json.dumps(nested({**certificates.gateway, "listen/endpoints": [place]}), default=str))
    known.write_text(json.dumps(nested({**certificates.known, "connect/endpoints": [place]}), default=str))

    with Gateway("h1", states=[state], config=gateway) as opened:
        with FleetQuery(state, config=str(known)) as query:
            value = once(query, lambda replies: replies.answers).only().value
        with FleetQuery(state, connect=[place]) as query:
            nothing = query.ask(0.5)

    assert (opened.listen, value) == ([place], 1)
    assert nothing.answers == ()
    assert nothing.silent.keys() == {place}


# Passwords and access control.


def test_who_knows_the_password_is_answered_and_who_does_not_is_not(port: int, state: str, tmp_path: Path) -> None:
    place = f"tcp/127.0.0.1:{port}"
    users = tmp_path / "users"
    users.write_text("gateway:first\nasker:second\n")
    login = "transport/auth/usrpwd/"

    def config(user: str, password: str, **more: str) -> Dict[str, Any]:
        return {f"{login}{key}": value for key, value in {"user": user, "password": password, **more}.items()}

    with Gateway("h1", states=[state], listen=[place], config=config("gateway", "first", dictionary_file=str(users))):
        with FleetQuery(state, connect=[place], config=config("asker", "second")) as query:
            value = once(query, lambda replies: replies.answers).only().value
        with FleetQuery(state, connect=[place], config=config("asker", "wrong")) as query:
            nothing = query.ask(0.5)

    assert value == 1
    assert nothing.answers == ()
    assert nothing.silent.keys() == {place}


def denying(*keys: str) -> Dict[str, Any]:
    """Access control that keeps back these answers."""
    rule = {"id": "kept", "permission": "deny", "messages": ["reply"], "flows": ["egress"], "key_exprs": list(keys)}
    return {
        "access_control": {
            "enabled": True,
            "default_permission": "allow",
            "rules": [rule],
            "subjects": [{"id": "all"}],
            "policies": [{"rules": ["kept"], "subjects": ["all"]}],
        }
    }


def test_a_state_that_access_control_denies_is_not_answered_and_others_are(
    endpoint: Callable[[], str], prefix: str
) -> None:
    place = endpoint()
    names = [f"{prefix}-open", f"{prefix}-secret"]
    with StateWriter(names[0]) as told, StateWriter(names[1]) as secret:
        told.publish("told")
        secret.publish("secret")
        with Gateway("h1", states=names, listen=[place], config=denying(f"shmstate/state/*/{names[1]}")):
            with FleetQuery(f"{prefix}*", connect=[place]) as query:
                all_of_them = once(query, lambda replies: replies.answers)
            with FleetQuery(names[1], connect=[place]) as query:
                secret_alone = query.ask()

    assert [answer.value for answer in all_of_them.answers] == ["told"]
    assert all_of_them.silent == {"h1": "1 of its 2 answers have come; the others were lost, or kept back, on the way"}
    assert secret_alone.answers == ()
    assert secret_alone.silent == {"h1": "0 of its 1 answers have come; the others were lost, or kept back, on the way"}


# Where is listened.


def tell_listening(options: str) -> None:
    """Open a gateway with these options, and tell where this process listens, and what the gateway says."""
    with Gateway("h1", **json.loads(options)) as gateway:
        listening = psutil.Process().net_connections("inet")
        say(json.dumps([[list(each.laddr) for each in listening], gateway.listen, gateway.open_to_others]))
        wait_for_the_test()


def listening(start: Start, **options: Any) -> Any:
    """[addresses, endpoints, those that are open to others]."""
    return json.loads(start(tell_listening, json.dumps(options)).line())


@pytest.fixture
def default_port() -> Iterator[None]:
    """For one test at a time on this machine, if nobody else listens there."""
    with open(Path(tempfile.gettempdir()) / "shmstate-tests-port-7447", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            socket.create_server(("127.0.0.1", 7447)).close()
        except OSError:
            pytest.skip("somebody listens at port 7447")
        yield


def test_a_gateway_of_which_nothing_is_said_listens_on_loopback_alone(default_port: None, start: Start) -> None:
    assert listening(start) == [[["127.0.0.1", 7447]], ["tcp/127.0.0.1:7447"], []]


@pytest.mark.parametrize(
    "content", ["{}", '{mode: "peer", listen: {endpoints: {router: ["tcp/[::]:7447"], peer: ["tcp/[::]:0"]}}}']
)
def test_a_file_that_says_nothing_of_it_leaves_loopback(
    default_port: None, start: Start, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "zenoh.json5"
    file.write_text(content)

    assert listening(start, config=str(file)) == [[["127.0.0.1", 7447]], ["tcp/127.0.0.1:7447"], []]


def test_a_file_that_says_where_is_followed(start: Start, port: int, tmp_path: Path) -> None:
    file = tmp_path / "zenoh.json5"
    file.write_text(json.dumps({"listen": {"endpoints": {"peer": [f"tcp/127.0.0.1:{port}"]}}}))

    assert listening(start, config=str(file)) == [[["127.0.0.1", port]], [f"tcp/127.0.0.1:{port}"], []]


def test_what_is_said_to_the_gateway_counts_more_than_the_file(start: Start, port: int, tmp_path: Path) -> None:
    file = tmp_path / "zenoh.json5"
    file.write_text(json.dumps({"listen": {"endpoints": ["tcp/0.0.0.0:1"]}}))
    place = f"tcp/127.0.0.1:{port}"

    assert listening(start, listen=[place], config=str(file)) == [[["127.0.0.1", port]], [place], []]


def test_all_interfaces_are_listened_at_where_it_is_said_and_that_is_known(start: Start, port: int) -> None:
    place = f"tcp/0.0.0.0:{port}"

    assert listening(start, listen=[place]) == [[["0.0.0.0", port]], [place], [place]]


@pytest.mark.parametrize(
    ("config", "is_open"),
    [
        ({"transport/link/tls/enable_mtls": True}, True),
        ({"transport/auth/usrpwd/user": "a", "transport/auth/usrpwd/password": "b"}, True),
        ({"transport/auth/usrpwd/dictionary_file": "users"}, False),
    ],
    ids=["TLS, elsewhere", "a password of its own", "passwords of others"],
)
def test_an_endpoint_is_open_to_others_unless_all_are_asked_who_they_are(
    start: Start, port: int, tmp_path: Path, config: Dict[str, Any], is_open: bool
) -> None:
    (tmp_path / "users").write_text("a:b\n")
    config = {key: str(tmp_path / value) if value == "users" else value for key, value in config.items()}
    place = f"tcp/0.0.0.0:{port}"

    assert listening(start, listen=[place], config=config)[2] == ([place] if is_open else [])


def test_tls_is_open_to_others_unless_it_wants_their_certificates(port: int, certificates: Certificates) -> None:
    place = f"tls/0.0.0.0:{port}"
    opened: List[List[str]] = []

    for mutual in (True, False):
        config = {**certificates.gateway, f"{TLS}enable_mtls": mutual}
        with Gateway("h1", states=["none"], listen=[place], config=config) as gateway:
            opened.append(gateway.open_to_others)

    assert opened == [[], [place]]


def tell_multicast(options: str) -> None:
    """The same with every option as it comes; tell the sockets of this process for datagrams."""
    with others.session(**json.loads(options)), Gateway("h1", listen=[]):
        say(len([each for each in psutil.Process().net_connections("inet") if each.type == socket.SOCK_DGRAM]))


@pytest.mark.parametrize("scouts", [False, True])
def test_nobody_is_looked_for_by_multicast(start: Start, scouts: bool) -> None:
    options = {"scouting": {"multicast": {"enabled": True}}} if scouts else {}

    sockets = int(start(tell_multicast, json.dumps(options)).line())

    # The twin shows that this would be seen.
    assert (sockets > 0) == scouts
