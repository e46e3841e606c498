"""What a session is connected to, and who may connect to it."""

from __future__ import annotations

import ipaddress
import socket
import threading
from typing import Any, Dict, FrozenSet, List, Sequence, Set

#: Seconds that one waits at most for the addresses of a name that was not looked up before.
_PATIENCE = 0.5


class Links:
    """Which of ``endpoints`` a session is connected to. Threads may share it.

    Connections are known by address, endpoints may have names. Those are looked up aside, since that can take many seconds,
    whenever none of the addresses known so far is connected to; until then what was found last counts.
    """

    def __init__(self, session: Any, endpoints: Sequence[str]) -> None:
        self._session = session
        self._places = {endpoint: _plain(endpoint) for endpoint in endpoints}
        self._found: Dict[str, FrozenSet[str]] = {}
        self._lock = threading.Lock()
        self._looking: Dict[str, threading.Thread] = {}

    def missing(self) -> List[str]:
        """The endpoints without a connection, sorted."""
        reached = {_plain(link.dst) for link in self._session.info.links()}
        return sorted(endpoint for endpoint, place in self._places.items() if not self._is_at(place, reached))

    def _is_at(self, place: str, reached: Set[str]) -> bool:
        if place in reached:
            return True
        if not _has_name(place):
            return False
        if not self._found.get(place, frozenset()) & reached:
            self._look_up(place)
        return bool(self._found.get(place, frozenset()) & reached)

    def _look_up(self, place: str) -> None:
        with self._lock:
            thread = self._looking.get(place)
            if thread is None:
                thread = threading.Thread(target=self._find, args=(place,), name=f"look up {place}", daemon=True)
                self._looking[place] = thread
                thread.start()
        if place not in self._found:
            thread.join(_PATIENCE)

    def _find(self, place: str) -> None:
        host, _, port = place.rpartition(":")
        try:
            found = socket.getaddrinfo(host, int(port), proto=socket.IPPROTO_TCP)
        except (OSError, UnicodeError):
            found = []
        self._found[place] = frozenset(
            f"[{address[0]}]:{port}" if ":" in str(address[0]) else f"{address[0]}:{port}" for *_, address in found
        )
        with self._lock:
            del self._looking[place]


def _plain(endpoint: str) -> str:
    """The place of an endpoint, without protocol and settings."""
    return endpoint.partition("/")[2].partition("#")[0].partition("?")[0]


def _has_name(place: str) -> bool:
    host, colon, port = place.rpartition(":")
    return bool(host and colon and port.isdigit()) and "/" not in host and not _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_networked(endpoint: str) -> bool:
    """Whether what listens there can be reached from other machines."""
    protocol, _, place = endpoint.partition("/")
    if protocol.startswith(("unix", "vsock", "serial")):
        return False
    host = place.rpartition(":")[0].strip("[]")
    return not (ipaddress.ip_address(host).is_loopback if _is_address(host) else host == "localhost")
