"""The peers' part: each check finds the peer that does wrong, leaves the others alone, and nothing stays. Not about speed."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from benchmarks.document import Section
from benchmarks.harness import Effort
from benchmarks.parts import peers
from benchmarks.peers import judged
from benchmarks.peers.everyone import ALL
from benchmarks.peers.leftovers import processes
from benchmarks.peers.peer import Peer
from benchmarks.peers.shared import DoubleBuffer, Rename, Shmstate
from benchmarks.peers.stdlib import ManagerDict, Pipe, Queue
from benchmarks.peers.trial import Company, Trial
from benchmarks.sections.peers import section
from tests.benchmarks import bad_peers as bad


class Least(Effort):
    """Hardly any effort: it only has to run."""

    def of(self, full: Any, quick: Any) -> Any:
        if isinstance(quick, int):
            return 5 if quick > 5 else 2
        return min(quick, 0.05) if isinstance(quick, float) else quick


LEAST = Least(quick=True)


@pytest.fixture(scope="module")
def data() -> Iterator[Dict[str, Any]]:
    """What is measured of the stand-ins, of some that are missing, and of one that is broken; through JSON."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "SIZES", {"500 B": 500})
        patch.setattr(peers, "WATCHED", ("500 B",))
        patch.setattr(peers, "KILLED", "500 B")
        kinds = (Shmstate, DoubleBuffer, Rename, Pipe, bad.NotInstalled, bad.NoProgram, bad.Broken)
        yield json.loads(json.dumps(peers.measure(LEAST, lambda _: None, kinds)))


@pytest.fixture(autouse=True)
def _leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where only this test makes anything
    yield
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("shmstate-peer-")] == []


def is_whole(told: Section) -> None:
    for table in told.tables:
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.head)}
        assert all(isinstance(cell, str) for row in table.rows for cell in row)
    for plot in told.plots:
        assert all(len(series.x) == len(series.y) for series in plot.series)


# What is measured


def test_the_stand_ins_do_the_whole_job(data: Dict[str, Any]) -> None:
    for title in ("shmstate", "naive double buffer", "file replaced by rename", "Pipe"):
        peer = data["peers"][title]
        assert peer["missing"] == ""
        assert peer["speed"]["500 B"]["stale"] == 0
        for job in judged.JOBS:
            assert peer["speed"]["500 B"][job]["p50"] > 0
            assert peer["speed"]["500 B"][job]["ratio"]["ratio"] > 0
        assert peer["watched"]["500 B"]["found"]["whole"] > 0
        assert peer["watched"]["500 B"]["published"] > 0
        assert peer["closed"] == []


def test_what_outlives_its_writer_is_not_lost_and_stays(data: Dict[str, Any]) -> None:
    for title, left in (
        ("shmstate", ["/dev/shm/shmstate.NAME"]),
        ("naive double buffer", ["/dev/shm/NAME_a", "/dev/shm/NAME_active", "/dev/shm/NAME_b"]),
    ):
        killed = data["peers"][title]["killed"]
        assert (killed["kills"], killed["lost"], killed["lost_attached"], killed["left"]) == (2, 0, 0, left)


def test_what_was_the_writers_own_is_lost_with_it_and_leaves_nothing(data: Dict[str, Any]) -> None:
    killed = data["peers"]["Pipe"]["killed"]
    assert (killed["lost"], killed["lost_attached"], killed["left"]) == (2, 2, [])
    assert sum(count for what, count in killed["late"].items() if what.startswith("refused: ")) == 2


def test_a_queue_loses_it_too_and_a_manager_does_not() -> None:
    assert peers.killed(Queue, 500, 1)["late"] == {"refused: Empty": 1}
    assert peers.killed(ManagerDict, 500, 1)["late"] == {"whole": 1}


