"""Prefixes: nobody else has them, and states can be called by them."""

from __future__ import annotations

import pytest

import shmstate
from pytest_shmstate.prefixes import LABEL_WIDTH, unique_prefix
from pytest_shmstate.workers import START_METHODS, Workers
from shmstate.layout import PREFIX, file_name

#: What a state may be called at most; see shmstate/layout.py.
LONGEST_NAME = 255 - len(PREFIX)

LABELS = [
    "",
    "test_it",
    "test_it[one/two-\N{SNOWMAN} \n\0]",
    " ",
    "/",
    "*?[a]",
    "..",
    "x" * 1000,
    "\N{SNOWMAN}" * 1000,
    "\udc80",
]


@pytest.mark.parametrize("label", LABELS, ids=ascii)
def test_a_prefix_and_a_name_after_it_are_legal_names_with_room_to_spare(label: str) -> None:
    prefix = unique_prefix(label)

    assert file_name(prefix) == PREFIX + prefix
    assert file_name(prefix + "state") == PREFIX + prefix + "state"
    assert LONGEST_NAME - len(prefix.encode()) >= 180


@pytest.mark.parametrize("label", LABELS, ids=ascii)
def test_a_prefix_is_a_pattern_for_itself_alone(label: str) -> None:
    assert set(unique_prefix(label)) & set("*?[]!./ ") == set()


def test_a_label_as_it_is_would_not_be_legal() -> None:
    with pytest.raises(shmstate.InvalidName):
        file_name(LABELS[2])


def test_a_state_can_be_made_under_a_prefix() -> None:
    name = unique_prefix("made") + "state"

    with shmstate.StateWriter(name) as writer:
        writer.publish(1)

        assert [state.name for state in shmstate.list_states(name)] == [name]


def test_a_prefix_shows_its_label() -> None:
    assert unique_prefix("test_it[a b]").startswith("test_it_a_b-")
    assert unique_prefix("x" * 1000).startswith("x" * LABEL_WIDTH + "-")


@pytest.mark.parametrize("label", ["", "a"])
def test_no_prefix_begins_another(label: str) -> None:
    prefixes = [unique_prefix(label) for _ in range(200)]

    assert len(set(prefixes)) == 200
    assert [one for one in prefixes for other in prefixes if one != other and other.startswith(one)] == []


@pytest.mark.parametrize("method", START_METHODS)
def test_no_prefix_is_had_by_two_processes(method: str) -> None:
    with Workers() as workers:
        first, second = (workers.spawn(unique_prefix, "same", start_method=method) for _ in range(2))
        prefixes = [unique_prefix("same"), first.result(), second.result()]

    assert len(set(prefixes)) == 3


def test_two_labels_that_look_alike_do_not_meet() -> None:
    assert unique_prefix("a") != unique_prefix("a-")
