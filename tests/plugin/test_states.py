"""States: what they open is closed, what the killed left is gone, and what is not theirs is left alone."""

from __future__ import annotations

import os
import pickle
from typing import Any, Callable, Iterator, List

import pytest

import shmstate
from pytest_shmstate.prefixes import unique_prefix
from pytest_shmstate.states import States
from pytest_shmstate.workers import START_METHODS, WorkerFailed, Workers
from tests.plugin import bodies


def names_under(prefix: str) -> List[str]:
    return [state.name for state in shmstate.list_states(prefix)]


@pytest.fixture
def states() -> Iterator[States]:
    with States() as states:
        yield states


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(grace=0.0) as workers:
        yield workers


def in_a_fork(body: Callable[[], None]) -> int:
    """The exit status of a forked child that runs it: 1 if it raised."""
    pid = os.fork()
    if not pid:
        try:
            body()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])


# Opening.


def test_a_reader_of_a_pair_reads_what_its_writer_publishes(states: States) -> None:
    writer, reader = states.pair()

    writer.publish([1])

    assert reader.get() == [1]


def test_options_of_a_pair_are_its_writers(states: States) -> None:
    writer, reader = states.pair(slots=2, max_size=4096, codec="json")

    assert (writer.slots, writer.max_size, writer.codec) == (2, 4096, "json")
    assert (reader.slots, reader.max_size, reader.codec) == (2, 4096, "json")


def test_a_pair_shares_a_codec_that_a_reader_must_name(states: States) -> None:
    writer, reader = states.pair(codec="pickle")

    writer.publish({1})

    assert reader.get() == {1}


def test_all_names_begin_with_the_prefix_and_differ(states: States) -> None:
    writers = [states.writer(), states.writer(), states.writer("mine"), *(states.pair()[:1])]

    assert [writer.name for writer in writers if not writer.name.startswith(states.prefix)] == []
    assert len({writer.name for writer in writers}) == 4


def test_a_name_is_completed_once(states: States) -> None:
    writer = states.writer("mine")

    assert writer.name == states.prefix + "mine" == states.name("mine") == states.name(writer.name)


def test_a_reader_is_opened_by_writer_by_name_and_by_full_name(states: States) -> None:
    writer = states.writer("mine")

    readers = [states.reader(of) for of in (writer, "mine", writer.name)]

    assert {reader.name for reader in readers} == {writer.name}


def test_a_writer_of_somebody_else_can_be_read(states: States) -> None:
    with shmstate.StateWriter(unique_prefix("elsewhere")) as writer:
        assert states.reader(writer).name == writer.name


def test_options_of_a_reader_are_passed_on(states: States) -> None:
    with pytest.raises(shmstate.CodecMismatch):
        states.reader(states.writer(codec="json"), codec="raw")


def test_errors_of_a_writer_are_passed_on_and_the_others_closed() -> None:
    with pytest.raises(shmstate.NameInUse), States() as states:
        states.writer("mine")
        states.writer("mine")

    assert names_under(states.prefix) == []


def test_two_have_different_prefixes() -> None:
    assert States().prefix != States().prefix


def test_a_prefix_that_is_given_is_taken() -> None:
    prefix = unique_prefix("given")

    with States(prefix) as states:
        assert states.writer().name.startswith(prefix)


def test_the_prefix_of_all_states_is_refused() -> None:
    with pytest.raises(ValueError, match="prefix of all states"):
        States("")


# Leaving.


def test_leaving_closes_writers_and_readers_and_removes_the_states() -> None:
    with States() as states:
        writer, reader = states.pair()
        writer.publish(1)
        assert names_under(states.prefix) == [writer.name]

    with pytest.raises(shmstate.WriterClosed):
        writer.publish(2)
    with pytest.raises(shmstate.ReaderClosed):
        reader.get()
    assert names_under(states.prefix) == []


def test_leaving_with_an_error_closes_as_well_and_shows_the_error() -> None:
    with pytest.raises(KeyError), States() as states:
        states.pair()
        raise KeyError

    assert names_under(states.prefix) == []


def test_leaving_closes_what_was_opened_last_first(states: States, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: List[Any] = []

    def note(kind: Any) -> None:
        close = kind.close

        def close_and_note(self: Any) -> None:
            closed.append(self)
            close(self)

        monkeypatch.setattr(kind, "close", close_and_note)

    note(shmstate.StateReader)
    note(shmstate.StateWriter)
    first, second = states.pair()
    third = states.writer()

    states.close()

    assert closed == [third, second, first]


def test_what_was_closed_before_is_no_error() -> None:
    with States() as states:
        writer, reader = states.pair()
        writer.close()
        reader.close()


def test_leaving_twice_is_leaving_once() -> None:
    with States() as states:
        states.pair()
        states.close()
    states.close()

    assert names_under(states.prefix) == []


def test_a_close_that_fails_is_raised_and_the_others_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    close = shmstate.StateReader.close

    def fail(self: shmstate.StateReader) -> None:
        close(self)
        raise OSError(f"no close of {self.name}")

    monkeypatch.setattr(shmstate.StateReader, "close", fail)
    states = States()
    first = states.writer("first")
    states.reader(first)
    second = states.writer("second")
    states.reader(second)

    with pytest.raises(OSError, match=r"no close of .*first") as caught:
        states.close()

    assert "second" in str(caught.value.__context__)
    assert names_under(states.prefix) == []


def test_a_close_that_fails_does_not_lose_what_ended_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: shmstate.StateReader) -> None:
        self._segment.close()
        raise OSError("no close")

    monkeypatch.setattr(shmstate.StateReader, "close", fail)

    with pytest.raises(OSError, match="no close") as caught, States() as states:
        states.pair()
        raise KeyError("of the block")

    assert isinstance(caught.value.__context__, KeyError)


