"""Looking at the states of a machine again and again, and at bytes that nobody decodes."""

from __future__ import annotations

import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from shmstate import ownership, reading
from shmstate.attachment import Attachment
from shmstate.registry import StateInfo, list_states


class Looks:
    """All states whose names begin with ``prefix``, now and then, and how often they were published in between."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._before: Dict[str, Tuple[float, int, float]] = {}
        self._rates: Dict[str, float] = {}

    def look(self) -> List[StateInfo]:
        """The states as they are."""
        now = time.monotonic()
        states = list_states(self._prefix)
        self._rates = {}
        for state in states:
            then, version, created = self._before.get(state.name, (now, 0, 0.0))
            if now > then and created == state.created:
                self._rates[state.name] = (state.version - version) / (now - then)
        self._before = {state.name: (now, state.version, state.created) for state in states}
        return states

    def rate(self, name: str) -> Optional[float]:
        """Publishes a second of that state, between the last two looks; None if it was not there at both."""
        return self._rates.get(name)

    def every(self, interval: float, count: Optional[int]) -> Iterator[List[StateInfo]]:
        """Look every ``interval`` seconds, ``count`` times (None: without end)."""
        due = time.monotonic()
        done = 0
        while True:
            yield self.look()
            done += 1
            if done == count:
                return
            due = max(due + interval, time.monotonic())
            time.sleep(max(due - time.monotonic(), 0.0))


def read_undecoded(name: str) -> Tuple[int, bytes, str]:
    """Version and bytes of the latest state, and the name of the codec, which need not be known here.

    Raises StateNotFound, NotPublished, UntrustedSegment, CorruptSegment, ReadTimeout.
    """
    state = Undecoded(name)
    try:
        return state.take()[:3]
    finally:
        state.close()


class Taken(NamedTuple):
    """A state as it was published."""

    version: int
    #: Empty if it was not wanted: ``nbytes`` are more than the most that were to be copied.
    payload: bytes
    codec: str
    nbytes: int
    #: CLOCK_MONOTONIC of when it was published, and of when its writer last vouched for it.
    published_ns: int
    vouched_ns: int


class Undecoded:
    """Reads a state's bytes, whatever its codec. Threads may share it. Raises as StateReader, but for CodecMismatch."""

    def __init__(self, name: str, trust_uid: Optional[int] = None) -> None:
        self._place = Attachment(name, 0.0, trust_uid)
        self._steps = reading.open_reading(self._place, name)
        #: When the line began that its versions count in: as long as this is the same, they only go up.
        self.created_ns = self._place.segment.identity().created_ns

    def take(self, most: Optional[int] = None) -> Taken:
        """The latest state; one of more than ``most`` bytes is not copied. Raises NotPublished, ReadTimeout."""
        while True:
            codec = self._place.segment.layout.codec
            payload = b""
            live, version, published, _ = self._steps.view()
            nbytes = len(live)
            live.release()
            if most is None or nbytes <= most:
                payload, version, published = self._steps.snapshot()  # which may be newer, and larger, by now
                nbytes = len(payload)
            if self._place.segment.layout.codec == codec:  # which a move can change
                vouched = max(published, self._steps.heartbeat())
                return Taken(version, payload, codec, nbytes, published, vouched)

    @property
    def version(self) -> int:
        """The version published last; 0: none yet."""
        return self._steps.latest()

    def times(self) -> Tuple[int, int]:
        """As in Taken, of the latest version."""
        published = self._steps.view()[2]
        return published, max(published, self._steps.heartbeat())

    @property
    def alive(self) -> bool:
        """Whether a living writer owns it. Asks the kernel."""
        return self._place.is_owned(self._steps.latest)

    @property
    def has_name(self) -> bool:
        """Whether the name still leads to it: it was not closed, removed, or made anew."""
        self._steps.latest()  # which follows a move
        return ownership.leads_to(self._place.segment.path, self._place.segment.inode)

    def close(self) -> None:
        """Let go of it."""
        self._place.close()
