"""Errors, warnings and log records that pytest keeps a while, and locks and processes in them.

a lock is in a log record
a lock is in a warning
a lock is in a warning that is shown: as its source, which pytest keeps until the test is reported
a lock is in an error that was expected
a lock is in the traceback of an xfail: which pytest keeps until the next test is called
a pool is in the traceback of an xfail
a lock is in the traceback of a skip
a lock is in the error of a thread
a segment is in the traceback of an xfail
an xfail does not run: nor do these end what pytest keeps of the last that did
"""

from __future__ import annotations

import logging
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.shared_memory import SharedMemory

import pytest

from tests.plugin.innocent import bodies
from tests.plugin.innocent.parts import FORK, SPAWN


def test_a_lock_is_in_a_log_record(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logging.getLogger("innocent").info("a lock: %s", SPAWN.Lock())
    assert caplog.records


def test_a_lock_is_in_a_warning() -> None:
    warnings.warn("of a lock", ResourceWarning, stacklevel=1, source=SPAWN.Lock())
    with pytest.warns(UserWarning, match="of another"):
        warnings.warn("of another", UserWarning, stacklevel=1, source=SPAWN.Lock())


@pytest.mark.filterwarnings("always::ResourceWarning")
def test_a_lock_is_in_a_warning_that_is_shown() -> None:
    warnings.warn("of a lock", ResourceWarning, stacklevel=1, source=SPAWN.Lock())


def fail_with_a_lock() -> None:
    lock = SPAWN.Lock()
    with lock:
        raise LookupError("with a lock")


def test_a_lock_is_in_an_error_that_was_expected() -> None:
    with pytest.raises(LookupError) as error:
        fail_with_a_lock()

    assert error.traceback


@pytest.mark.xfail(reason="to keep a lock", strict=True)
def test_a_lock_is_in_the_traceback_of_an_xfail() -> None:
    fail_with_a_lock()


@pytest.mark.xfail(reason="to keep processes", strict=True)
def test_a_pool_is_in_the_traceback_of_an_xfail() -> None:
    executor = ProcessPoolExecutor(1, mp_context=FORK)
    executor.submit(bodies.make_and_remove).result()
    raise LookupError("with an executor")


def test_a_lock_is_in_the_traceback_of_a_skip() -> None:
    lock = SPAWN.Lock()
    with lock:
        pytest.skip("with a lock")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lock_is_in_the_error_of_a_thread() -> None:
    thread = threading.Thread(target=fail_with_a_lock)
    thread.start()
    thread.join()


@pytest.mark.xfail(reason="to keep a mapping", strict=True)
def test_a_segment_is_in_the_traceback_of_an_xfail() -> None:
    segment = SharedMemory(create=True, size=100)
    try:
        raise LookupError(str(bytes(segment.buf)))
    finally:
        segment.unlink()


@pytest.mark.xfail(reason="it does not run", run=False)
@pytest.mark.parametrize("number", range(4))
def test_an_xfail_does_not_run(number: int) -> None:
    raise AssertionError
