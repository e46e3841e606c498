"""Figures are told with the unit and the digits that one can read."""

from __future__ import annotations

import pytest

from benchmarks import document


@pytest.mark.parametrize(
    ("microseconds", "told"),
    [
        (0.0, "0.00 ns"),
        (0.0123, "12.3 ns"),
        (0.999, "999 ns"),
        (1.0, "1.00 us"),
        (-12.34, "-12.3 us"),
        (999.0, "999 us"),
        (1000.0, "1.00 ms"),
        (1_500_000.0, "1.50 s"),
        (3_600_000_000.0, "3,600 s"),
    ],
)
def test_a_time_has_the_unit_that_one_can_read(microseconds: float, told: str) -> None:
    assert document.micro(microseconds) == told


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KB"), (20_000, "19.5 KB"), (1 << 20, "1.00 MB"), (24 << 30, "24.0 GB")],
)
def test_a_size_has_the_unit_that_one_can_read(count: int, told: str) -> None:
    assert document.nbytes(count) == told


@pytest.mark.parametrize(
    ("value", "told"), [(0.125, "0.12"), (9.99, "9.99"), (12.34, "12.3"), (123.4, "123"), (12345, "12,345")]
)
def test_figures_are_three_digits_that_say_something(value: float, told: str) -> None:
    assert document.figures(value) == told
    assert document.times(value) == f"{told}x"


def test_quantiles_that_nobody_knows_are_empty() -> None:
    assert document.quantiles({"p50": 1.0, "max": 2.0}, "p50", "p99", "max") == ["1.00 us", "", "2.00 us"]
