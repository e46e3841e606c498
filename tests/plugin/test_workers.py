"""Workers: real processes under each start method, what they bring back, and that none is left."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from multiprocessing import connection
from pathlib import Path
from typing import Any, Callable, Iterator, List, Set

import pytest

import shmstate
from pytest_shmstate import kinship, worker_body
from pytest_shmstate import lifeline as lifeline_module
from pytest_shmstate import worker as worker_module
from pytest_shmstate import workers as workers_module
from pytest_shmstate.kinship import look_up
from pytest_shmstate.lifeline import Held, Lifeline
from pytest_shmstate.prefixes import unique_prefix
from pytest_shmstate.worker_pipe import RAISED, RETURNED, Outgoing
from pytest_shmstate.workers import START_METHODS, WorkerFailed, Workers, WorkerTimeout, ready
from tests.core.children import Child, has_ended, until
from tests.plugin import bodies

#: For waits that must come to nothing.
MOMENT = 0.1


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who ignore SIGTERM are not given long."""
    monkeypatch.setattr(workers_module, "_TERMINATE_GRACE", 0.1)


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(grace=0.0) as workers:
        yield workers


@pytest.fixture(params=START_METHODS)
def spawn(request: pytest.FixtureRequest, workers: Workers) -> Callable[..., Any]:
    """``workers.spawn`` by each start method."""
    return functools.partial(workers.spawn, start_method=request.param)


@pytest.fixture
def fork(workers: Workers) -> Callable[..., Any]:
    return functools.partial(workers.spawn, start_method="fork")


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """Starts a fresh Python with one function to run; it is ended with the test."""
    with ExitStack() as ending:

        def start(body: Callable[..., None], *args: object) -> Child:
            child = Child(body, *args)
            ending.callback(child.end)
            return child

        yield start


def children_of_this_process() -> Set[int]:
    """Zombies too."""
    rows = [look_up(int(pid)) for pid in os.listdir("/proc") if pid.isdigit()]
    return {row.process.pid for row in rows if row is not None and row.parent == os.getpid()}


def open_files() -> List[str]:
    return sorted(os.listdir("/proc/self/fd"))


# What comes back.


def test_a_result_is_what_the_function_returned_for_its_arguments(spawn: Callable[..., Any]) -> None:
    worker = spawn(bodies.echo, 1, two=[2])

    assert worker.result() == ((1,), {"two": [2]})


def test_a_worker_is_a_process_of_its_own_and_gone_with_its_result(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.its_pid)

    assert worker.result() == worker.pid != os.getpid()
    assert (worker.alive, worker.exitcode) == (False, 0)
    assert has_ended(worker.pid)


def test_keyword_arguments_may_have_any_name(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.echo, function=1, self=2)

    assert worker.result() == ((), {"function": 1, "self": 2})


def test_a_failure_brings_the_error_and_the_traceback_of_the_function_alone(spawn: Callable[..., Any]) -> None:
    worker = spawn(bodies.fail, "no such thing")

    with pytest.raises(WorkerFailed) as caught:
        worker.result()

    text = str(caught.value)
    assert f"tests.plugin.bodies.fail ({spawn.keywords['start_method']}, pid {worker.pid}) raised LookupError" in text  # type: ignore[attr-defined]
    assert "raise LookupError(text)" in text
    assert "worker_body" not in text
    assert type(caught.value.__cause__) is LookupError
    assert caught.value.__cause__.args == ("no such thing",)
    assert worker.exitcode == 1


def test_a_result_can_be_asked_for_again_and_after_leaving() -> None:
    with Workers() as workers:
        good = workers.spawn(bodies.echo, start_method="fork")
        bad = workers.spawn(bodies.fail, start_method="fork")
        first = good.result()
        with pytest.raises(WorkerFailed):
            bad.result()

    assert good.result() is first
    with pytest.raises(WorkerFailed, match="LookupError"):
        bad.result()


def test_wait_ready_returns_what_the_worker_passed_to_ready(spawn: Callable[..., Any]) -> None:
    worker = spawn(bodies.be_ready_and_wait, ["set", "up"])

    assert worker.wait_ready() == ["set", "up"]
    assert worker.wait_ready() == ["set", "up"]
    assert worker.alive


def test_a_worker_that_failed_before_it_was_ready_tells_so_to_who_waits(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.fail)

    with pytest.raises(WorkerFailed, match="LookupError: from the worker"):
        worker.wait_ready()