def test_who_is_missing_is_said_to_be_and_why(data: Dict[str, Any]) -> None:
    told = section(data)

    assert data["peers"]["not installed"]["missing"] == "missing: not installed (pip install no-such-package)"
    assert data["peers"]["no program"]["missing"] == "missing: no program no-such-program-at-all"
    for table in told.tables:
        assert [row[1] for row in table.rows if row[0] == "no program"] == [data["peers"]["no program"]["missing"]]
    assert "not installed (missing: not installed (pip install no-such-package))" in told.answers[2].answer


def test_one_that_breaks_is_told_with_its_reason_and_the_others_are_measured(data: Dict[str, Any]) -> None:
    why = {"failed": "this kernel is too old"}
    broken = data["peers"]["broken"]

    assert (broken["speed"]["500 B"], broken["watched"]["500 B"], broken["killed"]) == (why, why, why)
    assert "broken, 500 B: this kernel is too old" in section(data).answers[2].answer


def test_all_of_it_is_told(data: Dict[str, Any]) -> None:
    is_whole(section(data))


def test_it_is_told_as_often_as_announced() -> None:
    told: List[str] = []

    peers.measure(LEAST, told.append, [bad.NotInstalled] * len(ALL))

    assert len(told) == peers.steps(LEAST)


def test_every_peer_says_how_it_is_used_and_what_that_leaves_out() -> None:
    assert len({kind.title for kind in ALL}) == len(ALL) == 15
    for kind in ALL:
        assert kind.title
        assert kind.how
        assert kind.leaves_out
        assert kind.cleared_by
        assert kind.package is None or kind.module


# Each check has one that it finds out


def test_torn_data_is_seen() -> None:
    assert set(peers.watched(Rename, 500, 0.1)["found"]) == {"whole"}
    assert peers.watched(bad.Tearing, 500, 0.1)["found"]["torn"] > 0


def test_states_that_are_older_than_what_was_seen_are_told_apart() -> None:
    assert peers.watched(bad.GoingBack, 500, 0.1)["found"]["older"] > 0


def test_what_is_lost_with_its_writer_is_counted_by_how() -> None:
    told = peers.killed(bad.Forgetful, 500, 1)

    assert told["attached"] == told["late"] == {"ProcessLookupError": 1}
    assert (told["lost"], told["lost_attached"]) == (1, 1)
    assert peers.killed(bad.Announced, 500, 1)["late"] == {"refused: ProcessLookupError": 1}


def test_a_torn_state_after_a_kill_is_lost_too() -> None:
    assert peers.killed(bad.Tearing, 500, 1)["lost"] == 1


def test_a_read_that_does_not_end_counts_as_blocked_and_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "DEADLINE", 0.3)

    told = peers.killed(bad.Stuck, 500, 2)

    assert told["attached"] == told["late"] == {"blocked": 2}
    assert told["longest"] == pytest.approx(0.3e6)


def test_all_that_is_left_is_listed_without_what_is_random_and_removed() -> None:
    with Trial(bad.Littering, 500) as trial:
        name = trial.peer.name
        left = trial.close()

    assert left == [
        "/dev/shm/NAME",
        "/dev/shm/sem.NAME-*",
        "/dev/shm/x-NAME-*",
        "System V segment with key 0",
        "its folder/log",
        f"process {left[-1].split()[-1]}",
    ]
    assert not [entry for entry in os.listdir("/dev/shm") if name in entry]
    assert not processes(name)
    with open("/proc/sysvipc/shm", encoding="ascii") as file:
        assert not [line for line in file if line.split()[4] in map(str, [trial.writer.pid])]


def test_an_error_in_a_trial_leaves_nothing_either() -> None:
    with Company() as company:
        with pytest.raises(ZeroDivisionError), Trial(bad.Littering, 500, readers=2, company=company) as trial:
            name = trial.peer.name
            raise ZeroDivisionError

        assert not company.pids

    assert not processes(name)
    assert not [entry for entry in os.listdir("/dev/shm") if name in entry]


