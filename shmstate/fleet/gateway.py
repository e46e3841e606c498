"""Gateway: answers for one host's states, straight out of shared memory, to whoever may ask from elsewhere."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from multiprocessing import util
from types import TracebackType
from typing import Any, List, NamedTuple, Optional, Sequence, Type

from shmstate.errors import InvalidOption, StateNotFound
from shmstate.fleet import engine, wire
from shmstate.fleet.outgoing import HostStates
from shmstate.fleet.pushing import DEFAULT_INTERVAL, DEFAULT_PULSE, Pushing
from shmstate.options import check_seconds, check_whole

_log = logging.getLogger("shmstate")

#: So many are answered at a time: whoever takes his answers slowly holds up one of them, and for seconds at the most.
ANSWERERS = 4
#: Queries that wait beyond this many push out the oldest, which then goes unanswered.
MOST_WAITING = 1024
LONGEST_HOST_NAME = 255


class GatewayStats(NamedTuple):
    """What a gateway has done so far."""

    queries: int = 0
    #: States sent in answer to queries, and the bytes of their payloads.
    answers: int = 0
    nbytes: int = 0
    #: Queries and states that could not be answered with a payload.
    problems: int = 0
    #: States pushed to subscribers.
    pushed: int = 0


class Gateway:
    """Answers queries for this host's states, and pushes their changes to subscribers, until it is closed.

    ``host``         what this host is called in a fleet; None: its host name. No two may be called the same
    ``states``       patterns of the names to answer for, in which ``*`` is any number of characters
    ``listen``       endpoints of zenoh's (``tcp/0.0.0.0:7447``, ``tls/...``); None: those of ``config``, or loopback
    ``connect``      endpoints to connect to: routers; None: those of ``config``, or none
    ``max_payload``  bytes; a larger state is named in answers, with its size, and not sent
    ``interval``     seconds between two looks for changes, while somebody subscribes; what comes and goes between is left out
    ``pulse``        seconds between two words on all states, while somebody subscribes
    ``config``       zenoh's own: a file, or {key: value}; TLS, passwords, access control
    ``scouting``     let others find this gateway by multicast and gossip, as zenoh has it
    ``trust_uid``    as for StateReader

    Whoever reaches an endpoint reads the states, also other users of this machine, unless zenoh's access control keeps
    them out: docs/beyond-one-machine.md. Nothing is written anywhere: not in shared memory, not on disk. A fork of this
    process has no gateway. Raises FleetError, InvalidOption.
    """

    def __init__(
        self,
        host: Optional[str] = None,
        *,
        states: Sequence[str] = ("*",),
        listen: Optional[Sequence[str]] = None,
        connect: Optional[Sequence[str]] = None,
        max_payload: int = engine.DEFAULT_MAX_PAYLOAD,
        interval: float = DEFAULT_INTERVAL,
        pulse: float = DEFAULT_PULSE,
        config: Optional[engine.Config] = None,
        scouting: bool = False,
        trust_uid: Optional[int] = None,
    ) -> None:
        self.host = socket.gethostname() if host is None else host
        _check(self.host, states, max_payload, interval, pulse)
        self.id = secrets.token_hex(8)
        self._max_payload = max_payload
        self._states = HostStates(self.id, states, trust_uid)
        self._counting = threading.Lock()
        self._stats = GatewayStats()
        self._pid = os.getpid()
        self._session, self.listen, self.connect, self.open_to_others = engine.open_session(
            f"gateway {self.host!r}",
            listen=engine.Endpoints(listen, [engine.DEFAULT_ENDPOINT]),
            connect=engine.Endpoints(connect),
            config=config,
            scouting=scouting,
            max_payload=0,
        )
        # Also in children of multiprocessing, where atexit is skipped; and before they are waited for.
        self._at_exit = util.Finalize(None, self.close, exitpriority=0)
        try:
            self._begin(interval, pulse)
        except BaseException:
            self._at_exit.cancel()
            engine.close(self._session)
            raise

    def _begin(self, interval: float, pulse: float) -> None:
        zenoh = engine.library()
        ring = zenoh.handlers.RingChannel(MOST_WAITING)
        self._pushing = Pushing(self._session, self.host, self.id, self._states, self._max_payload, interval, pulse)
        self._queryable = self._session.declare_queryable(f"{wire.STATES}/{wire.chunk(self.host)}/*", ring)
        handler = self._queryable.handler  # which cannot be asked for while it is undeclared
        self._answerers = [
            threading.Thread(
                target=self._answer_all, args=(handler,), name=f"gateway {self.host} {number}", daemon=True
            )
            for number in range(ANSWERERS)
        ]
        for thread in self._answerers:
            thread.start()
        # Last: who sees it may ask.
        self._token = self._session.liveliness().declare_token(wire.gateway_key(self.host, self.id))

    @property
    def stats(self) -> GatewayStats:
        """What it has done so far."""
        return self._stats._replace(pushed=self._pushing.pushed)

    def states(self) -> List[str]:
        """The names of the states that it answers for now."""
        return self._states.names()

    def _answer_all(self, handler: Any) -> None:
        zenoh = engine.library()
        while True:
            try:
                query = handler.recv()
            except zenoh.ZError:  # the session is closed
                return
            with query:
                try:
                    self._answer(query)
                except zenoh.ZError as error:  # who asked is gone
                    _log.debug("gateway %r: an answer was not sent: %s", self.host, error)
                except Exception:  # one query that cannot be answered is no end of the others
                    _log.exception("gateway %r could not answer %s", self.host, query.key_expr)

    def _answer(self, query: Any) -> None:
        sent = nbytes = problems = 0
        problem = ""
        try:
            request = wire.request_in(b"" if query.attachment is None else query.attachment.to_bytes())
        except wire.Unreadable as error:
            problem = f"was asked by one who {error}"
        else:
            for name in self._asked_for(query.key_expr):
                try:
                    facts, payload = self._states.take(name, min(request.max_payload, self._max_payload))
                except StateNotFound:  # gone since it was listed
                    continue
                shown = name.encode("utf-8", "backslashreplace").decode()  # any file can be called like a state
                query.reply(wire.state_key(self.host, shown), payload, attachment=wire.pack(facts))
                sent, nbytes, problems = sent + 1, nbytes + len(payload), problems + bool(facts.problem)
        end = wire.End(self.id, sent, problem)
        query.reply(wire.gateway_key(self.host, self.id), b"", attachment=wire.pack(end))
        with self._counting:
            was = self._stats
            self._stats = GatewayStats(
                *(was.queries + 1, was.answers + sent, was.nbytes + nbytes),
                was.problems + problems + bool(problem),
            )

    def _asked_for(self, key_expr: Any) -> List[str]:
        """The names of the states that a key expression stands for."""
        wanted = str(key_expr).rpartition("/")[2]
        if "*" not in wanted:  # one by name, which takes no listing
            name = wire.name_in(wanted)
            return [name] if self._states.sends(name) else []
        return [name for name in self._states.names() if wire.matches_chunk(name, wanted)]

    def close(self) -> None:
        """Answer nothing more. What is being answered is given up. Idempotent."""
        if os.getpid() != self._pid or self._session.is_closed():
            return
        self._pushing.close()
        self._token.undeclare()
        self._queryable.undeclare()
        self._at_exit.cancel()
        engine.close(self._session)
        for thread in self._answerers:
            thread.join()
        self._states.close()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


def _check(host: str, states: Sequence[str], max_payload: int, interval: float, pulse: float) -> None:
    if not host or not host.isprintable() or len(host) > LONGEST_HOST_NAME or "*" in host:
        raise InvalidOption(f"host={host!r}: 1 to {LONGEST_HOST_NAME} printable characters, none of them '*'")
    if isinstance(states, str) or not states or not all(isinstance(pattern, str) and pattern for pattern in states):
        raise InvalidOption(f"states={states!r}: a list of patterns, as ['fleet.*']")
    check_whole("max_payload", max_payload, 1, 1 << 30)
    for option, value in (("interval", interval), ("pulse", pulse)):
        if not check_seconds(option, value, most=3600) >= 0.001:
            raise InvalidOption(f"{option}={value}: seconds, from 0.001 to 3600")