def test_a_worker_that_returned_without_getting_ready_tells_so_to_who_waits(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.echo)

    with pytest.raises(WorkerFailed, match=r"returned before it called ready\(\)"):
        worker.wait_ready()


def test_a_worker_that_was_ready_and_has_ended_still_was_ready(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.be_ready_and_return, 7)
    worker.join()

    assert (worker.wait_ready(), worker.result()) == (7, 7)


def test_a_large_result_is_read_while_it_is_waited_for(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.return_bytes, 5_000_000)

    assert len(worker.result()) == 5_000_000


def test_what_one_worker_has_to_say_is_read_while_another_is_waited_for(fork: Callable[..., Any]) -> None:
    event = multiprocessing.get_context("fork").Event()
    waiting = fork(bodies.wait_on, event)
    fork(bodies.be_ready_with_bytes, 5_000_000, event)

    assert waiting.result(timeout=10) is True


# What does not pickle.


def test_an_error_that_does_not_pickle_comes_as_text(fork: Callable[..., Any]) -> None:
    with pytest.raises(WorkerFailed, match="LookupError: with a lock") as caught:
        fork(bodies.raise_unpicklable).result()

    assert caught.value.__cause__ is None


def test_an_error_that_does_not_unpickle_comes_as_text(fork: Callable[..., Any]) -> None:
    with pytest.raises(WorkerFailed, match="NeedsTwo: first") as caught:
        fork(bodies.raise_not_unpicklable).result()

    assert caught.value.__cause__ is None


def test_a_result_that_does_not_pickle_is_named(fork: Callable[..., Any]) -> None:
    with pytest.raises(
        WorkerFailed, match=r"returned a Unpicklable that does not pickle \(TypeError: not for pickle\)"
    ):
        fork(bodies.return_unpicklable).result()


def test_a_result_that_does_not_unpickle_is_named(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.return_what_does_not_unpickle, os.getpid())

    with pytest.raises(WorkerFailed, match=r"returned something .* unpickle here \(LookupError: not here\)"):
        worker.result()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_function_that_does_not_pickle_is_refused_by_name_and_nothing_is_left(method: str) -> None:
    with Workers() as workers:
        workers.spawn(bodies.its_pid, start_method=method).result()
        before = open_files()

        with pytest.raises(TypeError, match=rf"does_not_pickle.*<lambda> .* {method} needs .*fork'") as caught:
            workers.spawn(lambda: 1, start_method=method)

        assert caught.value.__traceback__  # which keeps all that was open alive
        assert open_files() == before


def test_an_argument_that_does_not_pickle_is_refused(workers: Workers) -> None:
    with pytest.raises(TypeError, match=r"bodies\.echo or its arguments do not pickle.*not for pickle"):
        workers.spawn(bodies.echo, bodies.Unpicklable())


def test_with_fork_nothing_has_to_pickle(fork: Callable[..., Any]) -> None:
    lock = threading.Lock()

    assert fork(lambda: lock.acquire(timeout=1)).result() is True


def test_what_does_not_unpickle_in_the_worker_is_told(workers: Workers) -> None:
    worker = workers.spawn(bodies.echo, bodies.NotUnpicklable(0), start_method="forkserver")

    with pytest.raises(WorkerFailed, match=r"bodies\.echo or its arguments did not unpickle .*LookupError: not here"):
        worker.result()


def test_what_multiprocessing_sends_only_while_spawning_can_be_an_argument(spawn: Callable[..., Any]) -> None:
    event = multiprocessing.get_context(spawn.keywords["start_method"]).Event()  # type: ignore[attr-defined]
    worker = spawn(bodies.wait_on, event)

    event.set()

    assert worker.result() is True


# How workers end.


@pytest.mark.parametrize(
    ("way", "number", "text"),
    [
        ("sys.exit", 3, "exited with status 3 before its function returned"),
        ("sys.exit", 0, "exited with status 0 before its function returned"),
        ("os._exit", 4, "exited with status 4 before its function returned"),
        ("kill", signal.SIGUSR1, "was killed by SIGUSR1 before its function returned"),
        ("kill", 40, "was killed by signal 40 before its function returned"),
        ("kill", signal.SIGTERM, r"exited with status 143 \(128 \+ SIGTERM\) before"),
    ],
)
def test_an_end_without_a_result_is_named(fork: Callable[..., Any], way: str, number: int, text: str) -> None:
    with pytest.raises(WorkerFailed, match=text):
        fork(bodies.end, way, number).result()


