"""The end of a run on one host: what those that ran tests there found, what is left, and what is done about it.

Before      taken when the run begins there
Ending      looks when all are through; removes what is ours
Findings    what it has seen: plain data, so that it can travel to the controller
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, replace
from typing import Any, Collection, Dict, Iterator, List, Optional, Sequence, Tuple

from pytest_shmstate import aftermath, census, verdict
from pytest_shmstate.attribution import Found
from pytest_shmstate.known import Suppressions, Use
from pytest_shmstate.leak import FOREIGN, PROCESS, SYSV, UNATTRIBUTED, Leak, Owner, leak_from_json
from pytest_shmstate.ledger import Ledger
from pytest_shmstate.notices import Notices
from pytest_shmstate.outlets import Abilities
from pytest_shmstate.run import Run, uses_as_json, uses_from_json
from pytest_shmstate.settings import Settings
from pytest_shmstate.sweep import sweep
from pytest_shmstate.timeline import Span

#: Trackers of killed workers clean up on their own; this long they may take, in seconds.
PATIENCE = 3.0
#: Seconds between two looks at what is in no record.
SECOND_LOOK = 0.2
#: Of what was made outside of tests by a process that is still there: nobody will see whether it goes.
AT_EXIT = "left in place: this process still runs, and may remove it at its exit"

Told = Sequence[Tuple[str, str, Any]]


@dataclass(frozen=True)
class Before:
    """What was there when the run began on this host, and what can be seen here."""

    #: Name -> inode of all in /dev/shm, and the ids of System V segments.
    listing: Dict[str, int]
    sysv: Tuple[int, ...]
    #: What earlier runs had left that were killed.
    swept: Tuple[Leak, ...]
    abilities: Abilities
    #: The kernel tells only of what this very process makes.
    own_only: bool

    @classmethod
    def take(cls, run: Run, settings: Settings) -> Before:
        """Look around. What killed runs left is removed."""
        swept = () if settings.leaks == "off" or settings.keep else tuple(sweep())
        listing = census.listing()
        sysv = tuple(census.sysv(census.sysv_table()))
        return cls(listing, sysv, swept, *_see_what_works(run))

    def as_json(self) -> Dict[str, Any]:
        """Plain data."""
        return {**vars(self), "swept": [leak.as_json() for leak in self.swept]}

    @classmethod
    def from_json(cls, plain: Dict[str, Any]) -> Before:
        """The inverse."""
        swept = tuple(map(leak_from_json, plain["swept"]))
        abilities = abilities_from_json(plain["abilities"])
        return cls(**{**plain, "sysv": tuple(plain["sysv"]), "swept": swept, "abilities": abilities})


def _see_what_works(run: Run) -> Tuple[Abilities, bool]:
    notices = Notices(census.SHM_DIR)
    source = notices.source
    own_only = source == "fanotify" and not notices.names_everybody
    notices.close()
    there = os.path.isdir(census.SHM_DIR)
    room = f"{shutil.disk_usage(census.SHM_DIR).free / 2**30:.1f} GiB free" if there else "System V and processes only"
    abilities = (
        (census.SHM_DIR, there, room),
        ("ledger in children", run.reaches_children(), "sitecustomize on PYTHONPATH"),
        ("/proc", census.can_read_proc(), "holders and commands"),
        ("makers in C", source == "fanotify", source),
    )
    return abilities, own_only


def abilities_from_json(plain: Any) -> Abilities:
    """What was a tuple of tuples before it was JSON."""
    return tuple((str(what), bool(able), str(note)) for what, able, note in plain)


@dataclass(frozen=True)
class Findings:
    """What a run left on one host."""

    leaks: Tuple[Leak, ...]
    uses: Tuple[Use, ...]
    tests: int
    abilities: Abilities

    def as_json(self) -> Dict[str, Any]:
        """Plain data."""
        return {
            "leaks": [leak.as_json() for leak in self.leaks],
            "uses": uses_as_json(self.uses),
            "tests": self.tests,
            "abilities": self.abilities,
        }

    @classmethod
    def from_json(cls, plain: Dict[str, Any]) -> Findings:
        """The inverse. Raises KeyError, TypeError or ValueError for what is something else."""
        leaks = tuple(map(leak_from_json, plain["leaks"]))
        uses = tuple(uses_from_json(plain["uses"]))
        return cls(leaks, uses, int(plain["tests"]), abilities_from_json(plain["abilities"]))


class Ending:
    """The last look, in a process that outlives those that ran tests, or is the last of them."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        before: Before,
        residents: Sequence[int] = (),
        elsewhere: Optional[Collection[str]] = None,
    ) -> None:
        """``residents``: see ``Aftermath``.

        ``elsewhere``: others look after this /dev/shm too, whom one cannot see from here; names that they have told of.
        """
        self._run = run
        self._settings = settings
        self._before = before
        self._residents = residents
        self._elsewhere = elsewhere

    def look(self, unattributed: bool = True) -> Findings:
        """See what is left, and remove what is ours. ``unattributed``: also tell what nobody is known to have made."""
        told = list(self._run.told())
        leaks = list(self._before.swept)
        leaks += [forgiven(leak_from_json(content), told) for _, word, content in told if word == "leak"]
        suppressions = Suppressions(self._settings.ignore)
        tests = 0
        for _, word, content in told:
            if word == "end":
                tests += content["tests"]
                suppressions.merge(uses_from_json(content["uses"]))
        leaks += self._left(told, suppressions, unattributed)
        self._remove_warned(told)
        return Findings(tuple(leaks), tuple(suppressions.used()), tests, self._before.abilities)

    def _left(self, told: Told, suppressions: Suppressions, unattributed: bool) -> List[Leak]:
        ledger = Ledger(self._run.folder)
        processes = self._aftermath(ledger, told).wait_for_processes(PATIENCE)
        # What trackers removed in the meantime is gone; what is left now stays.
        after = self._aftermath(ledger, told)
        found = after.owed()
        # Processes last: with them end the trackers that wait for them, and remove what has to be looked at first.
        found += [*after.recorded(found), *after.sysv(), *processes]
        leaks = [self._judged(one, leak, suppressions) for one, leak in zip(found, verdict.leaks_of(found))]
        if unattributed:
            leaks += self._unknown(after, found, ledger, suppressions)
        return [leak for leak in leaks if leak is not None]

    def _aftermath(self, ledger: Ledger, told: Told) -> aftermath.Aftermath:
        return aftermath.Aftermath(ledger, self._before.listing, set(self._before.sysv), told, self._residents)

    def _judged(self, found: Found, leak: Leak, suppressions: Suppressions) -> Optional[Leak]:
        also = [found.name] if found.kind == PROCESS else verdict.sysv_names(found.mark) if found.kind == SYSV else []
        if self._settings.leaks == "off" or suppressions.match(found.kind, leak.name, also, size=leak.on_disk):
            return None
        leak = replace(leak, mode=self._settings.leaks)
        if self._settings.keep:
            return replace(leak, fate="left in place (--shmstate-keep)")
        if found.pid in (os.getpid(), *self._residents) and found.span.owner.what in ("import", "session"):
            return replace(leak, mode="warn", fate=AT_EXIT)
        return verdict.removed(found, leak)

    def _unknown(
        self, after: aftermath.Aftermath, known: List[Found], ledger: Ledger, suppressions: Suppressions
    ) -> Iterator[Leak]:
        """What nobody of this run is known to have made. Others make and remove things: a second look has to see it."""
        if self._settings.leaks == "off" or not after.unknown(known):
            return
        time.sleep(SECOND_LOOK)
        strangers = aftermath.strangers(ledger, self._residents)
        for entry in after.unknown(known):
            theirs = self._elsewhere is not None and entry.name in self._elsewhere
            if not theirs and not suppressions.match(entry.kind, entry.name, size=entry.on_disk):
                yield self._stray(entry, after.foreign_maker(entry), strangers)

    def _stray(self, entry: census.Entry, maker: Optional[int], strangers: List[int]) -> Leak:
        held = tuple(census.holders([entry], census.everybody())[entry.name])
        outside = maker is not None or entry.uid != os.getuid() or any(holder.pid in strangers for holder in held)
        notes: Tuple[str, ...] = ()
        if strangers and not outside:
            notes = (f"{len(strangers)} processes outside this run may have made it, so the run does not fail for it",)
        elif self._elsewhere is not None and not outside:
            notes = ("workers of another host share this /dev/shm, so the run does not fail for it",)
        return Leak(
            kind=entry.kind,
            name=entry.name,
            verdict=FOREIGN if outside else UNATTRIBUTED,
            owner=aftermath.unknown_owner(entry),
            evidence=f"the kernel: made by pid {maker}" if maker else "no record, no maker, no holder of this run",
            size=entry.size,
            on_disk=entry.on_disk,
            pid=maker or 0,
            holders=held,
            mode="warn" if strangers or self._elsewhere is not None else self._settings.leaks,
            fate="not ours: left alone",
            notes=notes,
        )

    def _remove_warned(self, told: Told) -> None:
        for _, word, content in told:
            if word == "left" and not self._settings.keep:
                kind, name, mark, pid = content
                verdict.remove(Found(kind, name, mark, Span(Owner("unknown", name), None), "", pid))


def forgiven(leak: Leak, told: Told) -> Leak:
    """A leak of an attempt after which the test was run again: its project lets such a test pass."""
    again = sum(1 for _, word, nodeid in told if word == "again" and nodeid == leak.owner.during)
    of_the_attempt = leak.owner.what == "test" or leak.owner.scope == "function"
    if of_the_attempt and leak.owner.attempt <= again:
        return replace(leak, mode="warn", notes=(*leak.notes, f"in attempt {leak.owner.attempt}; it was run again"))
    return leak
