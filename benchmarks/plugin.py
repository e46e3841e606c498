"""What the leak detector costs a test: ``python benchmarks/plugin.py``.

In a run of pytest, tests run by fifties with the plugin's hooks and without them, in turn, so that both see the same
machine; a plugin of this file puts the hooks in and takes them out, and times every test from outside, all its phases.
The first ten of each fifty are for warming up. A run's figures are the medians and 99th percentiles of both kinds, and
what is told is the median over the runs.
Tests that make no segment, and tests that make one and remove it; an ordinary ``/dev/shm``, and one with 20,000
entries more. Takes three minutes. Exit status 1 if a bar is missed.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
TESTS = 2000
ROUNDS = 7
ENTRIES = 20_000
#: Microseconds a test that makes no segment may cost, however much is in /dev/shm.
BAR = 100.0

TEST_FILE = """
from multiprocessing.shared_memory import SharedMemory
import pytest

@pytest.mark.parametrize("n", range({tests}))
def test_nothing(n):
    pass

@pytest.mark.parametrize("n", range({tests}))
def test_segment(n):
    segment = SharedMemory(create=True, size=4096)
    segment.close()
    segment.unlink()
"""

TIMER = """
import json, os, time
import pytest
from pytest_shmstate.plugin import NAME

BLOCK, WARM_UP = 50, 10
times, counts = {}, {}

@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    plugins, name = item.config.pluginmanager, item.originalname
    number = counts[name] = counts.get(name, -1) + 1
    block, place = divmod(number, BLOCK)
    if place == 0:
        wiring = plugins.unregister(name=NAME) or wirings[0]
        wirings[:] = [wiring]
        if block % 2:
            plugins.register(wiring, NAME)
    before = time.perf_counter()
    yield
    took = time.perf_counter() - before
    if place >= WARM_UP:
        times.setdefault(name, ([], []))[block % 2].append(took)

wirings = []

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if not session.config.pluginmanager.has_plugin(NAME):
        session.config.pluginmanager.register(wirings[0], NAME)
    with open(os.environ["BENCHMARK_TIMES"], "w") as file:
        json.dump(times, file)
"""


class Times(NamedTuple):
    """Of one kind of test in one run, in microseconds."""

    without: float
    added: float
    added_at_p99: float


class Cost(NamedTuple):
    """Of one kind of test, over all rounds, in microseconds."""

    without: float
    added: float
    lowest: float
    highest: float
    added_at_p99: float


def run(folder: Path) -> Dict[str, Times]:
    """One run of pytest over all tests, by test function."""
    times = folder / "times.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pytest.ini"]
    command += ["-p", "pytest_shmstate", "-p", "timer"]
    environment = {**os.environ, "BENCHMARK_TIMES": str(times), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    ended = subprocess.run(
        command,
        cwd=str(folder),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ended.returncode:
        sys.exit(f"pytest ended with {ended.returncode}:\n{ended.stdout}")
    found = {}
    for name, (without, with_plugin) in json.loads(times.read_text("utf-8")).items():
        median, p99 = statistics.median(without), statistics.quantiles(without, n=100)[98]
        added = statistics.median(with_plugin) - median
        added_at_p99 = statistics.quantiles(with_plugin, n=100)[98] - p99
        found[name] = Times(median * 1e6, added * 1e6, added_at_p99 * 1e6)
    return found


def measure(folder: Path, title: str) -> Dict[str, Cost]:
    """So many runs."""
    runs = [run(folder) for _ in track(range(ROUNDS), description=title, console=Console(stderr=True))]
    costs = {}
    for name in ("test_nothing", "test_segment"):
        rounds = [one[name] for one in runs]
        costs[name] = Cost(
            statistics.median(one.without for one in rounds),
            statistics.median(one.added for one in rounds),
            min(one.added for one in rounds),
            max(one.added for one in rounds),
            statistics.median(one.added_at_p99 for one in rounds),
        )
    return costs


@contextmanager
def many_entries(count: int) -> Iterator[None]:
    """So many files of somebody else's in /dev/shm; they are removed afterwards."""
    prefix = f"/dev/shm/benchmark-{secrets.token_hex(4)}-"
    made: List[str] = []
    try:
        for number in range(count):
            os.close(os.open(f"{prefix}{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            made.append(f"{prefix}{number}")
        yield
    finally:
        for path in made:
            os.unlink(path)


def main() -> Optional[str]:
    """Measure and print; what to exit with."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        (folder / "timer.py").write_text(TIMER, encoding="utf-8")
        (folder / "test_it.py").write_text(TEST_FILE.format(tests=TESTS), encoding="utf-8")
        measured = {"as it is": measure(folder, "as it is")}
        with many_entries(ENTRIES):
            title = f"{ENTRIES:,} entries more"
            measured[title] = measure(folder, title)
    table = Table(
        title=f"Python {platform.python_version()}, {TESTS} tests a run, {ROUNDS} rounds, microseconds a test"
    )
    for heading in (
        "/dev/shm",
        "the test makes",
        "without",
        "added (median)",
        "lowest - highest",
        "added at p99",
        "bar",
    ):
        table.add_column(heading)
    missed = []
    for place, costs in measured.items():
        for name, made in (("test_nothing", "nothing"), ("test_segment", "a segment, and removes it")):
            cost = costs[name]
            bar = f"< {BAR:g}" if made == "nothing" else ""
            if bar and cost.added >= BAR:
                missed.append(f"{place}: {cost.added:.0f} us")
            spread = f"{cost.lowest:.0f} - {cost.highest:.0f}"
            row = (place, made, f"{cost.without:.0f}", f"{cost.added:.0f}", spread, f"{cost.added_at_p99:.0f}", bar)
            table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 130).print(table)
    return f"bar missed: {', '.join(missed)}" if missed else None


if __name__ == "__main__":
    sys.exit(main())