def test_an_exit_code_is_that_of_the_process(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.end, "os._exit", 9)

    assert worker.join() == worker.exitcode == 9
    with pytest.raises(WorkerFailed):
        worker.result()


def test_a_process_that_goes_wrong_after_its_function_returned_has_failed() -> None:
    with pytest.raises(WorkerFailed, match="returned, but then exited with status 7"), Workers() as workers:
        workers.spawn(bodies.return_and_exit_otherwise, 7, start_method="fork").join()


def test_a_killed_worker_is_gone_at_once_and_says_so(spawn: Callable[..., Any]) -> None:
    worker = spawn(bodies.be_ready_and_wait)
    worker.wait_ready()

    worker.kill()

    assert has_ended(worker.pid)
    assert (worker.alive, worker.exitcode) == (False, -9)
    with pytest.raises(WorkerFailed, match="killed by SIGKILL"):
        worker.result()


def test_the_result_of_a_worker_that_had_returned_survives_its_kill(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.echo)
    worker.join()

    worker.kill()

    assert worker.result() == ((), {})


def test_a_killed_worker_holds_nothing_any_more_nor_do_its_threads(fork: Callable[..., Any]) -> None:
    prefix = unique_prefix("killed")
    worker = fork(bodies.own_with_threads_and_wait, prefix)
    worker.wait_ready()

    worker.kill()

    assert shmstate.reclaim(prefix) == [prefix]


def test_a_stopped_worker_stands_still_until_it_goes_on(spawn: Callable[..., Any]) -> None:
    name = unique_prefix("stopped")
    worker = spawn(bodies.publish_forever, name)
    worker.wait_ready()
    with shmstate.StateReader(name) as reader:
        until(lambda: reader.version > 1)

        worker.stop()
        stopped_at = reader.version
        state = look_up(worker.pid)
        for _ in range(1000):
            os.sched_yield()

        assert reader.version == stopped_at
        assert state is not None
        assert state.state == "T"
        assert worker.alive
        worker.cont()
        until(lambda: reader.version > stopped_at)


