"""Real processes at full speed: torn reads, growth, kills, start methods, many states."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from pytest_shmstate.kit.oracle.payload import payload_of, whole

pytestmark = [pytest.mark.concurrent, pytest.mark.timeout(300)]

METHODS = ("spawn", "fork", "forkserver")


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run a scenario; assert that its process tree said nothing on standard error and left nothing in /dev/shm."""
    prefix = f"test{os.getpid()}-{abs(hash(request.node.nodeid)) % 10**8}"
    root = Path(__file__).parents[2]

    def run_scenario(*words: object) -> Dict[str, Any]:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.concurrent.scenarios", *map(str, words)],
            cwd=str(root),
            env={**os.environ, "SHMSTATE_TEST_PREFIX": prefix},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert ended.stderr == ""
        assert ended.returncode == 0
        report: Dict[str, Any] = json.loads(ended.stdout)
        return report

    yield run_scenario
    assert [file for file in os.listdir("/dev/shm") if prefix in file] == []


def assert_readers_saw_only_whole_states(report: Dict[str, Any], readers: int, reads: int, moves: int) -> None:
    assert len(report["readers"]) == readers
    assert set(report["exits"]) == {0}
    for seen in report["readers"]:
        assert seen["torn"] == 0
        assert seen["backwards"] == 0
        assert seen["reads"] >= reads
        assert seen["moves"] >= moves  # otherwise the reader never met the writer, and nothing was tested


@pytest.mark.parametrize("method", METHODS)
def test_two_writers_and_three_readers_under_each_start_method(run: Any, method: str) -> None:
    report = run("race", method, 2, 3, 4, 2000, 50, "16,500,20000")

    assert_readers_saw_only_whole_states(report, readers=3, reads=2000, moves=50)


@pytest.mark.parametrize("slots", [2, 3, 4])
@pytest.mark.parametrize(("sizes", "reads"), [("64", 20_000), ("3000,70000", 6_000)])
def test_readers_of_a_writer_that_never_rests_see_whole_states_in_order(
    run: Any, slots: int, sizes: str, reads: int
) -> None:
    report = run("race", "fork", 1, 1, slots, reads, 100, sizes)

    assert_readers_saw_only_whole_states(report, readers=1, reads=reads, moves=100)


@pytest.mark.parametrize("method", METHODS)
def test_states_that_are_said_to_be_of_one_instant_are(run: Any, method: str) -> None:
    seen = run("together", method, 3, 3000, 20)

    assert (seen["wrong"], seen["exit"]) == (0, 0)
    assert seen["together"] >= 3000
    assert seen["again"] >= 20  # otherwise the writer was never met, and nothing was shown


def test_a_state_grows_from_100_bytes_to_10_megabytes_under_readers(run: Any) -> None:
    report = run("growth", "spawn", 2, 10_000_000)

    assert_readers_saw_only_whole_states(report, readers=2, reads=200, moves=20)
    for seen in report["readers"]:
        assert seen["largest"] == 10_000_000
        assert seen["sizes"] >= 10


def test_a_writer_killed_200_times_leaves_the_last_whole_state_to_its_readers_and_successors(run: Any) -> None:
    seen = run("kills", "fork", 200, 1)

    assert seen["kills"] == 200
    assert (seen["torn"], seen["backwards"], seen["undead"]) == (0, 0, 0)
    assert seen["moves"] >= 200
    assert seen["mid_publish"] > 0  # some kills hit a publish between its first store and its last


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_writers_of_other_start_methods_die_as_cleanly(run: Any, method: str) -> None:
    seen = run("kills", method, 10, 2)

    assert seen["kills"] == 10
    assert (seen["torn"], seen["backwards"], seen["undead"]) == (0, 0, 0)


def test_writers_killed_while_they_start_leave_nothing_that_reclaim_does_not_remove(run: Any) -> None:
    seen = run("kills_at_birth", "fork", 60, 3)

    assert seen["kills"] == 60
    assert 0 < seen["born"] < 60  # kills fell before and after the name appeared
    assert seen["corrupt"] == 0
    assert seen["drafts_left"] == 0


def test_a_thousand_states_at_once_fit_4096_descriptors(run: Any) -> None:
    seen = run("thousand", 1000, 4096)

    assert seen["whole"] == 1000
    assert seen["alive"] == 1000
    assert seen["most_memory"] <= 24 * 1024
    assert seen["descriptors_a_writer"] <= 1
    assert seen["descriptors_a_reader"] <= 1


def test_500_writers_with_a_reader_each_fit_the_usual_limit_of_1024_descriptors(run: Any) -> None:
    seen = run("thousand", 500, 1024)

    assert seen["whole"] == 500


def torn_copies() -> List[bytes]:
    old, new = payload_of(7, 4000), payload_of(11, 4000)
    return [new[:at] + old[at:] for at in (1, 8, 16, 17, 2000, 3999)] + [old[:-1], old + b"x", b"\0" * 4000]


@pytest.mark.parametrize("torn", torn_copies())
def test_a_torn_state_cannot_pass_for_a_whole_one(torn: bytes) -> None:
    assert not whole(torn, 7)
    assert not whole(torn, 11)
    assert whole(payload_of(7, 4000), 7)
