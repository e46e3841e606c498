from __future__ import annotations

import logging
import math
import multiprocessing
import os
import pickle
import re
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from shmstate import (
    Codec,
    DecodeError,
    EncodeError,
    InvalidName,
    InvalidOption,
    StateReader,
    StateWriter,
    UnknownWorker,
    WorkerDied,
    WorkerPool,
    ownership,
    wire,
)
from shmstate import member as member_module
from shmstate import pool as pool_module
from shmstate.layout import SHM_DIR
from shmstate.member import Member
from tests.core import children
from tests.core.children import (
    Adder,
    Child,
    Pickled,
    Restored,
    descriptors_before,
    has_ended,
    open_descriptors,
    run,
    until,
)

Start = Callable[..., Child]

METHODS = ["spawn", "fork", "forkserver"]
#: Where the start method makes no difference the quickest is taken.
QUICK = {"start_method": "fork", "interval": 0.005}


def segments(prefix: str) -> List[str]:
    return [file for file in os.listdir(SHM_DIR) if prefix in file]


@pytest.fixture(autouse=True)
def nothing_runs_on(prefix: str) -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def total(pool: WorkerPool, worker: str) -> int:
    value: int = pool.query(worker).value["total"]
    return value


def kill(pool: WorkerPool, worker: str) -> int:
    """``kill -9`` it, and wait until it is gone."""
    pid = pool.pids[worker]
    os.kill(pid, signal.SIGKILL)
    until(lambda: has_ended(pid))
    return pid


# The ordinary life of a pool.


@pytest.mark.parametrize("method", METHODS)
def test_messages_go_in_and_states_come_out(prefix: str, method: str) -> None:
    with WorkerPool(prefix, {"w1": Adder, "w2": Adder}, start_method=method, interval=0.01) as pool:
        assert total(pool, "w1") == 0
        for number in range(1, 11):
            pool.send("w1", number)

        until(lambda: total(pool, "w1") == 55)
        answers = pool.query_all()

        assert answers["w1"].value["handled"] == list(range(1, 11))
        assert answers["w2"].value["total"] == 0
        assert {worker: answer.value["pid"] for worker, answer in answers.items()} == pool.pids
        assert len({os.getpid(), *pool.pids.values()}) == 3
        assert all(answer.alive for answer in answers.values())
        assert pool.ask("w1") == answers["w1"].value
        assert pool.workers() == ["w1", "w2"]
        assert pool.restarted == {"w1": 0, "w2": 0}


def test_a_worker_that_cannot_be_read_does_not_lose_the_others_answers(prefix: str) -> None:
    def decode(payload: Any) -> int:
        if int(payload) == os.getpid():
            raise ValueError("this is mine")
        return int(payload)

    class Says:
        def __init__(self, number: int) -> None:
            self.number = number

        def handle(self, message: Any) -> None:
            self.number = message

        def state(self) -> int:
            return self.number

    codec = Codec("own", lambda value: b"%d" % value, decode)
    machines = {"w1": partial(Says, 5), "w2": partial(Says, os.getpid()), "w3": partial(Says, 7)}
    with WorkerPool(prefix, machines, start_method="fork", interval=0.01, codec=codec) as pool:
        answers = pool.query_all()

        assert {worker: answer.value for worker, answer in answers.items()} == {"w1": 5, "w3": 7}
        assert list(answers.problems) == ["w2"]
        assert isinstance(answers.problems["w2"], DecodeError)