def test_stopping_takes_as_long_as_the_kernel_takes(fork: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [False, False, False, True]
    worker = fork(bodies.wait_forever)
    monkeypatch.setattr(kinship, "is_stopped", lambda process: process == worker.process and answers.pop(0))

    worker.stop()
    monkeypatch.undo()

    assert answers == []


def test_a_process_is_stopped_when_all_its_threads_are(fork: Callable[..., Any]) -> None:
    name = unique_prefix("threads")
    worker = fork(bodies.own_with_threads_and_wait, name)
    worker.wait_ready()
    assert not kinship.is_stopped(worker.process)

    worker.stop()

    threads = os.listdir(f"/proc/{worker.pid}/task")
    assert len(threads) >= 9
    for thread in threads:
        with open(f"/proc/{worker.pid}/task/{thread}/stat", encoding="ascii") as file:
            assert file.read().rpartition(")")[2].split()[0] == "T"
    assert kinship.is_stopped(worker.process)
    worker.kill()
    assert not kinship.is_stopped(worker.process)
    shmstate.reclaim(name)


def test_a_worker_that_has_ended_cannot_be_stopped(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.echo)
    worker.join()

    with pytest.raises(WorkerFailed, match="returned before it could be stopped"):
        worker.stop()


def test_sigterm_has_a_worker_leave_its_blocks(fork: Callable[..., Any]) -> None:
    name = unique_prefix("asked")
    worker = fork(bodies.own_and_wait, name)
    worker.wait_ready()

    os.kill(worker.pid, signal.SIGTERM)

    with pytest.raises(WorkerFailed, match="SIGTERM"):
        worker.result()
    assert shmstate.list_states(name) == []


# Waiting.


def test_a_timeout_names_the_worker_what_it_does_and_what_to_do(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.be_ready_and_wait)
    worker.wait_ready()

    with pytest.raises(WorkerTimeout) as caught:
        worker.result(timeout=MOMENT)

    text = str(caught.value)
    assert f"tests.plugin.bodies.be_ready_and_wait (fork, pid {worker.pid}) has not ended within 0.1 s" in text
    assert "it is asleep" in text
    assert "kill() it" in text


def test_the_timeout_of_a_process_that_outlives_its_function_says_so(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.return_and_stay)
    until(lambda: worker.look() or RETURNED in worker._incoming.frames)

    with pytest.raises(WorkerTimeout, match="its function has returned: threads or child processes of its own keep it"):
        worker.result(timeout=MOMENT)
    worker.kill()

    assert worker.result() == "returned"


def test_the_timeout_of_a_stopped_worker_says_that_it_is_stopped(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.wait_forever)
    worker.stop()

    with pytest.raises(WorkerTimeout, match=r"called ready\(\) within 0\.1 s; it is stopped: cont\(\) it"):
        worker.wait_ready(timeout=MOMENT)


def test_a_worker_stopped_in_the_middle_of_its_result_is_not_waited_for_longer_than_asked(
    fork: Callable[..., Any],
) -> None:
    worker = fork(bodies.return_bytes, 500_000)
    connection.wait([worker.pipe])
    worker.stop()

    with pytest.raises(WorkerTimeout):
        worker.result(timeout=MOMENT)
    worker.cont()

    assert len(worker.result()) == 500_000


def test_a_worker_killed_in_the_middle_of_its_result_says_so(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.return_bytes, 50_000_000)
    connection.wait([worker.pipe])

    worker.kill()

    with pytest.raises(WorkerFailed, match="killed by SIGKILL, as the test wanted it, while it sent its result"):
        worker.result()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_worker_ends_when_its_process_does_also_if_its_child_holds_all_pipes(workers: Workers, method: str) -> None:
    worker = workers.spawn(bodies.have_children, start_method=method)
    children = worker.wait_ready()

    worker.kill()

    assert worker.exitcode == -9
    assert [has_ended(pid) for pid in children] == [False, False]


def test_a_worker_that_left_a_child_behind_has_a_result(fork: Callable[..., Any]) -> None:
    child = fork(bodies.leave_a_child).result(timeout=10)

    assert not has_ended(child)


@pytest.mark.parametrize("body", [bodies.return_twice, bodies.raise_twice])
def test_a_fork_that_comes_out_of_the_function_has_no_result(fork: Callable[..., Any], body: Callable[[], str]) -> None:
    assert fork(body).result() == "the worker's"


def test_a_worker_that_closed_all_descriptors_cannot_tell_its_result(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.close_descriptors)

    with pytest.raises(WorkerFailed, match="exited with status 1 before its function returned"):
        worker.result()


def test_a_result_does_not_go_into_a_file_that_took_the_place_of_the_pipe(
    fork: Callable[..., Any], tmp_path: Any
) -> None:
    worker = fork(bodies.put_another_file_in_place_of_the_pipe, tmp_path / "file")

    worker.join()

    assert (tmp_path / "file").read_bytes() == b""
    with pytest.raises(WorkerFailed):
        worker.result()


def test_a_worker_that_closed_all_descriptors_and_runs_is_not_taken_for_dead(
    fork: Callable[..., Any], tmp_path: Any
) -> None:
    worker = fork(bodies.close_descriptors_and_wait, tmp_path / "file")
    until((tmp_path / "file").exists)
    begun = time.process_time()

    with pytest.raises(WorkerTimeout):
        worker.result(timeout=3 * MOMENT)
    assert time.process_time() - begun < MOMENT  # nor asked all the time
    worker.kill()

    assert worker.exitcode == -9


def test_a_worker_whose_exit_status_somebody_else_took_has_ended_all_the_same(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.end, "os._exit", 0)
    os.waitpid(worker.pid, 0)

    begun = time.monotonic()

    with pytest.raises(WorkerFailed, match="told to somebody else"):
        worker.result()
    assert time.monotonic() - begun < worker_module._STATUS_GRACE
    assert (worker.alive, worker.exitcode) == (False, None)


def test_a_wait_that_is_interrupted_leaves_no_worker(start: Callable[..., Child]) -> None:
    child = start(bodies.wait_for_a_worker, "spawn")
    pid = int(child.line())

    child.signal(signal.SIGINT)

    assert child.line() == "interrupted True"
    assert has_ended(pid)
    assert child.finish().code == 0


def test_an_interrupt_in_the_middle_of_a_start_loses_no_worker() -> None:
    before = children_of_this_process()

    with pytest.raises(KeyboardInterrupt), Workers() as workers:
        workers.spawn(bodies.be_ready_and_ignore_sigterm, bodies.Interrupting(1))

    assert len(children_of_this_process() - before) <= 1  # the resource tracker, if this was its first use
    assert [worker.alive for worker in workers._workers] == [False]


def test_a_start_that_hangs_can_be_interrupted_by_a_second_interrupt(workers: Workers) -> None:
    with pytest.raises(KeyboardInterrupt):
        workers.spawn(bodies.echo, bodies.Interrupting(2))

    assert workers._workers == []


def test_workers_mind_ctrl_c_as_any_python_does(spawn: Callable[..., Any]) -> None:
    assert spawn(bodies.minds_ctrl_c).result() is True
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_is_no_error_that_nobody_takes_a_result_any_more() -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    ours.close()

    Outgoing(theirs).send(RETURNED, b"result")

    theirs.close()


# ready().


def test_ready_outside_a_worker_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=f"pid {os.getpid()}, which is no worker"):
        ready()


