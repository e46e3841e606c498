"""What leaks count for: once a test, by the mode that is set, and in every place where the outcome of a run is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, List
from xml.etree import ElementTree as ET

from tests.plugin.conftest import Judge
from tests.plugin.matrix import bare

LEAVE = """
    import os
    from multiprocessing.shared_memory import SharedMemory

    import pytest

    def leave(size):
        SharedMemory(create=True, size=size).close()

    def clean():
        segment = SharedMemory(create=True, size=10)
        segment.close()
        segment.unlink()
"""


def test_a_test_that_failed_is_not_failed_once_more(judge: Judge) -> None:
    judged = judge(
        LEAVE
        + """
    def test_fails():
        leave(9001)
        assert False

    def test_fails_holding_it():
        segment = SharedMemory(create=True, size=9002)
        assert False

    @pytest.mark.xfail
    def test_expected_to_fail():
        leave(9003)
        assert False

    @pytest.fixture
    def broken_at_its_end():
        yield
        raise LookupError

    def test_teardown_failed(broken_at_its_end):
        leave(9005)

    def test_skipped():
        clean()
        pytest.skip("once it has made and removed one")

    @pytest.mark.skip
    def test_never_begun():
        pass

    def test_passes():
        clean()
    """
    )

    assert judged.status == 1
    assert judged.not_passed() == {
        "test_fails": "call failed",
        "test_fails_holding_it": "call failed",
        "test_expected_to_fail": "call skipped",
        "test_teardown_failed": "teardown failed",
        "test_skipped": "call skipped",
        "test_never_begun": "setup skipped",
    }
    assert sum(phase.outcome == "failed" for phase in judged.phases) == 3
    assert sorted(leak["size"] for leak in judged.ours) == [9001, 9002, 9003, 9005]
    assert judged.counts() == {"told": 4}
    assert judged.removed()


def test_nor_is_one_that_failed_for_what_its_own_fixtures_leave(judge: Judge) -> None:
    judged = judge(
        LEAVE
        + """
    @pytest.fixture
    def broken():
        leave(9004)
        raise LookupError

    def test_setup_failed(broken):
        pass

    @pytest.fixture
    def forgetful():
        leave(9007)

    def test_fails(forgetful):
        assert False

    def test_passes():
        clean()
    """
    )

    assert judged.status == 1
    assert sorted(leak["size"] for leak in judged.ours) == [9004, 9007]
    assert sum(phase.outcome == "failed" for phase in judged.phases) == 2, judged.output
    assert judged.counts() == {"told": 2}


def test_tests_of_a_testcase_are_seen_to_fail_and_to_skip_as_well(judge: Judge) -> None:
    judged = judge(
        LEAVE
        + """
    import unittest

    class TestUnit(unittest.TestCase):
        def test_fails(self):
            leave(9011)
            self.fail("it does")

        @unittest.expectedFailure
        def test_expected_to_fail(self):
            leave(9012)
            self.fail("it does")

        def test_skips(self):
            leave(9013)
            self.skipTest("once it has left one")

        def test_raises_a_skip(self):
            leave(9014)
            raise unittest.SkipTest("once it has left one")

        def test_passes(self):
            clean()
    """
    )

    groups = {leak["size"]: leak["group"] for leak in judged.ours}
    assert groups == {9011: "told", 9012: "told", 9013: "failing", 9014: "failing"}, judged.output
    assert judged.removed()


def test_a_skipped_test_answers_for_what_it_left_before(judge: Judge) -> None:
    judged = judge(
        LEAVE
        + """
    def test_skipped():
        SharedMemory(create=True, size=9006).close()  # leaks: test_skipped, segment 9006
        pytest.skip("once it has left one")
    """
    )

    assert judged.status == 1
    assert judged.outcome("test_skipped") == {"setup": "passed", "call": "skipped", "teardown": "failed"}
    assert judged.counts() == {"failing": 1}


ONE_OF_TWO = (
    LEAVE
    + """
    NAME = f"matrix-{os.getppid()}"

    def test_leaves():
        # No tracker would remove this one.
        with open(f"/dev/shm/{NAME}", "w") as file:
            file.write("left")

    def test_meanwhile():
        assert (NAME in os.listdir("/dev/shm")) == (os.environ["STAYS"] == "yes")
        clean()
