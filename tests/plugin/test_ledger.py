"""What each Python of a run writes down, and how it is read: by real processes, in a ledger of the test's own."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

from pytest_shmstate import census, recorder
from pytest_shmstate.leak import Owner
from pytest_shmstate.ledger import Ledger, Made, abandoned, pid_namespace, remove_folder
from pytest_shmstate.run import Run
from pytest_shmstate.watch import Watch


@pytest.fixture
def run() -> Iterator[Run]:
    run = Run.begin()
    yield run
    run.close()


@pytest.fixture
def name() -> str:
    return f"test-ledger-{secrets.token_hex(6)}"


def read(run: Run) -> Ledger:
    ledger = Ledger(run.folder)
    ledger.refresh()
    return ledger


def read_all(run: Run) -> Ledger:
    """With the outer ledgers: a fork server that an earlier test started keeps only those that there were then."""
    ledger = Ledger(run.folder, outer=[folder for folder in recorder.kept() if folder != run.folder])
    ledger.refresh()
    return ledger


def made(run: Run, name: str) -> Optional[Made]:
    known = read(run).made.get(name)
    return known[-1] if known else None


def by_open(name: str) -> None:
    with open(f"/dev/shm/{name}", "x"):
        pass


def by_os_open(name: str) -> None:
    os.close(os.open(f"/dev/shm/{name}", os.O_CREAT | os.O_RDWR))


def by_shared_memory(name: str) -> None:
    SharedMemory(name, create=True, size=10).close()


def by_link(name: str) -> None:
    by_open(name + ".draft")
    os.link(f"/dev/shm/{name}.draft", f"/dev/shm/{name}")
    os.unlink(f"/dev/shm/{name}.draft")


def by_rename(name: str) -> None:
    by_open(name + ".draft")
    os.rename(f"/dev/shm/{name}.draft", f"/dev/shm/{name}")


def by_mkdir(name: str) -> None:
    os.makedirs(f"/dev/shm/{name}")


def by_symlink(name: str) -> None:
    os.symlink("/nowhere", f"/dev/shm/{name}")


def by_bind(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/dev/shm/{name}")


def by_sqlite(name: str) -> None:
    connection = sqlite3.connect(f"/dev/shm/{name}")
    connection.execute("create table t (x)")
    connection.close()


def by_chdir(name: str) -> None:
    before = os.getcwd()
    os.chdir("/dev/shm")
    try:
        by_open_relative(name)
    finally:
        os.chdir(before)


def by_open_relative(name: str) -> None:
    with open(name, "w"):
        pass


def by_tempfile(name: str) -> None:
    fd, path = tempfile.mkstemp(dir="/dev/shm")
    os.close(fd)
    os.rename(path, f"/dev/shm/{name}")


WAYS: List[Callable[[str], None]] = [
    by_open,
    by_os_open,
    by_shared_memory,
    by_link,
    by_rename,
    by_mkdir,
    by_symlink,
    by_bind,
    by_sqlite,
    by_chdir,
    by_tempfile,
]


def remove(name: str) -> None:
    path = f"/dev/shm/{name}"
    if os.path.isdir(path) and not os.path.islink(path):
        os.rmdir(path)
    else:
        os.unlink(path)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_way_to_make_an_entry_is_written_down_with_its_line(
    way: Callable[[str], None], run: Run, name: str
) -> None:
    way(name)

    record = made(run, name)
    remove(name)

    assert record is not None
    assert record.pid == os.getpid()
    assert any(frame.function == way.__name__ and frame.file == __file__ for frame in record.stack)


@pytest.mark.parametrize(
    "look",
    [
        lambda path: open(path).close(),
        lambda path: open(path, "w").close(),
        os.stat,
        lambda path: os.truncate(path, 7),
    ],
    ids=["read", "overwrite", "stat", "truncate"],
)
def test_what_was_there_already_is_not_written_down_as_made(look: Callable[[str], Any], run: Run, name: str) -> None:
    recorder.keep(())
    by_open(name)
    with open(f"/dev/shm/{name}", "w") as file:
        file.write("something")
    recorder.keep((run.folder,))

    look(f"/dev/shm/{name}")

    record = made(run, name)
    remove(name)
    assert record is None


def test_what_is_elsewhere_is_not_written_down(run: Run, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("x")
    (tmp_path / "dev").mkdir()

    assert read(run).made == {}


def test_who_attaches_is_written_down_as_such(run: Run, name: str) -> None:
    recorder.keep(())
    segment = SharedMemory(name, create=True, size=10)
    recorder.keep((run.folder,))

    SharedMemory(name).close()

    inode = os.stat(f"/dev/shm/{name}").st_ino
    seen = read(run).seen
    segment.close()
    segment.unlink()
    assert seen == {(name, inode): [os.getpid()]}
    assert made(run, name) is None


def leave_and_die(name: str) -> None:
    by_shared_memory(name)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_that_is_killed_has_written_all_down(method: str, run: Run, name: str) -> None:
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=leave_and_die, args=(name,))
    child.start()
    child.join()

    ledger = read_all(run)
    remove(name)
    (record,) = ledger.made[name]

    assert record.pid == child.pid
    assert os.getpid() in ledger.lineage(record.pid, record.at)
    assert any(frame.function == "by_shared_memory" for frame in record.stack)


def test_a_python_below_a_shell_that_is_gone_knows_where_it_came_from(run: Run, name: str) -> None:
    program = f"open('/dev/shm/{name}', 'w')"
    subprocess.run(["sh", "-c", f'"{sys.executable}" -c "{program}" & wait'], check=True)

    record = made(run, name)
    remove(name)

    assert record is not None
    assert read(run).lineage(record.pid, record.at)[-1] == os.getpid() or os.getpid() in read(run).lineage(record.pid)


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_a_python_that_ignores_its_environment_or_site_keeps_no_ledger(flag: str, run: Run, name: str) -> None:
    subprocess.run([sys.executable, flag, "-c", f"open('/dev/shm/{name}', 'w')"], check=True)

    remove(name)
    assert made(run, name) is None


@pytest.mark.parametrize("package", ["multiprocess", "billiard", "loky/backend", "joblib/externals/loky/backend"])
def test_semaphores_of_packages_that_follow_multiprocessing_are_recorded(
    package: str, run: Run, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / package
    folder.mkdir(parents=True)
    (folder / "synchronize.py").write_text(MAKES_SEMAPHORES.format(name=name))
    module = package.replace("/", ".") + ".synchronize"
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from {module} import SemLock; SemLock()"

    subprocess.run([sys.executable, "-c", program], check=True)

    record = made(run, f"sem.{name}")
    remove(f"sem.{name}")
    assert record is not None
    assert record.how == "semaphore"


MAKES_SEMAPHORES = """
import _multiprocessing

