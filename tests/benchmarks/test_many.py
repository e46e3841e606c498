"""Experiment 4: what many states and workers take, and that none of them stays."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

import shmstate
from benchmarks.account import shared_memory
from benchmarks.fleets import KINDS
from benchmarks.harness import Effort
from benchmarks.parts import many
from benchmarks.sections.many import section
from shmstate.layout import SHM_DIR
from tests.core.children import until

ROOT = Path(__file__).resolve().parents[2]
TINY = many.Plan(states=(3, 12), workers=4, questions=20, rounds=2, fleets=1, workers_of_each=2)
PAGE = os.sysconf("SC_PAGE_SIZE")

#: A main program with a fleet, which it keeps until somebody ends it.
KEEPER = """
import signal, sys
from benchmarks.fleets import Fleet
from benchmarks.remote import Remote

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Remote(Fleet, sys.argv[1], sys.argv[2]) as fleet:
        fleet.call("start", 8)
        print(fleet.pid, flush=True)
        signal.pause()
"""


@pytest.fixture(scope="module")
def told() -> List[str]:
    return []


@pytest.fixture(scope="module")
def measured(told: List[str]) -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads(json.dumps(many.run(TINY, told.append)))
    return found


@pytest.mark.concurrent
def test_who_waits_is_told_of_each_step(measured: Dict[str, Any], told: List[str]) -> None:
    assert len(told) == len(TINY.states) + 2 + len(KINDS)
    assert many.steps(Effort(quick=True)) == 3 + 2 + len(KINDS)


@pytest.mark.concurrent
def test_a_state_takes_a_page_for_its_header_and_for_each_slot_that_was_used(measured: Dict[str, Any]) -> None:
    for one in measured["states"]:
        assert one["fresh_bytes_each"] == 2 * PAGE
        assert one["shared_bytes_each"] == 5 * PAGE
        assert one["reserved_bytes_each"] > 4 << 20
        assert one["writer"]["virtual_bytes_each"] >= one["reserved_bytes_each"]
    assert [one["shared_bytes"] // PAGE for one in measured["layouts"][:2]] == [5, 3]


@pytest.mark.concurrent
def test_the_bar_is_told_of_the_number_of_states_that_is_nearest(measured: Dict[str, Any]) -> None:
    descriptors = 0 if sys.version_info >= (3, 13) else 2  # one for each map

    assert measured["bar"] == {"states": 12, "shared_bytes_each": 5 * PAGE, "descriptors_each": descriptors}


@pytest.mark.concurrent
def test_queues_have_semaphores_descriptors_and_threads_and_states_have_not(measured: Dict[str, Any]) -> None:
    kinds = measured["fleets"]["kinds"]
    counts = {kind: (found["files_each"], found["descriptors_each"], found["threads"]) for kind, found in kinds.items()}

    assert counts["queues"] == (6, 4, 1 + TINY.workers)
    assert counts["pipes"] == (0, 1, 1)
    assert counts["shmstate"] == (1, 0 if sys.version_info >= (3, 13) else 1, 1)
    assert [found["spawned_names_each"] for found in kinds.values()] == [0, 1, 6, 0]
    assert kinds["shmstate"]["shared_bytes_each"] == 5 * PAGE


@pytest.mark.concurrent
def test_all_who_can_be_asked_were_asked(measured: Dict[str, Any]) -> None:
    kinds = measured["fleets"]["kinds"]

    assert "query" not in kinds["none"]
    assert all(kinds[kind]["query"]["n"] == TINY.questions for kind in ("shmstate", "queues", "pipes"))


@pytest.mark.concurrent
def test_the_section_answers_what_the_mission_asks(measured: Dict[str, Any]) -> None:
    page = section(measured)

    assert [answer.question for answer in page.answers] == [
        "How much memory per worker?",
        "How does this compare to the queue-based approach?",
        "What's the memory efficiency?",
    ]
    for table in page.tables:
        assert table.rows
        assert all(len(row) == len(table.head) for row in table.rows)
    assert all(len(series.x) == len(series.y) for plot in page.plots for series in plot.series)


@pytest.mark.concurrent
def test_what_was_not_possible_is_told_and_why(measured: Dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "_measure_fleets", lambda *_: measured["fleets"])
    name = f"many-{os.getpid()}"
    with shmstate.StateWriter(f"{name}.5"):  # so that the sixth of many cannot be made
        found = many.run(TINY, lambda _: None)
    page = section(found)

    assert "missing" not in found["states"][0]
    assert "NameInUse" in found["states"][1]["missing"]
    assert found["bar"]["states"] == 3
    assert "12 states were not possible here: " in page.answers[0].answer
    assert page.tables[0].rows[1][1].startswith("missing: ")


@pytest.mark.concurrent
@pytest.mark.parametrize("kind", ["none", "shmstate", "queues", "pipes"])
def test_a_fleet_that_could_not_be_had_is_told(measured: Dict[str, Any], kind: str) -> None:
    data = copy.deepcopy(measured)
    data["fleets"]["kinds"][kind] = {"missing": "OSError: too many of them"}

    page = section(data)

    assert "OSError: too many of them" in page.answers[1].answer
    assert [row[1] for row in page.tables[2].rows].count("missing: OSError: too many of them") == 1


def test_shared_memory_is_counted_once_and_by_its_name() -> None:
    before = shared_memory()
    with shmstate.StateWriter(f"counted-{os.getpid()}") as writer:
        writer.publish("x")
        with shmstate.StateReader(writer.name):
            both = shared_memory()
    after = shared_memory()

    assert (both.files, both.named) == (before.files + 1, before.named + 1)
    assert both.nbytes == before.nbytes + 2 * PAGE
    assert after == before


@pytest.mark.concurrent
@pytest.mark.parametrize("end", ["Ctrl-C", "kill the program", "kill the main process"])
@pytest.mark.parametrize("kind", ["shmstate", "queues"])
def test_workers_end_with_their_fleet_however_it_ends(tmp_path: Path, kind: str, end: str) -> None:
    name = f"kept-{os.getpid()}-{kind}"
    script = tmp_path / "keeper.py"
    script.write_text(KEEPER, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), kind, name]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as program:
        assert program.stdout is not None
        fleet = int(program.stdout.readline())
        assert len(_of_session(program.pid)) >= 10

        if end == "Ctrl-C":
            os.killpg(program.pid, signal.SIGINT)
        elif end == "kill the program":
            program.kill()
        else:
            os.kill(fleet, signal.SIGKILL)
            os.killpg(program.pid, signal.SIGINT)

        until(lambda: (program.poll(), not _of_session(program.pid))[1], name="the end of all that it started")
    assert [entry for entry in os.listdir(SHM_DIR) if name in entry] == []


def _of_session(leader: int) -> List[int]:
    """The processes that it and its descendants are, without those that have ended."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            state, _, _, session = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state not in "ZX":
            found.append(pid)
    return found
