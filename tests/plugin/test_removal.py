"""Removing a leak leaves no trace in the resource tracker, and says what really became of a System V segment."""

from __future__ import annotations

from typing import Tuple

import pytest

from tests.plugin.conftest import Judge

TRACKER = """
    import multiprocessing, os
    from multiprocessing import resource_tracker, shared_memory
    from multiprocessing.shared_memory import SharedMemory

    kept = []

    def test_unregistered():
        segment = SharedMemory(create=True, size=5101)  # leaks: test_unregistered, segment 5101
        resource_tracker.unregister(segment._name, "shared_memory")
        kept.append(segment)

    def test_unregistered_and_closed():
        segment = SharedMemory(create=True, size=5102)  # leaks: test_unregistered_and_closed, segment 5102
        segment.close()
        resource_tracker.unregister(segment._name, "shared_memory")

    def test_registered():
        kept.append(SharedMemory(create=True, size=5103))  # leaks: test_registered, segment 5103

    def test_registered_and_closed():
        SharedMemory(create=True, size=5104).close()  # leaks: test_registered_and_closed, segment 5104

    def test_semaphore():
        lock = multiprocessing.get_context("spawn").Lock()  # leaks: test_semaphore, semaphore 32
        resource_tracker.unregister(lock._semlock.name, "semaphore")
        kept.append(lock)

    def test_registered_semaphore():
        kept.append(multiprocessing.get_context("spawn").Lock())  # leaks: test_registered_semaphore, semaphore 32

    def test_without_the_modules_functions():
        segment = SharedMemory(create=True, size=5105)  # leaks: test_without_the_modules_functions, segment 5105
        resource_tracker.unregister(segment._name, "shared_memory")
        kept.append(segment)
        resource_tracker.register = resource_tracker.unregister = lambda *_: None
"""
SYSV = """
    import ctypes, os, subprocess, sys

    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.argtypes, libc.shmat.restype = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int], ctypes.c_void_p

    def attached(size):
        shmid = libc.shmget(0, size, 0o1600)
        assert shmid >= 0
        assert libc.shmat(shmid, None, 0) != ctypes.c_void_p(-1).value
        return shmid
"""
CHILD = '"import ctypes; ctypes.CDLL(None).shmat(%d, None, 0); print(1, flush=True); input()" % shmid'


def test_the_resource_tracker_does_not_complain_of_what_was_removed(judge: Judge) -> None:
    judged = judge(TRACKER, "-p", "no:randomly")

    judged.confirm()
    assert "KeyError" not in judged.output
    assert "resource_tracker" not in judged.output.split("shared memory =")[-1]


def test_a_system_v_segment_that_is_marked_for_removal_is_no_leak(judge: Judge) -> None:
    judged = judge(
        SYSV
        + f"""
    children = []

    def test_marked_and_attached():
        libc.shmctl(attached(5201), 0, None)

    def test_marked_and_attached_in_a_child():
        shmid = libc.shmget(0, 5202, 0o1600)
        child = subprocess.Popen([sys.executable, "-c", {CHILD}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        libc.shmctl(shmid, 0, None)
        child.communicate(b"\\n")

    def test_not_marked():  # leaks: test_not_marked, sysv 5203
        libc.shmget(0, 5203, 0o1600)

    def test_of_two_before():
        pass
    """
    )

    judged.confirm()


@pytest.mark.parametrize("options", [(), ("--shmstate-leaks=warn",)])
def test_an_attached_system_v_segment_is_said_to_stay_until_it_is_detached(
    judge: Judge, options: Tuple[str, ...]
) -> None:
    judged = judge(SYSV + "\n    def test_attached():\n        attached(5204)\n", *options)

    (leak,) = judged.ours
    in_error = "marked for removal; goes when the last of 1 attachments is detached"
    assert leak["verdict"] == "held"
    assert leak["fate"] == ("left in place until the run ends (mode warn)" if options else in_error)
    assert judged.removed()
