"""What a question to a fleet gives: the answers, those who are silent, and what is wrong with the rest."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Set, Tuple

from shmstate.errors import FleetError, StateNotFound, WaitTimeout
from shmstate.fleet import wire
from shmstate.fleet.roster import Roster


class HostAnswer(NamedTuple):
    """A state of a host, as it was there when the host answered. Times are in seconds, by that host's clock."""

    host: str
    state: str
    value: Any
    version: int
    #: Since it was published. By now it is older, by less than ``Replies.seconds``.
    age: float
    #: Since its writer last vouched for it.
    staleness: float
    #: Whether its writer was alive.
    alive: bool
    codec: str
    nbytes: int


class Problem(NamedTuple):
    """Why there is no answer for a state, or what is wrong with a host (then ``state`` is empty)."""

    host: str
    state: str
    text: str


class Replies(NamedTuple):
    """All that came of one question."""

    #: By host and state.
    answers: Tuple[HostAnswer, ...]
    #: Who was to answer and did not, or not wholly, and what is known of it: a host, or an endpoint without a connection.
    silent: Dict[str, str]
    problems: Tuple[Problem, ...]
    #: How long it took.
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether all have answered, with all that they have."""
        return not self.silent and not self.problems

    def by_host(self) -> Dict[str, Dict[str, HostAnswer]]:
        """The answers, by host and then by state."""
        hosts: Dict[str, Dict[str, HostAnswer]] = {}
        for answer in self.answers:
            hosts.setdefault(answer.host, {})[answer.state] = answer
        return hosts

    def only(self) -> HostAnswer:
        """The one answer, where one was asked for.

        Raises StateNotFound if all have answered and nobody has it, WaitTimeout if not all have, FleetError if it cannot be
        had, or if there are several.
        """
        if len(self.answers) == 1:
            return self.answers[0]
        if self.answers:
            several = ", ".join(f"{answer.host}: {answer.state}" for answer in self.answers[:5])
            raise FleetError(f"{len(self.answers)} states answer, not one: {several}; ask by_host(), or name the host")
        if self.problems:
            raise FleetError("; ".join(f"{host} {state}: {text}" for host, state, text in self.problems))
        if self.silent:
            raise WaitTimeout("; ".join(f"{who}: {why}" for who, why in self.silent.items()))
        raise StateNotFound("all hosts have answered, and none has such a state")


class Tally:
    """What has come so far."""

    def __init__(self, roster: Roster, asked: str, max_total: int) -> None:
        self.states: Dict[Tuple[str, str], Tuple[wire.Facts, bytes]] = {}
        self.problems: List[Problem] = []
        self._roster = roster
        self._asked = asked
        self._room = max_total
        self._max_total = max_total
        #: By host and gateway.
        self._came: Dict[Tuple[str, str], int] = {}
        self._ended: Dict[Tuple[str, str], int] = {}
        self._unreadable: Set[str] = set()

    def take(self, key: str, header: bytes, payload: Any) -> None:
        """Something has come."""
        host = ""
        try:
            host, name = wire.parts_of(key)
            if not self._roster.asks(host):
                raise wire.Unreadable("answers, and was not asked")
            if wire.is_gateway(key):
                self._take_end(host, name, wire.end_in(header))
            else:
                self._take_state(host, name, wire.facts_in(header), payload)
        except wire.Unreadable as error:
            if host not in self._unreadable:  # once is enough
                self.problems.append(Problem(host, "", str(error) if host else f"somebody {error}"))
            self._unreadable.add(host)

    def _take_end(self, host: str, gateway: str, end: wire.End) -> None:
        if end.gateway != gateway:
            raise wire.Unreadable(f"answers as gateway {end.gateway!r} under the key of {gateway!r}")
        # A host that two patterns stand for is asked twice.
        self._ended[host, end.gateway] = self._ended.get((host, end.gateway), 0) + end.states
        if end.problem:
            self.problems.append(Problem(host, "", end.problem))

    def _take_state(self, host: str, state: str, facts: wire.Facts, payload: Any) -> None:
        self._came[host, facts.gateway] = self._came.get((host, facts.gateway), 0) + 1
        if not wire.matches(state, self._asked):
            raise wire.Unreadable(f"answers for {state!r}, which is not {self._asked!r}")
        nbytes = len(payload)
        if nbytes != facts.nbytes and not facts.problem:
            raise wire.Unreadable(f"sends {nbytes:,} bytes of {state!r} and says that they are {facts.nbytes:,}")
        if nbytes > self._room:
            text = f"dropped: its {nbytes:,} bytes and those before it are more than max_total={self._max_total:,}"
            facts, payload, nbytes = facts._replace(problem=text), b"", 0
        self._room -= nbytes
        before = self.states.get((host, state))
        if before is not None and before[0].gateway > facts.gateway:
            return  # of two gateways of one name, always the same one's; clashes() names them
        self.states[host, state] = facts, bytes(payload)

    def silent(self, allowed: float, took: float) -> Dict[str, str]:
        """Who was to answer and has not, and why, as far as that is known, of a question that ended after ``took``."""
        unanswered = f"did not answer in {allowed:g} s"
        if took < allowed:
            unanswered = f"was not reached: the question ended after {took:.2f} s of {allowed:g}; ask again"
        silent = {}
        for host in sorted({*self._roster.due(), *(host for host, _ in {**self._came, **self._ended})}):
            gateways = self._gateways_of(host)
            got = sum(self._came.get((host, gateway), 0) for gateway in gateways)
            if any((host, gateway) not in self._ended for gateway in gateways):
                silent[host] = (
                    f"answered for {got} states, and has not said that these are all, in {min(took, allowed):.3g} s"
                )
            elif any(self._came.get((host, gateway), 0) < self._ended[host, gateway] for gateway in gateways):
                due = sum(self._ended[host, gateway] for gateway in gateways)
                silent[host] = f"{got} of its {due} answers have come; the others were lost, or kept back, on the way"
            elif not gateways and host not in self._unreadable:
                silent[host] = self._roster.absence(host) or f"there, but {unanswered}"
        return silent

    def clashes(self) -> List[Problem]:
        """Hosts for which several gateways have answered, or somebody else has."""
        return [*self._namesakes(), *self._surplus()]

    def _surplus(self) -> List[Problem]:
        return [
            Problem(
                host, "", f"{came} answers came of {self._ended[host, gateway]} that it sent; who sends the others?"
            )
            for (host, gateway), came in sorted(self._came.items())
            if came > self._ended.get((host, gateway), came)
        ]

    def _namesakes(self) -> List[Problem]:
        hosts = sorted({host for host, _ in {**self._came, **self._ended}})
        return [
            Problem(
                host, "", f"{len(names)} gateways call themselves so ({', '.join(names)}); give each its own --host"
            )
            for host, names in ((host, sorted(self._gateways_of(host))) for host in hosts)
            if len(names) > 1
        ]

    def _gateways_of(self, host: str) -> Set[str]:
        return {gateway for owner, gateway in {**self._came, **self._ended} if owner == host}
