"""What the controller knows of its workers on other hosts: how each is called, and what its workers say is left there."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from pytest_shmstate import messages, whereabouts
from pytest_shmstate.ending import Findings
from pytest_shmstate.known import Use
from pytest_shmstate.leak import FOREIGN, UNATTRIBUTED, Leak
from pytest_shmstate.outlets import Host
from pytest_shmstate.run import Run
from pytest_shmstate.settings import Settings
from pytest_shmstate.whereabouts import Facts

#: Seconds that a Python may take to say where it is; xdist has talked with it already.
PATIENCE = 30.0
SWEEP = "python -m pytest_shmstate sweep"


class Others(NamedTuple):
    """What is known at the end of a run."""

    hosts: Tuple[Host, ...] = ()
    leaks: Tuple[Leak, ...] = ()
    uses: Tuple[Use, ...] = ()
    #: Entries that workers told of who see the controller's own /dev/shm; None if none does.
    beside_us: Optional[Collection[str]] = None


@dataclass
class Worker:
    """One that was invited."""

    name: str
    node: Any
    #: Where it said it was, before it became a worker; None if it was not asked, or gave no answer.
    facts: Optional[Facts]
    is_surely_here: bool


@dataclass
class Place:
    """All workers that were in one place on another host, and what they said."""

    name: str
    facts: Optional[Facts]
    workers: List[str] = field(default_factory=list)
    #: Those that ended without a word.
    silent: List[str] = field(default_factory=list)
    #: Those that somebody looked after at the end.
    covered: Set[str] = field(default_factory=set)
    problems: List[str] = field(default_factory=list)
    findings: List[Findings] = field(default_factory=list)

    def hear(self, worker: str, text: Optional[str]) -> None:
        """Take what a worker said at its end."""
        try:
            answer = messages.read(text, "it")
            if answer["problem"]:
                self.problems.append(answer["problem"])
            self.covered.update(answer.get("covers", ()))
            if "findings" in answer:
                self.findings.append(Findings.from_json(answer["findings"]))
        except (KeyError, TypeError, ValueError) as error:
            understood = isinstance(error, messages.NotUnderstood)
            self.problems.append(str(error) if understood else f"what {worker} sent cannot be read ({error!r})")

    def untold(self) -> List[str]:
        """Why it is not known what is left there."""
        without = [worker for worker in self.workers if worker not in self.covered]
        problems = list(dict.fromkeys(self.problems))
        if without and not problems:
            who = ", ".join([worker for worker in self.silent if worker in without] or without)
            why = "killed, stopped, or the connection was lost"
            problems = [f"{who} ended before it was said ({why}); to clean up, run there: {SWEEP}"]
        return [f"host {self.name}: what is left there is not known: {problem}" for problem in problems]


class Hosts:
    """From the first worker that is invited to what the last has said."""

    def __init__(self, run: Run, settings: Settings) -> None:
        self._folder = run.folder
        self._settings = settings
        #: Nobody can know it who was not told, so nobody can have taken the names that are made of it.
        self._id = secrets.token_hex(8)
        self._here: Facts = {}
        self._workers: List[Worker] = []
        #: By place.
        self._labels: Dict[str, str] = {}

    def invite(self, node: Any) -> None:
        """Tell a worker that is about to start what it has to know; ask it where it is, if that is not sure."""
        self._here = self._here or whereabouts.facts(self._folder)
        spec = node.gateway.spec
        is_surely_here = bool(spec.popen and not spec.python and not spec.via)
        facts = None if is_surely_here else _asked(node.gateway, self._folder)
        name = node.workerinput["workerid"]
        self._workers.append(Worker(name, node, facts, is_surely_here))
        node.workerinput[messages.FOLDER] = self._folder
        node.workerinput[messages.TO_WORKER] = messages.written(
            where=self._here,
            run=self._id,
            host=self._label(facts, name),
            leaks=[self._settings.leaks, self._settings.leaks_source],
        )

    def _label(self, facts: Optional[Facts], worker: str) -> Optional[str]:
        """How the host is called: by its name, or if another has that already, with that of its first worker."""
        if facts is None or whereabouts.at_home(self._here, facts):
            return None
        taken = {self._here["name"], *self._labels.values()}
        name = facts["name"]
        return self._labels.setdefault(whereabouts.place(facts), f"{name} ({worker})" if name in taken else name)

    def told(self) -> Others:
        """What all have said. Called when all workers are through, or gone."""
        places = self._places()
        shared = {place.name for place in places if self._shares_with_others(place, places)}
        # In one /dev/shm, what nobody wrote down is anybody's: also of those who cannot be seen from there.
        leaks = [
            leak
            for place in places
            for findings in place.findings
            for leak in findings.leaks
            if place.name not in shared or leak.verdict not in (FOREIGN, UNATTRIBUTED)
        ]
        beside_us = [place for place in places if place.facts and whereabouts.share_memory(self._here, place.facts)]
        names = {leak.name for place in beside_us for findings in place.findings for leak in findings.leaks}
        return Others(
            tuple(self._host(place, shared, place in beside_us) for place in places),
            tuple(leaks),
            tuple(use for place in places for findings in place.findings for use in findings.uses),
            names if beside_us else None,
        )

    def _places(self) -> List[Place]:
        places: Dict[str, Place] = {}
        for worker in self._workers:
            output = getattr(worker.node, "workeroutput", None)
            text = None if output is None else output.get(messages.FROM_WORKER)
            answer = _read(text)
            if answer.get("home") or ("where" not in answer and self._is_here(worker)):
                continue
            facts = answer.get("where") or worker.facts
            spec = str(worker.node.gateway.spec)
            key = whereabouts.place(facts) if facts else spec
            name = answer.get("host") or self._labels.get(key) or f"of {worker.name} ({spec})"
            place = places.setdefault(key, Place(name, facts))
            place.workers.append(worker.name)
            if output is None:
                place.silent.append(worker.name)
            else:
                place.hear(worker.name, text)
        return list(places.values())

    def _is_here(self, worker: Worker) -> bool:
        """The controller looks at what such a worker leaves, whether it has said anything or not."""
        known = worker.facts is not None and whereabouts.at_home(self._here, worker.facts)
        return worker.is_surely_here or known

    @staticmethod
    def _shares_with_others(place: Place, places: List[Place]) -> bool:
        facts = [other.facts for other in places if other is not place and other.facts]
        return place.facts is not None and any(whereabouts.share_memory(place.facts, other) for other in facts)

    def _host(self, place: Place, shared: Collection[str], is_beside_us: bool) -> Host:
        return Host(
            name=place.name,
            workers=tuple(place.workers),
            untold=tuple(place.untold()) if self._settings.leaks != "off" else (),
            remarks=tuple(_remarks(place.name, shared, is_beside_us)) if self._settings.leaks != "off" else (),
            abilities=next((findings.abilities for findings in place.findings), ()),
            tests_checked=sum(findings.tests for findings in place.findings),
        )


def _remarks(name: str, shared: Collection[str], is_beside_us: bool) -> Iterator[str]:
    if is_beside_us:
        yield f"host {name} shares this /dev/shm: what nobody is known to have made there fails no run"
    elif name in shared:
        yield f"host {name} shares its /dev/shm with another: what nobody is known to have made there is not told"


def _asked(gateway: Any, folder: str) -> Optional[Facts]:
    """Where the Python behind a gateway is. Its name is known then, should it be killed as a worker."""
    try:
        channel = gateway.remote_exec(whereabouts)
        channel.send(folder)
        facts: Facts = json.loads(channel.receive(PATIENCE))
        channel.waitclose(PATIENCE)
    except Exception:  # whatever is wrong there, xdist is about to find it, and tells better
        return None
    return facts


def _read(text: Optional[str]) -> Dict[str, Any]:
    """What a message says; nothing, if it is not understood."""
    try:
        return messages.read(text, "it")
    except messages.NotUnderstood:
        return {}
