"""Beside other plugins, other kinds of tests and other ways of starting pytest, leaks are named and nobody is hindered."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Sequence

import pytest

from tests.plugin.conftest import Judge
from tests.plugin.matrix import ROOT, needs

SIMPLE = """
    from multiprocessing.shared_memory import SharedMemory

    def test_leaves():
        SharedMemory(create=True, size=6100).close()  # leaks: test_leaves, segment 6100

    def test_cleans():
        segment = SharedMemory(create=True, size=10)
        segment.close()
        segment.unlink()
"""
WAYS: Dict[str, Dict[str, Any]] = {
    "importlib": {"options": ["--import-mode=importlib"]},
    "another directory": {"options": ["../test_it.py"], "cwd": "elsewhere"},
    "conftest": {"plugins": [], "conftest": 'pytest_plugins = ["pytest_shmstate"]'},
    "every plugin there is": {"env": {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": None}},
    "strict": {"options": ["--strict-markers", "-W", "error"]},
    "no terminal": {"options": ["-p", "no:terminal"]},
    "no capture": {"options": ["-s", "-p", "no:faulthandler", "-p", "no:logging"]},
    "assert=plain": {"options": ["--assert=plain"]},
}


@pytest.mark.parametrize("way", WAYS)
def test_it_works_however_pytest_is_started(judge: Judge, way: str) -> None:
    given = dict(WAYS[way])
    files = {"test_it.py": SIMPLE, "elsewhere/none.txt": "", "conftest.py": given.pop("conftest", "")}
    options: Sequence[str] = given.pop("options", [])

    judged = judge(files, *options, **given)

    judged.confirm()


def test_what_an_attempt_leaves_that_is_run_again_is_told_but_fails_nothing(judge: Judge) -> None:
    needs("pytest_rerunfailures")

    judged = judge(
        """
    from multiprocessing.shared_memory import SharedMemory

    attempts = []

    def test_leaves_once():
        segment = SharedMemory(create=True, size=6200 + len(attempts))
        segment.close()
        attempts.append(1)
        if len(attempts) > 1:
            segment.unlink()

    def test_fails_once():
        segment = SharedMemory(create=True, size=6210)
        segment.close()
        attempts.append(1)
        assert len(attempts) > 3
        segment.unlink()

    def test_cleans():
        pass
    """,
        "-p",
        "pytest_rerunfailures",
        "--reruns=1",
    )

    assert judged.status == 0, judged.output
    assert "2 rerun" in judged.output
    assert [(leak["size"], leak["owner"]["attempt"]) for leak in judged.ours] == [(6200, 1), (6210, 1)]
    assert judged.removed()


def test_what_every_attempt_leaves_fails_the_last(judge: Judge) -> None:
    needs("pytest_rerunfailures")

    judged = judge(SIMPLE, "-p", "pytest_rerunfailures", "--reruns=1", "-n", "2")

    assert judged.status == 1, judged.output
    assert [leak["owner"]["attempt"] for leak in judged.ours] == [1, 2]
    assert judged.outcome("test_cleans") == {"setup": "passed", "call": "passed", "teardown": "passed"}


@pytest.mark.parametrize("seed", ["1", "2"])
def test_in_random_order_the_same_ones_are_named(judge: Judge, seed: str) -> None:
    needs("pytest_randomly")
    more = "\n".join(
        f"    def test_{number}():\n        segment = SharedMemory(create=True, size=10)\n"
        "        segment.close()\n        segment.unlink()\n"
        for number in range(10)
    )

    judged = judge(SIMPLE + more, "-p", "pytest_randomly", f"--randomly-seed={seed}", "-n", "2")

    judged.confirm()


def test_coverage_measures_children_and_the_projects_own_sitecustomize_runs(judge: Judge, tmp_path: Path) -> None:
    coverage = pytest.importorskip("coverage")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import coverage, sys; coverage.process_startup(); sys.customized = True\n")
    (tmp_path / "coveragerc").write_text(f"[run]\nparallel = True\ndata_file = {tmp_path}/measured\n")
    (tmp_path / "measured_program.py").write_text("import json, sys\nprint(json.dumps([sys.path, sys.customized]))\n")

    judged = judge(
        f"""
    import json, os, subprocess, sys

    def test_child():
        told = subprocess.run([sys.executable, {str(tmp_path / "measured_program.py")!r}], stdout=subprocess.PIPE, check=True)
        path, customized = json.loads(told.stdout)
        plain = dict(os.environ, PYTHONPATH=os.environ["PYTHONPATH"].partition(os.pathsep)[2])
        without = subprocess.run([sys.executable, {str(tmp_path / "measured_program.py")!r}], stdout=subprocess.PIPE, env=plain)
        assert "shim" in os.environ["PYTHONPATH"].partition(os.pathsep)[0]
        assert customized
        assert path == json.loads(without.stdout)[0]

    def test_child_that_leaves():  # leaks: test_child_that_leaves, file 4
        program = "open('/dev/shm/matrix-covered', 'w').write('left')"
        subprocess.run([sys.executable, "-c", program], check=True)
    """,
        env={"COVERAGE_PROCESS_START": str(tmp_path / "coveragerc"), "PYTHONPATH": f"{site}:{told(tmp_path)}:{ROOT}"},
    )

    judged.confirm()
    measured = coverage.CoverageData(str(tmp_path / "all"))
    for part in tmp_path.glob("measured.*"):
        data = coverage.CoverageData(str(part))
        data.read()
        measured.update(data)
    assert measured.lines(str(tmp_path / "measured_program.py")) == [1, 2]


def told(tmp_path: Path) -> Path:
    return tmp_path / "run0/told"


def test_async_tests_answer_for_what_they_leave(judge: Judge) -> None:
    needs("pytest_asyncio")

    judged = judge(
        """
    import asyncio, sys
    from multiprocessing.shared_memory import SharedMemory

    import pytest, pytest_asyncio

    running = []

    def clean(segment):
        segment.close()
        segment.unlink()

    @pytest_asyncio.fixture
    async def of_function():
        yield SharedMemory(create=True, size=6301).close()  # leaks: function fixture of_function, segment 6301, after test_uses

    @pytest_asyncio.fixture
    async def clean_of_function():
        segment = SharedMemory(create=True, size=10)
        yield segment
        clean(segment)

    @pytest.mark.asyncio
    async def test_uses(of_function):
        await asyncio.sleep(0)

    @pytest.mark.asyncio
    async def test_uses_clean(clean_of_function):
        await asyncio.sleep(0)

    @pytest.mark.asyncio
    async def test_leaves():
        await asyncio.sleep(0)
        SharedMemory(create=True, size=6302).close()  # leaks: test_leaves, segment 6302

    @pytest.mark.asyncio
    async def test_leaves_a_process():
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
        await process.wait()

    @pytest.mark.asyncio
    async def test_leaves_a_running_process():
        # Kept: where its loop is closed, some versions of asyncio kill what nothing refers to.
        running.append(await asyncio.create_subprocess_exec("sleep", "100"))  # leaks: test_leaves_a_running_process, process

    @pytest_asyncio.fixture(scope="module", loop_scope="session")
    async def loop_of_the_session():
        yield asyncio.get_running_loop()

    @pytest.mark.asyncio(loop_scope="session")
    async def test_leaves_it_in_the_sessions_loop(loop_of_the_session):
        await asyncio.create_subprocess_exec("sleep", "100", stdout=-1)  # leaks: test_leaves_it_in_the_sessions_loop, process

    @pytest.mark.asyncio(loop_scope="session")
    async def test_cleans_after_them(loop_of_the_session):
        await asyncio.sleep(0)
    """,
        "-p",
        "pytest_asyncio.plugin",
    )

    judged.confirm()


def test_doctests_answer_for_what_they_leave(judge: Judge) -> None:
    documented = '''
    def leaves():
        """
        >>> from multiprocessing.shared_memory import SharedMemory
        >>> SharedMemory(create=True, size=6401).close()
        """

    def cleans():
        """
        >>> from multiprocessing.shared_memory import SharedMemory
        >>> segment = SharedMemory(create=True, size=10)
        >>> segment.close()
        >>> segment.unlink()
        """
    '''

    judged = judge({"documented.py": documented}, "--doctest-modules")

    assert judged.status == 1, judged.output
    assert judged.not_passed() == {"documented.leaves": "teardown failed"}
    assert [(blame.owner, blame.thing) for blame in judged.blames()] == [("documented.leaves", "segment 6401")]


def test_the_seed_of_random_numbers_and_the_environment_are_as_without_it(judge: Judge) -> None:
    source = """
    import json, os, pathlib, random, subprocess, sys, threading

    def test_world():
        child = subprocess.run([sys.executable, "-c", "import sys; print(sys.path, sys.flags, sys.argv)"], stdout=subprocess.PIPE)
        seen = [
            child.stdout.decode(), threading.active_count(), sorted(set(os.environ) - {"PYTHONPATH"}), sys.path[2:],
            len(os.listdir("/proc/self/task")), random.Random(1).random(), os.getcwd().rsplit("/", 1)[1],
        ]
        pathlib.Path("../seen.json").write_text(json.dumps(seen))
    """

    judged = judge(source)
    without = judge(source, plugins=[], report=False)

    judged.confirm(status=0)
    seen = [(run.folder / "seen.json").read_text().replace(run.folder.name, "run") for run in (judged, without)]
    assert seen[0].replace(', "PYTEST_SHMSTATE_LEDGER", "PYTEST_SHMSTATE_PARENT"', "") == seen[1].replace(
        ', "PYTEST_SHMSTATE_LEDGER", "PYTEST_SHMSTATE_PARENT"', ""
    )


def test_unittest_classes_answer_for_what_their_steps_leave(judge: Judge) -> None:
    judged = judge(
        """
    import unittest
    from multiprocessing.shared_memory import SharedMemory

    def drop(segment):
        segment.close()
        segment.unlink()

    class TestLeaves(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            SharedMemory(create=True, size=101).close()  # leaks: class fixture _unittest_setUpClass_fixture_TestLeaves, segment 101

        def setUp(self):
            self.of_all = SharedMemory(create=True, size=102)
            self.addCleanup(drop, self.of_all)

        def tearDown(self):
            if "in_tear_down" in self.id():
                SharedMemory(create=True, size=103).close()  # leaks: TestLeaves::test_in_tear_down, segment 103

        def test_in_tear_down(self):
            pass

        def test_itself(self):
            SharedMemory(create=True, size=104).close()  # leaks: TestLeaves::test_itself, segment 104

        def test_nothing(self):
            pass

        def test_clean_up_that_forgets(self):
            self.addCleanup(SharedMemory(create=True, size=105).close)  # leaks: TestLeaves::test_clean_up_that_forgets, segment 105

    class TestCleans(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            cls.of_class = SharedMemory(create=True, size=10)

        @classmethod
        def tearDownClass(cls):
            drop(cls.of_class)

        def test_a(self):
            self.addCleanup(drop, SharedMemory(create=True, size=10))

        def test_b(self):
            pass
    """
    )

    judged.confirm()


#: A process that keeps no record of the test runs it, as on another machine.
FORKING = """
    import os
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item):
        if "forked" not in item.name:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        child = os.fork()
        if child == 0:
            item.obj()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        call = pytest.CallInfo.from_call(lambda: 1 // int(status == 0), "call")
        item.ihook.pytest_runtest_logreport(report=pytest.TestReport.from_item_and_call(item, call))
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True
"""


@pytest.mark.parametrize(("mode", "status"), [("error", 1), ("warn", 0), ("off", 0)])
@pytest.mark.parametrize("xdist", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_tests_that_other_processes_run_do_not_pass_in_silence(
    judge: Judge, mode: str, status: int, xdist: Sequence[str]
) -> None:
    source = "def test_forked_1(): pass\ndef test_forked_2(): pass\ndef test_here(): pass\n"

    judged = judge({"test_it.py": source, "conftest.py": FORKING}, f"--shmstate-leaks={mode}", *xdist)

    assert judged.status == status, judged.output
    assert ("2 tests ran in processes that the detector does not see" in judged.output) == (mode != "off")
    assert ("fails for what is not known" in judged.output) == (mode == "error")
    assert "3 passed" in judged.output
    assert judged.report["tests_unseen"] == (0 if mode == "off" else 2)


def test_tests_that_run_here_are_all_seen(judge: Judge) -> None:
    judged = judge({"test_it.py": "def test_here(): pass\n", "conftest.py": FORKING})

    assert judged.status == 0, judged.output
    assert "does not see" not in judged.output
