"""The results as one page that needs nothing else: no network, no other file."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any, List, Mapping, Sequence

from benchmarks.document import Plot
from benchmarks.report import plots, words
from benchmarks.report.chapters import Chapter, not_measured
from benchmarks.results import PARTS

_TEMPLATE = "page.html.jinja"
_UNIT = re.compile(r"(?<=\d) (?=(?:[num]?s|[KMG]?B|%)(?!\w))")


def html(results: Mapping[str, Any], chapters: Sequence[Chapter]) -> str:
    """The page. Needs jinja2 and matplotlib."""
    jinja2 = import_module("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(Path(__file__).parent)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    markup = import_module("markupsafe").Markup
    environment.filters.update(
        prose=lambda text: markup(_set(str(markup.escape(text)))),
        picture=lambda plot: markup(_inline(plot)),
        paragraphs=_paragraphs,
        last_line=lambda text: text.strip().splitlines()[-1],
        line_count=lambda text: len(text.strip().splitlines()),
        duration=words.duration,
        verdict=words.verdict,
    )
    text: str = environment.get_template(_TEMPLATE).render(
        results=results,
        chapters=chapters,
        machine=words.machine(results),
        quick=words.QUICK if results["quick"] else "",
        absent=[(name, PARTS[name]) for name in not_measured(results)],
        are_figures=words.are_figures,
        spans=words.spans,
    )
    return text


def _paragraphs(text: str) -> List[str]:
    return [part for part in re.split(r"\n\s*\n", text.strip()) if part]


def _set(escaped: str) -> str:
    """What stands between backticks is code; a number and its unit stay together."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _UNIT.sub("\u00a0", escaped))


def _inline(plot: Plot) -> str:
    """A picture as a part of the page: its names are its own there, and the page says how large it is."""
    picture = plots.svg(plot)
    root, rest = picture[picture.index("<svg") :].split(">", 1)
    rest = rest.replace(' id="', f' id="{plot.name}-').replace('href="#', f'href="#{plot.name}-')
    rest = rest.replace("url(#", f"url(#{plot.name}-")
    alternative = import_module("markupsafe").escape(f"{plot.title}. {plot.note}".strip())
    return re.sub(r'\s(?:width|height)="[^"]*"', "", root) + f' role="img" aria-label="{alternative}">{rest}'
