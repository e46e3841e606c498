from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

from pytest_shmstate import census
from pytest_shmstate.aftermath import Aftermath
from pytest_shmstate.ledger import Begun, Ledger

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
