"""What the leak detector costs a test: ``python benchmarks/plugin.py``.

Runs of pytest with and without the plugin take turns. In each, a plugin of this file times every test from outside, all
phases of it; a run's figure is the median of its tests, and the cost is the median over the rounds of the difference.
Tests that make no segment, and tests that make one and remove it; an ordinary ``/dev/shm``, and one with 20,000
entries more. Takes about two minutes. Exit status 1 if a bar is missed.
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
TESTS = 500
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

times = {}

@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    before = time.perf_counter()
    yield
    times.setdefault(item.originalname, []).append(time.perf_counter() - before)

def pytest_sessionfinish():
    with open(os.environ["BENCHMARK_TIMES"], "w") as file:
        json.dump(times, file)
"""


class Times(NamedTuple):
    """Of one run: microseconds a test, by test function."""

    median: Dict[str, float]
    p99: Dict[str, float]


class Cost(NamedTuple):
    """Of one kind of test, over all rounds, in microseconds."""

    without: float
    added: float
    lowest: float
    highest: float
    p99_added: float


def run(folder: Path, with_plugin: bool) -> Times:
    """One run of pytest over all tests."""
    times = folder / "times.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "timer", "-c", "pytest.ini"]
    command += ["-p", "pytest_shmstate"] if with_plugin else []
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
    measured = json.loads(times.read_text("utf-8"))
    return Times(
        {name: statistics.median(values) * 1e6 for name, values in measured.items()},
        {name: statistics.quantiles(values, n=100)[98] * 1e6 for name, values in measured.items()},
    )


def measure(folder: Path, title: str) -> Dict[str, Cost]:
    """Rounds of both, in turn."""
    pairs = [
        (run(folder, with_plugin=False), run(folder, with_plugin=True))
        for _ in track(range(ROUNDS), description=title, console=Console(stderr=True))
    ]
    costs = {}
    for name in ("test_nothing", "test_segment"):
        added = [with_plugin.median[name] - without.median[name] for without, with_plugin in pairs]
        costs[name] = Cost(
            statistics.median(without.median[name] for without, _ in pairs),
            statistics.median(added),
            min(added),
            max(added),
            statistics.median(with_plugin.p99[name] - without.p99[name] for without, with_plugin in pairs),
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
            row = (place, made, f"{cost.without:.0f}", f"{cost.added:.0f}", spread, f"{cost.p99_added:.0f}", bar)
            table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 130).print(table)
    return f"bar missed: {', '.join(missed)}" if missed else None


if __name__ == "__main__":
    sys.exit(main())