def test_a_worker_gets_ready_once(fork: Callable[..., Any]) -> None:
    with pytest.raises(WorkerFailed, match="a worker gets ready once"):
        fork(bodies.get_ready_twice).result()


def test_a_fork_of_a_worker_cannot_get_ready_in_its_place(fork: Callable[..., Any]) -> None:
    worker = fork(bodies.get_ready_in_a_fork)

    assert worker.result() == 5
    with pytest.raises(WorkerFailed):
        worker.wait_ready()


# Leaving.


@pytest.mark.parametrize("method", START_METHODS)
def test_leaving_ends_workers_and_leaves_no_process_no_zombie_and_no_descriptor(method: str) -> None:
    with Workers(grace=0.0) as workers:
        workers.spawn(bodies.its_pid, start_method=method).result()  # starts what multiprocessing keeps
    before, files = children_of_this_process(), open_files()

    with Workers(grace=0.0) as workers:
        running = workers.spawn(bodies.be_ready_and_wait, start_method=method)
        stopped = workers.spawn(bodies.be_ready_and_wait, start_method=method)
        young = workers.spawn(bodies.wait_forever, start_method=method)
        running.wait_ready()
        stopped.wait_ready()
        stopped.stop()
        pids = [running.pid, stopped.pid, young.pid]

    assert [has_ended(pid) for pid in pids] == [True, True, True]
    assert children_of_this_process() - before == set()
    assert open_files() == files
    assert [process.pid for process in multiprocessing.active_children() if process.pid in pids] == []


def test_what_is_found_after_leaving_would_be_found_before() -> None:
    before, files = children_of_this_process(), open_files()

    with Workers(grace=0.0) as workers:
        worker = workers.spawn(bodies.be_ready_and_wait, start_method="fork")

        assert children_of_this_process() - before == {worker.pid}
        assert len(open_files()) > len(files)
        assert worker.pid in [process.pid for process in multiprocessing.active_children()]


@pytest.mark.parametrize("method", START_METHODS)
def test_leaving_ends_a_worker_that_ignores_sigterm_with_all_that_it_started(method: str) -> None:
    begun = time.monotonic()
    with Workers(grace=0.0) as workers:
        stubborn = workers.spawn(bodies.have_a_worker_and_wait, "fork", start_method=method)
        stubborn.wait_ready()
        os.kill(stubborn.pid, signal.SIGSTOP)
        parent = workers.spawn(bodies.have_children, start_method=method)
        pids = [parent.pid, *parent.wait_ready(), stubborn.pid, stubborn.wait_ready()]

    assert [pid for pid in pids if not has_ended(pid)] == []
    assert time.monotonic() - begun < workers_module._KILL_TIMEOUT


def test_leaving_does_not_wait_for_a_stopped_worker() -> None:
    begun = time.monotonic()
    with Workers(grace=60.0) as workers:
        worker = workers.spawn(bodies.be_ready_and_wait, start_method="fork")
        worker.wait_ready()
        worker.stop()

    assert time.monotonic() - begun < 30


def test_a_stopped_worker_leaves_its_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_TERMINATE_GRACE", 10.0)
    name = unique_prefix("stopped")
    with Workers(grace=0.0) as workers:
        worker = workers.spawn(bodies.own_and_wait, name, start_method="fork")
        worker.wait_ready()
        worker.stop()

    assert shmstate.list_states(name) == []


