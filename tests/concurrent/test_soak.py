"""The chaos soak of shared writers that move: a short one every time, ten minutes of it in a thorough run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, Set

import pytest

from tests.concurrent.soak_books import Fault, Log, certified, judge, payload_of

pytestmark = pytest.mark.concurrent
PREFIX = f"test-soak-{os.getpid()}"


def soak(seconds: int, seed: int) -> Dict[str, int]:
    """What a run did. It fails at its first fault, and so does this."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.concurrent.soak", "--seconds", str(seconds), "--seed", str(seed)],
        cwd=str(Path(__file__).parents[2]),
        env={**os.environ, "SHMSTATE_TEST_PREFIX": PREFIX},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout
    assert [file for file in os.listdir("/dev/shm") if PREFIX in file] == []
    table = [line.split(None, 1) for line in ended.stdout.splitlines() if line.startswith("  ")]
    return {what: int(count.replace(",", "")) for count, what in table if count.replace(",", "").isdigit()}


def assert_all_of_it_happened(seen: Dict[str, int], least: int) -> None:
    for what in (
        "kills",
        "stops",
        "publishes",
        "reads",
        "moves: growth",
        "moves: trim",
        "moves: followed",
        "joins",
        "closes",
    ):
        assert seen[what] >= least, what


@pytest.mark.timeout(200)
def test_shared_writers_that_move_lose_tear_and_leave_nothing() -> None:
    assert_all_of_it_happened(soak(6, 1), 5)


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_shared_writers_that_move_lose_tear_and_leave_nothing_for_ten_minutes() -> None:
    assert_all_of_it_happened(soak(600, 2), 300)


# What it must find.


def logged(folder: Path, **logs: object) -> Set[int]:
    for file, records in logs.items():
        kind, number = file.split("_")
        log = Log(str(folder), kind, int(number))
        for record in records:  # type: ignore[attr-defined]
            log.add(*record)
    return judge(str(folder), cut_short=1)


def test_logs_that_agree_are_taken(tmp_path: Path) -> None:
    published = [(7, version, version, 1, version, 40) for version in (1, 2, 4)]
    seen = [(7, 2, 2, 1, 2, 40), (7, 1, 4, 1, 2, 40), (7, 3, 3, 2, 9, 40)]

    assert logged(tmp_path, published_1=published, seen_1=seen) == {7}


@pytest.mark.parametrize(
    ("seen", "fault"),
    [
        ([(7, 2, 2, 9, 9, 40)], "given to two payloads"),
        ([(7, 4, 4, 1, 2, 40)], "has two versions"),
        ([(8, 1, 1, 1, 1, 40)], "has two versions"),
        ([(7, 2, 3, 1, 1, 40)], "was read, and is version"),
        ([(7, 5, 5, 2, 1, 40)], "1 versions were seen and not logged, 1 neither seen nor logged"),
        ([(7, 2, 3, 2, 1, 40), (7, 2, 3, 2, 2, 40)], "2 payloads have no version"),
    ],
)
def test_logs_that_contradict_each_other_are_a_fault(tmp_path: Path, seen: object, fault: str) -> None:
    published = [(7, version, version, 1, version, 40) for version in (1, 2, 3)]

    with pytest.raises(Fault, match=fault):
        logged(tmp_path, published_1=published, seen_1=seen)


def test_a_version_that_two_publishes_returned_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="returned by two publishes"):
        logged(tmp_path, published_1=[(7, 1, 1, 1, 1, 40)], published_2=[(7, 1, 1, 2, 1, 40)])


def test_a_payload_of_two_publishes_is_a_fault() -> None:
    one, other = payload_of(3, 7, 4000), payload_of(3, 8, 4000)
    assert certified(one) == (3, 7, 4000)
    for torn in (other[:24] + one[24:], one[:24] + other[24:], one[:3992] + other[3992:], one[:-1], bytes(4000), b""):
        with pytest.raises(Fault, match="torn"):
            certified(torn)