"""
)


def left_by() -> List[str]:
    """Names that are still there, which are removed."""
    left = [name for name in os.listdir("/dev/shm") if name == f"matrix-{os.getpid()}"]
    for name in left:
        os.unlink(f"/dev/shm/{name}")
    return left


def test_in_mode_warn_it_is_a_warning_and_gone_when_the_run_is_over(judge: Judge) -> None:
    judged = judge(ONE_OF_TWO, "--shmstate-leaks=warn", env={"STAYS": "yes"})

    assert left_by() == []
    assert (judged.status, judged.not_passed()) == (0, {}), judged.output
    assert judged.counts() == {"warned": 1}
    assert "ShmstateLeakWarning: left behind: 1 file" in judged.output


def test_a_warning_that_is_an_error_fails_the_test(judge: Judge) -> None:
    judged = judge(
        ONE_OF_TWO, "--shmstate-leaks=warn", "-W", "error::pytest_shmstate.ShmstateLeakWarning", env={"STAYS": "yes"}
    )

    assert left_by() == []
    assert (judged.status, judged.not_passed()) == (1, {"test_leaves": "teardown failed"}), judged.output


def test_in_mode_off_nothing_is_told_and_nothing_touched(judge: Judge) -> None:
    judged = judge(ONE_OF_TWO, env={"STAYS": "yes", "PYTEST_SHMSTATE_LEAKS": "off"})

    assert len(left_by()) == 1
    assert (judged.status, judged.not_passed(), judged.ours) == (0, {}, []), judged.output
    assert "only tests whose marker asks for it are checked" in judged.output


def test_what_is_to_be_kept_is_failed_for_and_stays(judge: Judge) -> None:
    judged = judge(ONE_OF_TWO, "--shmstate-keep", env={"STAYS": "yes"})

    assert len(left_by()) == 1
    assert (judged.status, judged.not_passed()) == (1, {"test_leaves": "teardown failed"}), judged.output
    assert [leak["fate"] for leak in judged.ours] == ["left in place (--shmstate-keep)"]


EVERYWHERE = (
    LEAVE
    + """
    def test_leaves():
        leave(9200)

    @pytest.mark.shmstate(allow=["psm_*", "never-*"], reason="it may")
    def test_allowed():
        leave(9201)

    @pytest.mark.shmstate(leaks="warn")
    def test_warned():
        leave(9202)

    @pytest.mark.shmstate(leaks="off")
    def test_off():
        leave(9203)

    def test_allowed_for_all():
        open("/dev/shm/matrix-allowed-file", "w").close()
        clean()
        os.unlink("/dev/shm/matrix-allowed-file")
        SharedMemory("matrix-allowed", create=True, size=9204).close()

    def test_regular_files_and_descriptors():
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
        assert not [link for link in links if "shmstate" in link or link.startswith("/dev/shm")]

    counts = []

    @pytest.mark.parametrize("number", range(4))
    def test_descriptors(number):
        if number > 1:
            clean()
        counts.append(len(os.listdir("/proc/self/fd")))
        assert len(set(counts[1:])) <= 2 and counts[-1] <= counts[0] + 1  # the resource tracker's
"""
)
INI = """
    [pytest]
    shmstate_ignore =
        matrix-allowed*  # the whole suite shares it
        matrix-unused-*  # out of date
"""


def test_every_place_where_outcomes_are_read_has_it(judge: Judge, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"

    judged = judge(
        {"test_it.py": EVERYWHERE, "pytest.ini": INI},
        "--junitxml=junit.xml",
        env={"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)},
    )
    if os.path.exists("/dev/shm/matrix-allowed"):
        os.unlink("/dev/shm/matrix-allowed")

    assert judged.status == 1
    assert judged.not_passed() == {"test_leaves": "teardown failed"}, judged.output
    assert sorted((bare(leak["owner"]["name"]), leak["size"], leak["group"]) for leak in judged.ours) == [
        ("test_leaves", 9200, "failing"),
        ("test_warned", 9202, "warned"),
    ]
    assert [(used["pattern"], used["count"]) for used in judged.report["suppressions"]] == [
        ("psm_*", 1),
        ("matrix-allowed*", 1),
    ]
    assert [unused["pattern"] for unused in judged.report["unused_suppressions"]] == ["matrix-unused-*"]
    for line in (
        "allowed once: psm_*  # it may (marker of test_it.py::test_allowed)",
        "allowed once: matrix-allowed*  # the whole suite shares it (shmstate_ignore in pytest.ini)",
        "allowed, but never seen: matrix-unused-*  # out of date (shmstate_ignore in pytest.ini)",
        "left behind, and a failure: 1 segment, 8.984 KiB",
        "left behind, and only warned of: 1 segment, 8.986 KiB",
    ):
        assert line in judged.output, judged.output
    in_junit = junit_properties(judged.folder / "project/junit.xml")
    assert in_junit == {
        "test_leaves": ["left behind: 1 segment, 8.984 KiB"],
        "test_warned": ["left behind: 1 segment, 8.986 KiB"],
    }
    annotations = [line for line in judged.output.splitlines() if line.startswith("::") and "test_it.py" in line]
    assert [line.split(",title=")[0] for line in annotations] == [
        "::error file=test_it.py,line=7",
        "::warning file=test_it.py,line=7",
    ]
    assert "| failing | removed |" in summary.read_text("utf-8")


def junit_properties(path: Path) -> Dict[str, List[str]]:
    found: Dict[str, List[str]] = {}
    for case in ET.parse(path).iter("testcase"):
        values = [one.get("value", "") for one in case.iter("property") if one.get("name") == "shmstate_leak"]
        if values:
            found[case.get("name", "")] = values
    return found
