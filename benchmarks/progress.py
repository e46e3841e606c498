"""What who waits is shown, on standard error: a bar for each part, or a line where no terminal is."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Callable, ContextManager, Iterator

from benchmarks.harness import Tell

#: Shows a part: its name, and how often the block is going to tell what it does.
Show = Callable[[str, int], ContextManager[Tell]]


@contextmanager
def shown() -> Iterator[Show]:
    """How the parts of one run are shown."""
    console = import_module("rich.console").Console(stderr=True)
    if not console.is_terminal:
        yield _quietly
        return
    rich = import_module("rich.progress")
    columns = (
        rich.TextColumn("{task.fields[part]:<13}"),
        rich.BarColumn(30),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("{task.description}"),
    )
    # Not refreshed by itself: that would be a thread which wakes ten times a second, in the midst of what is measured.
    with rich.Progress(*columns, console=console, auto_refresh=False) as progress:
        yield lambda part, steps: _with_a_bar(progress, part, steps)


@contextmanager
def _quietly(_part: str, _steps: int) -> Iterator[Tell]:
    yield lambda _: None


@contextmanager
def _with_a_bar(progress: Any, part: str, steps: int) -> Iterator[Tell]:
    task = progress.add_task("", part=part, total=steps)
    begun = False

    def tell(what: str) -> None:
        nonlocal begun
        progress.update(task, description=what, advance=1 if begun else 0)
        progress.refresh()
        begun = True

    try:
        yield tell
        progress.update(task, completed=steps)
    finally:
        progress.update(task, description="")
        progress.stop_task(task)
        progress.refresh()


def line(text: str) -> None:
    """For who is not shown a bar as well."""
    print(text, file=sys.stderr, flush=True)
