"""The two sides of a trial, each in a process of its own: one publishes, the other reads, both do as they are told."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from importlib import import_module
from typing import Any, Dict, List, NamedTuple, Tuple

from benchmarks.harness import calls_in, each
from benchmarks.peers.peer import Peer
from benchmarks.remote import Stopped
from benchmarks.states import is_torn, stamped

#: Publishes between two looks at whether to stop.
STRETCH = 50
#: Calls that touch for the first time what the next ones find, and say nothing of those.
FIRST = 8


class Look(NamedTuple):
    """What one read found: ``whole``, ``torn``, ``older`` than one has seen, ``nothing``, or the exception's name."""

    found: str
    version: int
    took: float


class Side:
    """What both have in common: a peer, and a process that is made ready for it."""

    def __init__(self, peer: Peer) -> None:
        # Some libraries tell of every hitch, and there will be many.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        self.renew(peer)

    def renew(self, peer: Peer) -> None:
        """Take part in another trial, with another state."""
        self.peer = peer
        self.is_open = False
        if peer.random_names:
            # They begin like the rest, here alone: nothing else tells them from what others leave. Both of these are
            # private, and the same from 3.8 to 3.13.
            vars(import_module("multiprocessing.shared_memory"))["_SHM_NAME_PREFIX"] = f"/{peer.name}"
            vars(multiprocessing.current_process())["_config"]["semprefix"] = f"/{peer.name}"

    def close(self) -> None:
        """As its documentation says. Idempotent."""
        if self.is_open:
            self.is_open = False
            self.peer.close()


class WriterSide(Side):
    """Publishes versions 1, 2, 3...; the first is there once it is made."""

    def renew(self, peer: Peer) -> None:
        """Create it."""
        super().renew(peer)
        self.version = 0
        self.is_open = True
        peer.create()
        self.publish()

    def publish(self) -> int:
        """The next version."""
        self.version += 1
        self.peer.publish(stamped(self.version, self.peer.size))
        return self.version

    def how_many(self, seconds: float) -> int:
        """Publishes that take about so long."""
        for _ in range(FIRST):
            self.publish()
        payload = stamped(self.version, self.peer.size)
        return calls_in(seconds, lambda: self.peer.publish(payload))

    def times(self, count: int) -> List[float]:
        """Of so many publishes, each of other bytes than the last."""
        payloads = [stamped(self.version + ahead, self.peer.size) for ahead in (1, 2, 3, 4)]
        ready = (payloads * (count // 4 + 1)).pop
        publish = self.peer.publish
        times = each(lambda: publish(ready()), count)
        self.version += 4
        return times

    def without_rest(self, stopped: Stopped) -> int:
        """Publish as fast as it goes, until told to stop; how often."""
        before = self.version
        while not stopped():
            for _ in range(STRETCH):
                self.publish()
        return self.version - before


class ReaderSide(Side):
    """Reads; attached when told."""

    def renew(self, peer: Peer) -> None:
        """Not attached, and has seen nothing."""
        super().renew(peer)
        self.seen = 0

    def attach(self) -> None:
        """Make it a reader."""
        self.peer.attach()
        self.is_open = True

    def attach_and_look(self, seen: int) -> Look:
        """As one that comes late: what it finds, or what kept it from attaching."""
        self.seen = seen
        began = time.perf_counter()
        try:
            self.attach()
        except Exception as error:
            return Look(type(error).__name__, 0, (time.perf_counter() - began) * 1e6)
        return self.look()

    def look(self) -> Look:
        """Read once, and judge it."""
        began = time.perf_counter()
        try:
            payload = self.peer.read()
        except Exception as error:
            return Look(type(error).__name__, 0, (time.perf_counter() - began) * 1e6)
        took = (time.perf_counter() - began) * 1e6
        found, version = self._judged(payload)
        return Look(found, version, took)

    def _judged(self, payload: Any) -> Tuple[str, int]:
        state = b"" if payload is None else bytes(payload)
        if not state:
            return "nothing", 0
        if len(state) != self.peer.size or is_torn(state):
            return "torn", 0
        version = int.from_bytes(state[:8], "little")
        if version < self.seen:
            return "older", version
        self.seen = version
        return "whole", version

    def look_for(self, version: int, seconds: float) -> int:
        """Read until there is a whole state as new as that, or so long; the newest seen."""
        deadline = time.monotonic() + seconds
        while self.seen < version and time.monotonic() < deadline:
            self.look()
        return self.seen

    def how_many(self, seconds: float) -> int:
        """Reads that take about so long."""
        for _ in range(FIRST):
            self.peer.read()
        return calls_in(seconds, self.peer.read)

    def times(self, count: int) -> List[float]:
        """Of so many reads."""
        return each(self.peer.read, count)

    def time_of_new(self) -> Look:
        """One read, after a version that this reader has not seen. Who has just woken is slow at anything: not that."""
        awake = time.perf_counter_ns() + 50_000
        while time.perf_counter_ns() < awake:
            pass
        began = time.perf_counter_ns()
        payload = self.peer.read()
        took = (time.perf_counter_ns() - began) / 1e3
        # Judged by its beginning alone: a copy of a large one, made and freed, would make the next read another one.
        return Look("whole", int.from_bytes(bytes(memoryview(payload)[:8]), "little"), took)

    def watch(self, seconds: float) -> Dict[str, Any]:
        """Read as fast as it goes, for so long: ``found``, how often what; ``longest``, microseconds of a read."""
        found: Counter[str] = Counter()
        longest, deadline = 0.0, time.monotonic() + seconds
        while time.monotonic() < deadline:
            look = self.look()
            found[look.found] += 1
            longest = max(longest, look.took)
        return {"found": dict(found), "longest": longest}
