"""What a killed run left is named and removed by the next; what is not surely its own is not."""

from __future__ import annotations

import ast
import errno
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import pytest

from pytest_shmstate import census, outpost, sweep, verdict
from pytest_shmstate.leak import Leak
from pytest_shmstate.ledger import pid_namespace
from tests.core.children import ROOT, until

SWEEP = (sys.executable, "-m", "pytest_shmstate")
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


#: Its child lives on, and leaves a segment of its own.
SURVIVED_BY_A_CHILD = KILLED_RUN.replace(
    "print(",
    """
if os.fork() == 0:
    import time
    folder = os.environ["TMPDIR"]
    open(folder + "/child.part", "w").write(str(os.getpid()))
    os.rename(folder + "/child.part", folder + "/child")
    while not os.path.exists(folder + "/go"):
        time.sleep(0.01)
    SharedMemory(sys.argv[1] + "-more", create=True, size=10)
    resource_tracker.unregister("/" + sys.argv[1] + "-more", "shared_memory")
    os._exit(0)
while not os.path.exists(os.environ["TMPDIR"] + "/child"):
    pass
print(""",
)
#: As after a reboot, but for the clocks: inodes begin from 1 again, and another program makes the same name.
REMOUNTED = """
import json, os, subprocess, tempfile
from pytest_shmstate import sweep
from tests.plugin.test_sweep import killed_run
tempfile.tempdir = os.environ["TMPDIR"]
name, _ = killed_run(tempfile.tempdir)
inode = os.stat("/dev/shm/" + name).st_ino
subprocess.run("umount -l /dev/shm && mount -t tmpfs tmpfs /dev/shm", shell=True, check=True)
open("/dev/shm/" + name, "wb").close()
same = os.stat("/dev/shm/" + name).st_ino == inode
leaks = [leak.fate for leak in sweep.sweep()]
print(json.dumps({"same inode": same, "leaks": leaks, "there": os.path.exists("/dev/shm/" + name)}))
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ledgers of this test alone: those of others' killed runs are theirs to sweep."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def environment(folder: Path) -> Dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])}


def killed_run(folder: Path, source: str = KILLED_RUN) -> Tuple[str, str]:
    """The name of a segment, and the ledger of the run that left it."""
    name = f"test-sweep-{secrets.token_hex(6)}"
    command = [sys.executable, "-c", source, name]
    with tempfile.TemporaryFile("w+") as out:  # a pipe would end only with those that outlive the run
        ended = subprocess.run(command, env=environment(folder), stdout=out)
        assert ended.returncode == -signal.SIGKILL
        out.seek(0)
        return name, out.read().strip()


def names(leaks: List[object]) -> List[str]:
    return [leak.name for leak in leaks]  # type: ignore[attr-defined]


def fates(leaks: Sequence[Leak]) -> List[str]:
    return [leak.fate for leak in leaks]


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


def test_what_was_left_in_place_is_named_until_it_is_gone(temporary: Path) -> None:
    name, ledger = killed_run(temporary)
    segment = SharedMemory(name)
    command = [sys.executable, "-m", "pytest_shmstate", "sweep"]

    while_it_is_open = [fates(sweep.sweep()), fates(sweep.sweep())]
    status = subprocess.run(command, env=environment(temporary), stdout=subprocess.PIPE).returncode
    segment.close()
    afterwards = [fates(sweep.sweep()), fates(sweep.sweep())]

    resource_tracker.unregister("/" + name, "shared_memory")
    assert while_it_is_open == [["left in place (still open)"]] * 2
    assert status == 1
    assert afterwards == [["removed"], []]
    assert not os.path.exists(ledger)


def test_a_process_that_outlives_its_killed_run_is_named_until_it_ends_and_what_it_makes_is_removed(
    temporary: Path,
) -> None:
    name, ledger = killed_run(temporary, SURVIVED_BY_A_CHILD)
    child = int(Path(temporary, "child").read_text("ascii"))

    while_it_runs = [fates(sweep.sweep()), fates(sweep.sweep())]
    Path(temporary, "go").touch()
    until(lambda: not census.at_work(child), 60)
    afterwards = [fates(sweep.sweep()), fates(sweep.sweep())]

    assert while_it_runs == [["left in place (still open)", "left alone (it runs)"]] * 2
    assert afterwards == [["removed", "removed"], []]
    assert [entry for entry in os.listdir("/dev/shm") if entry.startswith(name)] == []
    assert not os.path.exists(ledger)


def test_what_cannot_be_removed_is_named_again(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = killed_run(temporary)

    def refuse(path: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        refused = [fates(sweep.sweep()), fates(sweep.sweep())]

    assert refused == [["left in place (Operation not permitted)"]] * 2
    assert fates(sweep.sweep()) == ["removed"]
    assert not os.path.exists(f"/dev/shm/{name}")


def test_a_sweep_that_was_killed_in_its_middle_is_done_by_the_next(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = killed_run(temporary)

    def stop(_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(verdict, "remove", stop)
        sweep.sweep()

    assert fates(sweep.sweep()) == ["removed"]
    assert not os.path.exists(f"/dev/shm/{name}")


def test_a_ledger_that_another_sweep_is_at_work_on_is_waited_for(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ledger = killed_run(temporary)
    other = sweep._take_turn(ledger)
    assert other is not None
    waits: List[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            other.__exit__(None, None, None)

    monkeypatch.setattr(sweep, "sleep", wait)
    assert fates(sweep.sweep()) == ["removed"]
    assert len(waits) == 3


def test_a_ledger_of_an_outpost_is_kept_as_well_and_found_while_the_sweeper_lives(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, ledger = killed_run(temporary)
    segment = SharedMemory(name)
    own = f"pytest-shmstate-{os.getpid()}.{start_of_this_process()}.{pid_namespace()}.host.5eed.0123"
    os.rename(ledger, temporary / own)

    with monkeypatch.context() as patched:
        patched.setattr(outpost, "deserted", lambda: [str(temporary / own)])
        first = fates(sweep.sweep())
    second = fates(sweep.sweep())
    segment.close()

    third = fates(sweep.sweep())
    resource_tracker.unregister("/" + name, "shared_memory")
    assert (first, second, third) == (["left in place (still open)"], ["left in place (still open)"], ["removed"])
    assert list(temporary.iterdir()) == []


def test_what_a_run_in_mode_warn_had_left_to_its_end_is_removed(temporary: Path) -> None:
    name, ledger = killed_run(temporary)
    inode = os.stat(f"/dev/shm/{name}").st_ino
    Path(ledger, "verdicts.main").write_text(json.dumps(["left", ["segment", name, inode, 1]]) + "\n", "utf-8")

    assert fates(sweep.sweep()) == ["removed"]


def test_after_a_reboot_nothing_that_has_the_name_and_inode_is_the_runs(temporary: Path) -> None:
    name, ledger = killed_run(temporary)
    Path(ledger, "boot").write_text("another-boot", "ascii")
    for file in Path(ledger).iterdir():
        os.utime(file, (1, 1))

    leaks = sweep.sweep()

    os.unlink(f"/dev/shm/{name}")  # fails if it was removed
    assert leaks == []
    assert not os.path.exists(ledger)


def test_the_ledger_of_another_machine_that_shares_the_folder_is_left_alone(temporary: Path) -> None:
    name, ledger = killed_run(temporary)
    Path(ledger, "boot").write_text("another-boot", "ascii")

    leaks = sweep.sweep()

    os.unlink(f"/dev/shm/{name}")
    assert leaks == []
    assert os.path.exists(ledger)


@pytest.mark.parametrize("what", ["younger", "on another device"])
def test_what_has_the_name_and_inode_but_is_another_file_stays(temporary: Path, what: str) -> None:
    name, ledger = killed_run(temporary)
    entry = census.look(name)
    assert entry is not None
    for file in Path(ledger).glob("*.*"):
        records = [ast.literal_eval(line) for line in file.read_text("utf-8").splitlines()]
        made = [(*record[:8], *change(what, *record[8:])) if record[0] == "made" else record for record in records]
        file.write_text("".join(f"{record!r}\n" for record in made), "utf-8")

    leaks = sweep.sweep()

    os.unlink(f"/dev/shm/{name}")
    assert leaks == []


def change(what: str, device: int, born_by: int) -> Tuple[int, int]:
    return (device, born_by - 1) if what == "younger" else (device + 1, born_by)


def test_what_another_program_made_in_a_shm_that_was_mounted_since_stays(temporary: Path) -> None:
    mount = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
    may = subprocess.run(["unshare", "-m", "sh", "-c", mount, "sh", "true"], stderr=subprocess.PIPE, text=True)
    if may.returncode != 0:
        pytest.skip(f"no mount namespace with a /dev/shm of its own can be made here: {may.stderr.strip()}")
    told = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", REMOUNTED],
        env={**environment(temporary), "PYTEST_SHMSTATE_LEDGER": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert json.loads(told.stdout) == {"same inode": True, "leaks": [], "there": True}


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


#: Ledgers of other versions: the content of the file with the format, if there is one.
OTHER_FORMATS = [None, "", "0", "2", "\udcff"]


def written_by_another_version(ledger: str, form: Optional[str]) -> None:
    """Rewrite a ledger as if all its records had other fields, and have its folder say so."""
    for file in Path(ledger).glob("[0-9]*.[0-9]*"):
        records = [ast.literal_eval(line) for line in file.read_text("utf-8").splitlines()]
        file.write_text("".join(f"{(*record[:3], {}, *record[3:], [])!r}\n" for record in records), "utf-8")
    Path(ledger, "verdicts.main").write_text('["allowed", 7]\n["left"]\n12\nnull\n[[], 1]\n{not json\n', "utf-8")
    if form is None:
        Path(ledger, "format").unlink()
    else:
        Path(ledger, "format").write_text(form, "utf-8", "surrogateescape")


@pytest.mark.parametrize("form", OTHER_FORMATS)
def test_a_ledger_of_another_version_is_named_and_stays_and_the_next_is_swept(
    temporary: Path, form: Optional[str]
) -> None:
    name, ledger = killed_run(temporary)
    written_by_another_version(ledger, form)
    other, _ = killed_run(temporary)

    first, second = sweep.sweep(), sweep.sweep()

    os.unlink(f"/dev/shm/{name}")  # fails if it was removed
    assert sorted(names(list(first))) == sorted([ledger, other])
    assert not os.path.exists(f"/dev/shm/{other}")
    assert names(list(second)) == [ledger]
    assert {leak.fate for leak in second} == {"left in place (what it tells of is not known)"}
    assert os.path.exists(ledger)


@pytest.mark.parametrize("form", [None, "1"])
def test_a_session_beside_a_ledger_of_another_version_runs_and_says_so(
    temporary: Path, tmp_path: Path, form: Optional[str]
) -> None:
    name, ledger = killed_run(temporary)
    written_by_another_version(ledger, form)
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n", "utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "pytest_shmstate", "--shmstate-leaks=error", "test_it.py"]
    around = {**environment(temporary), "PYTEST_ADDOPTS": "", "COLUMNS": "400"}

    session = subprocess.run(command, env=around, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    swept = subprocess.run([*SWEEP, "sweep"], env=around, stdout=subprocess.PIPE, text=True)

    os.unlink(f"/dev/shm/{name}")
    assert session.returncode == 0, session.stdout
    assert "1 passed" in session.stdout
    for out in (session.stdout, swept.stdout):
        assert "left in place (what it tells of is not known)" in out
    assert f"directory {ledger}" in swept.stdout
    assert "sweep with the version that wrote it, or remove the directory" in swept.stdout
    assert swept.returncode == 1


def test_records_of_another_version_in_a_ledger_keep_it_and_the_others_count(temporary: Path) -> None:
    name, ledger = killed_run(temporary)
    (file,) = Path(ledger).glob("[0-9]*.[0-9]*")
    whole = file.read_text("utf-8")
    file.write_text(f"{whole}('made', 1, 2, 'open', 'x')\n('test', 1, 2)\n('begin', 1, 2, 3, 4)\n", "utf-8")

    leaks = sweep.sweep()

    assert [(leak.name, leak.fate) for leak in leaks] == [
        (name, "removed"),
        (ledger, "left in place (what it tells of is not known)"),
    ]
    file.write_text(whole, "utf-8")
    assert sweep.sweep() == []
    assert not os.path.exists(ledger)


def test_a_run_that_was_killed_before_its_first_record_left_nothing(temporary: Path) -> None:
    _, ledger = killed_run(temporary)
    (entry,) = [leak.name for leak in sweep.sweep()]
    Path(ledger).mkdir()

    assert sweep.sweep() == []
    assert not os.path.exists(ledger), entry


def test_a_ledger_goes_though_a_process_begins_its_file_in_the_middle(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the resource tracker of a killed run does, which starts while a sweep is at work."""
    _, ledger = killed_run(temporary)
    rmdir = os.rmdir

    def late(path: Any, **options: Any) -> None:
        with suppress(FileNotFoundError):
            Path(ledger, "123.456").touch()
        rmdir(path, **options)

    monkeypatch.setattr(os, "rmdir", late)
    sweep.sweep()
    monkeypatch.undo()

    assert [file for file in os.listdir(temporary) if file.startswith("pytest-shmstate-")] == []


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
