"""What a report is made of, whatever it is rendered to. Words, tables and plots; nothing here measures."""

from __future__ import annotations

from typing import List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union


class Series(NamedTuple):
    """One line, or one group of bars. ``low`` and ``high``: the spread, where it is known."""

    label: str
    x: Sequence[Union[float, str]]
    y: Sequence[float]
    low: Optional[Sequence[float]] = None
    high: Optional[Sequence[float]] = None


class Plot(NamedTuple):
    """A picture. ``name`` is its file's, without an ending; bars if the x of its series are text, otherwise lines."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False
    #: What to see in it, in a sentence.
    note: str = ""
    #: Horizontal lines: where, and what they are.
    lines: Sequence[Tuple[float, str]] = ()


class Table(NamedTuple):
    """Cells are text. One that says ``passes``, ``missed`` or ``missing`` (or begins so) is shown as what it says."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Answer(NamedTuple):
    """A question as it was asked, and its answer in plain words, with the figures."""

    question: str
    answer: str


class Section(NamedTuple):
    """One part of the report. ``slug`` is its anchor; ``lead`` says what was done, for who was not there."""

    slug: str
    title: str
    lead: str
    answers: Sequence[Answer] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()


def micro(microseconds: float) -> str:
    """A time with the unit and the digits that one can read."""
    for unit, size in (("s", 1e6), ("ms", 1e3), ("us", 1.0)):
        if abs(microseconds) >= size:
            return f"{figures(microseconds / size)} {unit}"
    return f"{figures(microseconds * 1e3)} ns"


def quantiles(summary: Mapping[str, float], *parts: str) -> List[str]:
    """Of a summary of times; empty where there were too few of them to tell."""
    return [micro(summary[part]) if part in summary else "" for part in parts]


def nbytes(count: float) -> str:
    """A size with the unit that one can read."""
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if count >= size:
            return f"{figures(count / size)} {unit}"
    return f"{count:.0f} B"


def figures(value: float) -> str:
    """Three significant digits, and no more zeros than there were."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def times(ratio: float) -> str:
    """A ratio as one says it."""
    return f"{figures(ratio)}x"
