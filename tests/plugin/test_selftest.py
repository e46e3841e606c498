"""``--shmstate-selftest`` says whether the detector works in this place, and fails where it does not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.plugin.conftest import Judge
from tests.plugin.matrix import FAILED, PASSED, ROOT


def test_it_passes_here_and_runs_none_of_the_projects_tests(judge: Judge) -> None:
    judged = judge("def test_of_the_project():\n    assert False\n", "--shmstate-selftest", report=False)

    assert judged.status == PASSED, judged.output
    assert re.search(r"all \d\d as they should be", judged.output)
    assert judged.output.count("  ok  ") > 20
    assert judged.phases == []
    assert not judged.left_running


def test_it_fails_where_children_keep_no_ledger_and_names_what_went_unseen(judge: Judge, tmp_path: Path) -> None:
    blind = tmp_path / "blind"
    shutil.copytree(ROOT / "pytest_shmstate", blind / "pytest_shmstate", ignore=shutil.ignore_patterns("__pycache__"))
    (blind / "pytest_shmstate/shim/sitecustomize.py").write_text("")

    path = f"{tmp_path}/run0/told:{blind}:{ROOT}"
    judged = judge({}, "--shmstate-selftest", report=False, env={"PYTHONPATH": path})

    assert judged.status == FAILED, judged.output
    wrong = re.findall(r"FAILED  (\S+): was named for nothing, not for (\w+)", judged.output)
    assert ("test_in_child[spawn-segment]", "segment") in wrong, judged.output
    assert ("test_in_subprocess[file]", "file") in wrong, judged.output
    assert not [test for test, _ in wrong if "fork-" in test or test.startswith("test_here")]
    clean_up_after_canaries()


def clean_up_after_canaries() -> None:
    for entry in Path("/dev/shm").glob("shmstate-canary-*"):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
