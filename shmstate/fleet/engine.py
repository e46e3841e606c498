"""The engine between hosts, zenoh: how its sessions are opened here. The one module that imports it.

Off unless asked for, whatever a configuration file says or leaves out: its transport through shared memory, which makes
files of its own in /dev/shm and leaves them there; listening on all interfaces; looking for others by multicast and gossip.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Sequence, Union

from shmstate.errors import FleetError, InvalidOption
from shmstate.fleet.links import is_networked
from shmstate.fleet.wire import LONGEST_HEADER

#: Where a gateway listens, and where it is asked, if nothing is said: this machine alone.
DEFAULT_ENDPOINT = "tcp/127.0.0.1:7447"
#: Bytes of a state that are sent, or taken, at the most.
DEFAULT_MAX_PAYLOAD = 16 << 20
#: Seconds of silence after which the other end of a connection counts as gone.
LEASE = 4.0
#: Beside a payload, what a message takes: keys, header.
_ENVELOPE = LONGEST_HEADER + (64 << 10)
#: What is set where a configuration leaves zenoh's own value.
_USUAL: Mapping[str, Any] = {
    "transport/link/tx/lease": int(LEASE * 1000),
    # Milliseconds between attempts to connect: at first, and at the most.
    "connect/retry": {"period_init_ms": 200, "period_max_ms": 2000, "period_increase_factor": 2},
    # Milliseconds. Closing a session waits for the connections that are being opened in it, also to who never answers.
    "transport/unicast/open_timeout": 3000,
    # Microseconds for one message, then the connection is closed. Meanwhile who takes nothing holds up all the others:
    # ten seconds of them, with zenoh's own five and a dozen of large answers. The slowest link has to carry
    # max_payload in that time.
    "transport/link/tx/queue/congestion_control/block/wait_before_close": 2_000_000,
}

#: The path of a configuration file of zenoh's, or what is to be set: {"transport/link/tls/root_ca_certificate": ...}.
Config = Union[str, "os.PathLike[str]", Mapping[str, Any]]


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
    """A session of zenoh's, where it listens and connects to, and where others may come in whom nobody knows."""

    session: Any
    listen: List[str]
    connect: List[str]
    open_to_others: List[str]


class _Process:
    """What this process knows of its sessions."""

    def __init__(self) -> None:
        self.open: List[Any] = []
        #: Who has tried to open one, and the parent that had before this was forked; 0: nobody.
        self.opened_by = self.forked_from = 0

    def forked(self) -> None:
        """In a forked child. It has none of the engine's threads."""
        self.forked_from = self.opened_by
        if self.open:
            import ctypes

            # One that is dropped here would wait for those threads for ever, also at exit. Nothing but a count of references
            # that nobody takes back keeps it beyond that.
            for session in self.open:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


_process = _Process()
os.register_at_fork(after_in_child=_process.forked)


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
    if _process.forked_from:
        raise FleetError(
            f"{who}: this is a fork of pid {_process.forked_from}, which had a session before, and the engine's"
            f" threads are not here; fork before that, or start the process anew, as multiprocessing does with 'spawn'"
        )
    configured = _configured(zenoh, who, config)
    found = []
    untouched = zenoh.Config()
    for endpoints, key in ((listen, "listen/endpoints"), (connect, "connect/endpoints")):
        if endpoints.asked is not None:
            _set(zenoh, who, configured, key, list(endpoints.asked))
        elif configured.get_json(key) == untouched.get_json(key):  # then nobody has said anything
            _set(zenoh, who, configured, key, list(endpoints.otherwise))
        found.append(_places(json.loads(configured.get_json(key))))
    _set(zenoh, who, configured, "transport/shared_memory/enabled", False)
    _set(zenoh, who, configured, "transport/link/rx/max_message_size", max_payload + _ENVELOPE)
    if not scouting:
        for key in ("scouting/multicast/enabled", "scouting/gossip/enabled"):
            _set(zenoh, who, configured, key, False)
    _process.opened_by = os.getpid()
    zenoh.init_log_from_env_or("off")  # what goes wrong is an error here, or said by who did not answer
    try:
        session = zenoh.open(configured)
    except zenoh.ZError as error:
        told = " and ".join(
            f"{does} {', '.join(places)}"
            for does, places in (("listen on", found[0]), ("connect to", found[1]))
            if places
        )
        raise FleetError(
            f"{who} could not {told} ({_first_line(error)}); is that address this machine's, and free?"
        ) from error
    _process.open.append(session)
    open_to_others = [endpoint for endpoint in found[0] if _is_open(endpoint, configured)]
    return Opened(session, found[0], found[1], open_to_others)


def called(function: Callable[[Any], object], at_end: Callable[[], object] = lambda: None) -> Any:
    """A handler that calls ``function`` in a thread of the engine's, and ``at_end`` when nothing more comes."""
    # Otherwise it is called in a thread of Python's, one for each handler, for which a process waits before it exits.
    return library().handlers.Callback(function, at_end, indirect=False)


def close(session: Any) -> None:
    """Close it. Idempotent."""
    session.close()
    with suppress(ValueError):
        _process.open.remove(session)


def _places(endpoints: Any) -> List[str]:
    # In a configuration they may be given for each mode by itself.
    if isinstance(endpoints, dict):
        endpoints = [endpoint for places in endpoints.values() for endpoint in places or ()]
    return [endpoint for endpoint in endpoints if isinstance(endpoint, str)]


def _configured(zenoh: Any, who: str, config: Optional[Config]) -> Any:
    configured = untouched = zenoh.Config()
    if config is not None and not isinstance(config, Mapping):
        try:
            configured = zenoh.Config.from_file(os.fspath(config))
        except (zenoh.ZError, TypeError) as error:
            raise InvalidOption(f"{who}: {config} is no configuration of zenoh's ({_first_line(error)})") from error
    elif config:
        configured = zenoh.Config()
        for key, value in config.items():
            _set(zenoh, who, configured, key, value)
    for key, value in _USUAL.items():
        if configured.get_json(key) == untouched.get_json(key):
            _set(zenoh, who, configured, key, value)
    return configured


def _set(zenoh: Any, who: str, configured: Any, key: str, value: Any) -> None:
    try:
        configured.insert_json5(key, json.dumps(value, default=os.fspath))
    except (zenoh.ZError, TypeError) as error:
        raise InvalidOption(
            f"{who}: {key} cannot be {value!r} ({_first_line(error)}); see zenoh's configuration"
        ) from error


def _is_open(endpoint: str, configured: Any) -> bool:
    """Whether what listens there can be reached from other machines, and asks nobody who he is."""
    asked_by_all = ("transport/auth/usrpwd/dictionary_file", "transport/auth/pubkey/known_keys_file")
    if not is_networked(endpoint) or any(json.loads(configured.get_json(key)) for key in asked_by_all):
        return False
    # TLS alone shows the client who the gateway is, and not the other way round.
    has_certificates = endpoint.startswith(("tls/", "quic/"))
    return not (has_certificates and json.loads(configured.get_json("transport/link/tls/enable_mtls")))


def _first_line(error: BaseException) -> str:
    # Zenoh's errors end with where in its source they come from.
    return str(error).strip().partition("\n")[0].partition(" at /")[0]
