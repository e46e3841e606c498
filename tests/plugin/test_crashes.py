"""Tests that are cut short: by a time limit, a signal, or the end of their process. What they had is named and removed."""

from __future__ import annotations

from typing import Dict, Tuple

import pytest

from tests.plugin.conftest import Judge
from tests.plugin.matrix import INTERRUPTED, bare, needs

#: Segments that no tracker removes, so that it is the plugin's work alone.
UNTRACKED = """
    import multiprocessing, os, signal, threading, time
    from multiprocessing import resource_tracker
    from multiprocessing.shared_memory import SharedMemory

    import pytest

    def untracked(size):
        segment = SharedMemory(create=True, size=size)
        resource_tracker.unregister(segment._name, "shared_memory")
        return segment

    def hang():
        while True:
            signal.pause()

    def clean():
        segment = SharedMemory(create=True, size=10)
        segment.close()
        segment.unlink()

    @pytest.mark.parametrize("number", range(3))
    def test_neighbour(number):
        clean()
"""
HANGING = (
    UNTRACKED
    + """
    def stay(ready):
        segment = untracked(8002)
        ready.send(1)
        hang()

    @pytest.mark.timeout(2)
    def test_hangs():
        segment = untracked(8001)
        ready, other = multiprocessing.Pipe()
        multiprocessing.get_context("spawn").Process(target=stay, args=(other,), daemon=True).start()
        ready.recv()
        hang()

    def test_later():
        clean()
"""
)


@pytest.mark.parametrize("how", [(), ("-n", "2")], ids=["plain", "n2"])
def test_a_test_past_its_time_fails_once_and_loses_what_it_made(judge: Judge, how: Tuple[str, ...]) -> None:
    needs("pytest_timeout")

    judged = judge(HANGING, "--timeout-method=signal", "-p", "pytest_timeout", *how)

    assert judged.status == 1, judged.output
    assert judged.not_passed() == {"test_hangs": "call failed"}
    assert judged.outcome("test_hangs")["teardown"] == "passed"
    told = {(bare(leak["owner"]["name"]), leak["size"], leak["group"]) for leak in judged.ours}
    assert told >= {("test_hangs", 8001, "told"), ("test_hangs", 8002, "told")}
    assert {owner for owner, _, _ in told} == {"test_hangs"}
    assert judged.removed()


def test_a_worker_that_a_time_limit_ends_is_cleaned_up_after(judge: Judge) -> None:
    needs("pytest_timeout")

    judged = judge(HANGING, "--timeout-method=thread", "-p", "pytest_timeout", "-n", "2")

    assert judged.status == 1, judged.output
    assert judged.not_passed() == {"test_hangs": "??? failed"}
    assert judged.blames() == []
    told = {(bare(leak["owner"]["name"]), leak["size"], leak["group"]) for leak in judged.ours}
    assert told >= {("test_hangs", 8001, "interrupted"), ("test_hangs", 8002, "interrupted")}
    assert {owner for owner, _, _ in told} == {"test_hangs"}
    assert judged.removed()


CUT_SHORT: Dict[str, str] = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "ended": "os._exit(3)",
    "crashed": "import ctypes; ctypes.string_at(0)",
}


@pytest.mark.parametrize("how", CUT_SHORT)
def test_a_worker_that_dies_in_a_test_is_cleaned_up_after(judge: Judge, how: str) -> None:
    source = (
        UNTRACKED
        + f"""
    def test_dies():
        segment = untracked(8003)
        if os.fork() == 0:
            of_child = untracked(8004)
            os._exit(0)
        os.wait()
        {CUT_SHORT[how]}

    def test_later():
        clean()
    """
    )

    judged = judge(source, "-n", "2", "-p", "no:faulthandler")

    assert judged.status == 1, judged.output
    assert judged.not_passed() == {"test_dies": "??? failed"}
    assert sorted((bare(leak["owner"]["name"]), leak["size"], leak["verdict"]) for leak in judged.ours) == [
        ("test_dies", 8003, "interrupted"),
        ("test_dies", 8004, "interrupted"),
    ]
    assert judged.removed()


def test_a_run_that_is_interrupted_names_what_was_cut_short_and_removes_it(judge: Judge) -> None:
    source = (
        UNTRACKED
        + """
    @pytest.fixture(scope="session")
    def of_session():
        segment = untracked(8006)
        yield segment
        segment.close()
        segment.unlink()

    def test_interrupted(of_session):
        segment = untracked(8005)
        os.kill(os.getpid(), signal.SIGINT)
        hang()

    def test_never_run():
        pass
    """
    )

    judged = judge(source)

    assert judged.status == INTERRUPTED, judged.output
    assert sorted(bare(leak["owner"]["name"]) for leak in judged.ours) == ["test_interrupted"]
    assert judged.removed()


def test_a_run_that_is_killed_leaves_no_trouble_to_the_next(judge: Judge) -> None:
    source = UNTRACKED + "    def test_killed():\n        os.kill(os.getpid(), signal.SIGKILL)\n"

    killed = judge(source)
    judged = judge(UNTRACKED)

    assert killed.status == -9
    judged.confirm(status=0)


def test_what_a_killed_child_had_made_is_named_though_nobody_else_ever_saw_it(judge: Judge) -> None:
    judged = judge(
        UNTRACKED
        + """
    def child(ready, size):
        segment = SharedMemory(create=True, size=size)  # leaks: test_killed[fork], segment 6001; \
test_killed[spawn], segment 6002; test_killed[forkserver], segment 6003
        ready.send(segment.name)
        ready.recv()
        segment.close()
        segment.unlink()

    @pytest.mark.parametrize(("method", "size"), [("fork", 6001), ("spawn", 6002), ("forkserver", 6003)],
                             ids=["fork", "spawn", "forkserver"])
    def test_killed(method, size):
        process, _ = start(method, size)
        process.kill()
        process.join()

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_told_to_end(method):
        process, ready = start(method, 10)
        ready.send("end")
        process.join()
        assert process.exitcode == 0

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_killed_and_cleaned_up_after(method):
        process, ready = start(method, 10)
        process.kill()
        process.join()
        os.unlink("/dev/shm/" + process.segment)

    def start(method, size):
        context = multiprocessing.get_context(method)
        ready, other = context.Pipe()
        process = context.Process(target=child, args=(other, size))
        process.start()
        process.segment = ready.recv()
        return process, ready
    """
    )

    judged.confirm()


def test_a_service_is_known_as_one_though_it_was_seen_before_it_was_started_up(judge: Judge) -> None:
    judged = judge(
        """
    import os, sys

    import pytest

    @pytest.fixture(scope="module")
    def wide():
        "Its setup is where what is new is looked at."

    def test_that_ends_while_a_tracker_is_started(request):
        alive, _ = os.pipe()
        go_on, tell = os.pipe()
        os.set_inheritable(alive, True)
        if os.fork() == 0:
            os.read(go_on, 1)
            program = f"from multiprocessing.resource_tracker import main;main({alive})"
            os.execv(sys.executable, [sys.executable, "-c", program])
        request.getfixturevalue("wide")
        os.write(tell, b"1")

    def test_other():
        pass
    """
    )

    judged.confirm(status=0)
