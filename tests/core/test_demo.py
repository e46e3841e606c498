"""The demo: real runs on the standard library, ended in every way; and its parts, held against what must not pass."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple, cast

import msgpack
import pytest

from shmstate import OutOfSharedMemory, ShmStateError, StateWriter, WorkerDied, WorkerPool, list_states, reclaim
from shmstate.demo import run as demo_run
from shmstate.demo.census import Census, sources_under, standard_library
from shmstate.demo.report import as_text, differences, latency, summarize
from shmstate.demo.run import Options, left_over, memory_needed, require_room
from shmstate.demo.screen import Screen
from shmstate.demo.signals import Interrupted, Interruptions
from shmstate.demo.watch import WINDOW, Watch
from shmstate.layout import SHM_DIR
from shmstate.query import QueryService
from tests.core.children import ROOT, until

METHODS = ["spawn", "fork", "forkserver"]
INTERRUPTED = f"Interrupted; the workers have ended, nothing was left in {SHM_DIR}.\n"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
#: To run a command with a /dev/shm of its own, of a size.
WITH_SHM = 'mount -t tmpfs -o size="$0" tmpfs /dev/shm && "$@"; status=$?; ls /dev/shm >&2; exit $status'

Demo = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def demo() -> Iterator[Demo]:
    """Starts the demo in a process group of its own; whatever becomes of it, nothing of it may be left."""
    started: List[subprocess.Popen[str]] = []

    def start(*arguments: str, stdout: Any = subprocess.PIPE, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "shmstate", "demo", *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            env={**ENVIRONMENT, **env},
            start_new_session=True,
            text=True,
        )
        started.append(process)
        return process

    yield start

    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert segments_of(process) == []


def segments_of(process: subprocess.Popen[str]) -> List[str]:
    return left_over(f"demo-{process.pid}", [process.pid])


def workers_at(process: subprocess.Popen[str], version: int) -> Dict[str, int]:
    """The pid of each worker that has published ``version`` or more."""
    states = list_states(f"demo-{process.pid}.w")
    return {state.name: state.owner_pid for state in states if state.alive and state.version >= version}


def kill_one(process: subprocess.Popen[str], version: int, but: Tuple[int, ...] = ()) -> int:
    found: List[int] = []

    def one_is_there() -> bool:
        assert process.poll() is None, "over before it could be killed"
        found[:] = [pid for pid in workers_at(process, version).values() if pid not in but]
        return bool(found)

    until(one_is_there)
    os.kill(found[0], signal.SIGKILL)
    return found[0]


def read_until(process: subprocess.Popen[str], text: str) -> None:
    for line in cast("Iterator[str]", process.stdout):
        if text in line:
            return
    raise AssertionError(f"it ended without saying {text!r}: {process.communicate()[1]}")


# Whole runs.


@pytest.fixture(scope="module", params=METHODS)
def report(request: pytest.FixtureRequest) -> Dict[str, Any]:
    """What a whole run on 40 files reports to programs."""
    arguments = ["--files", "40", "--workers", "2", "--json", "--start-method", request.param]
    command = [sys.executable, "-m", "shmstate", "demo", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False)
    said: Dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, said["held"]) == (0, True)
    return said


def test_what_the_workers_counted_is_what_one_process_counts(report: Dict[str, Any]) -> None:
    alone = Census(standard_library())
    for path in sources_under(standard_library(), 40):
        alone.handle(path)

    assert report["totals"] == alone.state()["totals"]


def test_states_are_read_whole_while_they_grow(report: Dict[str, Any]) -> None:
    assert (report["failures"], report["torn"], report["left_in_shm"]) == ([], 0, [])
    assert report["growths"] > 0
    assert report["smallest_state"] < 200
    assert report["largest_state"] > 10_000


def test_every_read_is_timed(report: Dict[str, Any]) -> None:
    snapshot = report["snapshot"]

    assert snapshot["times"] + report["query"]["times"] == report["reads"] > 0
    assert 0 < snapshot["p50"] <= snapshot["p99"] <= snapshot["max"]


def test_what_it_says_it_needs_is_at_least_what_it_takes(report: Dict[str, Any]) -> None:
    files = sources_under(standard_library(), 40)

    needed = memory_needed(standard_library(), files, 2)

    assert 2 * 4 * report["largest_state"] <= needed < memory_needed(standard_library(), files, 4)


def test_the_report_is_one_screen_of_text(demo: Demo) -> None:
    out, err = demo("--files", "40", "--workers", "2").communicate()

    report = out[out.index("  counted") :]
    assert err == ""
    assert report.endswith("All of it held.\n")
    assert "nothing in /dev/shm" in report
    assert len(report.splitlines()) <= 24
    assert max(map(len, report.splitlines())) <= 100


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_totals_still_match_when_workers_are_killed_in_the_middle(demo: Demo, method: str) -> None:
    process = demo("--files", "60", "--workers", "2", "--json", "--start-method", method)

    first = kill_one(process, version=2)
    second = kill_one(process, version=3, but=(first,))
    out, _ = process.communicate()

    report = json.loads(out)
    assert process.returncode == 0
    assert report["held"]
    assert report["totals"]["files"] == 60
    assert report["restarts"] == 2
    assert {death["pid"] for death in report["deaths"]} <= {first, second}
    assert sum(death["sent_again"] for death in report["deaths"]) > 0


# Interrupted runs.


@pytest.mark.parametrize(
    ("method", "moment", "signum", "to_group"),
    [
        ("spawn", "workers (", signal.SIGINT, True),
        ("fork", "workers (", signal.SIGINT, True),
        ("spawn", " of ", signal.SIGINT, True),
        ("spawn", "counting again", signal.SIGINT, True),
        ("spawn", "workers (", signal.SIGTERM, False),
        ("fork", " of ", signal.SIGTERM, False),
        ("forkserver", " of ", signal.SIGTERM, True),
    ],
)
def test_a_signal_ends_it_quickly_with_one_line_and_nothing_left(
    demo: Demo, method: str, moment: str, signum: int, to_group: bool
) -> None:
    files = "60" if "again" in moment else "800"
    process = demo("--files", files, "--workers", "2", "--start-method", method)
    read_until(process, "workers (")
    if moment != "workers (":
        read_until(process, moment)

    sent = time.monotonic()
    (os.killpg if to_group else os.kill)(process.pid, signum)
    _, err = process.communicate()

    assert process.returncode == 128 + signum
    assert err == INTERRUPTED
    assert segments_of(process) == []
    assert time.monotonic() - sent < 10  # seconds; far less on a machine at rest


@pytest.mark.parametrize("method", METHODS)
def test_workers_whose_demo_is_killed_end_and_leave_nothing(demo: Demo, method: str) -> None:
    process = demo("--files", "800", "--workers", "2", "--start-method", method)
    until(lambda: len(workers_at(process, version=2)) == 2)

    process.kill()
    _, err = process.communicate()  # its workers hold stderr too: this waits for them

    until(lambda: segments_of(process) == [])
    assert err == ""


def interrupted_there(*args: Any, cancelled: Callable[[], bool], **kwargs: Any) -> None:
    """Stands where workers are started: a signal comes."""
    assert not cancelled()
    signal.raise_signal(signal.SIGINT)
    assert cancelled()
    raise WorkerDied("it was cancelled")


def test_a_start_that_takes_long_is_cut_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_run, "WorkerPool", interrupted_there)

    assert demo_run.demonstrate(Options(workers=1, files=1)) == 130
    assert capsys.readouterr().err == INTERRUPTED


def test_the_count_in_one_process_is_cut_short(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Interruptions() as interruptions:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            demo_run._count_alone(str(tmp_path), ["a.py", "b.py"], Screen(sys.stdout), interruptions)

    assert capsys.readouterr().out == ""


def test_what_workers_leave_that_end_a_little_later_is_waited_for(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = StateWriter(f"{prefix}.w1")
    looks: List[str] = []

    def reclaim_and_then_end_the_worker(prefix: str) -> List[str]:
        removed = reclaim(prefix)
        looks.append(prefix)
        writer.close(unlink=False)
        return removed

    monkeypatch.setattr(demo_run, "reclaim", reclaim_and_then_end_the_worker)

    assert demo_run._clean_up(prefix) == []
    assert looks == [f"{prefix}."] * 2


def test_what_does_not_go_away_is_named(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_run, "CLEAN_UP_TIMEOUT", 0.05)
    with StateWriter(f"{prefix}.w1"):
        assert demo_run._clean_up(prefix) == [f"shmstate.{prefix}.w1"]


# Little memory.


def with_shm(size: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo with a /dev/shm of ``size``; what is left there comes last on stderr."""
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=False).returncode:
        pytest.skip("mounting a small /dev/shm takes root, and a kernel that lets it")
    command = ["unshare", "-m", "sh", "-c", WITH_SHM, size, sys.executable, "-m", "shmstate", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)


