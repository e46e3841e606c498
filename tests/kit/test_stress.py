"""Stress: structures that are right pass, having met what there is to meet; their twins fail by the rule they break.

SHMSTATE_KIT_SECONDS: how long each run lasts (0.3).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict

import pytest

from pytest_shmstate import recheck
from pytest_shmstate.kit.oracle.history import load
from pytest_shmstate.kit.oracle.verdict import (
    FUTURE,
    INTEGRITY,
    INVERSION,
    NEVER_PUBLISHED,
    OK,
    ORDER,
    STALE,
    UNKNOWN,
    VACUOUS,
    VIOLATED,
)
from pytest_shmstate.kit.seams.adapter import Adapter, ShmstateAdapter
from pytest_shmstate.kit.stress import stress as stressing
from pytest_shmstate.kit.stress.stress import FAILED, LEFT_BEHIND, NO_ANSWER, StressResult, stress
from tests.kit import broken

pytestmark = pytest.mark.concurrent

SECONDS = float(os.environ.get("SHMSTATE_KIT_SECONDS", "0.3"))
METHODS = ("spawn", "fork", "forkserver")


def briefly(adapter: Adapter, folder: Path, **options: Any) -> StressResult:
    """A short run, of processes that start fast."""
    given: Dict[str, Any] = {
        "seconds": SECONDS,
        "operations": int(15_000 * SECONDS),
        "kills": 1,
        "handovers": 0,
        "start_method": "fork",
        "folder": folder,
    }
    return stress(adapter, **{**given, **options})


@pytest.mark.parametrize("method", METHODS)
def test_shmstate_passes_having_met_what_there_is_to_meet(method: str, tmp_path: Path) -> None:
    result = briefly(ShmstateAdapter(), tmp_path, start_method=method, kills=2, handovers=1)

    assert result.verdict.outcome == OK, str(result)
    least = {
        "begun": 1000,
        "publishes": 100,
        "reads": 20,
        "overlaps": 1,
        "moves": 10,
        "writers": 3,
        "readers": 2,
        "attached": 2,
    }
    assert {name: result.met[name] for name in least if result.met[name] < least[name]} == {}, str(result)
    assert (result.met["kills"], result.met["stops"], result.met["resizes"], result.met["handovers"]) == (2, 2, 2, 1)
    assert result.met["at_rest"] > 0, "nobody waits for a writer that stands still"
    assert result.path is None
    assert os.listdir(tmp_path) == []


def test_several_writers_of_shmstate_pass(tmp_path: Path) -> None:
    result = briefly(ShmstateAdapter(shared=True), tmp_path, writers=2, readers=1, handovers=1)

    assert result.verdict.outcome == OK, str(result)
    assert result.met["writers"] >= 3
    assert all(event.rank for event in result.history if event.operation == "publish" and event.ended)


def test_the_ring_that_is_right_passes(tmp_path: Path) -> None:
    result = briefly(broken.Ring(), tmp_path, handovers=1)

    assert result.verdict.outcome == OK, str(result)


TWINS = {
    broken.Torn: {INTEGRITY},
    broken.Backwards: {STALE, INVERSION},
    broken.Forgetful: {STALE, ORDER},
    broken.Hasty: {FUTURE, NEVER_PUBLISHED},  # if it is killed before it comes to what it showed
    broken.Inventive: {NEVER_PUBLISHED},
    broken.Raising: {INTEGRITY},
    broken.Clumsy: {FAILED},
    broken.Deadly: {FAILED},
}


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
def test_each_twin_fails_by_the_rule_that_it_breaks(twin: Any, tmp_path: Path) -> None:
    result = briefly(twin(), tmp_path)

    assert result.verdict.outcome == VIOLATED, str(result)
    assert result.verdict.rule in TWINS[twin], str(result)
    assert result.path == str(tmp_path / "history.jsonl")
    assert f"python -m pytest_shmstate.recheck {result.path}" in str(result)
    assert load(result.path).history == result.history


def test_what_was_saved_is_judged_the_same_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = briefly(broken.Inventive(), tmp_path, seconds=0.1)

    assert recheck.main([str(result.path)]) == 1
    told = capsys.readouterr().out
    assert result.verdict.sentence in told
    assert f"of: title an inventive one, seed {result.seed}, " in told


def test_a_process_that_does_not_answer_is_a_verdict_with_its_stack(tmp_path: Path) -> None:
    result = briefly(broken.Stuck(), tmp_path, seconds=0.1, kills=0, stops=0, patience=0.5)

    assert result.verdict.outcome == VIOLATED
    assert result.verdict.rule == NO_ANSWER
    assert result.verdict.sentence.startswith("reader 1 was to end, and has not within 0.5 s")
    assert 'broken.py", line' in result.stacks
    assert "in read" in str(result)


def test_what_a_structure_leaves_is_a_verdict(tmp_path: Path) -> None:
    result = briefly(broken.Untidy(), tmp_path, seconds=0.1)
    left = [file for file in os.listdir("/dev/shm") if file.startswith("stress-") and file in result.verdict.sentence]
    for file in left:
        os.unlink(f"/dev/shm/{file}")

    assert len(left) == 1
    assert (result.verdict.outcome, result.verdict.rule) == (VIOLATED, LEFT_BEHIND)


def test_a_run_in_which_nothing_was_read_is_no_pass(tmp_path: Path) -> None:
    result = briefly(broken.Empty(), tmp_path, seconds=0.1, patience=2)

    assert (result.verdict.outcome, result.verdict.rule) == (UNKNOWN, VACUOUS)
    assert "reads 0 of 1, overlaps 0 of 1, moves 0 of 1, readers 0 of 2" in result.verdict.sentence
    assert result.met["refusals"] > 0


def test_a_run_ends_when_writers_have_done_their_share(tmp_path: Path) -> None:
    result = briefly(broken.Ring(), tmp_path, seconds=60, operations=400, kills=0, stops=0)

    by_process = [event.process for event in result.history]
    assert result.verdict.outcome in {OK, UNKNOWN}, str(result)  # so short a run need not have met anybody
    assert by_process.count("writer 1.1") == 400
    assert max(map(by_process.count, by_process[-50:])) <= 400
    assert result.met["begun"] >= len(result.history)


def test_nothing_is_published_before_everybody_reads(tmp_path: Path) -> None:
    result = briefly(broken.Ring(), tmp_path, seconds=0.1, operations=100_000)

    first = min(event.began for event in result.history if event.operation == "publish")
    assert {"reader 1", "reader 2"} == {event.process for event in result.history if event.began < first}


def test_what_does_not_survive_a_kill_is_not_killed_unasked(tmp_path: Path) -> None:
    result = briefly(broken.Mortal(), tmp_path, seconds=0.1, kills=None)

    assert result.met["kills"] == 0
    assert result.verdict.outcome == OK, str(result)


@pytest.mark.parametrize(
    ("adapter", "options", "why"),
    [
        (broken.Mortal(), {"kills": 1}, "kills=1, but a mortal one does not survive them"),
        (broken.Ring(), {"resizes": 1}, "resizes=1, but a ring cannot be resized"),
        (broken.Ring(), {"writers": 2}, "writers=2, but a ring has one at a time"),
        (broken.Ring(), {"readers": 0}, "it takes one of each"),
        (broken.Ring(), {"sizes": (8, 64)}, "states have 16 bytes at least"),
        (broken.Ring(), {"sizes": ()}, "sizes is empty"),
        (broken.Ring(), {"stops": -1}, "less than 0 times"),
        (broken.Ring(), {"operations": 0}, "operations=0 is too few"),
        (broken.Ring(), {"start_method": "clone"}, "start_method='clone': spawn, fork, forkserver"),
        (broken.Ring(), {"level": "strong"}, "level='strong' is none of safe, regular, atomic"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    adapter: Adapter, options: Dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stressing, "Workers", None)

    with pytest.raises(ValueError, match="stress of") as caught:
        stress(adapter, **options)
    assert why in str(caught.value)
