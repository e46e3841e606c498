"""What is seen of the demo while it runs: a live table on a terminal that has rich, a line a second anywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Optional, TextIO, Type

from shmstate.demo.units import size
from shmstate.demo.watch import Watch

REDRAW_EVERY = 0.1
LINE_EVERY = 1.0
_BORDERS = 9  # lines of a screen that the table takes besides its rows


class Screen:
    """Plain lines. Also the base of what draws more."""

    every = LINE_EVERY

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = time.monotonic()
        self._due = self._began

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        pass

    def say(self, line: str) -> None:
        """Print a line now."""
        print(line, file=self._stream, flush=True)

    def show_watch(self, watch: Watch) -> None:
        """Show where the workers are, if it is time to."""
        if self._is_due():
            self.draw_watch(watch)

    def show_count(self, counted: int, files: int) -> None:
        """Show how far the one process has counted, at the start and then if it is time to."""
        if self._is_due() or not counted:
            self.draw_count(counted, files)

    def draw_watch(self, watch: Watch) -> None:
        """Show where the workers are."""
        self.say(
            f"  {self.elapsed:5.1f} s  {watch.counted:,} of {watch.files:,} files, states up to {size(watch.largest)},"
            f" {watch.reads:,} reads, {len(watch.torn)} torn"
        )

    def draw_count(self, counted: int, files: int) -> None:
        """Show how far the one process has counted."""
        self.say(f"  {self.elapsed:5.1f} s  counting again in one process: {counted:,} of {files:,} files")

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + self.every
        return True


class LiveScreen(Screen):
    """A table that is redrawn in place and gone at the end. Needs rich."""

    every = REDRAW_EVERY

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream, highlight=False)
        # No refreshing thread: it would be in the way of what is measured.
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """Print a line above the table."""
        self._console.print(line, markup=False)

    def draw_watch(self, watch: Watch) -> None:
        """Redraw the table."""
        self._live.update(self._table(watch), refresh=True)

    def draw_count(self, counted: int, files: int) -> None:
        """Redraw a line in the table's place."""
        from rich.text import Text

        line = f"  counting again in one process: {counted:,} of {files:,} files"
        self._live.update(Text(line), refresh=True)

    def _table(self, watch: Watch) -> Any:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE, title_justify="left", caption_justify="left")
        table.title = f"{watch.counted:,} of {watch.files:,} files, {self.elapsed:.1f} s"
        table.caption = f"{watch.reads:,} states read, {len(watch.torn)} torn"
        table.add_column("worker")
        for column in ("pid", "files", "lines", "functions", "state", "version", "as of"):
            table.add_column(column, justify="right")
        rows = max(1, self._console.height - _BORDERS)
        for worker in watch.workers[:rows]:
            totals = worker.totals
            table.add_row(
                worker.name,
                str(worker.pid),
                f"{totals['files']:,}",
                f"{totals['lines']:,}",
                f"{totals['functions']:,}",
                size(len(worker.payload)),
                f"{worker.version:,}",
                f"{worker.staleness * 1e3:.0f} ms ago",
            )
        if len(watch.workers) > rows:
            table.caption += f"; {len(watch.workers) - rows} more workers"
        return table


def screen_for(stream: TextIO, plain: bool) -> Screen:
    """The best that ``stream`` can show."""
    if not plain and stream.isatty():
        try:
            return LiveScreen(stream)
        except ImportError:
            pass
    return Screen(stream)
