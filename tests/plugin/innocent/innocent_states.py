"""What shmstate itself makes: states, pools, and the plugin's own fixtures.

a writer and a reader come and go
a writer is left to the collector
a sessions states grow
a sync publishes what it is told
the plugins states are closed
the plugins workers are ended
the plugins worker is killed with its state
a modules workers are started by tests
a check inside finds nothing
a check inside finds its own leak
a check inside does not judge what was there
a prefix makes nothing
"""

from __future__ import annotations

import os
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Iterator

import pytest

import shmstate
from pytest_shmstate import LeakError, States, Workers, check_leaks, unique_prefix
from pytest_shmstate.check import LeakChecks
from tests.core.children import until
from tests.plugin.innocent import bodies
from tests.plugin.innocent.parts import is_there, new_name


def test_a_writer_and_a_reader_come_and_go() -> None:
    with shmstate.StateWriter(new_name("state")) as writer, shmstate.StateReader(writer.name) as reader:
        writer.publish({"a": 1})
        assert reader.get() == {"a": 1}


def test_a_writer_is_left_to_the_collector() -> None:
    writer = shmstate.StateWriter(new_name("state"))
    writer.publish([writer.name])


@pytest.fixture(scope="session")
def session_states() -> Iterator[States]:
    with States() as states:
        yield states


@pytest.mark.parametrize("number", range(3))
def test_a_sessions_states_grow(session_states: States, number: int) -> None:
    writer, reader = session_states.pair()
    writer.publish(number)
    assert reader.get() == number


def test_a_sync_publishes_what_it_is_told() -> None:
    with shmstate.StateWriter(new_name("sync")) as writer:
        with shmstate.StateSync(writer, lambda: 7, interval=0.01):
            until(lambda: writer.version)


def test_the_plugins_states_are_closed(shm_state: States) -> None:
    writer, reader = shm_state.pair()
    writer.publish("text")
    assert reader.get() == "text"


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_the_plugins_workers_are_ended(shm_workers: Workers, method: str) -> None:
    assert shm_workers.spawn(bodies.make_and_remove, start_method=method).result() != os.getpid()


def test_the_plugins_worker_is_killed_with_its_state(shm_workers: Workers, shm_state: States) -> None:
    worker = shm_workers.spawn(bodies.publish_and_wait, shm_state.name("killed"), start_method="fork")
    worker.wait_ready()
    worker.kill()


@pytest.fixture(scope="module")
def module_workers() -> Iterator[Workers]:
    with Workers() as workers:
        yield workers


@pytest.mark.parametrize("number", range(2))
def test_a_modules_workers_are_started_by_tests(module_workers: Workers, number: int) -> None:
    assert is_there(module_workers.spawn(bodies.keep_and_wait, start_method="fork").wait_ready())


def test_a_check_inside_finds_nothing(shm_leaks: LeakChecks) -> None:
    with shm_leaks.check():
        bodies.make_and_remove()


def test_a_check_inside_finds_its_own_leak() -> None:
    with pytest.raises(LeakError):
        with check_leaks(grace=0.0):
            SharedMemory(create=True, size=10).close()


def test_a_check_inside_does_not_judge_what_was_there(session_pool: Any) -> None:
    session_pool.grow()
    with check_leaks():
        bodies.make_and_remove()
    session_pool.grow()


def test_a_prefix_makes_nothing() -> None:
    assert not is_there(unique_prefix("nothing"))
