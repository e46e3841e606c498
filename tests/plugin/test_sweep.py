"""What a killed run left is named and removed by the next; what is not surely its own is not."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Dict, List, Tuple

import pytest

from pytest_shmstate import sweep
from pytest_shmstate.ledger import pid_namespace
from tests.core.children import ROOT

KILLED_RUN = """
import os, signal, sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pytest_shmstate import recorder
from pytest_shmstate.run import Run
run = Run.begin()
recorder.write(run.folder, "worker", "main")
recorder.write(run.folder, "test", "test_it.py::test_killed", "test_it.py", 3, 1)
segment = SharedMemory(sys.argv[1], create=True, size=4096)
resource_tracker.unregister("/" + sys.argv[1], "shared_memory")
print(run.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ledgers of this test alone: those of others' killed runs are theirs to sweep."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def environment(folder: Path) -> Dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])}


def killed_run(folder: Path) -> Tuple[str, str]:
    """The name of a segment, and the ledger of the run that left it."""
    name = f"test-sweep-{secrets.token_hex(6)}"
    command = [sys.executable, "-c", KILLED_RUN, name]
    ended = subprocess.run(command, env=environment(folder), stdout=subprocess.PIPE, text=True)
    assert ended.returncode == -signal.SIGKILL
    return name, ended.stdout.strip()


def names(leaks: List[object]) -> List[str]:
    return [leak.name for leak in leaks]  # type: ignore[attr-defined]


def test_what_a_killed_run_left_is_named_and_removed(temporary: Path) -> None:
    name, ledger = killed_run(temporary)
    assert os.path.exists(f"/dev/shm/{name}")

    (leak,) = sweep.sweep()

    assert (leak.name, leak.verdict, leak.fate, leak.size) == (name, "interrupted", "removed", 4096)
    assert leak.owner.name == "test_it.py::test_killed"
    assert not os.path.exists(f"/dev/shm/{name}")
    assert not os.path.exists(ledger)
    assert sweep.sweep() == []


def test_what_somebody_still_has_open_stays(temporary: Path) -> None:
    name, _ = killed_run(temporary)
    segment = SharedMemory(name)

    (leak,) = sweep.sweep()

    stayed = os.path.exists(f"/dev/shm/{name}")
    segment.close()
    segment.unlink()
    assert stayed
    assert leak.fate == "left in place (still open)"


def test_what_somebody_else_made_under_that_name_stays(temporary: Path) -> None:
    name, _ = killed_run(temporary)
    old = os.open(f"/dev/shm/{name}", os.O_RDONLY)  # so that its inode is not given out again
    os.unlink(f"/dev/shm/{name}")
    segment = SharedMemory(name, create=True, size=10)
    segment.close()

    leaks = sweep.sweep()

    os.close(old)
    stayed = os.path.exists(f"/dev/shm/{name}")
    segment.unlink()
    assert stayed
    assert leaks == []


def test_the_ledger_of_a_run_that_lives_is_left_alone(temporary: Path) -> None:
    folder = temporary / f"pytest-shmstate-{os.getpid()}.{start_of_this_process()}.{pid_namespace()}.x"
    folder.mkdir()

    assert sweep.sweep() == []
    assert folder.exists()


def start_of_this_process() -> int:
    return int(Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()[19])


def test_the_command_says_what_it_removed_and_exits_with_1_then_0(temporary: Path) -> None:
    name, _ = killed_run(temporary)
    command = [sys.executable, "-m", "pytest_shmstate", "sweep", "--report", str(temporary / "report.json")]

    first = subprocess.run(command, env=environment(temporary), stdout=subprocess.PIPE, text=True)
    second = subprocess.run(command, env=environment(temporary), stdout=subprocess.PIPE, text=True)

    assert (first.returncode, second.returncode) == (1, 0)
    assert name in first.stdout
    assert "nothing left behind" in second.stdout


def test_a_ledger_in_which_pids_mean_other_processes_is_not_written_to(temporary: Path) -> None:
    theirs = temporary / f"pytest-shmstate-{os.getpid()}.1.7.x"
    unknown = temporary / f"pytest-shmstate-{os.getpid()}.1.0.x"
    theirs.mkdir()
    unknown.mkdir()
    ledgers = os.pathsep.join(map(str, (theirs, unknown)))
    env = {**environment(temporary), "PYTEST_SHMSTATE_LEDGER": ledgers}

    subprocess.run([sys.executable, "-c", ""], env=env, check=True)

    assert (len(list(theirs.iterdir())), len(list(unknown.iterdir()))) == (0, 1)