@pytest.mark.parametrize("new_session", [False, True])
def test_leaving_ends_what_a_killed_worker_started(new_session: bool) -> None:
    with Workers(grace=0.0) as workers:
        worker = workers.spawn(bodies.have_children, new_session=new_session, start_method="fork")
        children = worker.wait_ready()
        worker.kill()
        before = [has_ended(pid) for pid in children]

    assert before == [False, False]
    assert [has_ended(pid) for pid in children] == [True, True]


def test_leaving_ends_what_a_worker_left_behind_that_returned() -> None:
    with Workers(grace=0.0) as workers:
        child = workers.spawn(bodies.leave_a_child, start_method="fork").result()

    assert has_ended(child)


def test_leaving_leaves_processes_alone_that_are_not_of_its_workers() -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        with Workers(grace=0.0) as workers:
            workers.spawn(bodies.be_ready_and_wait, start_method="fork").wait_ready()

        assert other.poll() is None
        other.kill()


def test_workers_get_the_time_to_end_by_themselves() -> None:
    event = multiprocessing.get_context("fork").Event()
    with Workers(grace=30.0) as workers:
        worker = workers.spawn(bodies.wait_on, event, start_method="fork")
        event.set()

    assert worker.result() is True


def test_without_that_time_they_do_not() -> None:
    event = multiprocessing.get_context("fork").Event()
    with Workers(grace=0.0) as workers:
        worker = workers.spawn(bodies.wait_on, event, start_method="fork")

    with pytest.raises(WorkerFailed, match="SIGTERM"):
        worker.result()


def test_a_large_result_that_nobody_asked_for_does_not_keep_leaving_waiting() -> None:
    with Workers(grace=30.0) as workers:
        worker = workers.spawn(bodies.return_bytes, 5_000_000, start_method="fork")

    assert len(worker.result()) == 5_000_000


def test_leaving_raises_for_a_failure_that_nobody_was_told() -> None:
    with pytest.raises(WorkerFailed, match="LookupError: from the worker") as caught, Workers() as workers:
        workers.spawn(bodies.fail, start_method="fork").join()

    assert type(caught.value.__cause__) is LookupError


@pytest.mark.parametrize(
    ("way", "number"), [("kill", signal.SIGUSR1), ("kill", signal.SIGKILL), ("os._exit", 4), ("sys.exit", 3)]
)
def test_leaving_raises_for_a_bad_end_that_nobody_was_told(way: str, number: int) -> None:
    with pytest.raises(WorkerFailed), Workers() as workers:
        workers.spawn(bodies.end, way, number, start_method="fork").join()


@pytest.mark.parametrize("method", ["result", "wait_ready", "stop"])
def test_leaving_does_not_raise_for_a_failure_that_was_told(method: str) -> None:
    with Workers() as workers:
        worker = workers.spawn(bodies.fail, start_method="fork")
        worker.join()
        with pytest.raises(WorkerFailed):
            getattr(worker, method)()


def test_leaving_does_not_raise_for_what_is_no_failure() -> None:
    with Workers(grace=0.0) as workers:
        workers.spawn(bodies.end, "sys.exit", 0, start_method="fork").join()
        workers.spawn(bodies.return_unpicklable, start_method="fork").join()
        workers.spawn(bodies.be_ready_and_raise_at_sigterm, start_method="fork").wait_ready()
        killed = workers.spawn(bodies.be_ready_and_wait, start_method="fork")
        killed.wait_ready()
        killed.kill()


def test_a_kill_does_not_cover_up_an_earlier_failure() -> None:
    with pytest.raises(WorkerFailed, match="LookupError"), Workers() as workers:
        worker = workers.spawn(bodies.fail, start_method="fork")
        until(lambda: not worker.alive)
        worker.kill()


@pytest.mark.parametrize("kill", [True, False])
def test_a_failure_of_a_process_that_does_not_end_counts_all_the_same(kill: bool) -> None:
    with pytest.raises(WorkerFailed, match="LookupError"), Workers(grace=0.0) as workers:
        worker = workers.spawn(bodies.fail_and_stay, start_method="fork")
        until(lambda: worker.look() or RAISED in worker._incoming.frames)
        if kill:
            worker.kill()


def test_leaving_tells_of_all_failures() -> None:
    with pytest.raises(WorkerFailed, match=r"(?s)^2 workers failed.*first one.*second one"), Workers() as workers:
        for text in ("first one", "second one"):
            workers.spawn(bodies.fail, text, start_method="fork").join()


