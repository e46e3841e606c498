"""A schedule as a table: a column a process, time downwards, and a mark where another process goes on.

writer                   reader
publish 3
store INTENT
fill 1
switch
read
load LATEST
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Sequence, Tuple

#: Where one process stops and another goes on.
SWITCH = "switch"
_GAP = 3
_WIDEST = 60
#: No block of rows that repeats is longer, and none that comes less often is folded.
_LONGEST_BLOCK = 12
_FEWEST = 3


class Row(NamedTuple):
    """One thing that one process did. ``mark`` stands behind it, where it strikes the eye: ``KILLED here``."""

    process: str
    text: str
    mark: str = ""


def columns(rows: Sequence[Row], processes: Sequence[str]) -> str:
    """The table of ``rows``, a column for each of ``processes`` in their order.

    What repeats itself without a switch is told once, and how often. Raises ValueError for a row of nobody's.
    """
    strangers = {row.process for row in rows} - set(processes)
    if strangers:
        raise ValueError(f"rows of {', '.join(sorted(strangers))}, who have no column: {', '.join(processes)} have")
    cells: List[Tuple[str, str]] = [(process, process) for process in processes]
    body = _with_switches(folded(rows))
    width: Dict[str, int] = {
        process: max(len(text) for owner, text in [*cells, *body] if owner == process) + _GAP for process in processes
    }
    indents = {process: sum(width[other] for other in processes[:at]) for at, process in enumerate(processes)}
    header = "".join(process.ljust(width[process]) for process in processes).rstrip()
    rule = "".join(("-" * (width[process] - _GAP)).ljust(width[process]) for process in processes).rstrip()
    return "\n".join([header, rule, *(" " * indents[process] + text for process, text in body)])


def folded(rows: Sequence[Row]) -> List[Row]:
    """The rows, with what one process repeats told once."""
    told: List[Row] = []
    at = 0
    while at < len(rows):
        length, times = _repetition(rows, at)
        told.extend(rows[at : at + length])
        if times > 1:
            what = "this" if length == 1 else f"these {length}"
            told.append(Row(rows[at].process, f"  ... {what} {times} times in all"))
        at += length * times
    return told


def _repetition(rows: Sequence[Row], at: int) -> Tuple[int, int]:
    """How long the block is that begins there, and how often it comes; the one that saves most."""
    best, saved = (1, 1), 0
    for length in range(1, _LONGEST_BLOCK + 1):
        block = rows[at : at + length]
        if any(row.process != rows[at].process for row in block):
            break
        times = 1
        while rows[at + times * length : at + (times + 1) * length] == block:
            times += 1
        if times >= _FEWEST and (times - 1) * length > saved:
            best, saved = (length, times), (times - 1) * length
    return best


def _with_switches(rows: Sequence[Row]) -> List[Tuple[str, str]]:
    lines: List[Tuple[str, str]] = []
    for before, row in zip([None, *rows], rows):
        if before is not None and before.process != row.process:
            lines.append((before.process, f"  {SWITCH}"))
        text = row.text if len(row.text) <= _WIDEST else row.text[: _WIDEST - 3] + "..."
        lines.append((row.process, f"{text}  <-- {row.mark}" if row.mark else text))
    return lines
