"""The results as Markdown, with their pictures beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Iterator, List, Mapping, Sequence

from benchmarks.document import Plot, Table
from benchmarks.report import plots, words
from benchmarks.report.chapters import Chapter, bars, bars_table, chapters, not_measured
from benchmarks.results import PARTS

PAGE = "experiments.md"
#: Pictures are files in a folder beside the page.
PICTURES = "experiments"

#: Where the README has its table and picture.
_BEGIN, _END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"

_COMMAND = "python -m benchmarks --render docs/experiments.json --docs docs"
_LEAD = (
    f"Made by `{_COMMAND}` from the results of one run of `python -m benchmarks`: what is changed here by hand is lost."
    " Variants took turns in short rounds, so that what the machine did meanwhile cancels out of their ratios. Another"
    " machine gives other figures."
)


def write(results: Mapping[str, Any], every: Sequence[Chapter], folder: Path) -> None:
    """Write the page into a folder, and its pictures into one in there. Pictures of before that it has no more go."""
    pictures = folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = {f"{plot.name}.svg": plot for chapter in every if chapter.section for plot in chapter.section.plots}
    for former in set(pictures.glob("*.svg")):
        if former.name not in drawn:
            former.unlink()
    for name, plot in drawn.items():
        (pictures / name).write_text(plots.svg(plot), encoding="utf-8")
    (folder / PAGE).write_text(text(results, every), encoding="utf-8")
    readme = folder.parent / "README.md"
    if readme.exists():
        readme.write_text(with_block(readme.read_text(encoding="utf-8"), results), encoding="utf-8")


def with_block(readme: str, results: Mapping[str, Any]) -> str:
    """A README with ``readme_block`` between its marks; as it is, if it has none."""
    before, begin, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        return readme
    return f"{before}{begin}\n{readme_block(results)}{end}{after}"


def text(results: Mapping[str, Any], every: Sequence[Chapter]) -> str:
    """The page."""
    blocks = ["# The experiments, measured", _LEAD]
    if results["quick"]:
        blocks.append(f"**A quick run.** {words.QUICK}")
    links = [f"- [{_escaped(chapter.title)}](#{_anchor(chapter.title)})" for chapter in every]
    blocks.append("\n".join([*links, "- [The machine](#the-machine)"]))
    absent = [PARTS[name] for name in not_measured(results)]
    if absent:
        blocks.append(f"Not measured in this run: {'; '.join(absent)}.")
    for chapter in every:
        blocks.extend(_chapter(chapter))
    blocks.append("## The machine")
    blocks.append(_table(("what", "it is"), words.machine(results)))
    return "\n\n".join(blocks) + "\n"


def readme_block(results: Mapping[str, Any]) -> str:
    """For the README, seen from the folder above ``docs``: the numbers to reach, and one picture."""
    table = bars_table(bars(results))
    blocks = [_table(table.head, table.rows)]
    told = [chapter for chapter in chapters(results) if chapter.section and chapter.section.plots]
    told.sort(key=lambda chapter: chapter.name != "latency")
    if told and told[0].section:
        plot = told[0].section.plots[0]
        blocks.append(_picture(plot, f"docs/{PICTURES}"))
        if plot.note:
            blocks.append(_prose(plot.note))
    return "\n\n".join(blocks) + "\n"


def _chapter(chapter: Chapter) -> Iterator[str]:
    yield f"## {_escaped(chapter.title)}"
    if chapter.failed or chapter.untold:
        what = "failed" if chapter.failed else "was measured, and cannot be told"
        reason = (chapter.failed or chapter.untold).strip().splitlines()[-1]
        yield f"**This part {what}:** {_escaped(reason)}"
    if chapter.left:
        yield f"**This part left things behind;** or another program made them meanwhile: {_escaped('; '.join(chapter.left))}"
    if chapter.section is None:
        return
    yield _prose(chapter.section.lead)
    for answer in chapter.section.answers:
        yield f"### {_escaped(answer.question)}"
        yield _prose(answer.answer)
    for table in chapter.section.tables:
        yield from _titled(table)
    for plot in chapter.section.plots:
        yield _picture(plot, PICTURES)
        if plot.note:
            yield _prose(plot.note)


def _titled(table: Table) -> Iterator[str]:
    if table.title:
        yield f"**{_escaped(table.title)}**"
    yield _table(table.head, table.rows)
    if table.note:
        yield _prose(table.note)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rules = ["--:" if figures else "---" for figures in words.are_figures(head, rows)]
    lines: List[Sequence[str]] = [
        [_cell(cell) for cell in head],
        rules,
        *([_cell(cell) for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    kind = words.verdict(text)
    escaped = _escaped(" ".join(text.split())).replace("|", "\\|")
    return f"**{escaped}**" if kind == "bad" else escaped


def _picture(plot: Plot, folder: str) -> str:
    alternative = re.sub(r"([\[\]\\])", r"\\\1", plot.title)
    return f"![{alternative}]({folder}/{plot.name}.svg)"


def _prose(text: str) -> str:
    return "\n\n".join(_begun(_escaped(" ".join(part.split()))) for part in re.split(r"\n\s*\n", text.strip()))


def _begun(paragraph: str) -> str:
    """What would begin a list, a quotation or a heading is text."""
    return re.sub(r"^(\d+)([.)] )", r"\1\\\2", re.sub(r"^([-+>#])", r"\\\1", paragraph))


def _escaped(text: str) -> str:
    """As text; but what stands between backticks is code."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        part if number % 2 else re.sub(r"([\\*])", r"\\\1", part).replace("<", "&lt;")
        for number, part in enumerate(parts)
    )


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
