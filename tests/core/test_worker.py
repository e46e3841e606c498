from __future__ import annotations

import multiprocessing
import os
import pickle
import select
import signal
import threading
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from shmstate import Machine, NotPublished, StateReader, StateWriter, lifeline, ownership, wire, worker
from shmstate.memory import path_of
from tests.core.children import PATIENCE, Adder, Restored, Unencodable, make_nothing, until


class Worker:
    """A worker process and the ends of its pipes that a pool would hold."""

    def __init__(self, name: str, machine: Callable[[], Machine], interval: float = 0.005, pool: Any = None) -> None:
        self.name = name
        order = worker.Order(name, machine, interval, "msgpack", 4, 1 << 20)
        inbox, self.inbox = multiprocessing.Pipe(duplex=False)
        self.control, control = wire.packet_channel()
        self.report, report = wire.packet_channel()
        ours = [self.inbox, self.control, self.report]
        theirs = worker.Ends(inbox, control, report)
        self.process = multiprocessing.get_context("fork").Process(
            target=worker.main,
            args=(worker.Sealed(order), theirs, pool or lifeline.Lifeline.of_this_process(), ours),
            daemon=True,
        )
        self.process.start()
        for end in theirs:
            end.close()
        self._messages, self._questions = wire.Outlet(self.inbox), wire.Outlet(self.control)
        self._answers, self._reports = wire.Inlet(self.control), wire.Inlet(self.report)

    def send(self, message: Any) -> None:
        self._put((worker.MESSAGE, message))

    def stop(self) -> None:
        self._put((worker.STOP, None))

    def _put(self, message: Any) -> None:
        self._messages.write(pickle.dumps(message), lambda: self._wait(self.inbox, select.POLLOUT))

    def ask(self, number: int) -> None:
        self._questions.write(pickle.dumps(number), lambda: self._wait(self.control, select.POLLOUT))

    def hear(self) -> Tuple[str, Any]:
        """The next thing it reports."""
        return self._next(self._reports)

    def answer(self) -> Tuple[str, Any]:
        """Its next answer."""
        return self._next(self._answers)

    def _next(self, inlet: wire.Inlet) -> Tuple[str, Any]:
        message = inlet.read()
        while message is None:
            self._wait(inlet.end, select.POLLIN)
            message = inlet.read()
        said: Tuple[str, Any] = pickle.loads(message)
        return said

    def _wait(self, end: Any, events: int) -> None:
        assert wire.wait_for(end, events, PATIENCE)

    def exit_code(self) -> Any:
        self.process.join(PATIENCE)
        return self.process.exitcode

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        for end in (self.inbox, self.control, self.report):
            end.close()
        if os.path.exists(path_of(self.name)):
            assert ownership.remove_if_dead(path_of(self.name), self.name)


@pytest.fixture
def employ(name: str) -> Iterator[Callable[..., Worker]]:
    """Starts a worker, which is ended with the test."""
    workers: List[Worker] = []

    def employ(machine: Callable[[], Machine], **options: Any) -> Worker:
        workers.append(Worker(name, machine, **options))
        return workers[-1]

    yield employ

    for each in workers:
        each.end()


Employ = Callable[..., Worker]


def state_of(name: str) -> Any:
    with StateReader(name) as reader:
        return reader.get()


def test_it_says_that_it_is_ready_when_its_first_state_is_published(employ: Employ, name: str) -> None:
    each = employ(Adder)

    assert each.hear() == (worker.READY, None)
    assert state_of(name)["total"] == 0


def test_it_handles_messages_in_order_and_publishes_its_state(employ: Employ, name: str) -> None:
    each = employ(Adder)
    each.hear()

    for number in (1, 2, 3):
        each.send(number)

    until(lambda: state_of(name)["handled"] == [1, 2, 3])


def test_a_question_is_answered_with_its_number_and_the_present_state(employ: Employ) -> None:
    each = employ(Adder, interval=60)
    each.hear()

    each.ask(17)
    kind, (number, state) = each.answer()

    assert (kind, number, state["total"], state["pid"]) == (worker.ANSWER, 17, 0, each.process.pid)


def test_a_question_is_answered_ahead_of_the_inbox(employ: Employ) -> None:
    each = employ(Adder, interval=60)
    each.hear()
    assert each.process.pid is not None
    os.kill(each.process.pid, signal.SIGSTOP)
    for _ in range(50):
        each.send(1)
    each.ask(1)
    os.kill(each.process.pid, signal.SIGCONT)

    _, (_, state) = each.answer()

    assert state["total"] <= 1


def test_told_to_stop_it_handles_what_came_before_publishes_and_removes_its_segment(employ: Employ, name: str) -> None:
    each = employ(Adder, interval=60)
    each.hear()
    assert each.process.pid is not None
    with StateReader(name) as reader:
        os.kill(each.process.pid, signal.SIGSTOP)
        for _ in range(10):
            each.send(1)
        each.stop()
        os.kill(each.process.pid, signal.SIGCONT)

        assert each.exit_code() == 0
        assert reader.get()["total"] == 10
    assert not os.path.exists(path_of(name))


