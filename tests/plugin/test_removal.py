"""Removing a leak leaves no trace in the resource tracker, and says what really became of a System V segment."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path
from typing import Dict, Tuple

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
    judged = judge(TRACKER, "-p", "no:randomly", "-s")

    judged.confirm()
    assert "KeyError" not in judged.output
    assert "resource_tracker" not in judged.output.split("shared memory =")[-1]


def copied(package: str) -> Dict[str, str]:
    """Makes the package's files: multiprocessing under another name, as `multiprocess` is made."""
    folder = Path(multiprocessing.__file__).parent
    return {
        f"{package}/{path.relative_to(folder)}": re.sub(
            r"(?<![\w.])multiprocessing(?=[. ])", package, path.read_text(encoding="utf-8")
        )
        for path in folder.rglob("*.py")
    }


def test_the_tracker_of_a_copy_of_multiprocessing_does_not_complain_either(judge: Judge) -> None:
    judged = judge({**copied("multiprocess"), "test_it.py": TRACKER.replace("multiprocessing", "multiprocess")}, "-s")

    things = [thing for line in TRACKER.splitlines() for _, mark, thing in [line.partition("# leaks: ")] if mark]
    assert sorted(f"{blame.owner}, {blame.thing}" for blame in judged.blames()) == sorted(things), judged.output
    assert judged.removed(), judged.output
    for complaint in ("KeyError", "Traceback", "UserWarning: resource_tracker"):
        assert complaint not in judged.output


def test_what_only_a_copy_of_multiprocessing_keeps_for_itself_is_removed_at_once(judge: Judge) -> None:
    source = """
    import threading
    import multiprocess

    over = threading.Event()

    def test_leaves_a_lock_in_a_frame():
        lock = multiprocess.get_context("spawn").Lock()
        running = threading.Thread(target=lambda lock: over.wait(), args=(lock,), daemon=True)
        running.start()
    """

    judged = judge({**copied("multiprocess"), "test_it.py": source}, "-oshmstate_grace=0")

    assert [blame[:2] for blame in judged.blames()] == [("test_leaves_a_lock_in_a_frame", "semaphore 32")]
    assert "\n  now          removed\n" in judged.output


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


def test_objects_that_cannot_be_asked_hinder_no_removal(judge: Judge) -> None:
    judged = judge(
        """
    import multiprocessing, multiprocessing.pool, multiprocessing.util, subprocess, sys, types
    from multiprocessing.shared_memory import SharedMemory

    import pytest

    class Array:
        def __eq__(self, other):
            raise ValueError("the truth value of an array is ambiguous")

        __hash__ = object.__hash__

    class Proxy:
        def __getattribute__(self, name):
            raise RuntimeError("working outside of request context")

    class LoadsItself(types.ModuleType):
        def __getattribute__(self, name):
            raise ImportError(name)

    sys.modules["loads_itself"] = LoadsItself("loads_itself")
    finalizer = multiprocessing.util.Finalize(Array(), print, args=(Array(),))
    threads = multiprocessing.pool.ThreadPool(1)
    proxy = Proxy()
    kept = []

    @pytest.fixture(scope="module", autouse=True)
    def asks_proxy():
        yield [proxy]
        assert proxy is not None

    def test_cannot_make():
        with pytest.raises(OSError) as error:
            SharedMemory("no/such/directory", create=True, size=10)
        kept.append(error.value)

    def test_name_that_the_tracker_does_not_take():
        try:
            SharedMemory("n\u00e4me", create=True, size=5302)  # leaks: test_name_that_the_tracker_does_not_take, segment 5302
        except UnicodeEncodeError:  # the segment is there by now
            pass

    def test_segment():
        SharedMemory("made-elsewhere", create=True, size=5301).close()  # leaks: test_segment, segment 5301

    def test_file():
        open("/dev/shm/file-beside", "w").close()  # leaks: test_file, file 0

    def test_semaphore():
        kept.append(multiprocessing.get_context("spawn").Lock())  # leaks: test_semaphore, semaphore 32

    def test_process():
        subprocess.Popen(["sleep", "100"])  # leaks: test_process, process

    def test_threads_still_work():
        assert threads.map(abs, [-1]) == [1]
    """
    )

    judged.confirm()
    assert "INTERNALERROR" not in judged.output, judged.output
