"""A page that draws a history: one lane for each process, operations as bars over time, the events that broke a rule marked.

It is one file, with nothing to load from elsewhere. Time runs in equal steps from one beginning or end to the next, so
that what overlaps is seen however short it was; "to scale" is a button. Bars are placed by style variables, so zooming
is to change one of them, and without JavaScript the page can still be scrolled and read.
"""

from __future__ import annotations

import html
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

from pytest_shmstate.kit.oracle.excerpt import Line, as_table, excerpt, version_as_text
from pytest_shmstate.kit.oracle.history import PUBLISH, Event, History
from pytest_shmstate.kit.oracle.page_style import SCRIPT, STYLE
from pytest_shmstate.kit.oracle.verdict import Verdict, span

#: So many events are drawn before and after each that the verdict names.
AROUND = 300
_GAP = 3  # steps, where events were left out
_WIDTH = 1000.0  # pixels of the marked events' time, to scale
_WIDEST = 60_000.0
_TOLD = ("title", "seed", "python", "kernel", "machine")


class _Axis(NamedTuple):
    """Where moments lie."""

    #: In equal steps.
    steps: Dict[int, int]
    #: Where events were left out: after how many steps, and how many events.
    gaps: List[Any]
    start: int
    end: int
    per_unit: float

    def at(self, moment: int) -> str:
        """For a style: ``--o`` in steps, ``--t`` in pixels, to scale."""
        return f"--o:{self.steps[moment]};--t:{(moment - self.start) * self.per_unit:.1f}"

    def long(self, began: int, ended: int) -> str:
        """The same, for a length."""
        return f"--ow:{self.steps[ended] - self.steps[began]};--tw:{(ended - began) * self.per_unit:.1f}"


