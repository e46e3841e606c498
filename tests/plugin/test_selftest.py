"""``--shmstate-selftest`` says whether the detector works in this place, and fails where it does not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from pytest_shmstate import canaries, census, selftest
from tests.core.children import until
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
    # What it makes is to be told from what another selftest makes beside it.
    file = blind / "pytest_shmstate/canaries.py"
    file.write_text(
        file.read_text("utf-8").replace("shmstate-canary-", "shmstate-canary-blind-").replace("4096", "4321")
    )

    path = f"{tmp_path}/run0/told:{blind}:{ROOT}"
    judged = judge({}, "--shmstate-selftest", report=False, env={"PYTHONPATH": path})

    assert judged.status == FAILED, judged.output
    wrong = re.findall(r"FAILED  (\S+): was named for nothing, not for (\w+)", judged.output)
    assert ("test_in_child[spawn-segment]", "segment") in wrong, judged.output
    assert ("test_in_subprocess[file]", "file") in wrong, judged.output
    assert not [test for test, _ in wrong if "fork-" in test or test.startswith("test_here")]
    left: List[object] = [str(entry) for entry in Path("/dev/shm").glob("shmstate-canary-blind-*")]
    assert left + [segment for segment in census.sysv(census.sysv_table()).values() if segment.size == 4321] == []


@pytest.mark.parametrize("kind", canaries.KINDS)
def test_what_a_canary_leaves_and_nobody_sees_is_removed_by_what_it_told(kind: str, tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.touch()
    program = "import sys; from pytest_shmstate import canaries; canaries._in_child(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, kind], env={**os.environ, canaries.LEFT: str(told)}, check=True)

    selftest._remove(told.read_text("utf-8").splitlines())

    what, name, *start = told.read_text("utf-8").split()
    if what == "process":
        until(lambda: not census.runs(int(name), int(start[0])))
    elif what == "sysv":
        assert int(name) not in census.sysv(census.sysv_table())
    else:
        assert not Path("/dev/shm", name).exists()
