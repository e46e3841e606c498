"""Which hosts there are: each gateway shows a token for as long as it is reached, and who has seen one remembers it."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Set

from shmstate.fleet import engine, wire

#: Seconds that opening waits at most for the tokens of those that it is connected to.
_FIRST_LOOK = 1.0

#: Called with a host, and whether it is there now.
Told = Callable[[str, bool], None]


class Roster:
    """The hosts that match ``patterns``, and have been seen."""

    def __init__(self, session: Any, patterns: Sequence[str]) -> None:
        self._patterns = tuple(patterns)
        self._lock = threading.Lock()
        #: Of each host that was ever seen, the gateways that are there.
        self._gateways: Dict[str, Set[str]] = {}
        self._left: Dict[str, float] = {}
        self._listeners: List[Told] = []
        #: Keys of tokens that went while this was opened; until it is.
        self._went: Optional[Set[str]] = set()
        every = f"{wire.HOSTS}/*/*"
        self._subscriber = session.liveliness().declare_subscriber(every, engine.called(self._take), history=True)
        # History comes when it comes. These have come when the iteration ends.
        for reply in session.liveliness().get(every, timeout=_FIRST_LOOK):
            if reply.ok is not None:
                self._note(str(reply.ok.key_expr), True, is_old=True)
        self._went = None

    def _take(self, sample: Any) -> None:
        self._note(str(sample.key_expr), sample.kind != engine.library().SampleKind.DELETE)

    def _note(self, key: str, is_there: bool, is_old: bool = False) -> None:
        try:
            host, gateway = wire.parts_of(key)
        except wire.Unreadable:  # somebody else's token
            return
        if not self.asks(host):
            return
        with self._lock:
            if self._went is not None:
                if not is_there:
                    self._went.add(key)
                elif is_old and key in self._went:
                    return
            if not is_there and host not in self._gateways:
                return
            gateways = self._gateways.setdefault(host, set())
            before = bool(gateways)
            (gateways.add if is_there else gateways.discard)(gateway)
            now = bool(gateways)
            if before and not now:
                self._left[host] = time.monotonic()
            listeners = list(self._listeners) if now != before else []
        for listener in listeners:
            listener(host, now)

    def asks(self, host: str) -> bool:
        """Whether the host is one of those that are asked."""
        return any(wire.matches(host, pattern) for pattern in self._patterns)

    def due(self) -> List[str]:
        """Those that are to answer: all that were ever seen, and those named without ``*``, sorted."""
        named = [pattern for pattern in self._patterns if "*" not in pattern]
        with self._lock:
            return sorted({*self._gateways, *named})

    def there(self) -> List[str]:
        """Those that are there now, sorted."""
        with self._lock:
            return sorted(host for host, gateways in self._gateways.items() if gateways)

    def gateways(self, host: str) -> int:
        """How many gateways say that they are this host; one should."""
        with self._lock:
            return len(self._gateways.get(host, ()))

    def absence(self, host: str) -> Optional[str]:
        """Why no answer of it can be expected; None if one can."""
        with self._lock:
            if host not in self._gateways:
                return "never seen"
            if not self._gateways[host]:
                return f"gone {time.monotonic() - self._left[host]:.1f} s ago"
            return None

    def forget(self, host: str) -> None:
        """Expect nothing more of a host that is gone for good; if it comes back it counts again."""
        with self._lock:
            if not self._gateways.get(host):
                self._gateways.pop(host, None)
                self._left.pop(host, None)

    def listen(self, told: Told) -> Callable[[], None]:
        """Call ``told`` from now on, in a thread of the engine's; returns what ends that."""
        with self._lock:
            self._listeners.append(told)
        return lambda: self._listeners.remove(told)
