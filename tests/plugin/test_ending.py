"""What is in no record at the end of a run, where nobody else can have made it, and where others may have."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Collection, Iterator, List, Optional

import pytest

from pytest_shmstate import aftermath, recorder
from pytest_shmstate.ending import Before, Ending, Findings
from pytest_shmstate.known import BUILT_IN
from pytest_shmstate.leak import Leak
from pytest_shmstate.run import Run
from pytest_shmstate.settings import Settings

SETTINGS = Settings("error", "default", BUILT_IN, 0.0, keep=False, report=None, selftest=False)


class Scene:
    """A run that began, and a file that came since, and is in no record."""

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name
        self.before = Before.take(run, SETTINGS)

    def leaks(self, elsewhere: Optional[Collection[str]]) -> List[Leak]:
        findings = Ending(self.run, SETTINGS, self.before, elsewhere=elsewhere).look()
        return [leak for leak in findings.leaks if leak.name == self.name]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(aftermath, "strangers", lambda *_: [])
    run = Run.begin()
    made = Scene(run, f"test-ending-{secrets.token_hex(6)}")
    kept = recorder.kept()
    recorder.keep(())
    Path("/dev/shm", made.name).touch()
    recorder.keep(kept)
    yield made
    os.unlink(f"/dev/shm/{made.name}")
    run.close()


def test_where_nobody_else_can_have_made_it_it_fails_the_run(scene: Scene) -> None:
    (leak,) = scene.leaks(None)

    assert (leak.verdict, leak.mode, leak.notes) == ("unattributed", "error", ())


def test_where_another_host_shares_the_memory_it_does_not(scene: Scene) -> None:
    (leak,) = scene.leaks([])

    assert (leak.verdict, leak.mode) == ("unattributed", "warn")
    assert leak.notes == ("workers of another host share this /dev/shm, so the run does not fail for it",)


def test_what_another_host_has_told_of_is_not_told_again(scene: Scene) -> None:
    assert scene.leaks([scene.name]) == []


def test_findings_and_what_was_there_before_come_back_from_json(scene: Scene) -> None:
    findings = Ending(scene.run, SETTINGS, scene.before).look()

    assert Findings.from_json(findings.as_json()) == findings
    assert Before.from_json(scene.before.as_json()) == scene.before


def test_a_run_that_is_joined_elsewhere_keeps_no_ledger_beside_its_own(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()

    run = Run.join_elsewhere(str(tmp_path / "theirs"))

    kept, told = recorder.kept(), os.environ[recorder.LEDGERS]
    run.close()
    assert (kept, told) == ((str(tmp_path / "theirs"),), str(tmp_path / "theirs"))
    assert scene.run.folder in recorder.kept()
