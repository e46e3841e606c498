from __future__ import annotations

import gc
import os
import signal
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from shmstate import (
    Answer,
    Codec,
    CodecMismatch,
    DecodeError,
    InvalidName,
    InvalidOption,
    NotPublished,
    QueryService,
    ShmStateError,
    StateNotFound,
    StateWriter,
    UnknownWorker,
    attachment,
    memory,
    ownership,
    reclaim,
)
from shmstate.memory import path_of
from shmstate.query import state_name
from tests.core import children
from tests.core.children import PATIENCE, Child, descriptors_before, open_descriptors, until

Start = Callable[..., Child]


@pytest.fixture
def service(prefix: str) -> Iterator[QueryService]:
    """Asks the states of the test's own fleet, anew each time whether their writers live."""
    with QueryService(prefix, recheck=0) as service:
        yield service


def open_worker(service: QueryService, worker: str, **options: object) -> StateWriter:
    return StateWriter(state_name(service.fleet, worker), **options)  # type: ignore[arg-type]


# Asking.


def test_an_answer_is_the_latest_state_with_how_far_to_trust_it(service: QueryService) -> None:
    with open_worker(service, "w1") as writer:
        writer.publish("old")
        writer.publish({"jobs": 3})

        answer = service.query("w1")

        assert (answer.worker, answer.value, answer.version, answer.alive) == ("w1", {"jobs": 3}, 2, True)
        assert 0 < answer.staleness <= answer.age < 60


def test_each_query_sees_what_was_published_last(service: QueryService) -> None:
    with open_worker(service, "w1") as writer:
        for jobs in range(20):
            writer.publish(jobs)
            assert service.query("w1").value == jobs


def test_a_beat_makes_an_answer_fresh_without_making_it_young(service: QueryService) -> None:
    with open_worker(service, "w1") as writer:
        writer.publish(1)
        until(lambda: service.query("w1").age > 0.01)

        writer.beat()
        answer = service.query("w1")

        assert answer.age - answer.staleness > 0.01


def test_all_workers_answer_by_name(service: QueryService) -> None:
    with open_worker(service, "b") as b, open_worker(service, "a") as a, open_worker(service, "c.d"):
        a.publish("of a")
        b.publish("of b")

        answers = service.query_all()

        assert {worker: answer.value for worker, answer in answers.items()} == {"a": "of a", "b": "of b"}
        assert service.workers() == ["a", "b", "c.d"]


def test_a_fleet_without_workers_has_no_answers(service: QueryService) -> None:
    assert service.workers() == []
    assert service.query_all() == {}


def test_states_of_other_fleets_are_none_of_its_workers(service: QueryService) -> None:
    with StateWriter(service.fleet + "-other.w1"), StateWriter(service.fleet):
        assert service.workers() == []


def test_an_unknown_worker_is_told_with_those_that_there_are(service: QueryService) -> None:
    with open_worker(service, "w1"), open_worker(service, "w2"), pytest.raises(
        UnknownWorker, match=f"fleet '{service.fleet}' has no worker 'w3'; it has 'w1', 'w2'. Has it started"
    ) as caught:
        service.query("w3")

    assert isinstance(caught.value, StateNotFound)


def test_an_unknown_worker_of_an_empty_fleet_is_told_that_there_is_none(service: QueryService) -> None:
    with pytest.raises(UnknownWorker, match="it has none"):
        service.query("w1")


def test_a_worker_that_has_not_published_is_told_so_by_itself_and_left_out_of_all(service: QueryService) -> None:
    with open_worker(service, "w1"):
        with pytest.raises(NotPublished, match=state_name(service.fleet, "w1")):
            service.query("w1")
        assert service.query_all() == {}


@pytest.mark.parametrize("worker", ["", "a/b", "x" * 300])
def test_a_worker_whose_name_cannot_be_one_is_refused_or_unknown(service: QueryService, worker: str) -> None:
    with pytest.raises((InvalidName, UnknownWorker)):
        service.query(worker)


def test_a_state_that_does_not_decode_is_told(service: QueryService) -> None:
    with open_worker(service, "w1") as writer:
        writer.publish_bytes(b"\xc1")

        with pytest.raises(DecodeError, match=state_name(service.fleet, "w1")):
            service.query("w1")


def test_a_fleet_written_with_pickle_is_read_by_who_names_it(prefix: str) -> None:
    with StateWriter(prefix + ".w1", codec="pickle") as writer:
        writer.publish({1, 2})

        with QueryService(prefix) as unnamed, pytest.raises(CodecMismatch):
            unnamed.query("w1")
        with QueryService(prefix, codec="pickle") as named:
            assert named.query("w1").value == {1, 2}


