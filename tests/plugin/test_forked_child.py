"""A forked child that comes out of its test goes through the rest of pytest, and leaves the run to its parent."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Judge

FORKS = """
    import os, sys
    import pytest
    from multiprocessing.shared_memory import SharedMemory
    from pytest_shmstate import check_leaks

    main = os.getpid()

    class Unexpected(BaseException):
        pass

    def fork(leave):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            leave()
        else:
            os.waitpid(child, 0)

    def fail():
        raise ValueError("in the child")

    def fork_twice():
        fork(fail)
        fail()
    {where}
    def test_leaks():
        if os.getpid() == main:
            SharedMemory(create=True, size=5300).close()  # leaks: test_leaks, segment 5300

    def test_last():
        pass
"""
IN_A_TEST = """
    def test_forks():
        fork({leave})
"""
IN_A_FIXTURE = """
    @pytest.fixture(scope="module", autouse=True)
    def of_module():
        fork({leave})
        yield
        fork({leave})

    def test_forks():
        pass
"""
ON_IMPORT = """
    fork({leave})

    def test_forks():
        pass
"""
IN_A_BLOCK = """
    def test_forks():
        with check_leaks():
            segment = SharedMemory(create=True, size=10)
            fork({leave})
            segment.close()
            segment.unlink()
"""
LEAVES = ("fail", "sys.exit", "lambda: pytest.exit('in the child')", "lambda: pytest.skip('x')", "fork_twice")
NOW = ("lambda: None", "lambda: pytest.fail('x')", "lambda: (_ for _ in ()).throw(Unexpected())")


@pytest.mark.parametrize("leave", [*LEAVES, *NOW])
def test_a_child_that_leaves_its_test_does_not_end_the_run(judge: Judge, leave: str) -> None:
    judged = judge(FORKS.format(where=IN_A_TEST.format(leave=leave)), "-p", "no:randomly")

    assert (judged.report["tests_checked"], [blame[:2] for blame in judged.blames()]) == (
        3,
        [("test_leaks", "segment 5300")],
    ), judged.output
    assert judged.status == 1
    assert judged.removed()


@pytest.mark.parametrize("where", [IN_A_FIXTURE, IN_A_BLOCK, ON_IMPORT], ids=["fixture", "block", "import"])
@pytest.mark.parametrize("leave", ["fail", "lambda: pytest.exit('in the child')"])
def test_nor_does_one_that_leaves_a_fixture_a_block_or_a_module(judge: Judge, where: str, leave: str) -> None:
    judged = judge(FORKS.format(where=where.format(leave=leave)), "-p", "no:randomly", "-rN", "--junitxml=junit.xml")

    assert (judged.report["tests_checked"], [blame[:2] for blame in judged.blames()]) == (
        3,
        [("test_leaks", "segment 5300")],
    ), judged.output
    assert "INTERNALERROR" not in judged.output
    assert judged.removed()


def test_only_the_run_itself_writes_the_report_and_prints_the_section(judge: Judge) -> None:
    judged = judge(FORKS.format(where=IN_A_TEST.format(leave="fail")), "-p", "no:randomly")

    assert judged.output.count(" shared memory =") == 1
    assert judged.output.count("tests checked") == 1


def test_a_child_that_ends_as_it_should_leaves_what_it_made_to_its_test(judge: Judge) -> None:
    judged = judge(
        FORKS.format(where=IN_A_TEST.format(leave="make_and_end"))
        + """
    def make_and_end():
        open(f"/dev/shm/forked-{os.getpid()}", "w").close()  # leaks: test_forks, file 0
        os._exit(0)
    """
    )

    judged.confirm()
