"""One faulty fixture or line of code is told in full once; the errors after it are short, and none is missing."""

from __future__ import annotations

import re
from typing import Dict, List

import pytest

from pytest_shmstate.leak import FILE, UNATTRIBUTED, Frame, Leak, Owner
from pytest_shmstate.repeats import Repeats, blocks_of_run
from tests.plugin.conftest import Judge
from tests.plugin.matrix import needs

FIXTURE = """
    import os, secrets
    import pytest
    from multiprocessing.shared_memory import SharedMemory

    def leave(size):
        SharedMemory(create=True, size=size).close()

    @pytest.fixture
    def faulty():
        yield leave(5100)

    @pytest.mark.parametrize("number", range(6))
    def test_uses(faulty, number):
        pass
"""
LINE = FIXTURE.replace("def test_uses(faulty, number):\n        pass", "def test_uses(number):\n        leave(5100)")


def errors(output: str) -> Dict[str, List[str]]:
    """The lines of each error at a teardown, by test."""
    parts = re.split(
        r"^_+ ERROR at teardown of (\S+) _+$", output.partition("= shared memory =")[0], flags=re.MULTILINE
    )
    return {test: text.strip().split("\n") for test, text in zip(parts[1::2], parts[2::2])}


@pytest.mark.parametrize("source", [FIXTURE, LINE], ids=["fixture", "line"])
def test_the_first_error_is_full_and_the_others_are_short(judge: Judge, source: str) -> None:
    judged = judge(source, "--junitxml=junit.xml", env={"GITHUB_ACTIONS": "1"})

    told = errors(judged.output)
    assert list(told) == [f"test_uses[{number}]" for number in range(6)]
    first, *others = told.values()
    assert sum(line.startswith("  to fix ") for line in first) == 1
    for number, lines in enumerate(others, 1):
        headline, empty, what, made, same, *rest = lines
        assert (headline, empty) == ("left behind: 1 segment, 4.98 KiB", "")
        assert re.fullmatch(r"segment psm_\w+: 5,100 B reserved, \d+ B on disk", what)
        assert re.fullmatch(r"  made at +test_it.py:6 in leave", made)
        assert same == "  same as      what test_it.py::test_uses[0] left, told in full above"
        assert all(line.startswith(("_", "=", "-")) for line in rest), number
    assert len({leak["name"] for leak in judged.ours}) == 6
    assert next(judged.folder.rglob("junit.xml")).read_text().count('name="shmstate_leak"') == 6
    assert judged.output.count("::error ") == 6
    assert judged.status == 1


def test_each_worker_tells_its_first_in_full(judge: Judge) -> None:
    needs("xdist")

    judged = judge(FIXTURE, "-n2", "--dist=each")

    worker = {phase.test: phase.worker for phase in judged.phases}
    assert set(worker.values()) <= {"gw0", "gw1"}
    assert judged.output.count("  to fix ") == len({leak["owner"]["worker"] for leak in judged.ours}) == 2
    assert judged.output.count("  same as ") == 10
    assert len(judged.ours) == 12


def test_what_is_left_otherwise_is_told_in_full(judge: Judge) -> None:
    judged = judge(
        """
        import os, subprocess, sys
        from multiprocessing.shared_memory import SharedMemory

        kept = []

        def leave(size, keep=False):
            segment = SharedMemory(create=True, size=size)
            kept.append(segment) if keep else segment.close()

        def test_a(): leave(10)
        def test_b(): leave(10, keep=True)
        def test_c(): open("/dev/shm/file-of-c", "w").close()
        def test_d(): leave(10, keep=True)
        def test_e(): leave(10); leave(20); open("/dev/shm/file-of-e", "w").close()
        """
    )

    full = {test: sum(line.startswith("  to fix ") for line in lines) for test, lines in errors(judged.output).items()}
    # What a global holds is left in place, and stays open: another state, and its own name for what holds it.
    assert (full["test_a"], full["test_b"], full["test_c"]) == (1, 1, 1)
    same = [line.strip() for line in errors(judged.output)["test_e"]]
    assert "2 segments, 30 B: " in " ".join(same)
    assert "same as      what test_it.py::test_a left, told in full above" in same
    assert full["test_e"] == 1


def test_a_test_that_is_run_again_is_told_in_full_again(judge: Judge) -> None:
    needs("pytest_rerunfailures")

    judged = judge(
        FIXTURE.replace("range(6)", "range(2)"), "--reruns=1", plugins=("pytest_rerunfailures", "pytest_shmstate")
    )

    assert {
        test: sum(line.startswith("  to fix ") for line in lines) for test, lines in errors(judged.output).items()
    } == {
        "test_uses[0]": 1,
        "test_uses[1]": 0,
    }, judged.output


FIXED_NAME = """
    import os
    import pytest
    from multiprocessing.shared_memory import SharedMemory

    @pytest.fixture
    def table():
        name = f"table-{os.getppid()}"
        try:
            segment = SharedMemory(name, create=True, size=5200)
        except FileExistsError:
            segment = SharedMemory(name)
        yield
        segment.close()

    @pytest.mark.parametrize("number", range(4))
    def test_uses(table, number):
        pass
"""


@pytest.mark.parametrize(("mode", "leaks", "status"), [("error", 4, 1), ("warn", 1, 0)])
def test_a_fixed_name_is_left_by_each_test_in_mode_error_and_once_in_mode_warn(
    judge: Judge, mode: str, leaks: int, status: int
) -> None:
    judged = judge(FIXED_NAME, f"--shmstate-leaks={mode}")

    assert (len(judged.ours), judged.status) == (leaks, status), judged.output
    assert judged.removed()


def leak(number: int, line: int = 7, **more: object) -> Leak:
    where = Frame("/src/test_a.py", line, "make")
    owner = Owner("import", f"test_{number}.py", file="/src/test_a.py")
    return Leak(FILE, f"file-{number}", "orphan", owner, "the ledger", size=10, stack=(where,), where=where, **more)  # type: ignore[arg-type]


def test_what_is_found_at_the_end_is_told_by_its_source() -> None:
    lines = blocks_of_run([*map(leak, range(41)), leak(50, line=9)])

    assert sum(line.startswith("file file-") for line in lines) == 2
    (alike,) = [line for line in lines if line.startswith("  and alike")]
    assert alike.startswith("  and alike    40 files, 400 B: file-1, file-2, ")
    assert alike.endswith(" and 20 more, in 41 tests: test_0.py, test_1.py, test_2.py, and 38 more")


def test_only_what_was_told_in_full_is_told_in_short_later() -> None:
    repeats = Repeats()
    repeats.text([leak(number, line=number) for number in range(7)], "test_first")

    later = repeats.text([leak(10 + number, line=number) for number in range(7)], "test_later")

    assert later.count("what test_first left") == 5
    assert later.count("  to fix ") == 2
    assert "told in full" not in Repeats().text([leak(1), leak(2)], "test_first")


def test_what_has_no_known_source_is_never_like_another() -> None:
    strays = [Leak(FILE, name, UNATTRIBUTED, Owner("unknown", "x"), "", size=1) for name in "ab"]

    assert sum(line.startswith("file ") for line in blocks_of_run(strays)) == 2