# Workers that end and come back.


def test_a_dead_worker_answers_with_its_last_state_and_is_not_alive(service: QueryService, start: Start) -> None:
    name = state_name(service.fleet, "w1")
    child = start(children.own, name)
    child.line()
    assert service.query("w1").alive

    child.kill()
    answer = service.query("w1")

    assert (answer.value, answer.alive) == ({"from": child.pid}, False)
    assert ownership.remove_if_dead(path_of(name), name)


def test_a_worker_that_is_found_dead_answers_too(service: QueryService) -> None:
    writer = open_worker(service, "w1")
    writer.publish("last")
    writer.close(unlink=False)

    assert service.query("w1")[1:3] == ("last", 1)
    assert not service.query("w1").alive

    open_worker(service, "w1").close()


def test_a_worker_that_closed_is_no_longer_listed_and_is_forgotten_by_the_next_query_of_all(
    service: QueryService,
) -> None:
    with open_worker(service, "w1") as writer:
        writer.publish("last")
        service.query("w1")

    assert (service.query("w1").value, service.query("w1").alive) == ("last", False)
    assert service.workers() == []
    assert service.query_all() == {}
    with pytest.raises(UnknownWorker):
        service.query("w1")


def mapped(prefix: str) -> int:
    """The maps of this process that readers of the fleet have made; those of writers have another name."""
    with open("/proc/self/maps") as maps:
        return sum(f"/shmstate.{prefix}." in line for line in maps)


def test_workers_that_came_and_closed_leave_nothing_mapped(service: QueryService) -> None:
    gc.disable()
    try:
        for turn in range(20):
            with open_worker(service, f"w{turn}") as writer:
                writer.publish(bytes(1 << 20))
                service.query_all()
        assert mapped(service.fleet) > 0

        assert service.query_all() == {}

        assert mapped(service.fleet) == 0
    finally:
        gc.enable()


def test_a_service_that_is_never_asked_for_all_keeps_few_that_are_gone(service: QueryService) -> None:
    for turn in range(100):
        with open_worker(service, f"w{turn}") as writer:
            writer.publish(turn)
            service.query(f"w{turn}")

    assert mapped(service.fleet) <= 17


def test_a_worker_that_died_and_was_reclaimed_is_forgotten(service: QueryService, start: Start) -> None:
    name = state_name(service.fleet, "w1")
    child = start(children.own, name)
    child.line()
    service.query("w1")
    child.kill()
    assert [*service.query_all()] == ["w1"]

    assert reclaim(name=name) == [name]

    assert service.query_all() == {}
    assert mapped(service.fleet) == 0


def test_the_last_answers_of_so_many_workers_are_kept_and_no_more(prefix: str) -> None:
    with QueryService(prefix, recheck=0, keep_last=2) as service:
        for worker in "abc":
            with open_worker(service, worker) as writer:
                writer.publish(worker)
                service.query(worker)
            service.query_all()

        answers = service.query_all()

        assert {worker: (answer.value, answer.alive) for worker, answer in answers.items()} == {
            "b": ("b", False),
            "c": ("c", False),
        }
        assert service.workers() == ["b", "c"]
        assert service.query("c").age > answers["c"].age
        assert mapped(prefix) == 0
        with open_worker(service, "c") as writer:
            assert service.query_all()["c"].value == "c"
            writer.publish("new")
            assert (service.query_all()["c"].value, service.query("c").alive) == ("new", True)


def test_a_read_that_is_under_way_goes_on_when_its_worker_is_forgotten(prefix: str) -> None:
    services: List[QueryService] = []

    def decode(payload: bytes) -> object:
        if os.path.exists(path_of(prefix + ".w1")):
            os.unlink(path_of(prefix + ".w1"))
            assert services[0].query_all() == {}
            assert mapped(prefix) == 1
        return payload

    codec = Codec("forgetting", bytes, decode)
    with StateWriter(prefix + ".w1", codec=codec) as writer, QueryService(prefix, codec=codec) as service:
        services.append(service)
        writer.publish(b"whole")

        assert service.query("w1").value == b"whole"

        assert mapped(prefix) == 0


@pytest.mark.parametrize("keep_last", [-1, 1.5, "2", None])
def test_a_number_of_answers_to_keep_that_is_none_is_refused(prefix: str, keep_last: Any) -> None:
    with pytest.raises(InvalidOption, match="keep_last="):
        QueryService(prefix, keep_last=keep_last)


# Bad neighbours.

