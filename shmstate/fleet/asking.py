"""FleetQuery: asks the states of one host, of some or of all, and says who did not answer."""

from __future__ import annotations

import os
import queue
import time
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Type, Union

from shmstate.codecs import CodecLike, codec_for_reading, codec_named
from shmstate.ending import Ending
from shmstate.errors import CodecMismatch, FleetError, InvalidOption, ShmStateError
from shmstate.fleet import engine, wire
from shmstate.fleet.links import Links
from shmstate.fleet.replies import HostAnswer, Problem, Replies, Tally
from shmstate.fleet.roster import Roster
from shmstate.options import check_seconds, check_whole

DEFAULT_DEADLINE = 1.0
DEFAULT_MAX_TOTAL = 256 << 20


class FleetQuery:
    """Asks gateways for the states whose names match ``states``.

    ``states``       a name, or a pattern in which ``*`` is any number of characters: ``fleet.w1``, ``fleet.*``
    ``hosts``        the same for hosts, or several of these; those named without ``*`` are always to answer
    ``connect``      endpoints of zenoh's, of gateways or of routers; None: those of ``config``, or loopback
    ``deadline``     seconds that a question may take, if nothing else is said when it is asked
    ``codec``        as for StateReader: None takes each writer's own, if reading it cannot run code
    ``max_payload``  bytes; a larger state is named, with its size, and not sent
    ``max_total``    bytes of all states of one question; what comes beyond them is named, and dropped
    ``config``       zenoh's own: a file, or {key: value}; TLS, passwords, the mode ``client`` for a router
    ``scouting``     look for gateways by multicast and gossip, as zenoh has it

    Opening it waits half a second at most for ``connect``. What is not there then, or goes later, is tried again while this
    is open, and answers from when it is back. Threads may share it; a fork of this process may not use it. Raises FleetError,
    InvalidOption.
    """

    def __init__(
        self,
        states: str,
        *,
        hosts: Union[str, Sequence[str]] = "*",
        connect: Optional[Sequence[str]] = None,
        deadline: float = DEFAULT_DEADLINE,
        codec: Optional[CodecLike] = None,
        max_payload: int = engine.DEFAULT_MAX_PAYLOAD,
        max_total: int = DEFAULT_MAX_TOTAL,
        config: Optional[engine.Config] = None,
        scouting: bool = False,
    ) -> None:
        self.states = states
        self.hosts = (hosts,) if isinstance(hosts, str) else tuple(hosts)
        _check(states, self.hosts, deadline, max_payload, max_total)
        if codec is not None:
            codec_named(codec)  # which refuses what is none
        self._deadline, self._codec = deadline, codec
        self._max_payload, self._max_total = max_payload, max_total
        self._request = wire.pack(wire.Request(max_payload))
        self._pid = os.getpid()
        self.session, _, self.connect, _ = engine.open_session(
            f"query of {states!r}",
            listen=engine.Endpoints([]),
            connect=engine.Endpoints(connect, [engine.DEFAULT_ENDPOINT]),
            config=config,
            scouting=scouting,
            max_payload=max_payload,
        )
        self._ending = Ending(self, engine.close, self.session, priority=0)
        try:
            self.roster = Roster(self.session, self.hosts)
            self._links = Links(self.session, self.connect)
        except BaseException:
            self.close()
            raise

    def ask(self, deadline: Optional[float] = None) -> Replies:
        """Ask, and wait until all have answered, ``deadline`` seconds at most. Raises FleetError, InvalidOption."""
        if deadline is not None:
            _check_deadline(deadline)
        allowed = self._deadline if deadline is None else deadline
        began = time.monotonic()
        tally = Tally(self.roster, self.states, self._max_total)
        self.collect([(host, self.states) for host in self.hosts], allowed, tally.take)
        seconds = time.monotonic() - began
        answers, problems = [], [*tally.problems, *tally.clashes()]
        for (host, state), (facts, payload) in sorted(tally.states.items()):
            answer = self.answer(host, state, facts, payload)
            if isinstance(answer, Problem):
                problems.append(answer)
            else:
                answers.append(answer)
        return Replies(tuple(answers), self._silent(tally, allowed, seconds), tuple(sorted(problems)), seconds)

    def _silent(self, tally: Tally, allowed: float, took: float) -> Dict[str, str]:
        silent = tally.silent(allowed, took)
        try:
            missing = self._links.missing()
        except engine.library().ZError as error:
            raise self._closed(error) from error
        silent.update(dict.fromkeys(missing, "no connection; is a gateway running there?"))
        return silent

    def _closed(self, reason: object) -> FleetError:
        return FleetError(f"query of {self.states!r} could not be asked ({reason}); was it closed?")

    def hosts_there(self) -> List[str]:
        """Those of the hosts asked that are there now, sorted; nobody is asked."""
        return self.roster.there()

    def collect(
        self, asked: Sequence[Tuple[str, str]], deadline: float, take: Callable[[str, bytes, Any], None]
    ) -> None:
        """Ask for patterns of (host, state), and call ``take(key, header, payload)`` for what comes in time."""
        if os.getpid() != self._pid:
            raise FleetError(f"query of {self.states!r}: belongs to pid {self._pid}, not to a fork of it")
        zenoh = engine.library()
        arrivals: queue.SimpleQueue[Any] = queue.SimpleQueue()  # replies of zenoh's; None: that is all
        handler = engine.called(arrivals.put, lambda: arrivals.put(None))
        ends = time.monotonic() + deadline
        try:
            for host, state in asked:
                key = f"{wire.STATES}/{wire.chunks_like(host)}/{wire.chunks_like(state)}"
                self.session.get(
                    *(key, handler),
                    target=zenoh.QueryTarget.ALL,
                    consolidation=zenoh.ConsolidationMode.NONE,
                    accept_replies=zenoh.ReplyKeyExpr.ANY,
                    timeout=deadline,
                    # A host that takes nothing goes unasked. To wait for it would take seconds, whatever the deadline.
                    congestion_control=zenoh.CongestionControl.DROP,
                    attachment=self._request,
                )
        except zenoh.ZError as error:
            raise self._closed(error) from error
        open_questions = len(asked)
        while open_questions:
            try:
                reply = arrivals.get(timeout=max(ends - time.monotonic(), 0.0))
            except queue.Empty:
                return
            if reply is None:
                open_questions -= 1
            elif reply.ok is not None:  # an error is the engine's: its own time-out, access denied
                header = b"" if reply.ok.attachment is None else reply.ok.attachment.to_bytes()
                take(str(reply.ok.key_expr), header, reply.ok.payload)
        if self.session.is_closed():  # which ends all questions
            raise self._closed("while it was asked")

    def answer(self, host: str, state: str, facts: wire.Facts, payload: bytes) -> Union[HostAnswer, Problem]:
        """What a state's bytes stand for."""
        if facts.problem:
            return Problem(host, state, facts.problem)
        try:
            value = codec_for_reading(self._codec, facts.codec, state).decode(payload)
        except CodecMismatch as error:
            if self._codec is not None:
                return Problem(host, state, str(error))
            named = "'pickle'" if facts.codec == "pickle" else "..."
            return Problem(
                *(host, state),
                f"is written with codec {facts.codec!r}, which who asks must name: FleetQuery(..., codec={named})."
                f" pickle, --codec pickle on the command line, runs code of the writer's choosing when it is read",
            )
        except ShmStateError as error:
            return Problem(host, state, str(error))
        except Exception as error:
            return Problem(
                *(host, state),
                f"version {facts.version}, {len(payload):,} bytes, does not decode as {facts.codec}"
                f" ({type(error).__name__}: {error})",
            )
        return HostAnswer(
            host=host,
            state=state,
            value=value,
            version=facts.version,
            age=facts.age_ns / 1e9,
            staleness=facts.stale_ns / 1e9,
            alive=facts.alive,
            codec=facts.codec,
            nbytes=len(payload),
        )

    def close(self) -> None:
        """End the session. Idempotent."""
        if os.getpid() == self._pid and not self.session.is_closed():
            self._ending.cancel()
            engine.close(self.session)

    def __enter__(self) -> FleetQuery:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


def _check(states: str, hosts: Sequence[str], deadline: float, max_payload: int, max_total: int) -> None:
    if not isinstance(states, str) or not states or "/" in states:
        raise InvalidOption(f"states={states!r}: a state's name, or a pattern such as 'fleet.*'")
    if not hosts or not all(isinstance(host, str) and host for host in hosts):
        raise InvalidOption(f"hosts={hosts!r}: a host's name, a pattern such as 'rack1-*', or several of them")
    for option, pattern in (("states", states), *(("hosts", host) for host in hosts)):
        try:
            wire.chunks_like(pattern)
        except UnicodeEncodeError as error:
            raise InvalidOption(f"{option}={pattern!r}: no name has {error.object[error.start]!r} in it") from error
    _check_deadline(deadline)
    for option, value in (("max_payload", max_payload), ("max_total", max_total)):
        check_whole(option, value, 1, 1 << 40)


def _check_deadline(deadline: float) -> None:
    check_seconds("deadline", deadline, above=True, most=3600)
