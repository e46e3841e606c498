"""What the leak detector costs a test.

In a run of pytest, tests run by fifties with the plugin's hooks and without them, in turn, so that both see the same
machine; a plugin of this file puts the hooks in and takes them out, and times every test from outside, all its phases.
The first ten of each fifty are for warming up. Tests that make no segment, and tests that make one and remove it; an
ordinary ``/dev/shm``, and one with many entries more, in turn.

    {"tests": a kind and run, "runs": of each place, "entries": how many more, "places": {"as_is": KINDS, "many": KINDS},
     "bar": {"added_us_nothing": .., "added_us_nothing_many_entries": .., "entries": .., "bar_us": ..}}
    KINDS: {"nothing": COST, "segment": COST}
    COST:  {"without": summary, "with": summary, "added": {"median": of the runs, "low": .., "high": ..}}
    or     {"missing": why}
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from benchmarks.harness import Effort, Tell, summary

ROOT = Path(__file__).resolve().parents[2]
#: Microseconds a test that makes no segment may cost, however much is in /dev/shm.
BAR = 100.0

_NEEDED = ("pytest", "psutil")
_KINDS = ("nothing", "segment")
_PLACES = ("as_is", "many")

_TEST_FILE = """
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

_TIMER = """
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
        times.setdefault(name[len("test_"):], ([], []))[block % 2].append(took * 1e6)

wirings = []

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if not session.config.pluginmanager.has_plugin(NAME):
        session.config.pluginmanager.register(wirings[0], NAME)
    with open(os.environ["BENCHMARK_TIMES"], "w") as file:
        json.dump(times, file)
"""

#: Of one kind of test in one run: microseconds of each without the plugin, and with it.
_Times = Tuple[List[float], List[float]]


def steps(effort: Effort) -> int:
    """How often it tells what it does."""
    return len(_PLACES) * _runs(effort)


def _runs(effort: Effort) -> int:
    return effort.of(7, 3)


def measure(effort: Effort, tell: Tell) -> Dict[str, Any]:
    """The costs; or what is missing to measure them."""
    lacking = [name for name in _NEEDED if find_spec(name) is None]
    if lacking:
        return {"missing": f"{' and '.join(lacking)}: not installed"}
    tests, entries, runs = effort.of(2000, 400), effort.of(20_000, 5000), _runs(effort)
    taken: Dict[str, List[Dict[str, _Times]]] = {place: [] for place in _PLACES}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        (folder / "timer.py").write_text(_TIMER, encoding="utf-8")
        (folder / "test_it.py").write_text(_TEST_FILE.format(tests=tests), encoding="utf-8")
        for number in range(len(_PLACES) * runs):
            place = _PLACES[(number + number // 2) % 2]  # in turn, and who begins changes every time
            tell(
                f"{tests * 2:,} tests, /dev/shm {'as it is' if place == 'as_is' else f'with {entries:,} entries more'}"
            )
            with ExitStack() as stack:
                if place == "many":
                    stack.enter_context(_more_entries(entries))
                taken[place].append(_run(folder))
    places = {place: {kind: _cost([run[kind] for run in taken[place]]) for kind in _KINDS} for place in _PLACES}
    bar = {
        "added_us_nothing": places["as_is"]["nothing"]["added"]["median"],
        "added_us_nothing_many_entries": places["many"]["nothing"]["added"]["median"],
        "entries": entries,
        "bar_us": BAR,
    }
    return {"tests": tests, "runs": runs, "entries": entries, "places": places, "bar": bar}


def _cost(runs: Sequence[_Times]) -> Dict[str, Any]:
    added = sorted(statistics.median(with_it) - statistics.median(without) for without, with_it in runs)
    told = {"median": statistics.median(added), "low": added[0], "high": added[-1]}
    return {
        "without": summary([took for without, _ in runs for took in without]),
        "with": summary([took for _, with_it in runs for took in with_it]),
        "added": {name: round(value, 3) for name, value in told.items()},
    }


def _run(folder: Path) -> Dict[str, _Times]:
    """One run of pytest over all tests, by what they make."""
    times = folder / "times.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pytest.ini"]
    command += ["-p", "pytest_shmstate", "-p", "timer"]
    environment = {**os.environ, "BENCHMARK_TIMES": str(times), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    with (folder / "printed").open("w+", encoding="utf-8") as printed:
        started = subprocess.Popen(
            command, cwd=str(folder), env=environment, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
        )
        with _ended(started):
            status = started.wait()
        printed.seek(0)
        if status:
            raise RuntimeError(f"pytest ended with {status}:\n{printed.read()}")
    found: Dict[str, _Times] = json.loads(times.read_text("utf-8"))
    return found


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens, it ends: as after Ctrl-C, so that it removes what it made."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _more_entries(count: int) -> Iterator[None]:
    """So many files of somebody else's in /dev/shm; they are removed afterwards."""
    prefix = f"/dev/shm/benchmark-{os.getpid()}-{secrets.token_hex(4)}-"
    made: List[str] = []
    try:
        for number in range(count):
            made.append(f"{prefix}{number}")
            os.close(os.open(made[-1], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        yield
    finally:
        for path in made:
            with suppress(FileNotFoundError):
                os.unlink(path)
