"""The engine between hosts, zenoh: how its sessions are opened here. The one module that imports it.

Off unless asked for, whatever a configuration file says or leaves out: its transport through shared memory, which makes
files of its own in /dev/shm and leaves them there; listening on all interfaces; looking for others by multicast and gossip.
"""

from __future__ import annotations

import json
import socket
from os import PathLike
from typing import Any, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Union

from shmstate.errors import FleetError, InvalidOption

#: Where a gateway listens, and where it is asked, if nothing is said: this machine alone.
DEFAULT_ENDPOINT = "tcp/127.0.0.1:7447"
#: Bytes of a state that are sent, or taken, at the most.
DEFAULT_MAX_PAYLOAD = 16 << 20
#: Seconds of silence after which the other end of a connection counts as gone.
LEASE = 4.0
#: Beside a payload, what a message takes: keys, header.
_ENVELOPE = 1 << 20
#: Milliseconds between attempts to connect: at first, and at the most.
_RETRY, _LONGEST_RETRY = 200, 2000

#: The path of a configuration file of zenoh's, or what is to be set: {"transport/link/tls/root_ca_certificate": ...}.
Config = Union[str, "PathLike[str]", Mapping[str, Any]]


def library() -> Any:
    """Zenoh itself. Raises InvalidOption if it is not installed."""
    try:
        import zenoh
    except ImportError as error:
        raise InvalidOption(
            "what crosses machines needs eclipse-zenoh, on Python 3.9 or newer: pip install 'shmstate[fleet]'"
        ) from error
    return zenoh


class Opened(NamedTuple):
    """A session of zenoh's, and where it listens and connects to."""

    session: Any
    listen: List[str]
    connect: List[str]


class Endpoints(NamedTuple):
    """Those that were asked for (None: as the configuration has them), and those if it says nothing either."""

    asked: Optional[Sequence[str]]
    otherwise: Sequence[str] = ()


def open_session(
    who: str, *, listen: Endpoints, connect: Endpoints, config: Optional[Config], scouting: bool, max_payload: int
) -> Opened:
    """Open a session. ``who`` is named in errors; ``max_payload``: what it will take, in bytes.

    Waits half a second at most to connect; what is not there then is tried again for as long as the session lives.
    Raises FleetError, InvalidOption.
    """
    zenoh = library()
    configured = _configured(zenoh, who, config)
    found = []
    for endpoints, key in ((listen, "listen/endpoints"), (connect, "connect/endpoints")):
        if endpoints.asked is not None:
            _set(zenoh, who, configured, key, list(endpoints.asked))
        elif configured.get_json(key) == zenoh.Config().get_json(key):  # then nobody has said anything
            _set(zenoh, who, configured, key, list(endpoints.otherwise))
        found.append(_places(json.loads(configured.get_json(key))))
    _set(zenoh, who, configured, "transport/shared_memory/enabled", False)
    _set(zenoh, who, configured, "transport/link/rx/max_message_size", max_payload + _ENVELOPE)
    if not scouting:
        for key in ("scouting/multicast/enabled", "scouting/gossip/enabled"):
            _set(zenoh, who, configured, key, False)
    zenoh.init_log_from_env_or("off")  # what goes wrong is an error here, or said by who did not answer
    try:
        return Opened(zenoh.open(configured), *found)
    except zenoh.ZError as error:
        told = " and ".join(
            f"{does} {', '.join(places)}"
            for does, places in (("listen on", found[0]), ("connect to", found[1]))
            if places
        )
        raise FleetError(
            f"{who} could not {told} ({_first_line(error)}); is that address this machine's, and free?"
        ) from error


def _places(endpoints: Any) -> List[str]:
    # In a configuration they may be given for each mode by itself.
    if isinstance(endpoints, dict):
        endpoints = [endpoint for places in endpoints.values() for endpoint in places or ()]
    return [endpoint for endpoint in endpoints if isinstance(endpoint, str)]


def _configured(zenoh: Any, who: str, config: Optional[Config]) -> Any:
    if config is not None and not isinstance(config, Mapping):
        try:
            return zenoh.Config.from_file(str(config))
        except zenoh.ZError as error:
            raise InvalidOption(f"{who}: {config} is no configuration of zenoh's ({_first_line(error)})") from error
    configured = zenoh.Config()
    usual = {
        "transport/link/tx/lease": int(LEASE * 1000),
        "connect/retry": {"period_init_ms": _RETRY, "period_max_ms": _LONGEST_RETRY, "period_increase_factor": 2},
    }
    for key, value in {**usual, **(config or {})}.items():
        _set(zenoh, who, configured, key, value)
    return configured


def _set(zenoh: Any, who: str, configured: Any, key: str, value: Any) -> None:
    try:
        configured.insert_json5(key, json.dumps(value))
    except zenoh.ZError as error:
        raise InvalidOption(
            f"{who}: {key} cannot be {value!r} ({_first_line(error)}); see zenoh's configuration"
        ) from error


def _first_line(error: BaseException) -> str:
    # Zenoh's errors end with where in its source they come from.
    return str(error).strip().partition("\n")[0].partition(" at /")[0]


def connected_to(session: Any, endpoints: Iterable[str]) -> List[str]:
    """Those of the endpoints that the session is connected to, by address and port, or path."""
    reached = {_plain(link.dst) for link in session.info.links()}
    return [endpoint for endpoint in endpoints if _addresses(_plain(endpoint)) & reached]


def _plain(endpoint: str) -> str:
    """The place of an endpoint, without protocol and settings."""
    return endpoint.partition("/")[2].partition("#")[0].partition("?")[0]


def _addresses(place: str) -> Set[str]:
    """What a link to a place may call it: a name stands for several addresses, a path for itself."""
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit():
        return {place}
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), proto=socket.IPPROTO_TCP)
    except OSError:
        return {place}
    return {f"[{address[0]}]:{port}" if ":" in str(address[0]) else f"{address[0]}:{port}" for *_, address in found}


def is_open_to_others(endpoint: str) -> bool:
    """Whether what listens there can be reached from other machines, and asks nobody who he is."""
    protocol, _, place = endpoint.partition("/")
    if protocol not in ("tcp", "udp", "ws"):
        return False
    return not place.startswith(("127.", "localhost:", "[::1]:"))
