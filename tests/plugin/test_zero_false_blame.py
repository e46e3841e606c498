"""The proof that the detector blames nobody who is innocent: a project of tests that leave nothing behind, with a
stranger beside the run that makes and removes things of its own all the time. And its twin, in which one test leaks.

``SHMSTATE_ROUNDS=10`` runs it ten times, each in another order, by other ways of distributing the tests, and with eyes
that see less (``innocent/order.py``). ``SHMSTATE_SEED=7`` begins with that order; each round prints its own.
"""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set

import pytest

from tests.core.children import ROOT, until
from tests.plugin.innocent.beside import SOCKET
from tests.plugin.innocent.namespaces import OTHER_SHM
from tests.plugin.innocent.order import EYES, SEED

HERE = Path(__file__).resolve().parent
PROJECT = HERE / "innocent"
ROUNDS = int(os.environ.get("SHMSTATE_ROUNDS", "1"))
FIRST_SEED = int(os.environ.get("SHMSTATE_SEED") or random.randrange(10_000))
#: By turns, so that ten rounds have each with each but one.
ALL_EYES, DISTRIBUTIONS = ("best", "inotify", "user", "stat"), ("load", "worksteal", "loadscope")
#: Groups of the report in which things of others stand.
NOT_OURS = ("foreign", "unattributed")
FEWEST_TESTS = 50
#: Run in one process, in a pipeline, and where /dev/shm is new. A child that leaves its test goes on with those after it.
ALONE = ("innocent_namespaces.py", "innocent_forking.py", "innocent_globals.py")
#: Runs a command whose output another program reads.
PIPELINE = ["bash", "-c", '"$@" 2>&1 | tee told; exit ${PIPESTATUS[0]}', "bash"]
#: For a round, in seconds, on a machine that is busy with other things too.
PATIENCE = 400.0
#: What another test has in the meantime is gone by then, in seconds.
NEIGHBOURS_PATIENCE = 60.0

pytestmark = [pytest.mark.concurrent, pytest.mark.timeout(PATIENCE + 60)]


class Round(NamedTuple):
    """What a run of the project came to."""

    status: int
    out: str
    report: Dict[str, Any]

    def blamed(self) -> List[Dict[str, Any]]:
        return [leak for leak in self.report["leaks"] if leak["group"] not in NOT_OURS]

    def blamed_tests(self) -> Dict[str, int]:
        """How many leaks each test has; of a test with parameters, all together."""
        return dict(Counter(leak["owner"]["name"].partition("[")[0].partition("@")[0] for leak in self.blamed()))

    def unexplained(self, strangers: Set[str]) -> List[str]:
        """What is said to be somebody's, is not the stranger's, and stays: other tests beside this one remove theirs."""
        names = [leak["name"] for leak in self.report["leaks"] if leak["group"] in NOT_OURS]
        others = [name for name in names if name not in strangers]

        def left() -> List[str]:
            return [name for name in others if os.path.lexists(f"/dev/shm/{name}")]

        with suppress(AssertionError):
            until(lambda: not left(), NEIGHBOURS_PATIENCE)
        return left()