def test_it_works_with_64_mb_of_shared_memory() -> None:
    done = with_shm("64m", "--files", "20", "--workers", "2")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("All of it held.\n")


def test_with_too_little_shared_memory_it_says_what_it_needs_and_what_is_there() -> None:
    done = with_shm("256k", "--files", "100")

    assert done.returncode == 1
    assert re.fullmatch(
        r"shmstate: .* needs \d+ more bytes in /dev/shm, which has 258048 free of 262144 \(No space left on device\);"
        r" .* The demo's states take up to [\d.]+ MB in /dev/shm; fewer --files or --workers take less\n",
        done.stderr,
    )


def test_room_for_the_states_counts_what_they_have_already(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with StateWriter(f"{prefix}.w1", codec="raw") as writer:
        writer.publish_bytes(bytes(50_000))

        require_room(prefix, 40_000)  # there already, so nothing is tried
        monkeypatch.setattr(demo_run, "StateWriter", full)
        require_room(prefix, 40_000)
        with pytest.raises(OutOfSharedMemory, match=r"full\. The demo's states take up to 80 KB"):
            require_room(prefix, 80_000)


def full(*args: Any, **kwargs: Any) -> Any:
    raise OutOfSharedMemory("full")


# What is seen meanwhile.


def on_a_terminal(demo: Demo, **env: str) -> str:
    """All that the demo writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    process = demo("--files", "20", "--workers", "2", stdout=theirs, COLUMNS="100", LINES="30", TERM="xterm", **env)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while select.select([ours], [], [], 60)[0]:
            seen += os.read(ours, 65536)
    os.close(ours)
    assert process.wait() == 0
    return seen.decode()


def test_on_a_terminal_a_table_is_redrawn_while_it_runs(demo: Demo) -> None:
    pytest.importorskip("rich")

    seen = on_a_terminal(demo)

    assert "worker" in seen
    assert "as of" in seen
    assert seen.rstrip().endswith("All of it held.")


def test_without_rich_a_terminal_gets_plain_lines(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('not installed')")

    seen = on_a_terminal(demo, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))

    assert "as of" not in seen
    assert " of 20 files, states up to " in seen
    assert seen.rstrip().endswith("All of it held.")


# The watch, with a pool that is played by the test.


class PlayedPool:
    """A pool of one worker, whose states the test publishes and whose deaths it declares."""

    def __init__(self, fleet: str, writer: StateWriter) -> None:
        self.fleet = fleet
        self.pids = {"w1": 101}
        self.restarted = {"w1": 0}
        self.sent: List[str] = []
        self._writer = writer
        self._service = QueryService(fleet)
        self.query = self._service.query
        self.asked = 0

    def send(self, worker: str, message: str) -> None:
        self.sent.append(message)

    def ask(self, worker: str, timeout: float) -> None:
        self.asked += 1

    def publish(self, census: Census) -> None:
        self._writer.publish(census.state())

    def die(self) -> None:
        self.restarted["w1"] += 1
        self.pids["w1"] += 1

    def close(self) -> None:
        self._service.close()
        self._writer.close()


@pytest.fixture
def sources(tmp_path: Path) -> List[str]:
    paths = [f"m{number:02}.py" for number in range(20)]
    for path in paths:
        (tmp_path / path).write_text(f"x = {path!r}\n")
    return paths


@pytest.fixture
def census(tmp_path: Path) -> Census:
    return Census(str(tmp_path))


@pytest.fixture
def pool(prefix: str, census: Census) -> Iterator[PlayedPool]:
    played = PlayedPool(prefix, StateWriter(f"{prefix}.w1"))
    played.publish(census)
    yield played
    played.close()


@pytest.fixture
def watch(pool: PlayedPool, sources: List[str]) -> Iterator[Watch]:
    watch = Watch(cast("WorkerPool", pool), sources)
    yield watch
    watch.close()


def test_a_worker_is_handed_a_few_files_and_more_when_its_state_has_some(
    watch: Watch, pool: PlayedPool, census: Census, sources: List[str]
) -> None:
    watch.step()
    assert pool.sent == sources[:WINDOW]

    census.handle(sources[0])
    census.handle(sources[1])
    pool.publish(census)
    watch.step()

    assert pool.sent == sources[: WINDOW + 2]


def test_it_is_done_when_every_file_is_in_a_state(
    watch: Watch, pool: PlayedPool, census: Census, sources: List[str]
) -> None:
    while not watch.done:
        watch.step()
        assert len(census.state()["modules"]) <= len(sources)
        for path in pool.sent:
            census.handle(path)
        pool.publish(census)

    assert watch.counted == len(sources)
    assert pool.sent == sources


def test_after_a_death_exactly_the_files_that_the_state_lacks_are_sent_again(
    watch: Watch, pool: PlayedPool, census: Census, sources: List[str]
) -> None:
    watch.step()
    for path in sources[:3]:
        census.handle(path)
    pool.publish(census)
    pool.sent.clear()

    pool.die()
    watch.step()

    lacking = sources[3:WINDOW]
    assert pool.sent == [*lacking, *sources[WINDOW : WINDOW + 3]]
    assert [tuple(death) for death in watch.deaths] == [("w1", 101, len(lacking))]
    assert watch.pids == {101, 102}


def test_a_second_death_sends_again_what_the_first_had_sent(watch: Watch, pool: PlayedPool, sources: List[str]) -> None:
    watch.step()
    for pid in (101, 102):
        pool.sent.clear()
        pool.die()
        watch.step()
        assert pool.sent == sources[:WINDOW]
        assert watch.deaths[-1].pid == pid


def test_a_state_that_fails_its_check_is_counted_as_torn_and_not_believed(
    watch: Watch, pool: PlayedPool, census: Census, sources: List[str]
) -> None:
    watch.step()
    census.handle(sources[0])
    spoilt = census.state()
    spoilt["names"]["x"] += 1

    pool._writer.publish(spoilt)
    watch.step()

    assert len(watch.torn) == 2  # the snapshot's bytes (the same ten times), and the query
    assert watch.counted == 0


def test_bytes_that_do_not_decode_are_counted_as_torn(watch: Watch, pool: PlayedPool, census: Census) -> None:
    pool._writer.publish_bytes(msgpack.packb(census.state())[:-1])

    watch.step()

    assert len(watch.torn) == 2


def test_growth_is_counted_only_past_the_largest_state_ever(
    watch: Watch, pool: PlayedPool, census: Census, sources: List[str]
) -> None:
    small = Census(census._root)
    watch.step()
    census.handle(sources[0])
    pool.publish(census)
    watch.step()
    pool.publish(small)
    watch.step()
    pool.publish(census)
    watch.step()

    assert watch.growths == 1
    assert 0 < watch.smallest < watch.largest


def test_a_busy_worker_is_asked_over_its_pipe_now_and_then(watch: Watch, pool: PlayedPool) -> None:
    watch.step()
    until(lambda: watch.step() is None and pool.asked > 1)

    assert len(watch.ask_ns) == pool.asked


def test_a_worker_that_gives_no_sign_of_life_is_named_and_then_given_up(
    watch: Watch, pool: PlayedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmstate.demo.watch.STALE", 0.05)

    until(lambda: watch.step() is watch.workers[0])

    monkeypatch.setattr("shmstate.demo.watch.STALLED", 0.1)
    with pytest.raises(ShmStateError, match="no sign of life"):
        until(lambda: watch.step() and False)


def test_a_worker_that_was_slow_and_speaks_again_is_not_given_up(
    watch: Watch, pool: PlayedPool, census: Census, sources: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmstate.demo.watch.STALE", 0.05)
    worker = watch.workers[0]
    until(lambda: watch.step() is worker)

    census.handle(sources[0])
    pool.publish(census)

    assert watch.step() is None
    assert worker.stale_since is None  # so the next silence counts from its own beginning


def test_the_watch_is_cut_short_by_a_signal(
    pool: PlayedPool, sources: List[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for limit in ("STALE", "STALLED"):  # or it would wait for the played worker
        monkeypatch.setattr(f"shmstate.demo.watch.{limit}", 0.05)
    with Interruptions() as interruptions:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            demo_run._watch(cast("WorkerPool", pool), sources, 0, Screen(sys.stdout), interruptions)

    assert (capsys.readouterr().out, pool.sent) == ("", [])


# The report.


def report_of(watch: Watch, whole: Dict[str, Any], alone: Dict[str, Any], left: List[str]) -> Any:
    return summarize(watch, whole, alone, left, (1.0, 1.0), python="3", start_method="spawn")


def test_what_held_is_said_to_have_held(watch: Watch, census: Census) -> None:
    watch.step()

    report = report_of(watch, census.state(), census.state(), [])

    assert report.held
    assert as_text(report).endswith("All of it held.")
    assert "counts the same" in as_text(report)


def test_a_torn_read_a_leftover_and_a_wrong_total_each_fail_the_report(
    watch: Watch, census: Census, sources: List[str]
) -> None:
    watch.step()
    empty = census.state()
    census.handle(sources[0])
    wrong = report_of(watch, census.state(), empty, [])
    left = report_of(watch, empty, empty, ["shmstate.x"])
    watch.torn.append("w1: torn")
    torn = report_of(watch, empty, empty, [])

    for report, text in ((wrong, "does NOT count the same"), (left, "shmstate.x is left"), (torn, "a read was torn")):
        assert not report.held
        assert "FAILED: " in as_text(report)
        assert text in as_text(report)


def test_a_difference_in_any_part_is_found(tmp_path: Path, sources: List[str]) -> None:
    census = Census(str(tmp_path))
    census.handle(sources[0])
    state = census.state()

    found = {part: differences({**state, part: {**state[part], "extra": 1}}, state) for part in list(state)[:4]}

    assert {part: len(sentences) for part, sentences in found.items()} == dict.fromkeys(found, 1)
    assert differences(state, state) == []


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    microseconds = [1000 * n for n in range(1, 201)]

    assert latency(microseconds) == (200, 100.0, 198.0, 200.0)
    assert latency([7000]) == (1, 7.0, 7.0, 7.0)
    assert latency([]) == (0, 0.0, 0.0, 0.0)


def test_only_its_own_segments_count_as_left_behind(prefix: str) -> None:
    with StateWriter(f"{prefix}.w1") as _, StateWriter(f"{prefix}x.w1") as _:
        assert left_over(prefix, []) == [f"shmstate.{prefix}.w1"]


# Signals.


def test_a_signal_is_noted_and_raised_when_asked_for() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruptions() as interruptions:
        interruptions.check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted) as raised:
            interruptions.check()

    assert raised.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is before


def test_the_first_of_two_signals_counts() -> None:
    with Interruptions() as interruptions:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    assert interruptions.seen == signal.SIGTERM


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruptions() as interruptions:
            signal.raise_signal(signal.SIGINT)
            interruptions.check()
    finally:
        signal.signal(signal.SIGINT, before)
