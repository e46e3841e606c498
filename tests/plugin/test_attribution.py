"""Whose it is, in the corners: each of these was once answered wrongly."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

from pytest_shmstate import census
from pytest_shmstate.attribution import Attribution, Found
from pytest_shmstate.leak import Owner
from pytest_shmstate.ledger import Ledger
from pytest_shmstate.notices import UNSAID
from pytest_shmstate.run import Run
from pytest_shmstate.timeline import Span
from pytest_shmstate.watch import Watch
from tests.core.children import has_ended, until

#: Of clock_gettime(2); Python has no name for it.
CLOCK_MONOTONIC_COARSE = 6


@pytest.fixture
def run() -> Iterator[Run]:
    run = Run.begin()
    yield run
    run.close()


@pytest.fixture
def watch(run: Run) -> Iterator[Watch]:
    watch = Watch(run.folder, Owner("session", "the run"), 0.1)
    yield watch
    watch.close()


def turn(watch: Watch, name: str) -> Span:
    return watch.timeline.enter(Owner("test", name, during=name))


def end(watch: Watch, span: Span) -> List[Found]:
    span.due = span.complete = True
    found = watch.due()
    watch.timeline.leave(span)
    return found


def leave() -> str:
    name = f"test-attribution-{secrets.token_hex(6)}"
    Path("/dev/shm", name).touch()
    return name


def leave_unrecorded() -> str:
    name = f"test-attribution-{secrets.token_hex(6)}"
    subprocess.run(["touch", f"/dev/shm/{name}"], check=True)
    return name


def is_known(ledger: Ledger, pid: int) -> bool:
    ledger.refresh()
    return pid in ledger.begun


def entry_of(name: str) -> census.Entry:
    entry = census.look(name)
    assert entry is not None
    return entry


def test_a_service_that_is_not_yet_what_it_becomes_is_not_judged(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = iter(["[python]", "[python]", "python -c from multiprocessing.resource_tracker import main;main(5)"])
    last: List[str] = []

    def command_of(pid: int) -> str:
        last[:] = [next(commands, *last)]
        return last[0]

    monkeypatch.setattr(census, "command_of", command_of)
    span = turn(watch, "t")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    found = end(watch, span)

    child.communicate(b"\n")
    assert found == []


def test_the_same_process_is_judged_if_it_becomes_something_else(watch: Watch) -> None:
    span = turn(watch, "t")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    found = end(watch, span)

    child.communicate(b"\n")
    assert [one.pid for one in found] == [child.pid]


def test_what_the_processes_of_a_fixtures_pool_make_is_the_fixtures_though_a_test_started_them(watch: Watch) -> None:
    fixture = watch.timeline.enter(Owner("fixture", "pool", scope="session"))
    pool = ProcessPoolExecutor(1)
    watch.timeline.leave(fixture)
    watch.keepers = lambda: [(fixture, pool)]
    starts_it = turn(watch, "starts it")
    pool.submit(abs, 1).result()
    blamed = end(watch, starts_it)
    uses_it = turn(watch, "uses it")
    name = pool.submit(leave).result()

    blamed += end(watch, uses_it)

    pool.shutdown()
    fixture.due = fixture.complete = True
    found = [(one.name, one.span) for one in watch.due()]
    os.unlink(f"/dev/shm/{name}")
    assert blamed == []
    assert found == [(name, fixture)]


def test_the_first_use_counts_as_well(watch: Watch) -> None:
    fixture = watch.timeline.enter(Owner("fixture", "pool", scope="session"))
    pool = ProcessPoolExecutor(1)
    watch.timeline.leave(fixture)
    watch.keepers = lambda: [(fixture, pool)]
    test = turn(watch, "starts it, and has it leave something")
    name = pool.submit(leave).result()

    blamed = end(watch, test)

    pool.shutdown()
    os.unlink(f"/dev/shm/{name}")
    assert blamed == []


def test_a_pool_that_nobody_keeps_is_its_tests(watch: Watch) -> None:
    test = turn(watch, "t")
    pool = ProcessPoolExecutor(1)
    name = pool.submit(leave).result()

    found = end(watch, test)

    pool.shutdown()
    os.unlink(f"/dev/shm/{name}")
    assert name in [one.name for one in found]


def test_a_maker_that_is_gone_is_no_stranger(run: Run, watch: Watch) -> None:
    name = f"test-attribution-{secrets.token_hex(6)}"
    span = turn(watch, "t")
    subprocess.run([sys.executable, "-S", "-c", f"open('/dev/shm/{name}', 'w')"], check=True)

    end(watch, span)

    os.unlink(f"/dev/shm/{name}")
    assert run.folder
    assert name not in [stray for stray, _ in watch.makers]


@pytest.mark.parametrize("is_late", [True, False])
def test_a_pid_that_another_program_may_have_by_now_is_not_blamed(watch: Watch, is_late: bool) -> None:
    """The kernel names the maker by its pid, which goes round."""
    span = turn(watch, "t")
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        ledger, attribution = watch._ledger, watch._attribution
        until(lambda: is_known(ledger, process.pid))
        early = leave_unrecorded()
        process.kill()
    watch.attend()
    now = time.monotonic_ns()
    until(lambda: time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE) > now)  # which the births of files are told by
    late = leave_unrecorded()
    name = late if is_late else early

    found = attribution.entry(entry_of(name), span, process.pid)

    for one in (early, late):
        os.unlink(f"/dev/shm/{one}")
    assert (found is None) == is_late


def test_a_maker_that_runs_and_has_nothing_to_do_with_the_run_is_a_stranger(watch: Watch) -> None:
    itself = Attribution(watch._ledger, watch.timeline, watch.pid)

    assert itself.is_stranger(1)
    assert not itself.is_stranger(os.getpid())


def test_a_name_that_was_ours_and_is_anothers_now_is_not_ours(watch: Watch) -> None:
    if watch.source != "fanotify":
        pytest.skip("only fanotify says that it was not this process")
    name = f"test-attribution-{secrets.token_hex(6)}"
    path = Path("/dev/shm", name)
    span = turn(watch, "t")
    path.touch()
    path.unlink()
    program = f"import os; os.close(os.open({str(path)!r}, os.O_CREAT))"
    subprocess.run([sys.executable, "-S", "-c", program], check=True)

    found = end(watch, span)

    path.unlink()
    assert found == []


@pytest.mark.parametrize("pattern", ["sem.loky-{}-1", "joblib_memmapping_folder_{}_1", "torch_{}_1", "psm_{}"])
def test_a_pid_in_a_name_proves_nothing(watch: Watch, pattern: str) -> None:
    name = pattern.format(os.getpid()) + "-" + secrets.token_hex(6)
    span = turn(watch, "t")
    program = f"import os; os.close(os.open('/dev/shm/{name}', os.O_CREAT))"
    subprocess.run([sys.executable, "-S", "-c", program], check=True, env={})

    found = watch._attribution.entry(entry_of(name), span, UNSAID)

    os.unlink(f"/dev/shm/{name}")
    assert found is None


def test_waiting_ends_at_once_when_nothing_can_change_any_more(run: Run) -> None:
    patient = Watch(run.folder, Owner("session", "the run"), 30.0)
    span = turn(patient, "t")
    name = leave()
    before = time.monotonic()

    found = end(patient, span)

    took = time.monotonic() - before
    patient.close()
    os.unlink(f"/dev/shm/{name}")
    assert [one.name for one in found] == [name]
    assert took < 15


LEAVING_ALL_TO_THE_TRACKER = """if True:
    import os, signal
    from multiprocessing import resource_tracker
    from multiprocessing.shared_memory import SharedMemory
    segment = SharedMemory(create=True, size=10)
    tracker = resource_tracker._resource_tracker._pid
    while not open(f"/proc/{tracker}/cmdline", "rb").read().endswith(b")\\0"):
        pass  # until then it is a fork of this process
    os.kill(tracker, signal.SIGSTOP)
    os.waitid(os.P_PID, tracker, os.WSTOPPED | os.WNOWAIT)
    print(segment.name.lstrip("/"), tracker, flush=True)
    os._exit(0)
