"""shmstate's protocol, explored: every schedule of small scenarios passes."""

from __future__ import annotations

import pytest

from pytest_shmstate.kit.exploring import explored
from pytest_shmstate.kit.exploring.scenarios import Code
from pytest_shmstate.kit.power import power


@pytest.mark.parametrize("name", explored.QUICK)
def test_every_schedule_passes(name: str) -> None:
    certificate = explored.certify(explored.QUICK[name])

    assert certificate.outcome == "OK", f"{certificate}\nagain: python -m pytest_shmstate.kit explore {name!r}"


@pytest.mark.thorough
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", explored.THOROUGH)
def test_every_schedule_of_larger_scenarios_passes(name: str) -> None:
    certificate = explored.certify(explored.THOROUGH[name])

    print(certificate)
    assert certificate.outcome == "OK", f"{certificate}\nagain: python -m pytest_shmstate.kit explore {name!r}"


def test_what_is_no_mutant_is_not_found() -> None:
    certificate = explored.certify(explored.QUICK["two readers"], Code(*power.code_of(())))

    assert certificate.outcome == "OK", certificate


@pytest.mark.parametrize("slots", [2, 4])
def test_three_publishes_under_a_reader_that_reads_twice_are_among_them(slots: int) -> None:
    titles = [stage.build(Code()).title for stage in explored.QUICK.values() if stage.preemptions is None]

    assert f"K={slots}, 3 publishes, 1 x 2 read_bytes" in titles
