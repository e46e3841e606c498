"""What a gateway sends without being asked: states that have changed, and now and then a pulse; only while somebody listens.

A push that the network has no room for is dropped, so that one slow subscriber holds up nobody. The pulse names the version
of every state; who has missed one asks for it.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Dict, Tuple

from shmstate.errors import StateNotFound
from shmstate.fleet import engine, wire
from shmstate.fleet.outgoing import HostStates

_log = logging.getLogger("shmstate")

DEFAULT_INTERVAL = 0.02
DEFAULT_PULSE = 1.0
#: Seconds between two looks for states that are new.
_LISTING = 0.25


class Pushing:
    """A thread that does it, from now until it is closed."""

    def __init__(
        self,
        session: Any,
        host: str,
        gateway: str,
        states: HostStates,
        max_payload: int,
        interval: float,
        pulse: float,
    ) -> None:
        drop = engine.library().CongestionControl.DROP
        self._host, self._gateway, self._states, self._max_payload = host, gateway, states, max_payload
        self._interval, self._pulse_interval = interval, pulse
        # Declared for all states at once, to know whether anybody listens; each is put under its own key.
        self._listened = session.declare_publisher(f"{wire.STATES}/{wire.chunk(host)}/*")
        self._pulse = session.declare_publisher(wire.gateway_key(host, gateway), congestion_control=drop)
        self._put, self._drop = session.put, drop
        self._stopping = threading.Event()
        #: States pushed so far.
        self.pushed = 0
        self._thread = threading.Thread(target=self._run, name=f"gateway {host} pushing", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        seen: Dict[str, Tuple[int, int]] = {}
        failed = ""
        names = self._states.names()
        listed = pulsed = float("-inf")
        while not self._stopping.wait(self._interval):
            try:
                now = time.monotonic()
                if now - pulsed >= self._pulse_interval and self._pulse.matching_status.matching:
                    pulsed = now
                    self._send_pulse()
                if not self._listened.matching_status.matching:
                    seen.clear()
                    continue
                if now - listed >= _LISTING:
                    listed = now
                    names = self._states.names()
                for name in self._states.changed(names, seen):
                    self._push(name)
            except Exception as error:
                if self._stopping.is_set():
                    return
                if repr(error) != failed:  # not once an interval
                    _log.exception("gateway %r could not push; will try again", self._host)
                failed = repr(error)

    def _push(self, name: str) -> None:
        try:
            facts, payload = self._states.take(name, self._max_payload)
        except StateNotFound:  # gone since
            return
        header = wire.pack(facts)
        self._put(wire.state_key(self._host, name), payload, attachment=header, congestion_control=self._drop)
        self.pushed += 1

    def _send_pulse(self) -> None:
        seq, briefs = self._states.briefs()
        self._pulse.put(b"", attachment=wire.pack(wire.Pulse(self._gateway, seq, briefs)))

    def close(self) -> None:
        """Stop."""
        self._stopping.set()
        self._thread.join()
