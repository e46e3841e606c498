"""Tests that a fork runs, as pytest-forked has it, are judged in that fork, and reported where its parent reports them."""

from __future__ import annotations

from typing import Dict, Sequence

import pytest

from tests.plugin.conftest import Judge
from tests.plugin.matrix import bare

#: What pytest-forked does: a child runs the whole protocol of a test, and its parent reports what came of it.
FORKING = """
    import json, os
    import pytest
    from _pytest.runner import runtestprotocol

    def reports_of(item, tries):
        reports = [runtestprotocol(item, log=False) for _ in range(tries)][-1]
        return [report._to_json() for report in reports]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item, nextitem):
        if "here" in item.name:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(theirs, json.dumps(reports_of(item, 1)).encode())
            os._exit(0)
        os.close(theirs)
        with open(ours) as file:
            told = file.read()
        os.waitpid(child, 0)
        call = pytest.CallInfo.from_call(lambda: pytest.fail("the child was killed"), "call")
        killed = [pytest.TestReport.from_item_and_call(item, call)]
        for report in [pytest.TestReport._from_json(one) for one in json.loads(told)] if told else killed:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True
"""
#: The same by a Process, as later versions of pytest-forked have it.
BY_PROCESS = (
    FORKING.replace("import json, os", "import json, multiprocessing, os")
    .replace(
        "child = os.fork()", "child = multiprocessing.get_context('fork').Process(target=lambda: run(item, theirs))"
    )
    .replace("if child == 0:", "def run(item, theirs):")
    .replace("        os.close(theirs)", "        child.start()\n        os.close(theirs)")
    .replace("os.waitpid(child, 0)", "child.join()")
)
TESTS = """
    import os, subprocess, sys
    import pytest
    from multiprocessing.shared_memory import SharedMemory

    def test_clean():
        segment = SharedMemory(create=True, size=10)
        segment.close()
        segment.unlink()

    def test_leaks():
        SharedMemory(create=True, size=5400).close()  # leaks: test_leaks, segment 5400

    def test_grandchild():
        child = os.fork()
        if child == 0:
            open(f"/dev/shm/grand-{os.getpid()}", "w").close()  # leaks: test_grandchild, file 0
            os._exit(0)
        os.waitpid(child, 0)

    def test_program():
        subprocess.run([sys.executable, "-c", "open('/dev/shm/program-%d' % __import__('os').getpid(), 'w')"], check=True)

    @pytest.fixture(scope="module")
    def pool():
        SharedMemory(create=True, size=5402).close()  # leaks: module fixture pool, segment 5402
        yield

    def test_fixture(pool):
        pass

    def test_process():
        subprocess.Popen(["sleep", "100"])  # leaks: test_process, process

    def test_here():
        SharedMemory(create=True, size=5403).close()  # leaks: test_here, segment 5403

    def test_last_clean():
        pass
"""
XDIST = pytest.mark.parametrize("xdist", [[], ["-n", "2"]], ids=["alone", "xdist"])


@XDIST
@pytest.mark.parametrize("forking", [FORKING, BY_PROCESS], ids=["fork", "Process"])
def test_each_is_judged_as_if_it_ran_in_its_parent(judge: Judge, forking: str, xdist: Sequence[str]) -> None:
    judged = judge({"test_it.py": TESTS, "conftest.py": forking}, *xdist)

    assert [leak["name"] for leak in judged.ours if leak["kind"] == "process"] == ["sleep 100"]
    wrong = [line for line in judged.mismatches() if "test_program" not in line]
    assert wrong == [], "\n".join([*wrong, judged.output])
    program = [leak for leak in judged.ours if leak["name"].startswith("program-")]
    assert [bare(leak["owner"]["name"]) for leak in program] == ["test_program"]
    assert (judged.report["tests_checked"], judged.report["tests_unseen"]) == (8, 0)
    assert "does not see" not in judged.output


@XDIST
def test_a_clean_one_passes(judge: Judge, xdist: Sequence[str]) -> None:
    source = TESTS.partition("    def test_leaks")[0]

    judged = judge({"test_it.py": source, "conftest.py": FORKING}, *xdist)

    judged.confirm(0)
    assert judged.report["tests_checked"] == 1


def test_what_one_left_that_was_killed_is_told_with_its_test(judge: Judge) -> None:
    judged = judge(
        {
            "test_it.py": """
                import os

                def test_killed():
                    open(f"/dev/shm/killed-{os.getpid()}", "w").close()
                    os.kill(os.getpid(), 9)

                def test_here():
                    pass
            """,
            "conftest.py": FORKING,
        }
    )

    (leak,) = judged.ours
    assert (leak["verdict"], leak["owner"]["name"], leak["fate"]) == (
        "interrupted",
        "test_it.py::test_killed",
        "removed",
    )
    assert judged.report["tests_unseen"] == 0
    assert judged.not_passed() == {"test_killed": "call failed"}


@pytest.mark.parametrize(("mode", "groups"), [("warn", {"warned": 2}), ("off", {})])
def test_the_modes_hold_there_too(judge: Judge, mode: str, groups: Dict[str, int]) -> None:
    source = """
        from multiprocessing.shared_memory import SharedMemory

        def test_leaks():
            SharedMemory(create=True, size=5400).close()

        def test_leaks_more():
            SharedMemory(create=True, size=5401).close()
    """

    judged = judge({"test_it.py": source, "conftest.py": FORKING}, f"--shmstate-leaks={mode}")

    assert (judged.status, judged.counts()) == (0, groups), judged.output
    assert judged.removed()
    assert judged.report["tests_unseen"] == 0


def test_what_a_marker_allows_is_allowed_there(judge: Judge) -> None:
    source = """
        import os
        import pytest

        @pytest.mark.shmstate(allow=["meant-*"], reason="it stays")
        def test_allowed():
            open("/dev/shm/meant-to-stay", "w").close()

        def test_here():
            os.unlink("/dev/shm/meant-to-stay")
    """

    judged = judge({"test_it.py": source, "conftest.py": FORKING})

    judged.confirm(0)
    assert "allowed once" in judged.output


def test_one_that_is_run_twice_in_its_fork_counts_once_as_seen(judge: Judge) -> None:
    twice = FORKING.replace("reports_of(item, 1)", "reports_of(item, 2)")

    judged = judge({"test_it.py": "def test_a(): pass\n", "conftest.py": twice})

    assert (judged.status, judged.report["tests_unseen"]) == (0, 0), judged.output
