"""The end of a run: what everybody found, what is left, and what the exit status makes of it. In the controller."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import replace
from typing import Any, Iterator, List, Optional, Sequence, Tuple

from pytest_shmstate import aftermath, census, outlets, verdict
from pytest_shmstate.attribution import Found
from pytest_shmstate.known import Suppressions
from pytest_shmstate.leak import FOREIGN, INTERRUPTED, PROCESS, SYSV, UNATTRIBUTED, Leak, Owner, leak_from_json
from pytest_shmstate.ledger import Ledger
from pytest_shmstate.notices import Notices
from pytest_shmstate.outlets import Summary, as_document, github_annotations, github_summary, section
from pytest_shmstate.report import headline
from pytest_shmstate.run import Run, uses_from_json
from pytest_shmstate.settings import Settings
from pytest_shmstate.sweep import sweep
from pytest_shmstate.timeline import Span

PASSED, FAILED = 0, 1
#: Trackers of killed workers clean up on their own; this long they may take, in seconds.
PATIENCE = 3.0
#: Seconds between two looks at what is in no record.
SECOND_LOOK = 0.2
#: Of what this process made outside of its tests: nobody will see whether it goes.
AT_EXIT = "left in place: this process still runs, and may remove it at its exit"


class Gate:
    """From the start of a run to its last line."""

    def __init__(self, run: Run, settings: Settings, distributes: bool) -> None:
        self._run = run
        self._settings = settings
        self._distributes = distributes
        #: What earlier runs left that were killed.
        self._swept = [] if settings.leaks == "off" or settings.keep else sweep()
        self._before = census.listing()
        self._sysv_before = set(census.sysv(census.sysv_table()))
        self._abilities = self._see_what_works()
        self.summary: Optional[Summary] = None
        self._mistake = ""
        self._told = False

    def _see_what_works(self) -> Tuple[Tuple[str, bool, str], ...]:
        notices = Notices(census.SHM_DIR)
        source = notices.source
        self._own_only = source == "fanotify" and not notices.names_everybody
        notices.close()
        there = os.path.isdir(census.SHM_DIR)
        room = (
            f"{shutil.disk_usage(census.SHM_DIR).free / 2**30:.1f} GiB free" if there else "System V and processes only"
        )
        return (
            (census.SHM_DIR, there, room),
            ("ledger in children", self._run.reaches_children(), "sitecustomize on PYTHONPATH"),
            ("/proc", census.can_read_proc(), "holders and commands"),
            ("makers in C", source == "fanotify", source),
        )

    def header(self) -> str:
        """A line that says what the detector can see here."""
        seen = ", ".join(f"{what}: {'yes' if works else 'no'}" for what, works, _ in self._abilities)
        if self._own_only:
            seen += " (this process's own)"
        line = f"shmstate: leaks={self._settings.leaks} ({self._settings.leaks_source}); {seen}"
        if self._swept:
            line += f"\nshmstate: an earlier run was killed; {headline(self._swept)}; {_fates(self._swept)}"
        return line

    def finish(self, exitstatus: int) -> int:
        """Look at what is left, remove what is ours, write the reports; the exit status that the run is to have."""
        told = list(self._run.told())
        leaks = self._swept + [forgiven(leak_from_json(content), told) for _, word, content in told if word == "leak"]
        suppressions = Suppressions(self._settings.ignore)
        for _, word, content in told:
            if word == "end":
                suppressions.merge(uses_from_json(content["uses"]))
        leaks += self._left(told, suppressions)
        self._remove_warned(told)
        failing = [leak for leak in leaks if fails(leak)]
        status = FAILED if failing and exitstatus == PASSED else exitstatus
        self.summary = Summary(
            mode=self._settings.leaks,
            mode_source=self._settings.leaks_source,
            leaks=tuple(leaks),
            used=tuple(suppressions.used()),
            unused=tuple(suppressions.unused()),
            abilities=self._abilities,
            tests_checked=sum(content["tests"] for _, word, content in told if word == "end"),
            exit_status_changed=status != exitstatus,
            run=os.path.basename(self._run.folder),
        )
        return self._written(self.summary, status)

    def _written(self, summary: Summary, status: int) -> int:
        """Write the reports that were asked for; one that cannot be written fails a run that passed."""
        try:
            if self._settings.report is not None:
                outlets.write_json(self._settings.report, as_document(summary))
            if os.environ.get("GITHUB_ACTIONS") and os.environ.get("GITHUB_STEP_SUMMARY"):
                outlets.append_summary(os.environ["GITHUB_STEP_SUMMARY"], github_summary(summary))
        except outlets.ReportNotWritten as error:
            self._mistake = str(error)
            return FAILED if status == PASSED else status
        return status

    def tell(self, terminal: Any) -> None:
        """Print the section."""
        summary = self.summary
        if summary is None:
            return
        self._told = True
        terminal.write_sep("=", "shared memory")
        for text, markup in section(summary):
            terminal.write_line(text, **markup)
        if self._mistake:
            terminal.write_line(self._mistake, red=True)
        if os.environ.get("GITHUB_ACTIONS"):
            for line in github_annotations(to_annotate(summary.leaks)):
                terminal.write_line(line)

    def close(self) -> None:
        """Say what has to be said though there was no summary (``--no-summary``, ``-p no:terminal``)."""
        if self._told or self.summary is None:
            return
        if self._mistake:
            print(self._mistake, file=sys.stderr)  # noqa: T201
        if os.environ.get("GITHUB_ACTIONS"):
            print("", *github_annotations(to_annotate(self.summary.leaks)), sep="\n", flush=True)  # noqa: T201

    def _left(self, told: List[Tuple[str, str, Any]], suppressions: Suppressions) -> List[Leak]:
        ledger = Ledger(self._run.folder)
        after = aftermath.Aftermath(ledger, self._before, self._sysv_before, told)
        processes = after.wait_for_processes(PATIENCE)
        # What trackers removed in the meantime is gone; what is left now stays.
        after = aftermath.Aftermath(ledger, self._before, self._sysv_before, told)
        found = after.owed()
        # Processes last: with them end the trackers that wait for them, and remove what has to be looked at first.
        found += [*after.recorded(found), *after.sysv(), *processes]
        leaks = [self._judged(one, leak, suppressions) for one, leak in zip(found, verdict.leaks_of(found))]
        leaks += self._unknown(after, found, ledger, suppressions)
        return [leak for leak in leaks if leak is not None]

    def _judged(self, found: Found, leak: Leak, suppressions: Suppressions) -> Optional[Leak]:
        also = [found.name] if found.kind == PROCESS else verdict.sysv_names(found.mark) if found.kind == SYSV else []
        if self._settings.leaks == "off" or suppressions.match(found.kind, leak.name, also, size=leak.on_disk):
            return None
        leak = replace(leak, mode=self._settings.leaks)
        if self._settings.keep:
            return replace(leak, fate="left in place (--shmstate-keep)")
        if found.pid == os.getpid() and found.span.owner.what in ("import", "session"):
            return replace(leak, mode="warn", fate=AT_EXIT)
        return verdict.removed(found, leak)

    def _unknown(
        self, after: aftermath.Aftermath, known: List[Found], ledger: Ledger, suppressions: Suppressions
    ) -> Iterator[Leak]:
        """What nobody of this run is known to have made. Others make and remove things: a second look has to see it."""
        if self._settings.leaks == "off" or not after.unknown(known):
            return
        time.sleep(SECOND_LOOK)
        strangers = aftermath.strangers(ledger)
        for entry in after.unknown(known):
            if not suppressions.match(entry.kind, entry.name, size=entry.on_disk):
                yield self._stray(entry, after.foreign_maker(entry), strangers)

    def _stray(self, entry: census.Entry, maker: Optional[int], strangers: List[int]) -> Leak:
        held = tuple(census.holders([entry], census.everybody())[entry.name])
        outside = maker is not None or entry.uid != os.getuid() or any(holder.pid in strangers for holder in held)
        notes: Tuple[str, ...] = ()
        if strangers and not outside:
            notes = (f"{len(strangers)} processes outside this run may have made it, so the run does not fail for it",)
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
            mode=self._settings.leaks if not strangers else "warn",
            fate="not ours: left alone",
            notes=notes,
        )

    def _remove_warned(self, told: List[Tuple[str, str, Any]]) -> None:
        for _, word, content in told:
            if word == "left" and not self._settings.keep:
                kind, name, mark, pid = content
                verdict.remove(Found(kind, name, mark, Span(Owner("unknown", name), None), "", pid))


def fails(leak: Leak) -> bool:
    """Whether a run that passed otherwise fails for it."""
    return leak.mode == "error" and not leak.after_failure and leak.verdict not in (FOREIGN, INTERRUPTED)


def forgiven(leak: Leak, told: Sequence[Tuple[str, str, Any]]) -> Leak:
    """A leak of an attempt after which the test was run again: its project lets such a test pass."""
    again = sum(1 for _, word, nodeid in told if word == "again" and nodeid == leak.owner.during)
    of_the_attempt = leak.owner.what == "test" or leak.owner.scope == "function"
    if of_the_attempt and leak.owner.attempt <= again:
        return replace(leak, mode="warn", notes=(*leak.notes, f"in attempt {leak.owner.attempt}; it was run again"))
    return leak


def to_annotate(leaks: Sequence[Leak]) -> List[Leak]:
    """Not what may well be somebody else's: nobody can do anything about that in this project."""
    return [
        leak for leak in leaks if leak.verdict != FOREIGN and (leak.verdict != UNATTRIBUTED or leak.mode == "error")
    ]


def _fates(leaks: List[Leak]) -> str:
    return ", ".join(sorted({leak.fate for leak in leaks}))