def page(history: History, verdict: Verdict, header: Mapping[str, Any], *, around: int = AROUND) -> str:
    """The page, as HTML. ``header``: as a saved history has it; what it says of where it was recorded is shown."""
    lines = excerpt(history, verdict.events, around)
    facts = [f"{name} {header[name]}" for name in _TOLD if header.get(name) not in (None, "")]
    facts.append(f"{len(lines)} of {len(history)} operations drawn")
    title = f"{verdict.outcome}: {verdict.rule or header.get('title', 'history')}"
    body = [
        f'<header class="{verdict.outcome.lower()}">',
        f'<p class="rule"><b>{_safe(verdict.outcome)}</b> {_safe(verdict.rule)} <span>asked for: {_safe(verdict.level)}</span></p>',
        f"<h1>{_safe(verdict.sentence)}</h1>",
        f'<p class="facts">{" ".join(f"<span>{_safe(fact)}</span>" for fact in facts)}</p></header>',
        _named(verdict.events),
        _CONTROLS,
        _drawing(lines) if lines else "<p>The history is empty.</p>",
        f"<details><summary>The same as text</summary><pre>{_safe(chr(10).join(as_table(lines)))}</pre></details>",
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_safe(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body>{chr(10).join(body)}\n<script>{SCRIPT}</script></body></html>\n"
    )


_CONTROLS = """<div class="controls"><span class="key"><i class="publish"></i> publish</span>
<span class="key"><i class="read"></i> read</span> <span class="key"><i class="read refused"></i> refused</span>
<span class="key"><i class="publish pending"></i> never returned</span>
<span class="buttons"><button data-zoom="0.7" title="zoom out">&minus;</button><button data-zoom="1.43" title="zoom in">+</button>
<button data-scale>to scale</button><button data-home>back to what broke</button></span></div>"""


def _safe(text: object) -> str:
    return html.escape(str(text), quote=True)


def _named(events: Sequence[Event]) -> str:
    items = [
        f'<li><a href="#e{number}"><b>{_safe(event.operation)}</b> {_version(event)} by <b>{_safe(event.process)}</b>'
        f" <span>{_safe(span(event))}</span></a>{_note(event)}</li>"
        for number, event in enumerate(events, 1)
    ]
    return f'<ol class="named">{"".join(items)}</ol>' if items else ""


def _version(event: Event) -> str:
    return f"of version {_safe(event.version)}" if event.version else "of nothing published yet"


def _note(event: Event) -> str:
    note = event.problem or event.error
    return f"<br><code>{_safe(note)}</code>" if note else ""


def _drawing(lines: Sequence[Line]) -> str:
    axis = _axis(lines)
    processes = sorted({line.event.process for line in lines}, key=_writers_first(lines))
    last = max(axis.steps.values())
    marked = [line for line in lines if line.mark]
    labels = "".join(f'<div class="lane">{_safe(process)}</div>' for process in processes)
    lanes = [
        '<div class="lane">' + "".join(_bar(line, axis) for line in lines if line.event.process == process) + "</div>"
        for process in processes
    ]
    gaps = [f'<div class="gap" style="--o:{at}"><span>{count} left out</span></div>' for at, count in axis.gaps]
    guides = [guide for line in marked for guide in _guides(line, axis)]
    width = f"--o:{last + 2};--t:{(axis.end - axis.start) * axis.per_unit:.1f}"
    step = 14 + 7 * max(len(version_as_text(line.event)) for line in lines)
    return (
        f'<div class="drawing" style="--step:{step}"><div class="labels"><div class="axis"></div>{labels}</div>'
        f'<div class="scroll"><div class="lanes" style="{width}"><div class="axis"></div>'
        f"{''.join(gaps)}{''.join(guides)}{chr(10).join(lanes)}</div></div></div>"
    )


def _guides(line: Line, axis: _Axis) -> List[str]:
    """Where it began and ended: the first told to the left, the other to the right, so as not to cover each other."""
    sides = zip(("began", "ended"), _moments(line.event))
    return [
        f'<div class="guide {side} {"even" if line.mark % 2 == 0 else "odd"}" style="{axis.at(moment)}"><span>{moment}</span></div>'
        for side, moment in sides
    ]


def _axis(lines: Sequence[Line]) -> _Axis:
    after_gap = {line.event.began: line.skipped for line in lines[1:] if line.skipped}
    moments = sorted({moment for line in lines for moment in _moments(line.event)})
    steps: Dict[int, int] = {}
    gaps = []
    at = 0
    for moment in moments:
        if moment in after_gap:
            gaps.append((at, after_gap[moment]))
            at += _GAP
        steps[moment] = at
        at += 1
    marked = [moment for line in lines if line.mark for moment in _moments(line.event)] or moments
    shown = max(max(marked) - min(marked), 1)
    whole = max(moments[-1] - moments[0], 1)
    return _Axis(steps, gaps, moments[0], moments[-1], min(_WIDTH / shown, _WIDEST / whole))


def _moments(event: Event) -> List[int]:
    return [event.began] if event.ended is None else [event.began, event.ended]


def _writers_first(lines: Sequence[Line]) -> Any:
    writers = {line.event.process for line in lines if line.event.operation == PUBLISH}
    return lambda process: (process not in writers, process)


def _bar(line: Line, axis: _Axis) -> str:
    event = line.event
    kinds = [event.operation if event.operation == PUBLISH else "read"]
    kinds += ["pending"] * (event.ended is None) + ["wrong"] * bool(event.problem) + ["refused"] * bool(event.error)
    kinds += ["marked"] * bool(line.mark)
    ended = axis.end if event.ended is None else event.ended
    note = event.problem or event.error
    rank = f", rank {event.rank}" if event.rank else ""
    title = f"{event.operation} of version {version_as_text(event)}{rank}\n{span(event)}" + (
        f"\n{note}" if note else ""
    )
    badge = f'<b id="e{line.mark}">{line.mark}</b>' if line.mark else ""
    return (
        f'<div class="op {" ".join(kinds)}" style="{axis.at(event.began)};{axis.long(event.began, ended)}"'
        f' title="{_safe(title)}">{badge}<span>{_safe(version_as_text(event))}</span></div>'
    )