def test_a_trial_that_was_never_begun_leaves_nothing(tmp_path: Path) -> None:
    Trial(Rename, 500)

    assert not list(tmp_path.iterdir())


def test_a_company_serves_one_trial_after_another_and_is_not_left_over() -> None:
    with Company() as company:
        with Trial(Rename, 500, readers=2, company=company) as first:
            first.readers[0].call("attach")
            assert first.close() == []
        before = company.pids
        with Trial(Rename, 500, readers=2, company=company) as second:
            assert company.pids == before
            second.readers[0].call("attach")
            assert second.readers[0].call("look") == ("whole", 1, pytest.approx(0, abs=1e6))
            second.give_up(second.writer)
            second.part_with(second.readers[0])
            assert second.over() == ["/dev/shm/NAME"]
        with Trial(Rename, 500, readers=2, company=company) as third:
            third.readers[0].call("attach")
            assert third.readers[0] is second.readers[0]
            assert {second.readers[1], second.writer}.isdisjoint({third.readers[1], third.writer})

    assert not company.pids


def test_who_gets_a_pipe_when_started_serves_once() -> None:
    with Company() as company, Trial(Pipe, 500, company=company) as trial:
        assert not company.pids
        assert trial.readers[0].call("attach_and_look", 0).found == "whole"
        assert trial.close() == []


# What is told


def figures(ratio: float, times: float = 1) -> Dict[str, Any]:
    return {"p50": ratio * times, "ratio": {"ratio": ratio, "low": ratio - 0.1, "high": ratio + 0.1}}


def made_up() -> Dict[str, Any]:
    """Figures of three peers at two sizes; nothing is wrong with anybody."""
    whole = {"found": {"whole": 1000}, "longest": 9.0, "published": 5000}
    killed = {
        "kills": 20,
        "attached": {"whole": 20},
        "late": {"whole": 20},
        "lost": 0,
        "lost_attached": 0,
        "longest": 30.0,
    }
    peer: Dict[str, Any] = {
        **{name: getattr(Peer, name) for name in ("how", "leaves_out", "cleared_by", "stays", "answers_itself")},
        "version": "1.0",
        "missing": "",
        "watched": {"20 KB": whole},
        "killed": {**killed, "left": ["/dev/shm/NAME"]},
        "closed": [],
    }
    told = {}
    for title, ratio in (("ours", 1.0), ("slow", 3.0), ("fast", 0.5)):
        small, large = ({job: figures(ratio, times) for job in judged.JOBS} for times in (1, 100))
        speed = {"500 B": {**small, "stale": 0}, "1 MB": {**large, "stale": 0}}
        told[title] = copy.deepcopy({**peer, "speed": speed})
    return {
        "baseline": "ours",
        "deadline_seconds": 2.0,
        "watch_seconds": 2.0,
        "kills": 20,
        "killed_size": "1 MB",
        "sizes_bytes": {"500 B": 500, "1 MB": 1 << 20},
        "peers": told,
    }


def test_who_is_before_us_is_named_with_the_figures() -> None:
    data = made_up()

    said = judged.who_is_first(data)

    assert said.startswith("ours is first in 0 of 6. Not first in 6")
    assert "publish, 500 B: fast 0.50x (by round 0.40x to 0.60x)" in said
    assert said.endswith("Nothing wrong was seen with: fast.")
    del data["peers"]["fast"]
    assert judged.who_is_first(data).startswith("ours is first in 6 of 6: publish, 500 B (next: slow 3.00x)")


def test_our_other_ways_are_not_ranked_and_told_where_we_are_behind() -> None:
    data = made_up()
    data["peers"]["ours, otherwise"] = {**copy.deepcopy(data["peers"]["fast"]), "variant": True}
    data["peers"]["ours, otherwise"]["speed"]["1 MB"]["new"] = figures(0.97)

    said = judged.who_is_first(data)

    assert said.endswith("read of a new value, 500 B: 0.50x; publish, 1 MB: 0.50x; read, 1 MB: 0.50x.")
    assert said.count("ours, otherwise") == 1
    del data["peers"]["fast"]
    assert judged.who_is_first(data).startswith("ours is first in 6 of 6")


