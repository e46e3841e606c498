"""The part of a history that a verdict is about: the events it names, and those around them."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Sequence

from pytest_shmstate.kit.oracle.history import Event, History
from pytest_shmstate.kit.oracle.row import by_time


class Line(NamedTuple):
    """An event of an excerpt."""

    event: Event
    #: Which of the events that the verdict names it is, from 1; 0: none of them.
    mark: int
    #: How many events were left out before it.
    skipped: int


def excerpt(history: History, named: Sequence[Event], around: int) -> List[Line]:
    """The named events and ``around`` before and after each, by time. Of a history without any, the first so many."""
    in_time = sorted(history, key=by_time)
    marks: Dict[Event, int] = {event: number for number, event in reversed(list(enumerate(named, 1)))}
    centres = [index for index, event in enumerate(in_time) if event in marks] or [0]
    kept = sorted(
        {
            index
            for centre in centres
            for index in range(max(centre - around, 0), min(centre + around + 1, len(in_time)))
        }
    )
    before = [-1, *kept]
    return [Line(in_time[index], marks.get(in_time[index], 0), index - last - 1) for last, index in zip(before, kept)]


def as_table(lines: Sequence[Line]) -> List[str]:
    """The excerpt as text, for terminals."""
    rows = [_row(line.event, f"{line.mark} >" if line.mark else "") for line in lines]
    heads = ["", "began", "ended", "process", "operation", "version", "rank", ""]
    used = [column for column in range(len(heads)) if any(row[column] for row in rows)]
    widths = {column: max(len(row[column]) for row in [heads, *rows]) for column in used}
    is_number = {1, 2, 5, 6}

    def told(row: Sequence[str]) -> str:
        cells = (
            row[column].rjust(widths[column]) if column in is_number else row[column].ljust(widths[column])
            for column in used
        )
        return "  ".join(cells).rstrip()

    table = [told(heads)]
    for line, row in zip(lines, rows):
        if line.skipped:
            table.append(f"... {line.skipped} more ...")
        table.append(told(row))
    return table


def _row(event: Event, mark: str) -> List[str]:
    note = event.problem or (f"refused: {event.error}" if event.error else "")
    return [
        mark,
        str(event.began),
        "never" if event.ended is None else str(event.ended),
        event.process,
        event.operation,
        version_as_text(event),
        str(event.rank or ""),
        note,
    ]


def version_as_text(event: Event) -> str:
    """The version of an event; what never came, and what was refused, has none."""
    if event.operation == "read" and (event.ended is None or event.error):
        return "-"
    return str(event.version) if event.version else "nothing"
