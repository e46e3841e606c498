"""The end of a run: what was found on each host, what the exit status makes of it, and where it is told.

In the controller.
"""

from __future__ import annotations

import os
import sys
from typing import Any, List, Optional, Sequence

from pytest_shmstate import outlets
from pytest_shmstate.ending import Before, Ending
from pytest_shmstate.github import annotations_of_hosts, github_annotations, github_summary
from pytest_shmstate.hosts import Hosts
from pytest_shmstate.known import Suppressions
from pytest_shmstate.leak import FOREIGN, INTERRUPTED, UNATTRIBUTED, Leak
from pytest_shmstate.outlets import Summary, as_document, section
from pytest_shmstate.report import headline, printable
from pytest_shmstate.run import Run
from pytest_shmstate.settings import Settings

PASSED, FAILED = 0, 1


class Gate:
    """From the start of a run to its last line."""

    def __init__(self, run: Run, settings: Settings) -> None:
        self._run = run
        self._settings = settings
        self._before = Before.take(run, settings)
        #: What is known of workers on other hosts.
        self.hosts = Hosts(run, settings)
        self.summary: Optional[Summary] = None
        self._mistake = ""
        #: Errors of implementations of ``pytest_shmstate_leak``, a line each.
        self.mistakes: List[str] = []
        self._told = False

    def header(self) -> str:
        """A line that says what the detector can see here."""
        seen = ", ".join(f"{what}: {'yes' if works else 'no'}" for what, works, _ in self._before.abilities)
        if self._before.own_only:
            seen += " (this process's own)"
        line = f"shmstate: leaks={self._settings.leaks} ({self._settings.leaks_source}); {seen}"
        if self._before.swept:
            swept = self._before.swept
            line += f"\nshmstate: an earlier run was killed; {headline(swept)}; {_fates(swept)}"
        return line

    def finish(self, exitstatus: int) -> int:
        """Look at what is left, remove what is ours, write the reports; the exit status that the run is to have."""
        others = self.hosts.told()
        here = Ending(self._run, self._settings, self._before, elsewhere=others.beside_us).look()
        leaks = [*here.leaks, *others.leaks]
        suppressions = Suppressions(self._settings.ignore)
        suppressions.merge([*here.uses, *others.uses])
        is_known = not any(host.untold for host in others.hosts) or self._settings.leaks != "error"
        unseen = sum(content for _, word, content in self._run.told() if word == "unseen")
        unseen = unseen if self._settings.leaks != "off" else 0
        is_known = is_known and not (unseen and self._settings.leaks == "error")
        good = is_known and not any(map(fails, leaks))
        status = FAILED if not good and exitstatus == PASSED else exitstatus
        self.summary = Summary(
            mode=self._settings.leaks,
            mode_source=self._settings.leaks_source,
            leaks=tuple(leaks),
            used=tuple(suppressions.used()),
            unused=tuple(suppressions.unused()),
            abilities=here.abilities,
            tests_checked=here.tests + sum(host.tests_checked for host in others.hosts),
            hosts=others.hosts,
            exit_status_changed=status != exitstatus,
            run=os.path.basename(self._run.folder),
            tests_unseen=unseen,
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
        for line in self.mistakes:
            terminal.write_line(printable(line), red=True)
        if os.environ.get("GITHUB_ACTIONS"):
            for line in _annotations(summary):
                terminal.write_line(line)

    def close(self) -> None:
        """Say what has to be said though there was no summary (``--no-summary``, ``-p no:terminal``)."""
        if self._told or self.summary is None:
            return
        if self._mistake:
            print(self._mistake, file=sys.stderr)  # noqa: T201
        for line in self.mistakes:
            print(printable(line), file=sys.stderr)  # noqa: T201
        if os.environ.get("GITHUB_ACTIONS"):
            print("", *_annotations(self.summary), sep="\n", flush=True)  # noqa: T201


def fails(leak: Leak) -> bool:
    """Whether a run that passed otherwise fails for it."""
    return leak.mode == "error" and not leak.after_failure and leak.verdict not in (FOREIGN, INTERRUPTED)


def to_annotate(leaks: Sequence[Leak]) -> List[Leak]:
    """Not what may well be somebody else's: nobody can do anything about that in this project."""
    return [
        leak for leak in leaks if leak.verdict != FOREIGN and (leak.verdict != UNATTRIBUTED or leak.mode == "error")
    ]


def _annotations(summary: Summary) -> List[str]:
    return [*annotations_of_hosts(summary), *github_annotations(to_annotate(summary.leaks))]


def _fates(leaks: Sequence[Leak]) -> str:
    return ", ".join(sorted({leak.fate for leak in leaks}))
