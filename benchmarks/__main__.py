"""Measures, keeps what was measured, and makes a page of it: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Iterator, Optional, Sequence

import shmstate
from benchmarks import machine, progress, results, running
from benchmarks.report import markdown, page
from benchmarks.report.chapters import Chapter, chapters
from benchmarks.results import PARTS, Results

#: What a figure may depend on, or be compared with.
PACKAGES = (
    *("msgpack", "msgspec", "ormsgpack", "orjson", "numpy", "pytest", "lmdb", "redis"),
    *("UltraDict", "EasyGlobals", "pyshmem", "shared-memory-dict", "iceoryx2"),
)
OUTPUT = Path("reports", "benchmarks")
FILE = "results.json"
#: Without these nothing can be made of results; they can be measured, and made something of elsewhere.
TO_RENDER = ("jinja2", "matplotlib")


def arguments() -> argparse.ArgumentParser:
    """Of the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure shmstate, part by part; keep the results as JSON, and make one page of them, report.html.",
        epilog="Exit status: 0, 1 if a part failed or left something behind, 2 if it was called wrongly, 130 if it was"
        " interrupted; what was measured until then is kept. A missed bar is no failure: it is in the report.",
    )
    parser.add_argument("--quick", action="store_true", help="minutes: does it work, and about where are the figures")
    parser.add_argument("--only", action="append", metavar="PART", help="this part alone; may be given again")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help=f"folder to write to ({OUTPUT})")
    parser.add_argument("--render", type=Path, metavar="FILE", help="measure nothing: make the page of a kept JSON")
    parser.add_argument(
        "--docs", type=Path, metavar="DIR", help="make DIR/experiments.md too, with JSON, pictures and the page"
    )
    parser.add_argument("--list", action="store_true", help="say which parts there are")
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Do what the arguments say; the exit status."""
    parser = arguments()
    given = parser.parse_args(argv)
    unknown = sorted(set(given.only or ()) - set(PARTS))
    if unknown:
        parser.error(f"--only {unknown[0]}: there is no such part; there are {', '.join(PARTS)}")
    if given.list:
        print("\n".join(f"{name:<13} {title}" for name, title in PARTS.items()))
        return 0
    lacking = ", ".join(name for name in ("rich", *TO_RENDER) if find_spec(name) is None)
    if lacking and (given.render or "rich" in lacking):
        parser.error(f"{lacking}: not installed; pip install 'shmstate[bench]'")
    if given.render is None:
        return measure(given, lacking)
    try:
        kept = results.load(given.render)
    except results.Unreadable as error:
        parser.error(str(error))
    return 0 if render(kept, given.output, given.docs) else 1


def measure(given: argparse.Namespace, lacking: str) -> int:
    """Measure and keep, and render unless something is lacking; the exit status."""
    given.output.mkdir(parents=True, exist_ok=True)
    file = given.output / FILE
    put_aside(file)
    names = [name for name in PARTS if given.only is None or name in given.only]
    described = machine.described(PACKAGES)
    described["packages"] = {"shmstate": shmstate.__version__, **described["packages"]}
    kept = results.begun(given.quick, described)

    def keep(name: str, part: running.Part) -> None:
        results.save(kept, file)
        trouble = running.trouble(part)
        if trouble or not sys.stderr.isatty():  # a terminal has a bar for it
            progress.line(f"{name}: {part['seconds']:.1f} s{', ' if trouble else ''}{trouble}")

    with terminated_is_interrupted(), progress.shown() as show:
        finished = running.run(names, kept, keep, show)
    rendered = True
    if lacking:
        again = f"python -m benchmarks --render {file}"
        print(f"kept: {file}; no page, for lack of {lacking}: pip install 'shmstate[bench]', then {again}")
    else:
        rendered = render(kept, given.output, given.docs)
    if not finished:
        return 130
    return 1 if not rendered or any(running.trouble(part) for part in kept["parts"].values()) else 0


@contextmanager
def terminated_is_interrupted() -> Iterator[None]:
    """Who ends it with SIGTERM wants it to clean up, as with Ctrl-C; its forked children are to end as ever."""
    me = os.getpid()

    def end(number: int, _frame: object) -> None:
        if os.getpid() == me:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def put_aside(file: Path) -> None:
    """Results of before are not lost to those of now."""
    if file.exists():
        file.rename(file.with_name(f"{file.stem}-{file.stat().st_mtime_ns // 10**9}{file.suffix}"))


def render(kept: Results, output: Path, docs: Optional[Path]) -> bool:
    """Write and print all that is made of results. False: a part could not be told."""
    every = chapters(kept)
    output.mkdir(parents=True, exist_ok=True)
    where = output / "report.html"
    whole = page.html(kept, every)
    where.write_text(whole, encoding="utf-8")
    if docs is not None:
        markdown.write(kept, every, docs)
        (docs / "experiments.html").write_text(whole, encoding="utf-8")
        results.save(kept, docs / "experiments.json")
    show_bars(every[0])
    print(f"report: {where}")
    untold = [chapter for chapter in every if chapter.untold]
    for chapter in untold:
        progress.line(f"{chapter.name}: cannot be told: {chapter.untold.strip().splitlines()[-1]}")
    return not untold


def show_bars(chapter: Chapter) -> None:
    """The numbers to reach, and whether they are reached, as far as they were measured."""
    escape = import_module("rich.markup").escape
    for table in chapter.section.tables if chapter.section else ():
        shown = import_module("rich.table").Table(*table.head)
        for row in table.rows:
            if not row[-1].startswith("not measured"):
                colour = {"passes": "green", "missed": "red"}.get(row[-1], "")
                shown.add_row(*map(escape, row), style=colour)
        if shown.row_count:
            console = import_module("rich.console").Console()
            console.print(shown, width=console.width if console.is_terminal else max(console.width, 130))


if __name__ == "__main__":
    sys.exit(main())