def test_who_is_as_fast_is_level_and_not_before_us() -> None:
    data = made_up()
    data["peers"]["fast"]["speed"]["500 B"]["read"] = figures(0.97)

    assert "Level with another, within 5%, in 1: read, 500 B: fast 0.97x" in judged.who_is_first(data)


def test_the_faults_of_who_is_before_us_are_told() -> None:
    data = made_up()
    data["peers"]["fast"]["watched"]["20 KB"]["found"] = {"whole": 900, "torn": 90, "older": 8, "KeyError": 2}
    data["peers"]["fast"]["killed"].update(lost=3, late={"whole": 17, "blocked": 3})

    told = section(data)

    assert (
        "fast (90 of 1,000 reads torn, 8 reads older than what had been seen, 2 reads that gave nothing, "
        "the state lost in 3 of 20 kills)"
    ) in told.answers[0].answer
    assert "Torn data came from: fast. Older states than had been seen, from: fast." in told.answers[1].answer
    assert "What went wrong with ours: none." in told.answers[1].answer
    safety = next(table for table in told.tables if table.title == "What can go wrong")
    assert ["fast", "90 of 1,000", "8", "KeyError 2", "3 of 20 (blocked 3)", "30.0 us"] in safety.rows


def test_our_own_faults_are_told_as_anybodys() -> None:
    data = made_up()
    data["peers"]["ours"]["watched"]["20 KB"]["found"] = {"whole": 999, "torn": 1}

    said = section(data).answers[1].answer

    assert "Torn data came from: ours." in said
    assert "What went wrong with ours: 1 of 1,000 reads torn." in said


def test_who_only_sets_a_variable_has_not_published() -> None:
    data = made_up()
    data["peers"]["fast"]["answers_itself"] = True

    said = judged.who_is_first(data)

    assert "publish, 500 B (next: slow 3.00x)" in said
    assert "Not ranked for publishing: fast." in said


def test_who_reads_from_a_copy_is_known_by_large_states_that_are_read_as_fast() -> None:
    data = made_up()
    assert judged.copies(data) == {}
    data["peers"]["slow"]["speed"]["1 MB"]["read"]["p50"] = 5.0

    assert judged.copies(data) == {"slow": "300 us for a new value of 1 MB"}
    assert "slow gives what the reader has already" in section(data).plots[0].note


def test_what_stays_is_told_with_the_reason_if_there_is_one() -> None:
    data = made_up()
    data["peers"]["fast"].update(closed=["/dev/shm/NAME"], stays="it is meant to")
    data["peers"]["slow"].update(closed=["its folder/lock"])

    told = section(data)

    left = next(table for table in told.tables if table.title == "What is left behind")
    assert [row[3] for row in left.rows] == ["nothing", "its folder/lock", "/dev/shm/NAME: it is meant to"]
    assert "something stayed of: slow and fast." in told.answers[1].answer


def test_reads_of_a_new_value_that_missed_it_are_told() -> None:
    data = made_up()
    data["peers"]["fast"]["speed"]["500 B"]["stale"] = 4

    assert "that did not find it: fast 4." in section(data).tables[0].note


def test_a_step_that_failed_has_its_reason_in_its_cell() -> None:
    data = made_up()
    data["peers"]["fast"].update(watched={"20 KB": {"failed": "no room"}}, killed={"failed": "no luck"})

    told = section(data)

    safety = next(table for table in told.tables if table.title == "What can go wrong")
    assert ["fast", "missing: no room", "0", "0", "missing: no luck", ""] in safety.rows
    is_whole(told)