"""


def leave_all_to_the_tracker() -> Tuple[str, int]:
    args = [sys.executable, "-W", "ignore", "-c", LEAVING_ALL_TO_THE_TRACKER]
    program = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert program.stdout is not None
    with program.stdout:  # not to its end: the tracker has it as well
        name, tracker = program.stdout.readline().split()
    assert program.wait() == 0
    return name.decode(), int(tracker)


class LeftToATracker:
    """A test that left a segment to a stopped resource tracker, and a watch that leaves no time."""

    def __init__(self, run: Run) -> None:
        self.watch = Watch(run.folder, Owner("session", "the run"), 0.0)
        self.span = turn(self.watch, "t")
        self.name, self.tracker = leave_all_to_the_tracker()

    def wake(self) -> None:
        os.kill(self.tracker, signal.SIGCONT)

    def wait(self) -> None:
        until(lambda: has_ended(self.tracker))

    def found(self) -> List[str]:
        return [one.name for one in end(self.watch, self.span)]


@pytest.fixture
def left(run: Run) -> Iterator[LeftToATracker]:
    left = LeftToATracker(run)
    yield left
    left.watch.close()


def test_a_tracker_that_is_slow_to_clean_up_is_waited_for_beyond_the_grace(
    left: LeftToATracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_shmstate.watch.sleep", lambda _: left.wake())

    assert left.found() == []
    assert not os.path.exists(f"/dev/shm/{left.name}")


def test_what_is_cleaned_up_between_a_look_and_the_question_who_cleans_is_not_reported(
    left: LeftToATracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_being_cleaned = Watch._is_being_cleaned

    def asked_once_it_has_ended(watch: Watch, due: List[Found], began: float) -> bool:
        left.wake()
        left.wait()
        return is_being_cleaned(watch, due, began)

    monkeypatch.setattr(Watch, "_is_being_cleaned", asked_once_it_has_ended)

    assert left.found() == []


def test_a_tracker_that_never_does_is_not_waited_for_for_ever(
    left: LeftToATracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_shmstate.watch.TRACKER_PATIENCE", 0.1)

    found = left.found()

    left.wake()
    left.wait()
    assert found == [left.name]