BAD: Dict[str, Callable[[str], object]] = {
    "an empty file": lambda path: open(path, "w").close(),
    "a short file": lambda path: Path(path).write_bytes(b"shmstate"),
    "a file of zeros": lambda path: Path(path).write_bytes(bytes(8192)),
    "a directory": os.mkdir,
    "a pipe": os.mkfifo,
    "a link": lambda path: os.symlink("/dev/zero", path),
    "a link to nothing": lambda path: os.symlink(path + "-none", path),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_neighbour_is_named_and_the_others_answer(service: QueryService, kind: str) -> None:
    path = path_of(state_name(service.fleet, "bad"))
    with open_worker(service, "w1") as writer:
        writer.publish("good")
        BAD[kind](path)
        try:
            answers = service.query_all()
        finally:
            (os.rmdir if kind == "a directory" else os.unlink)(path)

    assert {worker: answer.value for worker, answer in answers.items()} == {"w1": "good"}
    assert set(answers.problems) == {"bad"}
    assert "bad" in str(answers.problems["bad"])


def test_a_file_whose_name_is_not_utf8_is_named_and_the_others_answer(service: QueryService) -> None:
    path = os.fsencode(path_of(state_name(service.fleet, "x"))) + b"\xff"
    with open_worker(service, "w1") as writer:
        writer.publish("good")
        with open(path, "w"):
            pass
        try:
            answers = service.query_all()
        finally:
            os.unlink(path)

    assert [*answers] == ["w1"]
    assert isinstance(answers.problems["x\udcff"], InvalidName)


def test_states_that_do_not_decode_are_named_and_the_others_answer(service: QueryService) -> None:
    with open_worker(service, "w1") as good, open_worker(service, "bytes") as broken, open_worker(
        service, "pickled", codec="pickle"
    ) as pickled:
        good.publish("good")
        broken.publish_bytes(b"\xc1")
        pickled.publish(1)

        answers = service.query_all()

    assert [*answers] == ["w1"]
    assert {worker: type(error) for worker, error in answers.problems.items()} == {
        "bytes": DecodeError,
        "pickled": CodecMismatch,
    }


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError(), RecursionError()])
def test_what_the_system_refuses_one_worker_is_its_problem(
    service: QueryService, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_worker(service, "w1") as good, open_worker(service, "w2") as bad:
        good.publish("good")
        bad.publish("bad")
        query = service.query

        def fail(worker: str) -> Answer:
            if worker == "w2":
                raise error
            return query(worker)

        monkeypatch.setattr(service, "query", fail)
        answers = service.query_all()

    assert [*answers] == ["w1"]
    assert type(error).__name__ in str(answers.problems["w2"])
    assert isinstance(answers.problems["w2"], ShmStateError)


def test_a_worker_that_closed_before_it_was_asked_is_unknown(service: QueryService) -> None:
    with open_worker(service, "w1") as writer:
        writer.publish(1)

    with pytest.raises(UnknownWorker):
        service.query("w1")


def test_an_heir_of_the_same_segment_is_followed(service: QueryService) -> None:
    writer = open_worker(service, "w1")
    writer.publish("first")
    assert service.query("w1").alive
    writer.close(unlink=False)
    assert not service.query("w1").alive

    with open_worker(service, "w1") as heir:
        assert service.query("w1")[1:3] == ("first", 1)
        assert service.query("w1").alive
        heir.publish("second")
        assert service.query("w1")[1:3] == ("second", 2)


def test_a_worker_that_comes_back_is_followed_once_it_has_published(service: QueryService) -> None:
    with open_worker(service, "w1") as first:
        first.publish("first")
        service.query("w1")
    with open_worker(service, "w1") as second:
        answer = service.query("w1")
        assert (answer.value, answer.alive) == ("first", False)

        second.publish("second")
        answer = service.query("w1")

        assert (answer.value, answer.alive) == ("second", True)


def test_following_many_restarts_keeps_no_more_open_than_the_last(service: QueryService) -> None:
    before = None
    for turn in range(8):
        with open_worker(service, "w1") as writer:
            writer.publish(turn)
            assert service.query("w1").value == turn
        before = before or descriptors_before()

    assert open_descriptors() <= (before or 0)


# When the kernel is asked.


def test_an_answer_about_life_is_believed_for_as_long_as_told(prefix: str) -> None:
    with QueryService(prefix, recheck=3600) as service:
        with open_worker(service, "w1") as writer:
            writer.publish(1)
            assert service.query("w1").alive

        assert service.query("w1").alive  # an hour ago, as it were

        service.look_again()
        assert not service.query("w1").alive


def test_a_restart_is_noticed_only_when_the_kernel_is_asked(prefix: str) -> None:
    with QueryService(prefix, recheck=3600) as service:
        with open_worker(service, "w1") as writer:
            writer.publish("first")
            service.query("w1")
        with open_worker(service, "w1") as writer:
            writer.publish("second")
            assert service.query("w1").value == "first"

            service.look_again()
            assert service.query("w1").value == "second"


# Attaching, closing, threads.


def test_a_worker_can_be_attached_ahead_of_its_first_publish(service: QueryService) -> None:
    with open_worker(service, "w1") as writer:
        service.attach("w1")
        service.attach("w1")
        writer.publish(1)
        os.unlink(path_of(state_name(service.fleet, "w1")))

        assert service.query("w1").value == 1


def test_attaching_waits_for_the_state_to_exist(service: QueryService, start: Start) -> None:
    start(children.own, state_name(service.fleet, "w1"))

    service.attach("w1", timeout=30)

    assert service.workers() == ["w1"]


def test_attaching_an_unknown_worker_says_so(service: QueryService) -> None:
    with pytest.raises(UnknownWorker):
        service.attach("w1", timeout=0.01)


def test_closing_forgets_the_workers_and_keeps_nothing_open(prefix: str) -> None:
    with StateWriter(prefix + ".w1") as writer:
        writer.publish(1)
        before = descriptors_before()
        service = QueryService(prefix)
        service.query("w1")

        service.close()
        service.close()

        assert open_descriptors() == before
        assert os.path.exists(path_of(prefix + ".w1"))
    assert service.workers() == []


def test_threads_may_share_a_service_also_while_workers_come_back(service: QueryService) -> None:
    errors = []
    done = threading.Event()

    def ask() -> None:
        last = -1
        while not done.is_set():
            try:
                value = service.query("w1").value
            except Exception as error:
                errors.append(error)
                return
            if value < last:
                errors.append(AssertionError(f"{value} after {last}"))
            last = value

    threads = [threading.Thread(target=ask) for _ in range(3)]
    with open_worker(service, "w1") as writer:
        writer.publish(0)
        for thread in threads:
            thread.start()
    for turn in range(1, 20):
        with open_worker(service, "w1") as writer:
            writer.publish(turn)
            until(lambda: service.query("w1").value == turn)  # noqa: B023
    done.set()
    for thread in threads:
        thread.join()

    assert errors == []


def test_a_thread_that_waits_for_a_worker_does_not_hold_up_the_others(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach, is_waiting = memory.attach, threading.Event()

    def look(name: str, trust_uid: Any) -> Any:
        try:
            return attach(name, trust_uid)
        except StateNotFound:
            is_waiting.set()
            raise

    monkeypatch.setattr(attachment, "attach", look)
    with QueryService(prefix) as service, StateWriter(prefix + ".w1") as writer:
        writer.publish(1)
        service.query("w1")
        thread = threading.Thread(target=service.attach, args=("w2", PATIENCE))
        thread.start()
        is_waiting.wait()

        assert list(service.query_all()) == ["w1"]
        assert thread.is_alive()  # it has not been waited for
        with StateWriter(prefix + ".w2"):
            thread.join()


def test_a_child_that_is_forked_in_the_middle_of_a_query_can_query(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = ownership.inode_at
    codes: List[int] = []

    def fork(path: str) -> Any:
        monkeypatch.setattr(ownership, "inode_at", look)
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            os._exit(queried.query_all()["w1"].value)
        codes.append(os.waitpid(child, 0)[1] >> 8)
        return look(path)

    queried = QueryService(prefix)
    with queried, StateWriter(prefix + ".w1") as writer:
        writer.publish(42)
        with StateWriter(prefix + ".w2"):
            queried.attach("w2")
        monkeypatch.setattr(ownership, "inode_at", fork)
        queried.query_all()

    assert codes == [42]


# Options.


@pytest.mark.parametrize("recheck", [-1, float("nan")])
def test_a_recheck_out_of_range_is_refused(prefix: str, recheck: float) -> None:
    with pytest.raises(InvalidOption, match="recheck="):
        QueryService(prefix, recheck=recheck)


@pytest.mark.parametrize("fleet", ["", "a/b", " a"])
def test_an_invalid_fleet_is_refused(fleet: str) -> None:
    with pytest.raises(InvalidName):
        QueryService(fleet)


def test_an_unknown_codec_is_refused_at_the_latest_by_the_first_query(prefix: str) -> None:
    with StateWriter(prefix + ".w1"), pytest.raises(InvalidOption, match="yaml"):
        QueryService(prefix, codec="yaml").query("w1")
