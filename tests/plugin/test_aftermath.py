from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

from pytest_shmstate import census, recorder
from pytest_shmstate.aftermath import Aftermath
from pytest_shmstate.ledger import Begun, Ledger
from tests.core.children import until

#: No process: one that was killed.
WORKER = 2**22 + 7
TEST = ("test_a.py::test_killed", "test_a.py", 3, 1)
FIXTURE = ("of_module", "module", "test_a.py", 1, TEST[0])


def write(folder: Path, pid: int, *records: Tuple[Any, ...]) -> None:
    with (folder / f"{pid}.1").open("a", encoding="utf-8") as file:
        file.writelines(f"{record!r}\n" for record in records)


@pytest.fixture
def sleeper() -> Iterator[Begun]:
    """A process as the kernel shows it: born at the tick of the clock before it was."""
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        itself = census.process(process.pid)
        assert itself is not None
        yield Begun(process.pid, itself.start, WORKER, 250, "exec", census.command_of(process.pid))
        process.kill()


@pytest.mark.parametrize(("has_told", "owner"), [(True, "test_a.py::test_killed"), (False, "of_module")])
def test_a_process_that_told_later_when_it_began_is_believed_before_the_clock_ticks_of_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: Begun, has_told: bool, owner: str
) -> None:
    turns: List[Tuple[Any, ...]] = [("test", 100, WORKER, *TEST), ("fixture", 200, WORKER, *FIXTURE)]
    write(tmp_path, WORKER, ("worker", 50, WORKER, "gw0"), *turns, ("rest", 300, WORKER))
    aftermath = Aftermath(Ledger(str(tmp_path)), {}, set(), [])
    monkeypatch.setattr(aftermath, "_running", lambda: iter([sleeper]))
    if has_told:
        began = ("begin", 400, sleeper.pid, sleeper.start, WORKER, "exec", sleeper.command)
        write(tmp_path, sleeper.pid, began)

    (found,) = aftermath.wait_for_processes(0.0)

    assert found.span.owner.name == owner
    assert found.pid == sleeper.pid


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_program_started_right_after_its_test_began_is_that_tests(tmp_path: Path, is_recorded: bool) -> None:
    """The kernel counts in clock ticks, so by its count the program began before the test did."""
    environment = {**os.environ, recorder.LEDGERS: str(tmp_path), recorder.PARENT: str(WORKER)}
    began = time.monotonic_ns()
    script = "sleep 1000 >/dev/null & echo $!"  # nobody's child: its parent, the worker, was killed
    done = subprocess.run(["sh", "-c", script], env=environment, stdout=subprocess.PIPE, check=True, timeout=60)
    pid = int(done.stdout)
    try:
        write(tmp_path, WORKER, ("worker", 50, WORKER, "gw0"), ("test", began, WORKER, *TEST))
        if is_recorded:
            fixture = ("fixture", began + 2, WORKER, *FIXTURE)  # later: the record, and no clock tick, can tell
            write(tmp_path, WORKER, ("starts", began + 1, WORKER, "exec", "sleep 1000", (), ""), fixture)
        until(lambda: census.command_of(pid) == "sleep 1000")
        ledger = Ledger(str(tmp_path))

        (found,) = Aftermath(ledger, {}, set(), []).wait_for_processes(0.0)
    finally:
        os.kill(pid, signal.SIGKILL)

    assert (found.pid, found.span.owner.name) == (pid, TEST[0])
