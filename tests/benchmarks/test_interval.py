"""Experiment 3: what is measured of an interval, and what is told of it."""

from __future__ import annotations

import copy
import json
import os
import time
from typing import Any, Dict, List, Tuple

import pytest

from benchmarks.harness import Effort
from benchmarks.parts import interval
from benchmarks.remote import Remote
from benchmarks.sections.interval import section
from benchmarks.syncing import BASELINE, RARE_WAYS, WAYS, Worker
from shmstate.layout import SHM_DIR

TINY = interval.Plan(rounds=2, seconds=0.03, paced_rounds=1, paced_seconds=0.2, messages=2, sizes=("small",))
SECOND = 1e6


@pytest.fixture(scope="module")
def told() -> List[str]:
    return []


@pytest.fixture(scope="module")
def measured(told: List[str]) -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads(json.dumps(interval.run(TINY, told.append)))
    return found


@pytest.mark.concurrent
def test_who_waits_is_told_of_each_step(measured: Dict[str, Any], told: List[str]) -> None:
    assert len(told) == 3 * len(TINY.sizes) + 1
    assert interval.steps(Effort(quick=True)) == 3 * 2 + 1


@pytest.mark.concurrent
def test_a_timer_leaves_a_reader_half_an_interval_behind(measured: Dict[str, Any]) -> None:
    lag = measured["sizes"]["small"]["paced"]["every 1,000 ms"]["lag"]

    assert 0.25 * SECOND < lag["mean"] < 0.75 * SECOND
    assert lag["max"] > 0.8 * SECOND


@pytest.mark.concurrent
def test_who_publishes_each_message_leaves_a_reader_up_to_date(measured: Dict[str, Any]) -> None:
    paced = measured["sizes"]["small"]["paced"]["after every message"]

    assert paced["lag"]["p50"] < 0.01 * SECOND
    assert paced["published_per_second"] > 100


@pytest.mark.concurrent
def test_what_a_reader_has_is_as_old_as_the_last_change_where_changes_are_rare(measured: Dict[str, Any]) -> None:
    rare = measured["sizes"]["small"]["rare"]["after every message"]

    assert rare["age"]["max"] > 0.02 * SECOND
    assert rare["lag"]["p50"] < rare["age"]["p50"]


@pytest.mark.concurrent
def test_who_does_not_publish_is_what_all_are_compared_with(measured: Dict[str, Any]) -> None:
    flat_out, paced, rare = (measured["sizes"]["small"][load] for load in ("flat_out", "paced", "rare"))

    assert list(flat_out) == list(paced) == list(WAYS)
    assert list(rare) == list(RARE_WAYS)
    assert flat_out[BASELINE]["throughput"]["ratio"] == 1
    assert (paced[BASELINE]["more_percent"], paced[BASELINE]["own_percent"]) == (0, 0)
    assert paced[BASELINE]["published_per_second"] == flat_out[BASELINE]["published_per_second"] == 0
    assert flat_out["after every message"]["published_per_second"] == pytest.approx(
        flat_out["after every message"]["per_second"], rel=0.5
    )


@pytest.mark.concurrent
def test_ticks_that_fall_out_are_counted(measured: Dict[str, Any]) -> None:
    beyond = measured["beyond"]

    assert beyond["encode"] > beyond["interval"]
    assert beyond["overruns"] > 0
    assert beyond["published"] < beyond["ticks"]
    assert beyond["published"] + beyond["overruns"] == pytest.approx(beyond["ticks"], rel=0.3)


def test_age_is_of_what_was_seen_and_lag_of_what_was_not() -> None:
    changes = [1_000, 2_000, 5_000, 9_000]

    ages, lags = interval._staleness([(4_000, 1), (6_000, 1), (9_500, 2)], changes)

    assert ages == [2.0, 4.0]
    assert lags == [0.0, 1.0]


def test_a_turn_that_is_cut_short_leaves_nothing() -> None:
    name = f"interval-cut-{os.getpid()}"
    began = time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        with Remote(Worker, name, "small") as worker:
            worker.start("work", 1, "every 10 ms", 0.2, 0)
            raise KeyboardInterrupt

    assert not os.path.exists(f"{SHM_DIR}/shmstate.{name}")
    assert time.monotonic() - began < 8  # it was not waited for until it had to be killed


@pytest.mark.concurrent
def test_the_section_answers_what_the_mission_asks(measured: Dict[str, Any]) -> None:
    page = section(measured)

    assert [answer.question.split("?")[0] for answer in page.answers] == [
        "What's the optimal sync interval",
        "What's the right sync interval",
        "How do you balance freshness vs overhead",
        "Should you sync after every state change or on a timer",
        "What if serialization takes longer than the sync interval",
        "What's the CPU cost of continuous syncing",
    ]
    for table in page.tables:
        assert table.rows
        assert all(len(row) == len(table.head) for row in table.rows)
    assert all(len(series.x) == len(series.y) for plot in page.plots for series in plot.series)


@pytest.mark.concurrent
@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ((0.9, 0.5, 0.2, 0.1), "every 1 ms"),
        ((9.0, 0.99, 0.2, 0.1), "every 10 ms"),
        ((90.0, 9.0, 1.5, 0.1), "every 1,000 ms"),
        ((90.0, 9.0, 5.0, 1.1), "none does: even every 1,000 ms costs 1.10 %"),
    ],
)
def test_the_interval_that_is_recommended_follows_from_the_figures(
    measured: Dict[str, Any], costs: Tuple[float, ...], said: str
) -> None:
    data = copy.deepcopy(measured)
    for way, cost in zip(("every 1 ms", "every 10 ms", "every 100 ms", "every 1,000 ms"), costs):
        data["sizes"]["small"]["paced"][way]["own_percent"] = cost

    optimum = section(data).answers[0].answer

    state_bytes = data["sizes"]["small"]["state_bytes"]
    assert optimum.partition(f"For the small state ({state_bytes} B)")[2].lstrip(": ").startswith(said)
