"""Looking at the states of a machine again and again, and at bytes that nobody decodes."""

from __future__ import annotations

import time
from typing import Dict, Iterator, List, Optional, Tuple

from shmstate import reading
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
    place = Attachment(name, 0.0, None)
    try:
        payload, version, _ = reading.open_reading(place, name).snapshot()
        return version, payload, place.segment.layout.codec
    finally:
        place.segment.close()