class Stranger:
    """The process beside the run."""

    def __init__(self, around: Sequence[str] = ()) -> None:
        """``around``: a command that becomes another."""
        # A socket's path must be short.
        self._folder = tempfile.mkdtemp(prefix="stranger-")
        self.socket = os.path.join(self._folder, "socket")
        self._process = subprocess.Popen(
            [*around, sys.executable, str(HERE / "stranger.py"), self.socket],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the stranger did not start"
        self.found: Optional[Dict[str, Any]] = None

    def end(self) -> Dict[str, Any]:
        """Have it remove what it has, and tell what it saw."""
        if self.found is None:
            out, _ = self._process.communicate(timeout=PATIENCE)
            shutil.rmtree(self._folder)
            self.found = json.loads(out)
        return self.found


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    stranger = Stranger()
    yield stranger
    stranger.end()


@pytest.fixture
def stranger_elsewhere() -> Iterator[Stranger]:
    """The same with a /dev/shm that is new, where inodes are counted from the start."""
    may = subprocess.run([*OTHER_SHM, "true"], stderr=subprocess.PIPE, text=True)
    if may.returncode != 0:
        pytest.skip(f"no mount namespace with a /dev/shm of its own can be made here: {may.stderr.strip()}")
    stranger = Stranger(OTHER_SHM)
    yield stranger
    stranger.end()


def run(
    folder: Path, stranger: Stranger, seed: int, *options: str, eyes: str = "best", around: Sequence[str] = ()
) -> Round:
    """Run the project once. ``around``: a command that runs another."""
    report = folder / f"report-{seed}.json"
    environment = {name: value for name, value in os.environ.items() if not _is_of_this_run(name)}
    environment.update({SEED: str(seed), EYES: eyes, SOCKET: stranger.socket, "INNOCENT_RUN": folder.name})
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    project = ["-c", str(PROJECT / "pytest.ini"), "--rootdir", str(PROJECT), str(PROJECT)]
    plugins = ["-p", "pytest_shmstate", "-p", "tests.plugin.innocent.order", "-p", "no:randomly"]
    command = [sys.executable, "-m", "pytest", *project, *plugins, "-n2", "--tb=short", f"--shmstate-report={report}"]
    again = f"again: SHMSTATE_SEED={seed}, eyes {eyes}, {' '.join(options)}\n"
    log = folder / f"log-{seed}"
    with log.open("wb") as out:
        try:
            status = subprocess.run(
                [*around, *command, *options],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=PATIENCE,
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
    told = again + log.read_text("utf-8", errors="replace")
    assert report.exists(), f"it did not end within {PATIENCE} s, or wrote no report\n{told}"
    return Round(status, told, json.loads(report.read_text(encoding="utf-8")))


def _is_of_this_run(name: str) -> bool:
    # The ledgers of this run go on: what the run inside leaves behind is this test's.
    return name.startswith("PYTEST_") and name not in ("PYTEST_SHMSTATE_LEDGER", "PYTEST_SHMSTATE_PARENT")


@pytest.mark.parametrize("number", range(ROUNDS))
def test_nobody_is_blamed_whose_things_are_gone_when_they_are_due(
    tmp_path: Path, stranger: Stranger, number: int
) -> None:
    eyes, how = ALL_EYES[number % len(ALL_EYES)], DISTRIBUTIONS[number % len(DISTRIBUTIONS)]

    done = run(tmp_path, stranger, FIRST_SEED + number, f"--dist={how}", eyes=eyes)

    found = stranger.end()
    assert done.blamed() == [], done.out
    assert done.status == 0, done.out
    assert done.report["tests_checked"] >= FEWEST_TESTS
    assert found["wrong"] == [], done.out
    assert done.unexplained(set(found["names"])) == [], done.out


def test_those_who_leak_among_them_are_named_and_nobody_else(tmp_path: Path, stranger: Stranger) -> None:
    files = "python_files=innocent_*.py guilty_one.py guilty_globals.py guilty_forking.py"

    done = run(tmp_path, stranger, FIRST_SEED, "-o", files)

    found = stranger.end()
    # Each worker makes pools of its own, in the first of these tests that it runs.
    owners = [leak["owner"] for leak in done.blamed() if leak["kind"] == "process"]
    workers = [f"{owner['name'].partition('[')[0]} in {owner['worker']}" for owner in owners]
    assert len(set(workers)) == len(workers), done.out
    assert {test: count for test, count in done.blamed_tests().items() if "guilty_globals" not in test} == {
        "guilty_one.py::test_leaves_a_segment_behind": 1,
        "guilty_forking.py::test_leaves_what_its_child_left_by_exit": 3,
    }, done.out
    assert {test for test in done.blamed_tests() if "guilty_globals" in test} == {
        "guilty_globals.py::test_uses_a_pool_that_stays",
        "guilty_globals.py::test_uses_an_executor_that_stays",
    }, done.out
    assert [leak["size"] for leak in done.blamed() if "guilty_one" in leak["owner"]["name"]] == [4321]
    assert done.status == 1, done.out
    assert done.out.count("\nERROR ") == 4 + len(workers), done.out
    assert "\nFAILED " not in done.out, done.out
    assert found["wrong"] == [], done.out


def alone(folder: Path, stranger: Stranger, *files: str) -> Round:
    """Run files in one process, in a pipeline, beside a stranger that has another /dev/shm than this process."""
    # Modules in random order, tests in them, too: a child with the threads of no pool waits for that pool for ever. The
    # time limit of faulthandler has a thread as well.
    options = ["-o", "faulthandler_timeout=0", "-n0", "-o", f"python_files={' '.join(files)}", "-rs"]
    around = ["nsenter", "-m", f"--wd={folder}", "-t", str(stranger.pid), *PIPELINE]
    return run(folder, stranger, FIRST_SEED // 2 * 2, *options, around=around)


def test_nobody_is_blamed_in_a_pipeline_where_processes_fork_and_have_other_shms(
    tmp_path: Path, stranger_elsewhere: Stranger
) -> None:
    done = alone(tmp_path, stranger_elsewhere, *ALONE)

    found = stranger_elsewhere.end()
    assert done.blamed() == [], done.out
    assert done.status == 0, done.out
    assert {leak["name"] for leak in done.report["leaks"]} <= set(found["names"]), done.out
    assert "too high for a new file system" not in done.out, done.out
    assert found["wrong"] == [], done.out


def test_those_who_leak_there_are_named_and_nobody_else(tmp_path: Path, stranger_elsewhere: Stranger) -> None:
    done = alone(tmp_path, stranger_elsewhere, "guilty_forking.py", "guilty_namespaces.py")

    found = stranger_elsewhere.end()
    assert done.blamed_tests() == {
        "guilty_forking.py::test_leaves_what_its_child_left_by_exit": 3,
        "guilty_forking.py::test_leaves_what_its_child_left_by_an_exception": 5,
        "guilty_namespaces.py::test_leaves_what_a_child_seems_to_have": 2,
    }, done.out
    assert done.status == 1, done.out
    assert found["wrong"] == [], done.out


def test_the_stranger_is_at_work_all_the_time_and_notices_who_touches_its_things() -> None:
    stranger = Stranger()
    environment = {**os.environ, SOCKET: stranger.socket, "PYTHONPATH": str(ROOT)}
    touch = (
        "import os; from tests.plugin.innocent.beside import ask;"
        "names = [ask('make', how=how)['name'] for how in ('file', 'segment', 'folder')];"
        "os.unlink('/dev/shm/' + names[0]);"
        "open('/dev/shm/' + names[1], 'r+b').write(b'changed'); print(*names)"
    )

    names = subprocess.run(
        [sys.executable, "-c", touch], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )

    found = stranger.end()
    file, segment, _ = names.stdout.split()
    assert sorted(found["wrong"]) == sorted([f"file {file}: gone", f"segment {segment}: changed"])
    assert set(names.stdout.split()) < set(found["names"])
    assert not set(found["names"]) & set(os.listdir("/dev/shm"))


def test_each_file_of_the_innocent_lists_its_tests() -> None:
    counted = 0
    for path in sorted(PROJECT.glob("innocent_*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        listed = [line.strip().partition(":")[0] for line in (ast.get_docstring(module) or "").splitlines()]
        names = [node.name for node in ast.walk(module) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        tests = {name[len("test_") :].replace("_", " ") for name in names if name.startswith("test_")}
        assert tests <= set(listed), path.name
        counted += len(tests)
    assert counted >= FEWEST_TESTS