def test_leaving_does_not_hide_what_ended_the_block() -> None:
    with pytest.raises(KeyError), Workers() as workers:
        workers.spawn(bodies.fail, start_method="fork").join()
        raise KeyError


def test_workers_that_were_left_take_no_more() -> None:
    with Workers() as workers:
        pass
    workers.close()
    assert not workers._finalizer.still_active()

    with pytest.raises(RuntimeError, match="they were left"):
        workers.spawn(bodies.its_pid)


def test_another_start_method_is_refused(workers: Workers) -> None:
    with pytest.raises(ValueError, match="start_method='thread' is none of spawn, fork, forkserver"):
        workers.spawn(bodies.its_pid, start_method="thread")


def test_a_second_interrupt_leaves_no_worker(start: Callable[..., Child]) -> None:
    child = start(bodies.be_interrupted_again, "spawn")
    pid = int(child.line())
    child.signal(signal.SIGINT)
    assert child.line() == "leaving"
    assert not has_ended(pid)

    child.signal(signal.SIGINT)

    assert child.line() == "interrupted True"
    assert has_ended(pid)
    assert child.finish().code == 0


def test_leaving_without_a_descriptor_to_spare_ends_workers(start: Callable[..., Child]) -> None:
    assert start(bodies.run_out_of_descriptors).finish() == (0, "24 False\n", "")


@pytest.mark.parametrize("way", ["exit", "error", "collected"])
def test_workers_that_are_never_left_end_with_their_process(start: Callable[..., Child], way: str) -> None:
    child = start(bodies.never_leave_workers, "fork", way)

    words, ended = child.line(), child.finish()

    assert has_ended(int(words))
    assert ended == (1 if way == "error" else 0, "True\n" if way == "collected" else "", "")


@pytest.mark.parametrize(
    ("method", "way"), [("spawn", "SIGKILL"), ("fork", "SIGKILL"), ("forkserver", "SIGKILL"), ("fork", "os._exit")]
)
def test_workers_end_when_their_process_is_killed(start: Callable[..., Child], method: str, way: str) -> None:
    child = start(bodies.be_killed_with_workers, method)
    names = ("running", "stopped", "parent", "its program", "its fork")
    pids = dict(zip(names, (int(word) for word in child.line().split())))
    assert not any(map(has_ended, pids.values()))

    if way == "SIGKILL":
        child.kill()
    else:
        child.say("")

    for name, pid in pids.items():
        until(functools.partial(has_ended, pid), timeout=10, name=name)


def test_a_worker_that_is_told_twice_to_leave_gets_through_what_it_does_on_the_way_out(tmp_path: Path) -> None:
    # The kernel tells the holders of a lifeline again whenever another of them lets go.
    with Workers() as workers:
        worker = workers.spawn(bodies.take_long_to_leave, str(tmp_path / "out"), start_method="fork")
        worker.wait_ready()

        os.kill(worker.pid, signal.SIGTERM)
        until(lambda: has_ended(worker.pid))
        with pytest.raises(WorkerFailed, match="SIGTERM"):
            worker.result()

    assert (tmp_path / "out").read_text() == "left"


def test_a_worker_removes_its_states_when_its_process_is_killed(start: Callable[..., Child]) -> None:
    name = unique_prefix("orphan")
    child = start(bodies.be_killed_with_a_state, name)
    child.line()
    assert [state.name for state in shmstate.list_states(name)] == [name]

    child.kill()

    until(lambda: shmstate.list_states(name) == [])


def test_a_worker_that_hangs_when_it_is_told_to_end_does_not_outlive_its_process(start: Callable[..., Child]) -> None:
    child = start(bodies.be_killed_with_one_that_hangs)
    pid = int(child.line())

    child.kill()

    until(lambda: has_ended(pid))


def test_a_worker_whose_process_is_gone_before_it_starts_does_not_run() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    lifeline = Lifeline()
    lifeline.let_go()
    order = worker_body.Order(bodies.echo, (), {})

    process = context.Process(target=worker_body.main, args=(order, theirs, lifeline.far_end, {}))
    process.start()
    process.join()

    assert process.exitcode == 128 + signal.SIGTERM
    assert not ours.poll()
    for end in (ours, theirs, process, lifeline):
        end.close()