@pytest.mark.parametrize("method", METHODS)
def test_shutdown_drains_the_inbox_and_final_states_can_be_queried(
    prefix: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = WorkerPool(prefix, {"w1": Adder}, start_method=method, interval=60)
    stop_soon = Member.stop_soon

    def stop_soon_and_continue(member: Member, timeout: float) -> None:
        stop_soon(member, timeout)
        os.kill(member.process.pid, signal.SIGCONT)

    monkeypatch.setattr(Member, "stop_soon", stop_soon_and_continue)
    os.kill(pool.pids["w1"], signal.SIGSTOP)  # so that all of it is in the inbox when the pool says stop
    for _ in range(30):
        pool.send("w1", 1)

    pool.shutdown()
    pool.shutdown()

    answer = pool.query("w1")
    assert (answer.value["total"], answer.alive) == (30, False)
    assert all(map(has_ended, pool.pids.values()))
    assert segments(prefix) == []
    pool.close()
    with pytest.raises(UnknownWorker):
        pool.query("w1")


def test_a_new_pool_answers_at_once(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, start_method="fork", interval=60) as pool:
        assert pool.query("w1").version == 1


def test_a_state_follows_its_messages_no_sooner_than_the_interval_and_at_the_end(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, start_method="fork", interval=60) as pool:
        for _ in range(20):
            pool.send("w1", 1)

        assert pool.ask("w1")["total"] >= 0
        assert pool.query("w1").version == 1
        pool.shutdown()
        assert (total(pool, "w1"), pool.query("w1").version) == (20, 2)


def test_asking_gives_a_state_newer_than_the_last_published(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, start_method="fork", interval=60) as pool:
        pool.send("w1", 7)

        until(lambda: pool.ask("w1")["total"] == 7)

        assert total(pool, "w1") == 0


def test_a_message_larger_than_the_pipe_arrives_whole(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        pool.send("w1", b"x" * 5_000_000, timeout=30)

        until(lambda: total(pool, "w1") == 5_000_000)


def test_many_threads_may_send_and_query(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder, "w2": Adder}, **QUICK) as pool:  # type: ignore[arg-type]

        def work(worker: str) -> None:
            for _ in range(200):
                pool.send(worker, 1)
                pool.query(worker)
                pool.ask(worker)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in ("w1", "w2", "w1", "w2")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        until(lambda: total(pool, "w1") == total(pool, "w2") == 400)


def test_what_an_older_fleet_left_is_removed_first(prefix: str) -> None:
    with StateWriter(prefix + ".w1", slots=7) as old:
        old.publish("old")
        old.close(unlink=False)

    with WorkerPool(prefix, {"w1": Restored}, **QUICK) as pool:  # type: ignore[arg-type]
        answer = pool.query("w1")

        assert answer.value["total"] == 0
        assert answer.value["restored"] is None


@pytest.mark.parametrize("codec", ["pickle", Codec("mine", pickle.dumps, pickle.loads)], ids=["pickle", "own"])
def test_a_codec_that_runs_code_is_named_by_the_pool_to_both_sides(prefix: str, codec: Any) -> None:
    with WorkerPool(prefix, {"w1": Pickled}, codec=codec, **QUICK) as pool:  # type: ignore[arg-type]
        pool.send("w1", 5)

        until(lambda: pool.query("w1").value == {"set": {1, 5}})


def test_slots_and_max_size_are_those_of_the_workers_writers(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, slots=2, max_size=5000, codec="json", **QUICK):  # type: ignore[arg-type]
        with StateReader(prefix + ".w1") as reader:
            assert (reader.slots, reader.max_size, reader.codec) == (2, 8192, "json")


def test_a_pool_leaves_no_descriptor_open(prefix: str) -> None:
    WorkerPool(prefix, {"w1": Adder}, **QUICK).close()  # type: ignore[arg-type]
    before = descriptors_before()

    for _ in range(3):
        WorkerPool(prefix, {"w1": Adder, "w2": Adder}, restarts=1, **QUICK).close()  # type: ignore[arg-type]

    assert open_descriptors() == before


# Death.


def test_a_worker_that_was_killed_is_told_to_who_sends_and_still_answers(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder, "w2": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        pool.send("w1", 3)
        until(lambda: total(pool, "w1") == 3)
        pid = kill(pool, "w1")

        with pytest.raises(WorkerDied, match=rf"'w1' \(pid {pid}\) died of SIGKILL"):
            pool.send("w1", 1)
        with pytest.raises(WorkerDied):
            pool.ask("w1")

        assert total(pool, "w1") == 3
        until(lambda: not pool.query("w1").alive)
        pool.send("w2", 4)
        until(lambda: total(pool, "w2") == 4)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_machine_that_fails_is_told_with_its_traceback(prefix: str, method: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, start_method=method, interval=0.01) as pool:
        pool.send("w1", "fail")
        until(lambda: has_ended(pool.pids["w1"]))

        with pytest.raises(WorkerDied, match=r"(?s)'w1' .*Traceback.*children.py.*in fail.*LookupError: from the mach"):
            pool.send("w1", 1)


def test_a_machine_that_fails_while_it_is_asked_is_told_with_its_traceback(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        pool.send("w1", "fail")

        with pytest.raises(WorkerDied, match="LookupError: from the machine"):
            for _ in range(100):
                pool.ask("w1", timeout=10)


def test_a_machine_that_exits_is_told_with_its_code(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        pool.send("w1", "exit")
        until(lambda: has_ended(pool.pids["w1"]))

        with pytest.raises(WorkerDied, match="died with exit code 5"):
            pool.send("w1", 1)


def test_a_death_that_nobody_was_told_of_is_told_by_shutdown_once(prefix: str) -> None:
    pool = WorkerPool(prefix, {"w1": Adder, "w2": Adder}, **QUICK)  # type: ignore[arg-type]
    pool.send("w1", "fail")
    until(lambda: has_ended(pool.pids["w1"]))

    with pytest.raises(WorkerDied, match="from the machine"):
        pool.shutdown()
    pool.shutdown()
    pool.close()


def test_a_death_that_was_told_is_not_told_again_by_shutdown(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        kill(pool, "w1")
        with pytest.raises(WorkerDied):
            pool.send("w1", 1)


def test_a_death_never_hides_what_ended_the_block(prefix: str) -> None:
    with pytest.raises(ZeroDivisionError), WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        kill(pool, "w1")
        raise ZeroDivisionError


# Restarts.


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("fail", "died with exit code 1; .*with this error:.*Traceback.*LookupError: from the machine"),
        ("exit", "died with exit code 5; "),
        ("die", "died of SIGKILL; "),
    ],
    ids=["error", "exit", "signal"],
)
def test_each_restart_is_logged_and_calls_back_with_how_the_worker_died(
    prefix: str, method: str, way: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: List[Any] = []

    def called_back(*arguments: Any) -> None:
        calls.append(arguments)
        raise LookupError("from the callback")

    with WorkerPool(
        prefix, {"w1": Adder}, start_method=method, interval=0.005, restarts=2, on_restart=called_back
    ) as pool:
        pids = []
        for deaths in range(1, 4):
            pids.append(pool.pids["w1"])
            pool.send("w1", way)
            until(lambda: has_ended(pids[-1]))
            if deaths < 3:
                pool.send("w1", 1)
                until(lambda: len(calls) == deaths)  # noqa: B023

        with pytest.raises(WorkerDied, match="(?s)" + said) as raised:
            pool.send("w1", 1)

    assert "restarts used: 2 of 2" in str(raised.value)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3
    for used, (warning, pid) in enumerate(zip(warnings, pids)):
        assert re.match(f"(?s)worker 'w1' .pid {pid}. {said}", warning)
        assert f"restarts used: {used} of 2" in warning
    assert [warning.splitlines()[-1] for warning in warnings] == [
        "Starting it again: restart 1 of 2",
        "Starting it again: restart 2 of 2",
        "It is not started again",
    ]
    assert [(worker, str(death)) for worker, death in calls] == [
        ("w1", "\n".join(warning.split("\n")[:-1])) for warning in warnings[:2]
    ]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info[1].args for record in errors if record.exc_info and record.exc_info[1]] == [
        ("from the callback",)
    ] * 2


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_callback_may_send_and_may_close_the_pool(prefix: str, method: str) -> None:
    done = threading.Event()

    def send_and_close(worker: str, _death: WorkerDied) -> None:
        pool.send(worker, 3)
        pool.shutdown()
        done.set()

    pool = WorkerPool(prefix, {"w1": Adder}, start_method=method, interval=0.005, restarts=1, on_restart=send_and_close)
    kill(pool, "w1")
    until(lambda: done.is_set() or pool.query("w1") is None)

    assert total(pool, "w1") == 3
    pool.close()


def test_a_real_time_signal_is_named_by_its_number(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        os.kill(pool.pids["w1"], signal.SIGRTMIN + 3)
        until(lambda: has_ended(pool.pids["w1"]))

        with pytest.raises(WorkerDied, match=f"died of signal {signal.SIGRTMIN + 3}; restarts used: 0 of 0"):
            pool.send("w1", 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_that_dies_is_started_again_with_its_last_state_and_version(prefix: str, method: str) -> None:
    with WorkerPool(prefix, {"w1": Restored, "w2": Adder}, start_method=method, interval=0.005, restarts=1) as pool:
        pool.send("w1", 40)
        until(lambda: total(pool, "w1") == 40)
        version, first = pool.query("w1").version, kill(pool, "w1")

        pool.send("w1", 2)

        until(lambda: total(pool, "w1") == 42)
        answer = pool.query("w1")
        assert answer.value["restored"] == first
        assert answer.value["pid"] == pool.pids["w1"] != first
        assert answer.version > version
        until(lambda: pool.query("w1").alive)
        assert pool.restarted == {"w1": 1, "w2": 0}


@pytest.mark.parametrize("method", METHODS)
def test_a_restart_comes_without_a_message(prefix: str, method: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, start_method=method, interval=0.005, restarts=5) as pool:
        first = kill(pool, "w1")

        until(lambda: pool.query("w1").value["pid"] not in (first, None))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_worker_that_fails_while_it_is_asked_is_started_again_each_time(prefix: str, method: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, start_method=method, interval=0.005, restarts=5) as pool:
        for restarts in range(1, 6):
            pool.send("w1", "fail")

            def asked_until_it_is_another(restarts: int = restarts) -> bool:
                with suppress(WorkerDied, TimeoutError):
                    pool.ask("w1", timeout=1)
                return pool.restarted["w1"] == restarts

            until(asked_until_it_is_another)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_successor_that_dies_before_it_is_ready_is_replaced_too(prefix: str, method: str, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    machine = partial(children.restored_unless_killed_first, str(killed))
    with WorkerPool(prefix, {"w1": machine}, start_method=method, interval=0.005, restarts=2) as pool:
        pool.send("w1", 40)
        until(lambda: total(pool, "w1") == 40)
        killed.touch()
        kill(pool, "w1")

        pool.send("w1", 2)

        until(lambda: total(pool, "w1") == 42)
        assert pool.restarted == {"w1": 2}


def test_a_question_behind_another_waits_no_longer_than_it_was_told(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        with pool._members["w1"].asking.within(math.inf), ThreadPoolExecutor(1) as other:
            with pytest.raises(TimeoutError, match="'w1': no answer within"):
                other.submit(pool.ask, "w1", 0.01).result()


def test_a_machine_without_restore_begins_anew(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, restarts=1, **QUICK) as pool:  # type: ignore[arg-type]
        pool.send("w1", 40)
        until(lambda: total(pool, "w1") == 40)
        kill(pool, "w1")

        until(lambda: total(pool, "w1") == 0)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_when_the_restarts_are_used_up_the_worker_is_dead(prefix: str, method: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, start_method=method, interval=0.005, restarts=1) as pool:
        first = kill(pool, "w1")
        until(lambda: pool.query("w1").value["pid"] != first)
        kill(pool, "w1")

        def is_refused() -> bool:
            try:
                pool.send("w1", 1)
            except WorkerDied as error:
                return "SIGKILL" in str(error)
            return False

        until(is_refused)
        assert pool.restarted == {"w1": 1}


def test_a_machine_that_always_fails_uses_its_restarts_up_and_is_told(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, restarts=3, **QUICK) as pool:  # type: ignore[arg-type]
        for _ in range(4):
            pool.send("w1", "fail")
            until(lambda: has_ended(pool.pids["w1"]))

        with pytest.raises(WorkerDied, match="from the machine"):
            pool.send("w1", "fail")
        assert pool.restarted == {"w1": 3}


# Starts that fail.


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (children.make_nothing, "LookupError: no machine today"),
        (children.Unencodable, "EncodeError: .*a object did not encode"),
        (children.die_at_birth, "died with exit code 9"),
    ],
    ids=["raises", "unencodable", "exits"],
)
def test_a_worker_that_cannot_start_is_told_and_nothing_is_left_running(
    prefix: str, method: str, machine: Any, said: str
) -> None:
    with pytest.raises(WorkerDied, match=f"(?s)'w2' .*{said}"):
        WorkerPool(prefix, {"w1": Adder, "w2": machine}, start_method=method)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_machine_that_does_not_pickle_is_refused_and_nothing_is_left_running(prefix: str, method: str) -> None:
    before = descriptors_before()

    with pytest.raises(InvalidOption, match=r"(?s)'w2'.*has to pickle its machine.*lambda.*functools.partial"):
        WorkerPool(prefix, {"w1": Adder, "w2": lambda: Adder()}, start_method=method)  # noqa: PLW0108

    assert open_descriptors() <= before + 4  # the resource tracker and the fork server have pipes of their own


def test_a_worker_that_takes_too_long_to_start_is_told(prefix: str) -> None:
    with pytest.raises(WorkerDied, match=r"'w1' \(pid \d+\) has published nothing within 0.2 seconds.*start_timeout"):
        WorkerPool(prefix, {"w1": children.never_make}, start_method="fork", start_timeout=0.2)


@pytest.mark.parametrize("method", METHODS)
def test_a_start_that_is_cancelled_while_it_waits_leaves_nothing(prefix: str, method: str) -> None:
    with pytest.raises(WorkerDied, match="given up while it started"):
        WorkerPool(
            prefix,
            {"w1": Adder, "w2": children.never_make},
            start_method=method,
            cancelled=lambda: f"shmstate.{prefix}.w1" in segments(prefix),
        )

    assert segments(prefix) == []


def test_no_worker_is_started_any_more_once_the_start_is_cancelled(prefix: str) -> None:
    asked: List[List[str]] = []

    def cancelled() -> bool:
        asked.append([child.name for child in multiprocessing.active_children()])
        return len(asked) == 2

    with pytest.raises(WorkerDied, match="'w2' was not started: the start of the pool was cancelled"):
        WorkerPool(prefix, {"w1": Adder, "w2": Adder}, start_method="fork", cancelled=cancelled)

    assert asked == [[], [f"{prefix}.w1"]]


def test_a_start_in_another_thread_is_given_up_when_the_process_exits(prefix: str) -> None:
    pools: List[WorkerPool] = []

    class Known(WorkerPool):
        def __init__(self, *args: Any, **options: Any) -> None:
            pools.append(self)
            super().__init__(*args, **options)

    with ThreadPoolExecutor(1) as thread:
        started = thread.submit(Known, prefix, {"w1": children.never_make}, start_method="fork", start_timeout=10.0)
        until(multiprocessing.active_children)
        pools[0]._stopping.set()  # what is done at exit begins with that

        with pytest.raises(WorkerDied, match="given up while it started"):
            started.result()


def test_ctrl_c_while_pipes_are_made_waits_until_the_worker_is_known(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def interrupted(make: Callable[..., Any]) -> Callable[..., Any]:
        def make_and_interrupt(*args: Any, **options: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            made.append(make(*args, **options))
            return made[-1]

        return make_and_interrupt

    monkeypatch.setattr(
        multiprocessing.context.BaseContext, "Pipe", interrupted(multiprocessing.context.BaseContext.Pipe)
    )
    monkeypatch.setattr(member_module, "packet_channel", interrupted(wire.packet_channel))
    before, mask = descriptors_before(), signal.pthread_sigmask(signal.SIG_BLOCK, ())

    with pytest.raises(KeyboardInterrupt):
        WorkerPool(prefix, {"w1": Adder}, start_method="fork")

    assert len(made) == 3
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert segments(prefix) == []
    assert open_descriptors() == before


def test_a_state_that_somebody_alive_owns_stops_the_start_and_stays(prefix: str) -> None:
    with StateWriter(prefix + ".w2") as owner:
        owner.publish("mine")

        with pytest.raises(WorkerDied, match=rf"(?s)'w2'.*NameInUse: .*pid {os.getpid()}"):
            WorkerPool(prefix, {"w1": Adder, "w2": Adder}, start_method="fork")

        with StateReader(prefix + ".w2") as reader:
            assert (reader.get(), reader.writer_alive) == ("mine", True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start_method": "thread"}, "start_method='thread' is none of spawn, fork, forkserver"),
        ({"interval": 0}, "interval=0"),
        ({"interval": float("nan")}, "interval=nan"),
        ({"slots": 1}, "slots=1"),
        ({"max_size": 0}, "max_size=0"),
        ({"codec": "yaml"}, "yaml"),
    ],
    ids=str,
)
def test_an_invalid_option_is_refused_before_anything_starts(prefix: str, options: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        WorkerPool(prefix, {"w1": Adder}, **options)


def test_a_pool_without_workers_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidOption, match="one worker at least"):
        WorkerPool(prefix, {})


@pytest.mark.parametrize(("fleet", "worker"), [("", "w1"), ("a/b", "w1"), ("fleet", "a/b"), ("fleet", "x" * 300)])
def test_an_invalid_name_is_refused(fleet: str, worker: str) -> None:
    with pytest.raises(InvalidName):
        WorkerPool(fleet, {worker: Adder})


def test_an_interval_longer_than_a_system_call_can_wait_is_refused_or_waited_for(prefix: str) -> None:
    try:
        pool = WorkerPool(prefix, {"w1": Adder}, start_method="fork", interval=1e7)
    except InvalidOption:
        return

    with pool:
        pool.send("w1", 5)
        until(lambda: pool.ask("w1")["total"] == 5)


# Workers that do not listen.


@pytest.mark.parametrize("call", ["send", "query", "ask"])
def test_an_unknown_worker_is_told_with_those_that_there_are(prefix: str, call: str) -> None:
    with WorkerPool(prefix, {"w1": Adder, "w2": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        with pytest.raises(UnknownWorker, match="no worker 'w3'; it has 'w1', 'w2'"):
            getattr(pool, call)(*["w3", 1][: 2 if call == "send" else 1])


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        os.kill(pool.pids["w1"], signal.SIGSTOP)
        with pytest.raises(TimeoutError, match=r"no answer within 0.01 seconds"):
            pool.ask("w1", timeout=0.01)
        pool.send("w1", 5)
        os.kill(pool.pids["w1"], signal.SIGCONT)
        until(lambda: total(pool, "w1") == 5)

        assert pool.ask("w1")["total"] == 5


def hangs(pool: WorkerPool) -> bool:
    return Path(f"/proc/{pool.pids['w1']}/comm").read_text(encoding="ascii") == "hanging\n"


def test_a_full_inbox_is_a_timeout_and_what_was_taken_is_handled_later(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        os.kill(pool.pids["w1"], signal.SIGSTOP)
        sent = 0

        with pytest.raises(TimeoutError, match=r"'w1': its inbox was full for 0.05 seconds"):
            while True:
                pool.send("w1", b"x" * 1000, timeout=0.05)
                sent += 1
        answer = pool.query("w1")
        os.kill(pool.pids["w1"], signal.SIGCONT)

        assert answer.alive
        assert sent > 5
        until(lambda: total(pool, "w1") == 1000 * sent)


def test_a_worker_that_hangs_is_terminated_with_a_warning(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    pool = WorkerPool(prefix, {"w1": Adder, "w2": Adder}, **QUICK)  # type: ignore[arg-type]
    pool.send("w1", "hang")
    pool.send("w2", 2)
    until(lambda: hangs(pool))

    with caplog.at_level(logging.WARNING, logger="shmstate"):
        pool.shutdown(timeout=0.3)

    assert [record.getMessage() for record in caplog.records] == [
        "worker 'w1' did not end within 0.3 seconds; terminated"
    ]
    assert total(pool, "w2") == 2
    assert total(pool, "w1") == 0
    pool.close()


def test_a_worker_that_ignores_termination_is_killed(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_TERMINATE_GRACE", 0.2)
    pool = WorkerPool(prefix, {"w1": Adder}, **QUICK)  # type: ignore[arg-type]
    pool.send("w1", "hang_hard")
    until(lambda: hangs(pool))

    with pytest.raises(WorkerDied, match=r"'w1' .* died of SIGKILL"):
        pool.shutdown(timeout=0.2)
    pool.close()


def test_a_stopped_worker_does_not_outlive_its_pool(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_TERMINATE_GRACE", 0.2)
    pool = WorkerPool(prefix, {"w1": Adder}, **QUICK)  # type: ignore[arg-type]
    os.kill(pool.pids["w1"], signal.SIGSTOP)

    with pytest.raises(WorkerDied, match="SIGKILL"):
        pool.shutdown(timeout=0.1)
    pool.close()


def test_a_pool_that_was_shut_down_takes_no_messages(prefix: str) -> None:
    pool = WorkerPool(prefix, {"w1": Adder}, **QUICK)  # type: ignore[arg-type]
    pool.shutdown()

    with pytest.raises(WorkerDied, match="'w1': the pool was shut down"):
        pool.send("w1", 1)
    with pytest.raises(WorkerDied):
        pool.ask("w1")
    pool.close()


def test_shutdown_does_not_wait_for_a_thread_that_waits_for_room(prefix: str) -> None:
    pool = WorkerPool(prefix, {"w1": Adder}, **QUICK)  # type: ignore[arg-type]
    errors: List[BaseException] = []

    def send_for_ever() -> None:
        try:
            while True:
                pool.send("w1", b"x" * 1000)
        except (WorkerDied, OSError) as error:
            errors.append(error)

    thread = threading.Thread(target=send_for_ever)
    thread.start()
    began = time.monotonic()
    pool.shutdown()
    thread.join(30)

    assert not thread.is_alive()
    assert time.monotonic() - began < 30
    assert [type(error).__name__ for error in errors] == ["WorkerDied"]
    pool.close()


# Messages and answers that do not come through.


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize(
    "error",
    [OSError("x"), BrokenPipeError("x"), TimeoutError("x"), EOFError("x"), RecursionError("x"), ValueError("x")],
)
def test_what_pickling_a_message_raises_comes_out_and_other_messages_arrive(
    prefix: str, method: str, error: BaseException
) -> None:
    with WorkerPool(prefix, {"w1": Adder}, start_method=method, interval=0.005, restarts=1) as pool:
        for message in (children.Raises(error), [b"x" * 200_000, children.Raises(error)]):
            with pytest.raises(type(error), match=r"^x$"):
                pool.send("w1", message, timeout=5)
            pool.send("w1", 1, timeout=5)

        until(lambda: total(pool, "w1") == 2)
        assert pool.restarted == {"w1": 0}


def test_a_closed_connection_in_a_message_is_an_error_of_its_send(prefix: str) -> None:
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    theirs.close()
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        with pytest.raises(OSError, match="closed"):
            pool.send("w1", ours, timeout=5)
        pool.send("w1", 3, timeout=5)

        until(lambda: total(pool, "w1") == 3)


def test_a_message_that_does_not_unpickle_ends_the_worker_with_its_traceback(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        pool.send("w1", children.FailsToUnpickle())
        until(lambda: has_ended(pool.pids["w1"]))

        with pytest.raises(WorkerDied, match=r"(?s)exit code 1; .*OSError: from unpickling"):
            pool.send("w1", 1)


def test_an_answer_that_does_not_pickle_or_unpickle_is_an_error_of_its_question(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": children.Asked}, start_method="fork", interval=60) as pool:
        for give, error, said in (
            ("give_an_error", EncodeError, "(?s)'w1' could not give.*OSError: from pickling"),
            ("give_what_does_not_unpickle", OSError, "from unpickling"),
        ):
            pool.send("w1", give)
            with pytest.raises(error, match=said):
                until(lambda: pool.ask("w1", timeout=10)["total"] is None)
            assert pool.ask("w1", timeout=10) == {"total": 0}


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_an_answer_that_comes_too_late_delays_no_message(prefix: str, method: str) -> None:
    with WorkerPool(prefix, {"w1": children.Large}, start_method=method, interval=0.01, max_size=1 << 25) as pool:
        for number in range(1, 4):
            with pytest.raises(TimeoutError, match=r"no answer within 0.002 seconds"):
                pool.ask("w1", timeout=0.002)
            pool.send("w1", 1, timeout=10)
            until(lambda number=number: total(pool, "w1") == number)  # type: ignore[misc]

        answer = pool.ask("w1", timeout=20)
        assert (answer["total"], len(answer["much"])) == (3, 20_000_000)
        pool.send("w1", 1)
        with pytest.raises(TimeoutError):
            pool.ask("w1", timeout=0.002)
    assert not multiprocessing.active_children()


def test_a_machine_that_fails_after_an_answer_was_not_read_is_an_error_with_its_traceback(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": children.Asked}, start_method="fork", interval=60) as pool:
        pool.send("w1", "give_much")
        with pytest.raises(TimeoutError):
            for _ in range(1000):
                pool.ask("w1", timeout=0.001)
        pool.send("w1", "fail")
        until(lambda: has_ended(pool.pids["w1"]))

        with pytest.raises(WorkerDied, match="LookupError: from the machine"):
            pool.send("w1", 1)


def test_questions_to_a_stopped_worker_never_wait_for_room(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        os.kill(pool.pids["w1"], signal.SIGSTOP)
        for _ in range(2000):  # more than the channel takes
            with pytest.raises(TimeoutError):
                pool.ask("w1", timeout=0)
        os.kill(pool.pids["w1"], signal.SIGCONT)

        assert pool.ask("w1", timeout=20)["total"] == 0


class FromAHandler(BrokenPipeError):
    """What a signal handler raises. It must not be taken for the end of a worker."""


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt, FromAHandler, OSError, BrokenPipeError, TimeoutError, EOFError],
)
def test_a_send_that_is_interrupted_is_dropped_whole_and_later_ones_arrive(prefix: str, error: Any) -> None:
    def interrupt(*_: Any) -> None:
        raise error("interrupted")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
            for number in range(1, 4):
                os.kill(pool.pids["w1"], signal.SIGSTOP)
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                with pytest.raises(error, match="interrupted"):
                    pool.send("w1", b"x" * 5_000_000)
                os.kill(pool.pids["w1"], signal.SIGCONT)
                pool.send("w1", 1, timeout=20)
                until(lambda number=number: total(pool, "w1") == number)  # type: ignore[misc]
            assert pool.restarted == {"w1": 0}
    finally:
        signal.signal(signal.SIGALRM, before)


FILES = ("pool.py", "member.py", "runs.py", "wire.py")


def interrupted_at(step: int, call: Callable[[], object]) -> bool:
    """Run ``call`` with an exception before the bytecode ``step`` that shmstate runs; returns whether it had so many."""
    left = step

    def trace(frame: Any, event: str, _argument: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(FILES) or "shmstate" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise FromAHandler
        return trace

    sys.settrace(trace)
    try:
        call()
    except FromAHandler:
        return True
    finally:
        sys.settrace(None)
    return left <= 0


def test_an_exception_at_any_bytecode_of_send_or_ask_harms_no_later_call(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool, ThreadPoolExecutor(1) as other:  # type: ignore[arg-type]
        long = b"x" * 10_000
        step = 1
        while interrupted_at(step, lambda: pool.send("w1", long)) | interrupted_at(step, lambda: pool.ask("w1")):
            before = pool.ask("w1", timeout=20)["total"]
            assert before % 10_000 == step - 1
            other.submit(pool.send, "w1", 1, 20).result()
            until(lambda: other.submit(pool.ask, "w1", 20).result()["total"] % 10_000 == step)  # noqa: B023
            step += 1

        assert step > 100
        assert pool.restarted == {"w1": 0}


def test_a_signal_handler_may_send_and_ask_in_the_middle_of_a_send(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]

        def send_and_go_on(*_: Any) -> None:
            with suppress(TimeoutError):
                pool.ask("w1", timeout=0)
            with suppress(TimeoutError):  # the inbox is full
                pool.send("w1", b"x" * 100_000, timeout=0.01)
            os.kill(pool.pids["w1"], signal.SIGCONT)
            pool.send("w1", b"x" * 300_000)

        before = signal.signal(signal.SIGALRM, send_and_go_on)
        try:
            os.kill(pool.pids["w1"], signal.SIGSTOP)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            pool.send("w1", b"x" * 1_000_000)
        finally:
            signal.signal(signal.SIGALRM, before)

        until(lambda: total(pool, "w1") == 1_300_000)


def test_a_message_larger_than_the_pipe_to_a_stopped_worker_is_a_timeout_and_never_handled(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        os.kill(pool.pids["w1"], signal.SIGSTOP)
        with pytest.raises(TimeoutError, match=r"'w1': its inbox was full for 0.05 seconds"):
            pool.send("w1", b"x" * 5_000_000, timeout=0.05)
        os.kill(pool.pids["w1"], signal.SIGCONT)
        pool.send("w1", 7)

        until(lambda: total(pool, "w1") == 7)
        assert pool.ask("w1")["handled"] == [7]


def test_a_thread_that_sends_without_a_limit_does_not_hold_up_one_with_a_limit(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool, ThreadPoolExecutor(1) as other:  # type: ignore[arg-type]
        os.kill(pool.pids["w1"], signal.SIGSTOP)
        sending = other.submit(pool.send, "w1", b"x" * 1_000_000)
        with pytest.raises(TimeoutError, match="'w1'"):
            until(lambda: pool.send("w1", b"x" * 10_000, timeout=0.05))
        os.kill(pool.pids["w1"], signal.SIGCONT)
        sending.result()

        until(lambda: total(pool, "w1") >= 1_000_000)


def test_threads_that_send_large_messages_while_others_time_out_lose_none(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]

        def send_some(size: int) -> int:
            sent = 0
            for number in range(40):
                with suppress(TimeoutError):
                    pool.send("w1", b"x" * size, timeout=None if number % 2 else 0.0005)
                    sent += size
            return sent

        with ThreadPoolExecutor(4) as threads:
            sent = sum(threads.map(send_some, (10, 5_000, 150_000, 700_000)))

        assert sent >= 20 * 855_010
        until(lambda: total(pool, "w1") == sent)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_worker_that_dies_in_the_middle_of_a_message_leaves_it_whole_to_its_successor(
    prefix: str, method: str
) -> None:
    with WorkerPool(prefix, {"w1": Restored}, start_method=method, interval=0.005, restarts=1) as pool:
        os.kill(pool.pids["w1"], signal.SIGSTOP)
        with ThreadPoolExecutor(1) as other:
            sending = other.submit(pool.send, "w1", b"x" * 1_000_000)
            until(lambda: wire.wait_for(pool._members["w1"].ends[0], select.POLLOUT, 0) is False)
            kill(pool, "w1")
            sending.result(60)

        until(lambda: total(pool, "w1") == 1_000_000)


@pytest.mark.parametrize("timeout", [float("nan"), -1, "1"])
@pytest.mark.parametrize("call", ["send", "ask", "shutdown"])
def test_a_timeout_that_is_no_time_is_refused(prefix: str, call: str, timeout: Any) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        arguments = {"send": ("w1", 1), "ask": ("w1",), "shutdown": ()}[call]
        with pytest.raises(InvalidOption, match="timeout="):
            getattr(pool, call)(*arguments, timeout=timeout)
        for limit in (float("inf"), 2.0**70):
            pool.send("w1", 1, timeout=limit)
            pool.ask("w1", timeout=limit)


def test_a_child_of_a_worker_that_stays_does_not_hide_the_workers_death(prefix: str, tmp_path: Path) -> None:
    end = tmp_path / "end"
    with WorkerPool(prefix, {"w1": partial(children.Forks, str(end))}, **QUICK) as pool:  # type: ignore[arg-type]
        pool.send("w1", "fork")
        pool.send("w1", "hang")
        until(lambda: hangs(pool))
        with ThreadPoolExecutor(2) as other:
            asking = other.submit(pool.ask, "w1")
            sending = other.submit(pool.send, "w1", b"x" * 1_000_000)
            until(lambda: wire.wait_for(pool._members["w1"].ends[0], select.POLLOUT, 0) is False)
            kill(pool, "w1")

            for call in (asking, sending):
                with pytest.raises(WorkerDied, match="of SIGKILL"):
                    call.result(15)
        end.touch()
        pool.shutdown(timeout=30)
        path = f"{SHM_DIR}/shmstate.{prefix}.w1"
        until(lambda: not os.path.exists(path) or ownership.remove_if_dead(path, f"{prefix}.w1"))


# Pools that end as they should not.


@pytest.mark.parametrize("method", METHODS)
def test_workers_whose_pool_was_killed_end_and_leave_nothing(start: Start, prefix: str, method: str) -> None:
    child = start(children.run_a_pool, prefix, method, "wait")
    pids = [int(pid) for pid in child.line().split()]

    child.kill()

    until(lambda: all(map(has_ended, pids)))
    until(lambda: segments(prefix) == [])
    assert child.finish() == (-9, "", "")


@pytest.mark.parametrize("method", METHODS)
def test_workers_whose_pool_is_killed_while_they_start_end_and_leave_nothing(
    start: Start, prefix: str, method: str
) -> None:
    child = start(children.start_a_pool, prefix, method)
    pids = [int(child.line()) for _ in range(2)]

    child.kill()

    until(lambda: all(map(has_ended, pids)))
    assert segments(prefix) == []
    assert child.finish() == (-9, "", "")


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_is_the_pools_affair_and_no_worker_prints_a_traceback(start: Start, prefix: str, method: str) -> None:
    child = start(children.run_a_pool, prefix, method, "wait")
    pids = [int(pid) for pid in child.line().split()]

    os.killpg(child.pid, signal.SIGINT)

    assert child.line() == "interrupted []"
    assert child.finish() == (0, "end\n", "")
    assert all(map(has_ended, pids))


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_while_a_worker_starts_does_not_end_it(
    prefix: str, method: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    launch = Member.launch

    def launch_and_interrupt(member: Member, *args: Any) -> None:
        launch(member, *args)
        os.kill(member.process.pid, signal.SIGINT)

    monkeypatch.setattr(Member, "launch", launch_and_interrupt)

    with WorkerPool(prefix, {"w1": Adder, "w2": Adder}, start_method=method, interval=0.005) as pool:
        pool.send("w1", 5)
        until(lambda: total(pool, "w1") == 5)

    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how_it_ends", ["return", "sys.exit"])
def test_a_process_that_ends_without_shutdown_leaves_nothing_and_does_not_hang(
    prefix: str, method: str, how_it_ends: str
) -> None:
    done = run(children.run_a_pool, prefix, method, how_it_ends)

    pids, *rest = done.out.splitlines()
    assert (done.code, rest, done.err) == (0, ["end"] if how_it_ends == "return" else [], "")
    assert all(has_ended(int(pid)) for pid in pids.split())
    assert segments(prefix) == []


@pytest.mark.parametrize("how_it_ends", ["shutdown", "del", "hanging"])
def test_however_a_pool_is_let_go_of_nothing_is_left(prefix: str, how_it_ends: str) -> None:
    done = run(children.run_a_pool, prefix, "fork", how_it_ends)

    pids, *rest = done.out.splitlines()
    assert (done.code, rest) == (0, ["end"])
    assert all(has_ended(int(pid)) for pid in pids.split())
    assert segments(prefix) == []
    assert "Traceback" not in done.err


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("busy", ["busy", "idle"])
def test_workers_whose_pool_was_killed_do_not_wait_for_a_child_of_it(
    start: Start, prefix: str, method: str, busy: str
) -> None:
    child = start(children.run_a_pool_with_a_fork, prefix, method, busy)
    *pids, fork = (int(pid) for pid in child.line().split())
    try:
        child.kill()

        until(lambda: all(map(has_ended, pids)))
        assert not has_ended(fork)
        until(lambda: segments(prefix) == [])
    finally:
        os.kill(fork, signal.SIGKILL)


@pytest.mark.parametrize("method", METHODS)
def test_a_daemonic_process_is_refused_a_pool_and_nothing_is_left(prefix: str, method: str) -> None:
    done = run(children.make_a_pool_in_a_daemonic_process, prefix, method)

    assert done.code == 0
    assert re.match(rf"0 fleet '{prefix}': process .* is daemonic.* daemon=False", done.out)
    assert (segments(prefix), done.err) == ([], "")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_main_guard_is_an_error_that_names_the_guard(
    prefix: str, method: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import shmstate\n"
        "class Machine:\n"
        "    def handle(self, message): pass\n"
        "    def state(self): return 1\n"
        f"shmstate.WorkerPool({prefix!r}, {{'w1': Machine, 'w2': Machine}}, start_method={method!r})\n"
    )

    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, cwd=children.ROOT)

    assert done.returncode == 1
    last = [line for line in done.stderr.splitlines() if line.startswith("shmstate.errors.")]
    assert any(line.startswith("shmstate.errors.InvalidOption: fleet") and "__main__" in line for line in last)
    assert last[-1].startswith("shmstate.errors.WorkerDied: worker 'w1'")
    assert 'if __name__ == "__main__"' in last[-1]
    assert "RuntimeError" not in done.stderr
    assert segments(prefix) == []


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_in_close_still_ends_all_workers_and_leaves_nothing(
    prefix: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = WorkerPool(prefix, {"w1": Adder, "w2": Adder}, start_method=method, interval=0.005)
    pool.send("w1", "hang")
    until(lambda: hangs(pool))
    stop_soon, stopped = Member.stop_soon, []

    def stop_soon_and_interrupt(member: Member, timeout: float) -> None:
        stop_soon(member, timeout)
        stopped.append(member.name)
        if len(stopped) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Member, "stop_soon", stop_soon_and_interrupt)

    with pytest.raises(KeyboardInterrupt):
        pool.close()

    assert all(map(has_ended, pool.pids.values()))
    assert segments(prefix) == []
    pool.close()


def test_close_in_two_threads_returns_when_all_has_ended(prefix: str) -> None:
    pool = WorkerPool(prefix, {"w1": Adder, "w2": Adder}, **QUICK)  # type: ignore[arg-type]
    pool.send("w1", b"x" * 3_000_000)
    pids = list(pool.pids.values())

    def close_and_look(_: int) -> bool:
        pool.close()
        return all(map(has_ended, pids))

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(close_and_look, range(3)))


def test_a_forked_child_cannot_send_or_ask_and_harms_no_message(prefix: str) -> None:
    with WorkerPool(prefix, {"w1": Adder}, **QUICK) as pool:  # type: ignore[arg-type]
        child = os.fork()
        if child == 0:
            said = []
            for call in (lambda: pool.send("w1", 1), lambda: pool.ask("w1")):
                with suppress(WorkerDied):
                    said.append(call())
            os._exit(len(said))

        assert os.waitpid(child, 0)[1] == 0
        pool.send("w1", 2)
        until(lambda: total(pool, "w1") == 2)


@pytest.mark.parametrize("method", METHODS)
def test_a_forked_child_that_leaves_the_block_of_a_pool_leaves_its_workers_alone(prefix: str, method: str) -> None:
    program = (
        f"import os, sys, signal, time, shmstate\nfrom tests.core.children import Adder\n"
        f"if __name__ == '__main__':\n"
        f"    with shmstate.WorkerPool({prefix!r}, {{'w1': Adder}}, start_method={method!r}, restarts=2) as pool:\n"
        f"        child = os.fork()\n"
        f"        if not child:\n"
        f"            signal.alarm(20)\n"
        f"            pool.query('w1'), pool.query_all(), pool.supervise(), pool.shutdown(), sys.exit(7)\n"
        f"        print(os.WEXITSTATUS(os.waitpid(child, 0)[1]))\n"
        f"        pool.send('w1', 2)\n"
        f"        while not pool.query('w1').value['total']: time.sleep(0.01)\n"
        f"        print(pool.ask('w1')['total'], pool.restarted)\n"
    )
    # Python 3.12 and newer warn of a fork beside threads, which is what this is about.
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program], capture_output=True, text=True, timeout=60
    )

    assert (done.stdout.split("\n"), done.stderr) == (["7", "2 {'w1': 0}", ""], "")


@pytest.mark.parametrize("timeout", [None, math.inf, 10**400])
def test_shutdown_without_a_limit_lets_the_workers_handle_all(prefix: str, timeout: Any) -> None:
    with WorkerPool(prefix, {"w1": Adder}, start_method="fork", interval=60) as pool:
        for _ in range(30):
            pool.send("w1", 1)

        pool.shutdown(timeout)

        assert total(pool, "w1") == 30


@pytest.mark.parametrize("way", ["exit_well", "exit_at_once"])
def test_a_worker_that_ends_well_without_being_asked_to_is_told_by_shutdown(prefix: str, way: str) -> None:
    pool = WorkerPool(prefix, {"w1": Adder}, **QUICK)  # type: ignore[arg-type]
    pool.send("w1", way)
    until(lambda: has_ended(pool.pids["w1"]))

    with pytest.raises(WorkerDied, match="died with exit code 0"):
        pool.close()


def test_an_exception_that_cuts_a_restart_short_leaves_the_worker_to_the_next_call(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = Member.launch

    def be_interrupted(*_: Any) -> None:
        monkeypatch.setattr(Member, "launch", launch)
        raise KeyboardInterrupt

    with WorkerPool(prefix, {"w1": Adder}, restarts=3, **QUICK) as pool:  # type: ignore[arg-type]
        kill(pool, "w1")
        monkeypatch.setattr(Member, "launch", be_interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.send("w1", 1)

        pool.send("w1", 2)
        until(lambda: total(pool, "w1") == 2)


def test_a_supervisor_survives_what_an_attempt_raises(
    prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    launch = Member.launch

    def fail(*_: Any) -> None:
        monkeypatch.setattr(Member, "launch", launch)
        raise SystemExit

    with WorkerPool(prefix, {"w1": Adder}, start_method="forkserver", restarts=3) as pool:
        monkeypatch.setattr(Member, "launch", fail)
        kill(pool, "w1")

        until(lambda: "supervision failed" in caplog.text)
        until(lambda: pool._members["w1"].is_running)
