"""How often each state is published, measured between scrapes."""

from __future__ import annotations

from collections import deque
from typing import Deque, Dict, NamedTuple, Sequence, Tuple

from shmstate import StateInfo

SHORTEST = 1.0


class _Mark(NamedTuple):
    at: float
    #: Version, and when the state was made, by name.
    seen: Dict[str, Tuple[int, float]]


class Rates:
    """Publishes a second of each state, over the time since the last scrape that is ``shortest`` seconds old at least.

    Scrapes come when they please: those of two servers may be microseconds apart, and a rate over that would be 0 or a
    million. Marks lie that far apart, so two are enough: if the newer one is too young, the older one is not.
    Not for threads to share.
    """

    def __init__(self, shortest: float = SHORTEST) -> None:
        self._shortest = shortest
        self._marks: Deque[_Mark] = deque(maxlen=2)

    def measure(self, now: float, states: Sequence[StateInfo]) -> Dict[str, float]:
        """The rates by name, of those states that were there before and have not been made anew since."""
        since = next((mark for mark in reversed(self._marks) if now - mark.at >= self._shortest), None)
        rates = {} if since is None else {state.name: rate for state in states for rate in _rate(since, now, state)}
        if not self._marks or now - self._marks[-1].at >= self._shortest:
            self._marks.append(_Mark(now, {state.name: (state.version, state.created) for state in states}))
        return rates


def _rate(since: _Mark, now: float, state: StateInfo) -> Sequence[float]:
    version, created = since.seen.get(state.name, (0, None))
    return [(state.version - version) / (now - since.at)] if created == state.created else []
