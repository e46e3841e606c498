"""The fixtures over the blocks: which gives what to which, and in what order they are left."""

from __future__ import annotations

import pytest

import shmstate
from pytest_shmstate.states import States
from pytest_shmstate.workers import WorkerFailed, Workers
from tests.plugin import bodies

KILLED = """
import signal

import pytest

import shmstate
from pytest_shmstate import ready

def own(name):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    writer = shmstate.StateWriter(name)
    ready()
    signal.pause()

@pytest.fixture
def cautious(monkeypatch):
    monkeypatch.setattr("pytest_shmstate.workers._TERMINATE_GRACE", 0.1)

def test_it(cautious, shm_workers, shm_state):
    shm_workers.spawn(own, shm_state.name("owned"), start_method="fork").wait_ready()
    print("name:", shm_state.name("owned"))
"""

FAILED = """
def fail():
    raise LookupError("from the worker")

def test_it(shm_workers):
    shm_workers.spawn(fail, start_method="fork").join()
"""


def test_states_are_made_under_the_prefix(shm_prefix: str, shm_state: States) -> None:
    assert shm_state.prefix == shm_prefix
    assert shm_state.writer().name.startswith(shm_prefix)


def test_a_prefix_shows_its_test(shm_prefix: str) -> None:
    assert shm_prefix.startswith("test_a_prefix_shows_its_test-")


def test_workers_work_on_states(shm_workers: Workers, shm_state: States) -> None:
    writer = shm_state.writer()
    writer.publish("for all")

    assert shm_workers.spawn(bodies.read_state, writer.name, start_method="fork").result() == "for all"


def test_workers_fail_tests_as_their_block_does(shm_workers: Workers) -> None:
    with pytest.raises(WorkerFailed, match="LookupError"):
        shm_workers.spawn(bodies.fail, start_method="fork").result()


def test_a_worker_that_failed_unasked_fails_its_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILED)

    done = pytester.runpytest_subprocess("-p", "pytest_shmstate")

    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines(["*WorkerFailed: worker 1, *.fail (fork, pid *) raised LookupError: from the worker"])


def test_workers_end_before_states_are_reclaimed_in_whatever_order_a_test_asks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(KILLED)

    done = pytester.runpytest_subprocess("-p", "pytest_shmstate", "-rP")

    done.assert_outcomes(passed=1)
    (line,) = [line for line in done.outlines if line.startswith("name: ")]
    assert shmstate.list_states(line.split()[1]) == []