@pytest.mark.parametrize("ends", [["inbox"], ["control"], ["inbox", "control"]], ids=" and ".join)
def test_whose_pool_is_gone_ends_in_the_same_way(employ: Employ, name: str, ends: List[str]) -> None:
    each = employ(Adder, interval=60)
    each.hear()
    with StateReader(name) as reader:
        each.send(5)
        each.ask(1)
        each.answer()
        until(lambda: ask(each)["total"] == 5)

        for end in ends:
            getattr(each, end).close()

        assert each.exit_code() == 0
        assert reader.get()["total"] == 5
    assert not os.path.exists(path_of(name))


def ask(each: Worker) -> Any:
    each.ask(2)
    return each.answer()[1][1]


def test_terminated_it_exits_by_that_signal_and_leaves_its_segment_to_a_successor(employ: Employ, name: str) -> None:
    each = employ(Adder)
    each.hear()
    each.send(5)
    until(lambda: state_of(name)["total"] == 5)

    each.process.terminate()

    assert each.exit_code() == 128 + signal.SIGTERM
    assert state_of(name)["total"] == 5
    with StateReader(name) as reader:
        assert not reader.writer_alive


def test_a_machine_that_fails_ends_it_with_the_traceback_and_leaves_the_segment(employ: Employ, name: str) -> None:
    each = employ(Adder)
    each.hear()
    each.send(5)
    until(lambda: state_of(name)["total"] == 5)

    each.send("fail")
    kind, text = each.hear()

    assert kind == worker.DIED
    assert "in fail" in text
    assert text.endswith("LookupError: from the machine\n")
    assert each.exit_code() == 1
    assert state_of(name)["total"] == 5


@pytest.mark.parametrize(
    ("machine", "said"), [(make_nothing, "LookupError: no machine today"), (Unencodable, "EncodeError")]
)
def test_a_machine_that_cannot_begin_ends_it_with_the_traceback(
    employ: Employ, name: str, machine: Callable[[], Machine], said: str
) -> None:
    each = employ(machine)

    kind, text = each.hear()

    assert kind == worker.DIED
    assert said in text
    assert each.exit_code() == 1
    with pytest.raises(NotPublished):
        state_of(name)


def test_a_name_that_is_owned_ends_it_and_leaves_the_owner_alone(employ: Employ, name: str) -> None:
    with StateWriter(name) as owner:
        owner.publish("mine")

        kind, text = employ(Adder).hear()

        assert (kind, "NameInUse" in text) == (worker.DIED, True)
        assert state_of(name) == "mine"


def test_ctrl_c_is_ignored(employ: Employ, name: str) -> None:
    each = employ(Adder)
    each.hear()
    assert each.process.pid is not None

    os.kill(each.process.pid, signal.SIGINT)
    each.send(5)

    until(lambda: state_of(name)["total"] == 5)


def test_a_successor_restores_the_last_state_and_goes_on_with_its_version(employ: Employ, name: str) -> None:
    with StateWriter(name, max_size=1 << 20) as dead:
        dead.publish({"total": 40, "pid": 1})
        dead.publish({"total": 41, "pid": 2})
        dead.close(unlink=False)

    each = employ(Restored)
    each.hear()

    with StateReader(name) as reader:
        assert (reader.get()["total"], reader.get()["restored"], reader.version) == (41, 2, 3)


def test_a_machine_is_not_restored_from_nothing(employ: Employ, name: str) -> None:
    employ(Restored).hear()

    assert state_of(name)["restored"] is None


def test_it_vouches_for_a_state_that_does_not_change(employ: Employ, name: str) -> None:
    employ(Adder).hear()

    with StateReader(name) as reader:
        until(lambda: reader.age > 0.05)
        until(lambda: reader.age - reader.staleness > 0.05)
        assert reader.version == 1


def test_a_message_in_pieces_is_waited_for(employ: Employ, name: str) -> None:
    each = employ(Adder)
    each.hear()

    thread = threading.Thread(target=each.send, args=(b"x" * 1_000_000,))
    thread.start()
    until(lambda: state_of(name)["total"] == 1_000_000)
    thread.join()


def test_the_ends_that_a_forked_worker_inherits_are_closed(employ: Employ) -> None:
    each = employ(Adder)
    each.hear()
    assert each.process.pid is not None

    pipes = [end for end in os.listdir(f"/proc/{each.process.pid}/fd") if is_pipe_of(each, end)]

    assert pipes == []


def is_pipe_of(each: Worker, fd: str) -> bool:
    """Whether the worker holds our end of a pipe of its own."""
    try:
        target = os.readlink(f"/proc/{each.process.pid}/fd/{fd}")
    except FileNotFoundError:
        return False
    return target == os.readlink(f"/proc/self/fd/{each.control.fileno()}")
