"""The kit's power: each mutant is killed by the engine that has to, and nobody kills what is no mutant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_shmstate.kit.oracle.verdict import OK, VIOLATED
from pytest_shmstate.kit.power import power
from pytest_shmstate.kit.power.lifetime_mutants import LIFETIME
from pytest_shmstate.kit.power.mutants import MUTANTS
from pytest_shmstate.kit.power.mutation import Edit, Install, OutOfDate, edited, mutated
from pytest_shmstate.kit.power.power import Kill
from pytest_shmstate.kit.power.stepped_hunts import HUNTS
from shmstate import bound_segment

AT_FULL_SPEED = [name for name in power.NAMES if name.endswith("at full speed")]


def is_killed(name: str) -> None:
    kill = power.hunt_mutant(name)

    assert kill.outcome == VIOLATED, kill
    assert kill.schedules > 0


@pytest.mark.parametrize("name", [name for name in power.NAMES if name not in AT_FULL_SPEED])
def test_a_mutant_is_killed(name: str) -> None:
    is_killed(name)


@pytest.mark.thorough  # whether they meet at full speed is up to the machine
@pytest.mark.parametrize("name", AT_FULL_SPEED)
def test_a_mutant_is_killed_at_full_speed(name: str) -> None:
    is_killed(name)


def nothing_is_wrong(hunt: str) -> None:
    found = HUNTS[hunt](None)

    assert found.report == ""
    assert found.schedules > 0


@pytest.mark.parametrize("hunt", [hunt for hunt in HUNTS if not hunt.startswith(("machine", "stress"))])
def test_nothing_is_found_where_nothing_is_wrong(hunt: str) -> None:
    nothing_is_wrong(hunt)


@pytest.mark.thorough  # test_machines.py and test_stress.py run such every time
@pytest.mark.parametrize("hunt", [hunt for hunt in HUNTS if hunt.startswith(("machine", "stress"))])
def test_no_engine_finds_anything_where_nothing_is_wrong(hunt: str) -> None:
    nothing_is_wrong(hunt)


def test_each_hunt_has_a_mutant_to_find() -> None:
    assert {mutant.hunt for mutant in LIFETIME.values()} == set(HUNTS)


def test_there_are_as_many_as_were_ordered() -> None:
    assert len(power.NAMES) == len(MUTANTS) + len(LIFETIME) >= 25


def test_a_mutant_of_code_that_has_changed_says_so() -> None:
    gone = Edit("publishing", "words[intent_at] = version  # W0", "pass")

    with pytest.raises(OutOfDate, match=r"shmstate.publishing has 'words\[intent_at\] = version  # W0' 0 times, not 1"):
        edited("publishing", "words[intent_at] = version  # W1", [gone])


def test_a_mutant_of_more_places_than_it_knows_says_so() -> None:
    with pytest.raises(OutOfDate, match="'x' 2 times, not 1"):
        edited("publishing", "x x", [Edit("publishing", "x", "y")])


def test_the_original_is_left_alone() -> None:
    copy = mutated(bound_segment, [Edit("bound_segment", "UNKNOWN = -1", "UNKNOWN = -2")])

    assert (copy.UNKNOWN, bound_segment.UNKNOWN) == (-2, -1)


def test_what_is_imported_already_cannot_be_mutated() -> None:
    with pytest.raises(RuntimeError, match=r"shmstate.publishing: imported already"):
        Install((Edit("publishing", "a", "b"),))()


def test_a_survivor_is_named() -> None:
    killed = Kill("one", "is wrong", "I2", "explorer", "here", VIOLATED, 3, 0.5, 9, 2, "it | tore\nand more")
    survivor = Kill("other", "is wrong too", "I3", "stepper", "there", OK, 4)

    assert power.survivors([killed, survivor]) == ["other"]
    assert str(survivor).startswith(
        "other                              I3  SURVIVES stepper (OK) in there: 4 schedules"
    )
    table = power.markdown([killed, survivor]).splitlines()
    assert table[2] == r"| `one` | is wrong | I2 | explorer | here | 3 | 0.5 | 9 | 2 | it \| tore |"
    assert "| **nobody** |" in table[3]


def test_the_page_lists_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs/mutants.md").read_text("utf-8")

    listed = re.findall(r"^\| `([^`]+)` \| .*$", page, re.MULTILINE)

    assert listed == list(power.NAMES)
    assert "**nobody**" not in page