class SemLock:
    def __init__(self):
        _multiprocessing.SemLock(1, 1, 1, SemLock._make_name(), False)

    @staticmethod
    def _make_name():
        return "/{name}"
"""


def test_a_run_inside_a_run_keeps_both_ledgers(run: Run, name: str) -> None:
    inner = Run.begin()
    subprocess.run([sys.executable, "-c", f"open('/dev/shm/{name}', 'w')"], check=True)

    records = [made(inner, name), made(run, name)]
    inner.close()
    remove(name)

    assert None not in records
    assert run.folder in recorder.kept()
    assert not os.path.exists(inner.folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may unshare a pid namespace")
def test_a_fork_into_another_pid_namespace_writes_nothing_where_its_pid_means_another(run: Run) -> None:
    program = """if True:
        import ctypes, os, sys
        if ctypes.CDLL(None).unshare(0x20000000):
            sys.exit(3)
        if not os.fork():
            assert os.getpid() == 1
            open("/dev/shm/" + sys.argv[1], "w").close()
            os.unlink("/dev/shm/" + sys.argv[1])
            os._exit(0)
        sys.exit(os.wait()[1])
    """
    done = subprocess.run([sys.executable, "-c", program, f"test-{secrets.token_hex(4)}"], timeout=60)
    if done.returncode == 3:
        pytest.skip("no pid namespace can be made here")

    assert done.returncode == 0
    assert not [file for file in os.listdir(run.folder) if file.startswith("1.")]


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (recorder.LEDGERS, recorder.PARENT):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PYTHONPATH", "/some/where")
    before = dict(os.environ)

    run = Run.begin()
    changed = {key for key, value in os.environ.items() if before.get(key) != value}
    path = os.environ["PYTHONPATH"].split(os.pathsep)
    run.close()

    assert changed == {recorder.LEDGERS, recorder.PARENT, "PYTHONPATH"}
    assert path == [recorder.SHIM, "/some/where"]
    assert dict(os.environ) == before


def test_children_see_the_path_and_the_sitecustomize_that_they_would_have_seen(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.customized = __file__")
    environment = {**os.environ, "PYTHONPATH": recorder.SHIM + os.pathsep + str(tmp_path)}
    program = "import sys; print(customized); print(sys.modules['sitecustomize'].__file__); print(sys.path)"

    with_ledger = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)

    environment["PYTHONPATH"] = str(tmp_path)
    assert with_ledger == subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    assert run.folder


PRINTS_PATH = "import os, sys; print(sys.path)"
CHILD_OF_CHILD = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {PRINTS_PATH!r}]))"


@pytest.mark.parametrize("program", [PRINTS_PATH, CHILD_OF_CHILD], ids=["child", "child of a child"])
@pytest.mark.parametrize("flags", [{}, {"PYTHONSAFEPATH": "1"}], ids=["", "safe path"])
@pytest.mark.parametrize("path", [None, "", ":", ":/opt/x", "/opt/x:", "/opt/a::/opt/b", ".", "/opt/x"])
def test_each_element_of_pythonpath_reaches_children(
    path: Optional[str], flags: Dict[str, str], program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen() -> str:
        command = [sys.executable, "-c", program]
        return subprocess.check_output(command, env={**os.environ, **flags}, cwd=str(tmp_path), text=True)

    # The run that this test is in has put its own folder there.
    if path is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", path)
    without = seen()

    run = Run.begin()
    try:
        inner = Run.begin()
        try:
            twice = seen()
        finally:
            inner.close()
        once = seen()
    finally:
        run.close()

    assert (once, twice) == (without, without)
    assert os.environ.get("PYTHONPATH") == path


class TimeIsUp(OSError):
    """What a test's own alarm may raise; an OSError, as TimeoutError is."""