# The killed.


@pytest.mark.parametrize("method", START_METHODS)
def test_a_state_whose_process_was_killed_is_removed(method: str, workers: Workers) -> None:
    with States() as states:
        worker = workers.spawn(bodies.own_and_wait, states.name("killed"), start_method=method)
        worker.wait_ready()
        worker.kill()
        assert names_under(states.prefix) == [states.name("killed")]

    assert names_under(states.prefix) == []


def test_the_last_state_of_a_killed_process_can_be_read_until_then(workers: Workers) -> None:
    with States() as states:
        worker = workers.spawn(bodies.own_and_wait, states.name("killed"), start_method="fork")
        worker.wait_ready()
        worker.kill()

        reader = states.reader("killed")

        assert (reader.get(), reader.writer_alive) == ("owned", False)


def test_a_state_of_a_living_process_is_left_to_it(workers: Workers) -> None:
    with States() as states:
        worker = workers.spawn(bodies.own_and_wait, states.name("owned"), start_method="fork")
        worker.wait_ready()

    assert names_under(states.prefix) == [states.name("owned")]
    workers.close()
    assert names_under(states.prefix) == []


def test_what_the_dead_left_under_other_names_is_not_touched(workers: Workers) -> None:
    elsewhere = unique_prefix("elsewhere")
    with States():
        worker = workers.spawn(bodies.own_and_wait, elsewhere, start_method="fork")
        worker.wait_ready()
        worker.kill()

    assert shmstate.reclaim(elsewhere) == [elsewhere]


def test_a_state_that_nobody_closed_is_removed_also_if_a_close_fails(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: shmstate.StateReader) -> None:
        self._segment.close()
        raise OSError("no close")

    monkeypatch.setattr(shmstate.StateReader, "close", fail)
    with pytest.raises(OSError, match="no close"), States() as states:
        worker = workers.spawn(bodies.own_and_wait, states.name("killed"), start_method="fork")
        worker.wait_ready()
        worker.kill()
        states.reader("killed")

    assert names_under(states.prefix) == []


# Forks.


def test_a_forked_child_that_leaves_closes_nothing_of_its_parent(states: States) -> None:
    writer, reader = states.pair()

    assert in_a_fork(lambda: states.__exit__(None, None, None)) == 0

    writer.publish("still")
    assert reader.get() == "still"
    assert names_under(states.prefix) == [writer.name]


def test_a_forked_child_reclaims_nothing(states: States, workers: Workers) -> None:
    worker = workers.spawn(bodies.own_and_wait, states.name("killed"), start_method="fork")
    worker.wait_ready()
    worker.kill()

    assert in_a_fork(states.close) == 0

    assert names_under(states.prefix) == [states.name("killed")]


def test_a_forked_child_closes_what_it_opened_itself(states: States) -> None:
    first = states.writer()

    def open_and_leave() -> None:
        states.pair()
        states.close()

    assert in_a_fork(open_and_leave) == 0
    assert names_under(states.prefix) == [first.name]


def test_a_forked_child_that_leaves_nothing_leaves_it_to_its_parent() -> None:
    with States() as states:
        assert in_a_fork(lambda: states.pair() and None) == 0
        assert len(names_under(states.prefix)) == 1

    assert names_under(states.prefix) == []


def test_a_forked_childs_states_and_its_parents_have_different_names(states: States) -> None:
    def outlive_the_writers_of_the_parent() -> None:
        states.writer()

    assert in_a_fork(outlive_the_writers_of_the_parent) == 0

    states.writer()
    assert len(names_under(states.prefix)) == 2


def test_a_worker_reads_a_state_by_its_name(states: States, workers: Workers) -> None:
    writer = states.writer()
    writer.publish("for all")

    assert workers.spawn(bodies.read_state, writer.name).result() == "for all"


def test_what_a_worker_fails_with_arrives(states: States, workers: Workers) -> None:
    with pytest.raises(WorkerFailed) as caught:
        workers.spawn(bodies.read_state, states.name("none"), start_method="fork").result()

    assert type(caught.value.__cause__) is shmstate.StateNotFound


def test_states_themselves_are_not_sent_to_processes(states: States) -> None:
    with pytest.raises(TypeError, match=r"give others the full name of a state"):
        pickle.dumps(states)
