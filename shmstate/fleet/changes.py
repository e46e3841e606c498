"""Changes: what happens to the states of a fleet, as it happens.

Gateways push a state when it has changed. What was there before, what is pushed while nobody takes it, and what is lost
on the way comes by asking: at the beginning, when a host is back, and whenever a pulse tells of a version not seen here.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple, Type

from shmstate.errors import FleetError, WaitTimeout
from shmstate.fleet import engine, wire
from shmstate.fleet.asking import FleetQuery
from shmstate.fleet.replies import HostAnswer, Problem
from shmstate.options import check_timeout

#: Gateways that were at a host before, whose late words are not believed; more of them are forgotten.
_MOST_FORMER = 16


class Change(NamedTuple):
    """Something that happened.

    ``kind``  ``state``  a newer version; those in between are left out
              ``writer`` its writer has died or closed, or there is one again; the state is the one seen last
              ``gone``   the state was removed from its host
              ``problem`` the state cannot be had; ``problem`` says why
              ``lost``   the host is not reached any more
              ``found``  the host is there, for the first time or again
    """

    kind: str
    host: str
    #: Empty for what happens to a host.
    state: str = ""
    #: The state as it is known now; None where it is not.
    answer: Optional[HostAnswer] = None
    problem: str = ""


class _Held(NamedTuple):
    """What was last taken of a state."""

    facts: wire.Facts
    payload: bytes

    @property
    def mark(self) -> Tuple[int, int]:
        return self.facts.created_ns, self.facts.version


class _News(NamedTuple):
    """A change that nobody has taken yet; its state is not decoded."""

    kind: str
    held: Optional[_Held] = None
    problem: str = ""


class Changes:
    """The changes of what ``query`` asks for, as an iterator that waits for the next one; for a with-block.

    It begins with what is there. Of a state that changes faster than it is taken only the latest is kept, so nothing piles
    up. ``deadline``: seconds that asking for what was missed may take. The query must stay open. Raises FleetError.
    """

    def __init__(self, query: FleetQuery, *, deadline: float = 1.0) -> None:
        self._query = query
        self._deadline = deadline
        self._lock = threading.Condition()
        self._held: Dict[Tuple[str, str], _Held] = {}
        #: What has happened and is not taken, the oldest first, by host and state; of a host itself the state is empty.
        self._waiting: Dict[Tuple[str, str], _News] = {}
        self._gateways: Dict[str, List[str]] = {}
        #: Hosts to ask, for all or for some of their states.
        self._to_ask: Dict[str, Set[str]] = {}
        self._closed = False
        self._subscribers: List[Any] = []
        self._catching_up = threading.Thread(target=self._catch_up, name=f"changes of {query.states}", daemon=True)
        self._stop_listening = query.roster.listen(self._host_changed)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        session = self._query.session
        for host in self._query.roster.there():  # before any of its states
            self._host_changed(host, True)
        for host in self._query.hosts:
            for key in (
                f"{wire.STATES}/{wire.chunks_like(host)}/{wire.chunks_like(self._query.states)}",
                f"{wire.HOSTS}/{wire.chunks_like(host)}/*",
            ):
                self._subscribers.append(session.declare_subscriber(key, engine.called(self._pushed)))
        self._catching_up.start()

    # What comes, in threads of the engine's.

    def _host_changed(self, host: str, is_there: bool) -> None:
        with self._lock:
            self._happened(host, "", _News("found" if is_there else "lost"))
            if is_there:
                self._to_ask.setdefault(host, set()).add(self._query.states)

    def _pushed(self, sample: Any) -> None:
        header = b"" if sample.attachment is None else sample.attachment.to_bytes()
        key = str(sample.key_expr)
        try:
            host, _ = wire.parts_of(key)
            if wire.is_gateway(key):
                self._pulse(host, wire.pulse_in(header))
            else:
                self._came(key, header, sample.payload)
        except wire.Unreadable as error:
            self._cannot(key, error)

    def _cannot(self, key: str, error: wire.Unreadable) -> None:
        try:
            host, _ = wire.parts_of(key)
        except wire.Unreadable:
            return
        with self._lock:
            self._happened(host, "", _News("problem", problem=str(error)))

    def _came(self, key: str, header: bytes, payload: Any) -> None:
        host, state = wire.parts_of(key)
        facts = wire.facts_in(header)
        if not self._is_asked(host, state):  # a key of the engine's stands for a little more, and anybody may push
            return
        if facts.created_ns and not facts.version:  # nothing has been published in it yet
            return
        with self._lock:
            held = self._held.get((host, state))
            if not self._is_newer(host, facts.gateway, facts.seq, held):
                return
            new = self._held[host, state] = _Held(facts, bytes(payload))
            if held is None or held.mark != new.mark or held.facts.problem != facts.problem:
                self._happened(host, state, _News("state", new))
            elif held.facts.alive != facts.alive:
                self._happened(host, state, _News("writer", new))

    def _is_asked(self, host: str, state: str) -> bool:
        return self._query.roster.asks(host) and wire.matches(state, self._query.states)

    def _is_newer(self, host: str, gateway: str, seq: int, held: Optional[_Held]) -> bool:
        gateways = self._gateways.setdefault(host, [])
        if not gateways or gateways[-1] != gateway:
            if gateway in gateways:
                return False  # a late word of one that was there before
            gateways.append(gateway)
            del gateways[:-_MOST_FORMER]
        return held is None or held.facts.gateway != gateway or seq > held.facts.seq

    def _happened(self, host: str, state: str, news: _News) -> None:
        before = self._waiting.pop((host, state), None)
        if news.kind == "writer" and before is not None and before.kind == "state":
            news = news._replace(kind="state")  # nobody has seen that version yet
        self._waiting[host, state] = news
        self._lock.notify_all()

    def _pulse(self, host: str, pulse: wire.Pulse) -> None:
        with self._lock:
            for state in pulse.states:
                self._compare(host, state, pulse)
            self._drop_those_gone(host, pulse)
            self._lock.notify_all()

    def _compare(self, host: str, state: str, pulse: wire.Pulse) -> None:
        held, brief = self._held.get((host, state)), pulse.states[state]
        if not self._is_asked(host, state) or not self._is_newer(host, pulse.gateway, pulse.seq, held):
            return
        if held is None or held.mark != (brief.created_ns, brief.version):
            self._to_ask.setdefault(host, set()).add(state)
        elif held.facts.alive != brief.alive:
            facts = held.facts._replace(**brief._asdict(), gateway=pulse.gateway, seq=pulse.seq)
            self._held[host, state] = held = held._replace(facts=facts)
            self._happened(host, state, _News("writer", held))

    def _drop_those_gone(self, host: str, pulse: wire.Pulse) -> None:
        for owner, state in list(self._held):
            held = self._held[owner, state]
            if owner != host or state in pulse.states or not held.facts.version:
                continue  # of one that cannot be read there is nothing in a pulse
            if self._is_newer(host, pulse.gateway, pulse.seq, held):
                del self._held[owner, state]
                self._happened(host, state, _News("gone"))

    # Asking for what did not come.

    def _catch_up(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closed or self._to_ask)
                if self._closed:
                    return
                asked = [(host, state) for host, states in self._to_ask.items() for state in states]
                self._to_ask.clear()
            try:
                self._query.collect(asked, self._deadline, self._answered)
            except FleetError:  # the query was closed
                with self._lock:
                    self._closed = True
                    self._lock.notify_all()
                return

    def _answered(self, key: str, header: bytes, payload: Any) -> None:
        if wire.is_gateway(key):
            return
        try:
            self._came(key, header, payload)
        except wire.Unreadable as error:
            self._cannot(key, error)

    # Who waits for it.

    def get(self, timeout: Optional[float] = None) -> Change:
        """The next change. Raises WaitTimeout after ``timeout`` seconds, FleetError when closed."""
        limit = check_timeout("timeout", timeout)
        ends = None if limit is None else time.monotonic() + limit
        with self._lock:
            while not self._waiting:
                if self._closed:
                    raise FleetError(f"changes of {self._query.states!r}: closed, or their query is")
                left = None if ends is None else ends - time.monotonic()
                if left is not None and left <= 0:
                    raise WaitTimeout(f"changes of {self._query.states!r}: none within {timeout} s")
                self._lock.wait(left)
            (host, state), news = next(iter(self._waiting.items()))
            del self._waiting[host, state]
        return self._change(host, state, news)

    def _change(self, host: str, state: str, news: _News) -> Change:
        if news.held is None:
            return Change(news.kind, host, state, problem=news.problem)
        answer = self._query.answer(host, state, *news.held)
        if isinstance(answer, Problem):
            return Change("problem", host, state, problem=answer.text)
        return Change(news.kind, host, state, answer)

    def __iter__(self) -> Changes:
        return self

    def __next__(self) -> Change:
        try:
            return self.get()
        except FleetError:
            raise StopIteration from None

    def close(self) -> None:
        """Subscribe no longer; whoever waits is told. Idempotent."""
        with self._lock:
            was_closed, self._closed = self._closed, True
            self._lock.notify_all()
        if was_closed and not self._subscribers:
            return
        self._stop_listening()
        for subscriber in self._subscribers:
            subscriber.undeclare()
        self._subscribers.clear()
        if self._catching_up.is_alive():
            self._catching_up.join()

    def __enter__(self) -> Changes:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
