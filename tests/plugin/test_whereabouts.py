from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict

import pytest

from pytest_shmstate.whereabouts import at_home, facts, in_one_place, place, share_memory

#: What one process may have that another has not -> whether they still share memory, and whether they are in one place.
CHANGES = {
    "boot": ("another", False, False),
    "shm": ([7, 7], False, False),
    "pids": ([7, 7], True, False),
    "user": (4711, True, False),
    "ledger": ([7, 7], True, True),
    "name": ("another", True, True),
}


@pytest.fixture
def here(tmp_path: Path) -> Dict[str, Any]:
    return facts(str(tmp_path))


def test_a_process_is_at_home_with_itself(here: Dict[str, Any], tmp_path: Path) -> None:
    assert at_home(here, facts(str(tmp_path)))
    assert None not in here.values()


@pytest.mark.parametrize("fact", CHANGES)
def test_what_tells_two_processes_apart(here: Dict[str, Any], fact: str) -> None:
    value, shares, is_one = CHANGES[fact]
    other = {**here, fact: value}

    assert share_memory(here, other) == shares
    assert in_one_place(here, other) == is_one == (place(here) == place(other))
    assert at_home(here, other) == (fact == "name")


def test_a_ledger_that_is_not_there_is_no_home(here: Dict[str, Any], tmp_path: Path) -> None:
    nowhere = facts(str(tmp_path / "gone"))

    assert nowhere["ledger"] is None
    assert not at_home(here, nowhere)
    assert not at_home(nowhere, nowhere)


def test_a_ledger_that_one_may_not_write_to_is_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)

    assert facts(str(tmp_path))["ledger"] is None


def test_who_has_no_shared_memory_shares_none(here: Dict[str, Any]) -> None:
    assert not share_memory({**here, "shm": None}, {**here, "shm": None})
