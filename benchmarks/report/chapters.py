"""Every part as it is told: its section, or why there is none."""

from __future__ import annotations

import traceback
from importlib import import_module
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence

from benchmarks.bars import Row, rows
from benchmarks.document import Section, Table
from benchmarks.results import PARTS, measured

#: The chapter that is of no one part.
BARS = "bars"


class Chapter(NamedTuple):
    """One part of a run; or the bars, which are of several."""

    name: str
    title: str
    seconds: float
    section: Optional[Section]
    #: The traceback of what measured it.
    failed: str = ""
    #: The traceback of what was to tell it.
    untold: str = ""
    left: Sequence[str] = ()


def chapters(results: Mapping[str, Any]) -> List[Chapter]:
    """The bars, and the parts that there are results of, in the order that they are told in."""
    found = results["parts"]
    names = [name for name in (*PARTS, *sorted(set(found) - set(PARTS))) if name in found]
    return [_bars(results), *(_chapter(name, found[name]) for name in names)]


def bars(results: Mapping[str, Any]) -> List[Row]:
    """The numbers to reach, and whether they are reached, as far as they were measured."""
    return rows(measured(results))


def not_measured(results: Mapping[str, Any]) -> List[str]:
    """Parts that there are no results of."""
    return [name for name in PARTS if name not in results["parts"]]


def _bars(results: Mapping[str, Any]) -> Chapter:
    chapter = Chapter(BARS, "The numbers to reach", 0.0, None)
    try:
        found = bars(results)
    except Exception:
        return chapter._replace(untold=traceback.format_exc())
    lead = "What we set out to reach before there was a line of code. A miss is told as one."
    return chapter._replace(section=Section(BARS, chapter.title, lead, tables=[bars_table(found)]))


def bars_table(found: Sequence[Row]) -> Table:
    """A row each, without a title: the chapter has it."""
    return Table("", ("what", "figure", "bar", "verdict"), found)


def _chapter(name: str, part: Mapping[str, Any]) -> Chapter:
    chapter = Chapter(name, PARTS.get(name, name), part["seconds"], None, left=part.get("left", ()))
    if "data" not in part:
        return chapter._replace(failed=part.get("failed", "there is neither data nor a failure"))
    if name not in PARTS:
        return chapter._replace(
            untold=f"{name!r} is no part that this program knows: render it with the one that wrote it"
        )
    try:
        section: Section = import_module(f"benchmarks.sections.{name}").section(part["data"])
    except Exception:
        return chapter._replace(untold=traceback.format_exc())
    return chapter._replace(section=section, title=section.title)
