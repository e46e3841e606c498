"""What is the same wherever results are told: what a run says of itself, and what a cell says of its row."""

from __future__ import annotations

import re
from typing import Any, List, Mapping, Sequence, Tuple

from benchmarks.document import figures, nbytes

QUICK = (
    "This was a quick run (`--quick`): it shows that everything works, and about where the figures are. They are not to"
    " be quoted."
)

_VERDICTS = (("passes", "good"), ("missed", "bad"), ("missing", "none"), ("not measured", "none"))
_FIGURE = re.compile(r"[<>=~+-]*\s*\d|-$")
#: A longer cell is prose that begins with a figure.
_LONGEST_FIGURE = 32


def machine(results: Mapping[str, Any]) -> List[Tuple[str, str]]:
    """What it was measured on, when, and for how long: what it is, and it."""
    on = results["machine"]
    packages = on.get("packages", {})
    there = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    not_there = ", ".join(name for name, version in packages.items() if not version)
    rows = [
        ("processor", f"{on.get('processor', 'unknown')}, {on.get('cores', '?')} cores, {on.get('machine', '')}"),
        ("memory", nbytes(on["memory_bytes"]) if "memory_bytes" in on else "unknown"),
        ("kernel", f"{on.get('kernel', 'unknown')}, {on.get('libc', '')}"),
        ("Python", f"{on.get('implementation', '')} {on.get('python', 'unknown')}".strip()),
        ("the clock's own cost", f"{on['clock_us']:.3f} us" if "clock_us" in on else "unknown"),
        ("packages", there or "none"),
        ("not installed", not_there),
        ("began", f"{results['began']}, and took {duration(results['seconds'])}"),
    ]
    return [(what, said) for what, said in rows if said]


def duration(seconds: float) -> str:
    """Of a run or a part."""
    return f"{figures(seconds)} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def verdict(cell: str) -> str:
    """``good``, ``bad`` or ``none``, if that is what a cell says; otherwise empty."""
    return next((kind for word, kind in _VERDICTS if cell.startswith(word)), "")


def are_figures(head: Sequence[str], rows: Sequence[Sequence[str]]) -> List[bool]:
    """Of each column, whether it is of figures, which are compared by their ends. The first says what a row is about."""
    columns = [[row[number] for row in rows if number < len(row) and row[number]] for number in range(len(head))]
    return [number > 0 and _is_of_figures(column) for number, column in enumerate(columns)]


def spans(row: Sequence[str], width: int) -> List[Tuple[str, int]]:
    """Each cell, and over how many columns it goes: why there is nothing goes over all that there would be."""
    last = max((number for number, cell in enumerate(row) if cell), default=0)
    if last and verdict(row[last]) == "none" and last < width - 1:
        return [*((cell, 1) for cell in row[:last]), (row[last], width - last)]
    return [(cell, 1) for cell in row]


def _is_of_figures(cells: Sequence[str]) -> bool:
    """Nothing but figures; where there are none at all, they are what is missing."""
    figures = [cell for cell in cells if _FIGURE.match(cell) and len(cell) <= _LONGEST_FIGURE]
    return (bool(figures) or not cells) and all(cell in figures or verdict(cell) for cell in cells)