def test_a_fork_of_a_worker_that_comes_too_late_to_be_told_is_told_as_well() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    lifeline = Lifeline()
    order = worker_body.Order(bodies.fork_once_its_process_is_gone, (), {})
    process = context.Process(target=worker_body.main, args=(order, theirs, lifeline.far_end, {}))
    process.start()
    assert ours.poll(30)  # it is ready

    lifeline.let_go()
    process.join()

    assert process.exitcode == 1
    for end in (ours, theirs, process, lifeline):
        end.close()


def test_a_fork_of_a_worker_misses_no_sigterm_that_comes_just_before_it_waits() -> None:
    # As one does that has a handler written in Python: it is run between two instructions, not during the pause.
    with Workers() as workers:
        worker = workers.spawn(bodies.tell_what_sigterm_does_in_a_fork)

        assert worker.result() == repr(signal.SIG_DFL)


def test_a_lifeline_whose_files_were_closed_is_not_taken_for_what_has_their_numbers_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifeline_module, "_SIGNALS", (signal.SIGCONT,))
    lifeline = Lifeline()
    held = Held(lifeline.far_end)
    reader, writer = os.pipe()
    os.dup2(reader, held._files[0])
    os.close(writer)

    was_cut = held.is_cut

    for file in (reader, *held._files):
        os.close(file)
    lifeline.close()
    assert not was_cut


def test_both_sides_of_a_lifeline_keep_no_more_descriptors_than_they_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline_module, "_SIGNALS", (signal.SIGCONT,))  # for this process, which goes on
    before = open_files()
    lifeline = Lifeline()
    held = Held(lifeline.far_end)
    kept = lifeline.far_end.closed
    was_cut = [held.is_cut]

    lifeline.close()

    was_cut.append(held.is_cut)
    for file in held._files:
        os.close(file)
    assert kept
    assert was_cut == [False, True]
    assert open_files() == before


def test_a_lifeline_that_was_closed_holds_no_descriptor() -> None:
    before = open_files()
    lifeline = Lifeline()

    lifeline.close()

    assert open_files() == before
    assert lifeline.far_end.closed


def test_a_worker_outlives_the_thread_that_spawned_it(workers: Workers) -> None:
    spawned: List[Any] = []
    thread = threading.Thread(target=lambda: spawned.append(workers.spawn(bodies.be_ready_and_wait)))
    thread.start()
    thread.join()

    spawned[0].wait_ready()

    with pytest.raises(WorkerTimeout):
        spawned[0].join(timeout=MOMENT)


def test_a_forked_child_that_leaves_its_copy_does_nothing_to_workers(start: Callable[..., Child]) -> None:
    assert start(bodies.use_a_worker_as_a_fork, "fork").finish() == (0, "child 3\nTrue\n", "")


def test_a_worker_whose_fork_server_was_killed_is_alive_until_it_is_left(start: Callable[..., Child]) -> None:
    child = start(bodies.have_the_fork_server_killed)

    assert child.finish() == (0, "True None\nTrue False\n", "")


def test_no_zombie_is_left_where_orphans_come_to_this_process(start: Callable[..., Child]) -> None:
    assert start(bodies.inherit_orphans).finish() == (0, "[False, False]\n", "")


@pytest.mark.parametrize(("method", "inner"), [("spawn", "forkserver"), ("fork", "fork"), ("forkserver", "spawn")])
def test_workers_may_have_workers(workers: Workers, method: str, inner: str) -> None:
    worker = workers.spawn(bodies.have_workers, inner, start_method=method)

    pids = worker.result()

    assert pids[0] == worker.pid
    assert len(set(pids)) == 3
    assert [has_ended(pid) for pid in pids] == [True] * 3


def test_no_thread_is_started_here(workers: Workers) -> None:
    before = threading.active_count()
    for method in START_METHODS:
        workers.spawn(bodies.be_ready_and_wait, start_method=method).wait_ready()

    assert threading.active_count() == before


def test_nothing_is_left_for_the_garbage_collector() -> None:
    with Workers() as workers:
        workers.spawn(bodies.echo, start_method="fork").result()
    del workers

    gc.collect()  # a ResourceWarning would be an error


def test_workers_load_no_pytest() -> None:
    script = "import pytest_shmstate.workers, sys; print([name for name in sys.modules if name.endswith('pytest')])"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, timeout=60)

    assert done.stdout == b"[]\n"
