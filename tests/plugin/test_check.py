"""``check_leaks``: around any block, with pytest and without."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import pytest

import pytest_shmstate
from pytest_shmstate import LeakError, check_leaks
from pytest_shmstate.check import LeakChecks


def leave() -> str:
    segment = SharedMemory(create=True, size=5000)
    segment.close()
    return segment.name


def leave_and_exit() -> None:
    leave()
    os._exit(0)


def test_a_block_that_leaves_nothing_passes() -> None:
    with check_leaks():
        segment = SharedMemory(create=True, size=10)
        segment.close()
        segment.unlink()


def test_a_block_that_leaks_raises_with_what_and_where_and_it_is_removed() -> None:
    with pytest.raises(LeakError) as raised:
        with check_leaks():
            name = leave()

    (leak,) = raised.value.leaks
    assert (leak.name, leak.kind, leak.size) == (name, "segment", 5000)
    assert leak.where is not None
    assert leak.where.function == "leave"
    assert name in str(raised.value)
    assert not os.path.exists(f"/dev/shm/{name}")


def test_what_was_there_before_the_block_is_not_its_own() -> None:
    name = leave()

    with check_leaks():
        SharedMemory(name).close()

    stayed = os.path.exists(f"/dev/shm/{name}")
    SharedMemory(name).unlink()
    assert stayed


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_the_block_count(method: str) -> None:
    context: Any = multiprocessing.get_context(method)

    with pytest.raises(LeakError, match="leave"):
        with check_leaks():
            child = context.Process(target=leave_and_exit)
            child.start()
            child.join()


def test_a_block_that_raises_raises_that_and_what_it_left_is_removed() -> None:
    with pytest.raises(ZeroDivisionError):
        with check_leaks():
            name = leave()
            _ = 1 / 0

    assert not os.path.exists(f"/dev/shm/{name}")


def test_blocks_may_be_nested_and_the_inner_one_answers() -> None:
    with check_leaks():
        with pytest.raises(LeakError):
            with check_leaks():
                leave()


def test_the_fixture_is_that(shm_leaks: LeakChecks) -> None:
    with pytest.raises(LeakError):
        with shm_leaks.check():
            leave()


def test_a_child_process_that_goes_on_is_a_leak_and_is_ended() -> None:
    with pytest.raises(LeakError) as raised:
        with check_leaks(grace=0.1):
            child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    assert [leak.kind for leak in raised.value.leaks] == ["process"]
    assert child.wait(10) < 0
    assert child.stdin is not None
    child.stdin.close()


def test_nothing_of_pytest_is_imported_for_it() -> None:
    program = "import sys, pytest_shmstate; pytest_shmstate.check_leaks; sys.exit('pytest' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_every_public_name_is_there() -> None:
    assert [name for name in pytest_shmstate.__all__ if not hasattr(pytest_shmstate, name)] == []
    assert sorted(pytest_shmstate.__all__, key=str.lower) == pytest_shmstate.__all__
    with pytest.raises(AttributeError, match="nothing"):
        pytest_shmstate.nothing  # noqa: B018