def test_what_a_signal_handler_raises_in_the_middle_of_a_record_gets_through(
    run: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        signal.raise_signal(signal.SIGUSR1)

    def handler(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGUSR1, handler)
    monkeypatch.setattr(recorder, "_write", write)
    try:
        with pytest.raises(TimeIsUp):
            by_open(name)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert run.folder


def test_a_ledger_that_cannot_be_written_costs_nobody_anything(run: Run, name: str) -> None:
    remove_folder(run.folder)

    by_open(name)

    remove(name)


def test_a_line_cut_short_is_passed_over(run: Run, name: str) -> None:
    by_open(name)
    with open(os.path.join(run.folder, recorder.file()), "ab") as ledger:
        ledger.write(b"('made', 12, 3\n('made', 1")

    remove(name)
    assert list(read(run).made) == [name]


OF_ANOTHER_VERSION = [
    "('made', 1, 2, 'open', 'NAME', 0, (), 0, 0, 0, 'more')",
    "('made', 1, 2, 'open', 'NAME', 0)",
    "('made', 1, 2, 'open', 'NAME', 0, (('file.py', 1),), 0)",
    "('made', 1, 2, 'open', 'NAME', None, (), 0)",
    "('seen', 1, 2, 'NAME')",
    "('gone', 1, 2, 'NAME', 3)",
    "('gone', 1, 2, ['NAME'])",
    "('forked', 1, 2, ())",
    "('starts', 1, 2, 'exec', '', (1, 2), '')",
    "('test', 1, 2, 'NAME')",
    "('worker', 1, 2)",
    "('begin', 1, 2, 3)",
    "('begin', 'now', 2, 3, 1, 'exec', 'NAME')",
    "('begin',)",
    "['made', 1, 2]",
    "{'word': 'made'}",
    "()",
    "12",
]


@pytest.mark.parametrize("line", OF_ANOTHER_VERSION)
def test_a_record_with_other_fields_is_passed_over_and_counted(line: str, run: Run, name: str) -> None:
    by_open(name)
    with open(os.path.join(run.folder, "2.1"), "w", encoding="utf-8") as ledger:
        print(line.replace("NAME", name), file=ledger)
    by_open(name + ".later")

    remove(name)
    remove(name + ".later")
    found = read(run)
    list(found.turns())
    assert sorted(found.made) == [name, name + ".later"]
    assert list(found.begun) == [os.getpid()]
    assert found.unread == 1


@pytest.mark.parametrize("line", ["('made', {[]: 1}, 2)", "(" * 10_000, "\0", "{", ""])
def test_a_line_that_is_no_record_at_all_is_passed_over(line: str, run: Run, name: str) -> None:
    with open(os.path.join(run.folder, "2.1"), "w", encoding="utf-8") as ledger:
        print(line, file=ledger)
    by_open(name)

    remove(name)
    found = read(run)
    assert (list(found.made), found.unread) == ([name], 0)


def test_what_this_version_writes_it_reads(run: Run, name: str) -> None:
    recorder.write(run.folder, "worker", "main")
    recorder.write(run.folder, "test", "test_it.py::test_it", "/test_it.py", 3, 1)
    recorder.write(run.folder, "fixture", "pool", "module", "", 0, "test_it.py::test_it")
    recorder.write(run.folder, "rest")
    by_shared_memory(name)
    remove(name)
    for method in ("fork", "spawn"):
        context: Any = multiprocessing.get_context(method)
        child = context.Process(target=os.getpid, name=name)
        child.start()
        child.join()

    found = read(run)

    assert {word for _, _, word, _ in found.turns()} == {"test", "fixture", "rest"}
    assert {"worker", "forked", "starts"} <= set(found.others)
    assert {os.getpid()} < set(found.begun)
    assert name in found.made
    assert name in found.gone
    assert found.unread == 0


def test_only_what_is_asked_for_is_read(run: Run, name: str) -> None:
    by_open(name)
    by_open(name + ".other")
    ledger = Ledger(run.folder)

    ledger.refresh(only=[name])

    remove(name)
    remove(name + ".other")
    assert list(ledger.made) == [name]
    assert os.getpid() in ledger.begun


def test_what_was_made_long_ago_can_be_left_unread_and_processes_are_read_all_the_same(run: Run, name: str) -> None:
    by_open(name)
    remove(name)
    between = time.monotonic_ns()
    by_open(name + ".later")
    ledger = Ledger(run.folder)

    ledger.refresh(since=between)
    ledger.refresh()

    remove(name + ".later")
    assert list(ledger.made) == [name + ".later"]
    assert name not in ledger.gone
    assert os.getpid() in ledger.begun


def test_a_watch_takes_in_what_was_told_just_before_it_began_as_the_entry_may_be_about_to_come(run: Run) -> None:
    now = time.monotonic_ns()
    with open(os.path.join(run.folder, "1.1"), "w", encoding="utf-8") as file:
        for name, at in (("long ago", now - 10**10), ("now", now)):
            print(("made", at, 1, "open", name, 0, (), 0), file=file)

    watch = Watch(run.folder, Owner("session", "here"), grace=0.0)
    watch.close()

    assert list(watch._ledger.made) == ["now"]


@pytest.mark.parametrize("line", [b"('made'", b"('made', 12", b"('made', soon, 3"])
def test_a_line_that_was_cut_short_is_from_long_ago(run: Run, line: bytes) -> None:
    with open(os.path.join(run.folder, "1.1"), "wb") as file:
        file.write(line + b"\n")
    ledger = Ledger(run.folder)

    ledger.refresh(since=13)

    assert ledger.made == {}


def test_what_is_gone_is_forgotten_when_there_is_much(run: Run, name: str) -> None:
    by_open(name)
    for number in range(20):
        by_open(f"{name}.{number}")
        remove(f"{name}.{number}")
    ledger = read(run)

    ledger.prune(most=10)

    remove(name)
    assert list(ledger.made) == [name]


def test_the_record_that_fits_the_inode_is_the_makers(run: Run, name: str) -> None:
    by_shared_memory(name)
    first = os.stat(f"/dev/shm/{name}").st_ino
    remove(name)
    by_shared_memory(name)
    second = os.stat(f"/dev/shm/{name}").st_ino
    remove(name)

    ledger = read(run)

    found = [ledger.maker(name, inode) for inode in (first, second, first + second)]
    assert [record.inode if record else None for record in found] == [first, second, None]


def by_unlink(path: str) -> None:
    os.unlink(path)


def by_renaming(path: str) -> None:
    os.rename(path, path + ".elsewhere")
    os.unlink(path + ".elsewhere")


@pytest.mark.parametrize("give_up", [by_unlink, by_renaming, os.remove])
def test_a_name_that_was_given_up_is_not_the_makers_any_more(
    give_up: Callable[[str], None], run: Run, name: str
) -> None:
    by_open(name)
    give_up(f"/dev/shm/{name}")
    recorder.keep(())
    by_open(name)  # somebody else, at once
    recorder.keep((run.folder,))

    found = read(run).maker(name, os.stat(f"/dev/shm/{name}").st_ino)

    remove(name)
    assert found is None


def test_a_folder_that_was_removed_is_not_the_makers_any_more(run: Run, name: str) -> None:
    by_mkdir(name)
    (Path("/dev/shm") / name / "file").touch()
    shutil.rmtree(f"/dev/shm/{name}")
    recorder.keep(())
    by_mkdir(name)
    recorder.keep((run.folder,))

    found = read(run).maker(name, os.stat(f"/dev/shm/{name}").st_ino)

    remove(name)
    assert found is None


def test_a_name_that_is_made_once_more_is_the_makers_again(run: Run, name: str) -> None:
    by_open(name)
    remove(name)
    by_open(name)

    found = read(run).maker(name, os.stat(f"/dev/shm/{name}").st_ino)

    remove(name)
    assert found is not None


def test_what_was_born_long_after_the_record_is_not_of_the_record(
    run: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_open(name)
    ledger, inode = read(run), os.stat(f"/dev/shm/{name}").st_ino
    born = census.born(name)
    remove(name)
    if born is None:
        pytest.skip("the kernel keeps no birth times here")

    makers = []
    for late in (0, 10**9, -(10**9)):
        monkeypatch.setattr(census, "born", lambda _, late=late: born + late)
        makers.append(ledger.maker(name, inode))

    assert [maker is None for maker in makers] == [False, True, True]


def test_a_pid_that_is_anothers_by_now_has_not_the_lineage_of_the_first(run: Run) -> None:
    itself = 1  # runs, and is no child of this run
    line = repr(("begin", 1, itself, 99, os.getpid(), "exec", "python of the run")) + "\n"
    Path(run.folder, f"{itself}.99").write_text(line, encoding="ascii")

    ledger = read(run)

    assert os.getpid() not in ledger.lineage(itself)
    assert os.getpid() in ledger.lineage(itself, at=5)


def test_a_ledger_whose_run_lives_is_not_abandoned(run: Run, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for folder in (
        os.path.basename(run.folder),
        f"pytest-shmstate-{dead.pid}.1.{pid_namespace()}.x",
        f"pytest-shmstate-{dead.pid}.1.7.x",
        "something",
    ):
        (tmp_path / folder).mkdir()

    assert abandoned(str(tmp_path)) == [str(tmp_path / f"pytest-shmstate-{dead.pid}.1.{pid_namespace()}.x")]
