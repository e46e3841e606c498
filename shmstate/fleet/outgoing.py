"""The states of this host as a gateway sends them: bytes as they were published, and the facts about them."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import suppress
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from shmstate.errors import NotPublished, StateNotFound
from shmstate.fleet.wire import Brief, Facts, matches
from shmstate.looks import Undecoded
from shmstate.registry import MEMBER_ERRORS, problem_of, state_names

#: Seconds for which it is believed that a writer lives, or does not; asking the kernel takes as long as three reads.
RECHECK = 0.05


class Outgoing(NamedTuple):
    """A state to be sent."""

    facts: Facts
    payload: bytes


class _Known:
    """A state that is attached, and what was last learned of its writer."""

    __slots__ = ("alive", "looked", "state")

    def __init__(self, state: Undecoded) -> None:
        self.state = state
        self.alive = False
        self.looked = float("-inf")

    def is_alive(self) -> bool:
        now = time.monotonic()
        if now - self.looked >= RECHECK:
            self.alive, self.looked = self.state.alive, now
        return self.alive


class HostStates:
    """Those of this host whose names match one of ``patterns``. Threads share it.

    A state is attached when it is first asked for, and let go when its name is gone: what is not in ``/dev/shm`` any more
    is not sent. One that a dead writer left is.
    """

    def __init__(self, gateway: str, patterns: Sequence[str], trust_uid: Optional[int] = None) -> None:
        self._gateway = gateway
        self._patterns = tuple(patterns)
        self._trust_uid = trust_uid
        self._known: Dict[str, _Known] = {}
        # What is taken later has the higher number only if nothing comes between.
        self._taking = threading.Lock()
        self._numbers = itertools.count(1)

    def sends(self, name: str) -> bool:
        """Whether a state of that name is sent, should there be one."""
        return any(matches(name, pattern) for pattern in self._patterns)

    def names(self) -> List[str]:
        """Of all that are there now, sorted."""
        # Anybody can make a file whose name begins as those of states, and ends there.
        names = [name for name in state_names() if name and self.sends(name)]
        self._forget(set(self._known).difference(names))
        return names

    def take(self, name: str, max_payload: int) -> Outgoing:
        """The latest of one. One that cannot be sent has a problem instead of a payload. Raises StateNotFound."""
        with self._taking:
            seq = next(self._numbers)
            try:
                return self._taken(self._attached(name), seq, max_payload)
            except StateNotFound:
                raise
            except MEMBER_ERRORS as error:
                return Outgoing(Facts(self._gateway, seq, 0, 0, 0, 0, False, "", 0, str(problem_of(error, name))), b"")

    def _taken(self, known: _Known, seq: int, max_payload: int) -> Outgoing:
        state = known.state
        alive = known.is_alive()
        try:
            version, payload, codec, nbytes, published, vouched = state.take(max_payload)
        except NotPublished:
            return Outgoing(Facts(self._gateway, seq, 0, state.created_ns, 0, 0, alive, "", 0, _UNPUBLISHED), b"")
        now = time.monotonic_ns()
        facts = Facts(
            gateway=self._gateway,
            seq=seq,
            version=version,
            created_ns=state.created_ns,
            age_ns=max(now - published, 0),
            stale_ns=max(now - vouched, 0),
            alive=alive,
            codec=codec,
            nbytes=nbytes,
        )
        if nbytes > max_payload:
            return Outgoing(facts._replace(problem=_too_large(nbytes, max_payload)), b"")
        return Outgoing(facts, payload)

    def briefs(self) -> Tuple[int, Dict[str, Brief]]:
        """A number as in Facts, and of all states that have published what there is to say without their payload."""
        with self._taking:
            briefs = {}
            for name in self.names():
                with suppress(*MEMBER_ERRORS):  # gone, not published, not ours
                    known = self._attached(name)
                    published, vouched = known.state.times()
                    now = time.monotonic_ns()
                    briefs[name] = Brief(
                        version=known.state.version,
                        created_ns=known.state.created_ns,
                        age_ns=max(now - published, 0),
                        stale_ns=max(now - vouched, 0),
                        alive=known.is_alive(),
                    )
            return next(self._numbers), briefs

    def changed(self, names: Iterable[str], seen: Dict[str, Tuple[int, int]]) -> List[str]:
        """Those of the names whose latest version is not the one in ``seen``, which is brought up to date."""
        changed = []
        for name in names:
            with suppress(*MEMBER_ERRORS):
                state = self._attached(name).state
                mark = (state.created_ns, state.version)
                if mark[1] and seen.get(name) != mark:
                    seen[name] = mark
                    changed.append(name)
        return changed

    def _attached(self, name: str) -> _Known:
        known = self._known.get(name)
        if known is not None and known.state.has_name:
            return known
        self._forget([name])
        known = self._known[name] = _Known(Undecoded(name, self._trust_uid))
        return known

    def _forget(self, names: Iterable[str]) -> None:
        # Not closed: another thread may be in the middle of a read. It goes when the last of them lets go.
        for name in names:
            self._known.pop(name, None)

    def close(self) -> None:
        """Let go of all."""
        with self._taking:
            self._known.clear()


_UNPUBLISHED = "nothing has been published in it yet"


def _too_large(nbytes: int, bound: int) -> str:
    return (
        f"its {nbytes:,} bytes are more than the {bound:,} that may be sent; raise max_payload at the gateway"
        f" (--max-payload) and where it is asked"
    )
