"""What a run writes for GitHub: annotations of the lines that leak, and the summary of a workflow's step."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Dict, List, Optional, Sequence

from pytest_shmstate.leak import Frame, Leak
from pytest_shmstate.outlets import MOST_ROWS, Summary, group_of, grouped, lines_of_hosts, tests_text
from pytest_shmstate.report import (
    bytes_text,
    counted,
    current_directory,
    describe,
    headline,
    named,
    on_host,
    owned_by,
    place,
    printable,
    wider_fixture,
)

#: As many of a kind as GitHub shows of one step.
MOST_ANNOTATIONS = 10
_LONGEST_TITLE = 80


def github_annotations(leaks: Sequence[Leak]) -> List[str]:
    """Lines that GitHub shows beside the source, when they are printed in a workflow."""
    levels: Dict[str, List[Leak]] = {"error": [], "warning": []}
    for key, members in grouped(leaks).items():
        if key == "foreign":
            continue
        for leak in members:
            fails = key == "failing" or (key == "unattributed" and leak.mode == "error")
            levels["error" if fails else "warning"].append(leak)
    lines = [_annotation(level, leak) for level, members in levels.items() for leak in members[:MOST_ANNOTATIONS]]
    rest = [leak for members in levels.values() for leak in members[MOST_ANNOTATIONS:]]
    # Of another kind, or it would be the eleventh.
    return [*lines, f"::notice::and {counted(rest)} more, in the log of this step"] if rest else lines


def annotations_of_hosts(summary: Summary) -> List[str]:
    """The same for hosts of which it is not known what is left there."""
    level = "error" if summary.mode == "error" else "warning"
    return [
        f"::{level} title=shared memory of another host::{escape_data(printable(text))}"
        for text in lines_of_hosts(summary)
    ]


def _annotation(level: str, leak: Leak) -> str:
    name = named(replace(leak, host=""))[:_LONGEST_TITLE]
    fixture = wider_fixture(leak)
    by = f" by {fixture}, not by one test" if fixture else ""
    properties = {"title": f"{name}{on_host(leak.host)} left behind{by}"}
    shown = _shown_by_github(leak)
    if shown is not None:
        properties = {"file": shown.file, "line": str(shown.line), **properties}
    told = ",".join(f"{name}={escape_property(value)}" for name, value in properties.items())
    # There are no columns where GitHub shows it.
    text = "\n".join(re.sub(r" +", " ", line) for line in describe(leak))
    return f"::{level} {told}::{escape_data(text)}"


def _shown_by_github(leak: Leak) -> Optional[Frame]:
    """The first line to look at that lies in the repository, relative to it."""
    root = (os.environ.get("GITHUB_WORKSPACE") or current_directory()).rstrip(os.sep) + os.sep
    owner = Frame(leak.owner.file, leak.owner.line, "")
    for frame in filter(None, [leak.where, *reversed(leak.stack), owner]):
        if frame.line > 0 and frame.file.startswith(root) and "/site-packages/" not in frame.file:
            return Frame(frame.file[len(root) :], frame.line, frame.function)
    return None


def escape_data(text: str) -> str:
    """The part after the second ``::`` of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """A value between ``::error`` and ``::``."""
    return escape_data(text).replace(":", "%3A").replace(",", "%2C")


def github_summary(summary: Summary) -> str:
    """Markdown for the page of a workflow run: a table of what was left behind, foreign things aside."""
    leaks = [leak for key, members in grouped(summary.leaks).items() if key != "foreign" for leak in members]
    untold = [f"- {escape_cell(text)}" for text in lines_of_hosts(summary)]
    if not leaks:
        nothing = f"Nothing{' known to be' if untold else ''} left behind by {tests_text(summary)}."
        return "\n".join(["### Shared memory", "", nothing, *(["", *untold] if untold else []), ""])
    rows = ["| what | size | whose | look at | counts as | now |", "| --- | --- | --- | --- | --- | --- |"]
    for leak in leaks[:MOST_ROWS]:
        size = bytes_text(leak.size) if leak.size >= 0 else ""
        cells = (named(leak), size, owned_by(leak.owner), _look_at(leak), group_of(leak), leak.fate)
        rows.append("| " + " | ".join(map(escape_cell, cells)) + " |")
    if leaks[MOST_ROWS:]:
        rows.append(f"| and {len(leaks) - MOST_ROWS:,} more | | | | | |")
    failed = "The tests passed; the run failed for this.\n" if summary.exit_status_changed else ""
    told = f"{escape_cell(headline(leaks))} ({tests_text(summary)} checked). {failed}".rstrip()
    return "\n".join(["### Shared memory", "", told, *(["", *untold] if untold else []), "", *rows, ""])


def _look_at(leak: Leak) -> str:
    shown = _shown_by_github(leak) or leak.where
    return place(shown) if shown else ""


def escape_cell(text: str) -> str:
    """One cell of a markdown table, with nothing in it that markdown or HTML would obey."""
    # Entities: markdown never takes one for the mark it stands for, also inside tables.
    return re.sub(r"[^\w ,;=/()+-]|_", lambda mark: f"&#{ord(mark[0])};", printable(text))
