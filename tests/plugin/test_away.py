"""A worker on another host that cannot take part in what its fellows there do says so, and is in nobody's way."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from pytest_shmstate import outpost, recorder, whereabouts
from pytest_shmstate.away import Away
from pytest_shmstate.ending import Before
from pytest_shmstate.known import BUILT_IN
from pytest_shmstate.ledger import remove_folder
from pytest_shmstate.settings import Settings

SETTINGS = Settings("error", "default", BUILT_IN, 0.0, keep=False, report=None, selftest=False)
Come = Callable[[], Away]


@pytest.fixture
def come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Come]:
    """A worker of a run whose controller is on another machine."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    here = whereabouts.facts(str(tmp_path))
    order = {"where": {**here, "boot": "another"}, "run": "5eed", "host": "h7", "leaks": ["error", "default"]}
    made: List[Away] = []

    def come() -> Away:
        made.append(Away(order, here, SETTINGS, "gw0"))
        return made[-1]

    yield come
    for away in made:
        away.close()


def message(away: Away) -> Dict[str, Any]:
    content: Dict[str, Any] = json.loads(away.finish())
    return content


def no_room(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_only_worker_looks_at_the_end_and_takes_the_folder_away(come: Come, tmp_path: Path) -> None:
    away = come()
    recorder.write(away.run.folder, "worker", "gw0")

    told = message(away)

    assert (told["host"], told["problem"], told["covers"]) == ("h7", "", ["gw0"])
    # Others may make what they like meanwhile, and it is told as theirs.
    assert [leak for leak in told["findings"]["leaks"] if leak["verdict"] in ("orphan", "held", "interrupted")] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["enter", "take"])
def test_one_that_has_no_room_for_a_ledger_says_so_and_keeps_one_by_itself(
    come: Come, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(*{"enter": (outpost, "enter"), "take": (Before, "take")}[step], no_room)
    kept = recorder.kept()

    away = come()

    assert os.environ[recorder.LEDGERS] == away.run.folder
    assert not os.path.basename(away.run.folder).startswith("pytest-shmstate-host")
    left = [path for path in tmp_path.iterdir() if path.name.startswith("pytest-shmstate-host")]
    assert [outpost.members(str(path)) for path in left] == [[]] * len(left)
    told = message(away)
    assert told["problem"] == "no ledger can be kept there ([Errno 28] No space left on device)"
    assert "findings" not in told
    away.close()
    assert recorder.kept() == kept
    assert [path for path in tmp_path.iterdir() if path not in left] == []


def test_one_whose_folder_somebody_removed_says_so(come: Come, tmp_path: Path) -> None:
    away = come()
    remove_folder(away.run.folder)

    told = message(away)

    assert told["problem"] == f"somebody removed {away.run.folder} while the tests ran"
