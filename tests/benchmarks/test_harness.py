"""Variants take turns, and what is told of their times is what they say."""

from __future__ import annotations

from typing import List

import pytest

from benchmarks import harness
from benchmarks.harness import Effort, Take


@pytest.mark.parametrize(("part", "expected"), [(0.0, 1), (0.1, 1), (0.11, 2), (0.5, 5), (0.99, 10), (1.0, 10)])
def test_a_quantile_is_the_smallest_number_that_so_many_do_not_exceed(part: float, expected: int) -> None:
    assert harness.quantile(range(1, 11), part) == expected


def test_a_quantile_of_one_number_is_that() -> None:
    assert [harness.quantile([7.0], part) for part in (0.0, 0.5, 1.0)] == [7.0] * 3


def test_a_summary_is_of_all_numbers_in_any_order() -> None:
    told = harness.summary([float(n) for n in range(1000, 0, -1)])

    assert told == {"n": 1000, "mean": 500.5, "p50": 500, "p90": 900, "p99": 990, "max": 1000}


@pytest.mark.parametrize(("count", "known"), [(9, ""), (10, "p50"), (49, "p50"), (50, "p50 p90")])
def test_a_quantile_that_nobody_can_know_is_left_out(count: int, known: str) -> None:
    told = harness.summary([1.0] * count)

    assert " ".join(sorted(name for name in told if name.startswith("p"))) == known


@pytest.mark.parametrize(("count", "name"), [(500, "p99"), (5000, "p999")])
def test_a_far_quantile_needs_many_numbers(count: int, name: str) -> None:
    assert name in harness.summary([1.0] * count)
    assert name not in harness.summary([1.0] * (count * 99 // 100))


def test_a_ratio_is_the_median_of_the_rounds_so_that_a_slow_minute_cancels_out() -> None:
    baseline = [[1.0, 1.0, 1.0], [10.0, 10.0, 10.0], [2.0, 2.0, 2.0]]
    subject = [[2.0, 2.0, 2.0], [20.0, 20.0, 20.0], [6.0, 6.0, 6.0]]

    assert harness.ratio(subject, baseline) == {"ratio": 2.0, "low": 2.0, "high": 3.0}


def test_a_ratio_can_be_of_another_part_than_the_median() -> None:
    baseline, subject = [[1.0] * 99 + [10.0]], [[1.0] * 99 + [40.0]]

    assert harness.ratio(subject, baseline)["ratio"] == 1.0
    assert harness.ratio(subject, baseline, part=1.0)["ratio"] == 4.0


def test_variants_take_turns_and_who_begins_changes() -> None:
    order: List[str] = []

    def turn(name: str) -> List[float]:
        order.append(name)
        return [float(len(order))]

    def take(name: str) -> Take:
        return lambda: turn(name)

    taken = harness.interleaved({name: take(name) for name in "abc"}, rounds=3, warm_up=0)

    assert "".join(order) == "abcbcacab"
    assert {name: [one[0] for one in rounds] for name, rounds in taken.items()} == {
        "a": [1, 6, 8],
        "b": [2, 4, 9],
        "c": [3, 5, 7],
    }


def test_rounds_for_warming_up_are_forgotten() -> None:
    turns = [[float(number)] for number in range(5, 0, -1)]

    taken = harness.interleaved({"only": turns.pop}, rounds=2, warm_up=3)

    assert taken == {"only": [[4.0], [5.0]]}
    assert harness.pooled(taken["only"])["n"] == 2


def test_each_is_a_number_a_call_and_batch_one_for_all() -> None:
    calls: List[int] = []

    each, batch = harness.each(lambda: calls.append(1), 7), harness.batch(lambda: calls.append(1), 5)

    assert (len(each), len(batch), len(calls)) == (7, 1, 12)
    assert min(each) >= 0
    assert batch[0] > 0


def test_effort_is_one_of_two() -> None:
    assert [Effort(quick).of("full", "quick") for quick in (False, True)] == ["full", "quick"]
