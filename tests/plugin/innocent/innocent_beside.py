"""What a process beside the run made: looked at, used, kept, and never these tests' to remove.

a strangers segment is attached
a strangers segment is attached many times
a strangers segment stays attached
a strangers segment stays attached for ever
a strangers file is opened for writing
a strangers file is opened as if it may be new
a strangers file is mapped and stays so
a strangers descriptor comes by a socket: held here, by nobody else, and made by none of us
a strangers file is read by a program: the same, in a child that is no Python
a strangers segment is attached by a child
a stranger removes its own
a stranger removes what the test made
a stranger still holds what the test removed
a stranger takes the name over: that a test made and removed, by one way or another
a stranger takes the name over and a fixture had it
a strangers name has this processes pid: as where containers share /dev/shm, and both count from 1
a stranger has the pid of a child that ended: which the ledger knows as ours
a stranger makes many while the test runs
"""

from __future__ import annotations

import mmap
import os
import socket
import sqlite3
import subprocess
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Callable, Dict, Iterator, List

import pytest

from tests.core.children import until
from tests.plugin.innocent import beside
from tests.plugin.innocent.parts import FORK, PYTHON, SHM, attached, new_name

#: Who may write there says which pid comes next.
LAST_PID = "/proc/sys/kernel/ns_last_pid"
CONTENT = b"a stranger's, not to be touched"


def make(how: str, **more: str) -> str:
    """Have the stranger make something, which it keeps."""
    name: str = beside.ask("make", how=how, **more)["name"]
    return name


def test_a_strangers_segment_is_attached() -> None:
    segment = attached(make("segment"))
    assert bytes(segment.buf[: len(CONTENT)]) == CONTENT
    segment.close()


def test_a_strangers_segment_is_attached_many_times() -> None:
    name = make("segment")
    for _ in range(20):
        attached(name).close()


@pytest.fixture(scope="session")
def strangers_segment() -> Iterator[SharedMemory]:
    segment = attached(make("segment"))
    yield segment
    segment.close()


@pytest.mark.parametrize("number", range(2))
def test_a_strangers_segment_stays_attached(strangers_segment: SharedMemory, number: int) -> None:
    assert bytes(strangers_segment.buf[: len(CONTENT)]) == CONTENT


KEPT: List[Any] = []


def test_a_strangers_segment_stays_attached_for_ever() -> None:
    KEPT.append(attached(make("segment")))


@pytest.mark.parametrize("how", ["file", "segment", "renamed"])
def test_a_strangers_file_is_opened_for_writing(how: str) -> None:
    with open(os.path.join(SHM, make(how)), "r+b") as file:
        assert file.read(len(CONTENT)) == CONTENT


def test_a_strangers_file_is_opened_as_if_it_may_be_new() -> None:
    name = make("file")
    for flags in (os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_APPEND):
        os.close(os.open(os.path.join(SHM, name), flags, 0o600))
    with pytest.raises(FileExistsError):
        open(os.path.join(SHM, name), "x", encoding="utf-8").close()
    with pytest.raises(FileExistsError):
        os.mkdir(os.path.join(SHM, name))
    with pytest.raises(OSError, match="in use"):
        socket.socket(socket.AF_UNIX).bind(os.path.join(SHM, name))


def test_a_strangers_file_is_mapped_and_stays_so() -> None:
    with open(os.path.join(SHM, make("file")), "r+b") as file:
        KEPT.append(mmap.mmap(file.fileno(), 0))


def test_a_strangers_descriptor_comes_by_a_socket() -> None:
    KEPT.append(beside.receive(make("file")))


@pytest.fixture(scope="session")
def readers() -> Iterator[List[Any]]:
    processes: List[Any] = []
    yield processes
    for process in processes:
        process.terminate()
        process.wait()


def test_a_strangers_file_is_read_by_a_program(readers: List[Any]) -> None:
    path = os.path.join(SHM, make("file"))
    program = subprocess.Popen(["tail", "-f", path], stdout=subprocess.PIPE)
    readers.append(program)
    assert program.stdout is not None
    assert program.stdout.read(1) == CONTENT[:1]


def test_a_strangers_segment_is_attached_by_a_child() -> None:
    name = make("segment")
    process = FORK.Process(target=lambda: attached(name).close())
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_stranger_removes_its_own() -> None:
    name = make("segment")
    segment = attached(name)
    beside.ask("remove", name=name)
    assert bytes(segment.buf[: len(CONTENT)]) == CONTENT
    segment.close()


def test_a_stranger_removes_what_the_test_made() -> None:
    name = new_name("handed-over")
    with open(os.path.join(SHM, name), "wb"):
        beside.ask("unlink", name=name)


def test_a_stranger_still_holds_what_the_test_removed() -> None:
    name = new_name("held")
    with open(os.path.join(SHM, name), "wb") as file:
        file.write(b"ours")
    beside.ask("hold", name=name)
    os.unlink(os.path.join(SHM, name))


def write(path: str) -> None:
    with open(path, "wb"):
        pass


def write_beside_and_rename(path: str) -> None:
    write(path + ".part")
    os.rename(path + ".part", path)


def link(path: str) -> None:
    write(path + ".other")
    os.link(path + ".other", path)
    os.unlink(path + ".other")


def bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)


def connect(path: str) -> None:
    database = sqlite3.connect(path)
    database.execute("create table things (name text)")
    database.close()


def make_segment_and_unlink(path: str) -> None:
    segment = SharedMemory(os.path.basename(path), create=True, size=10)
    segment.close()
    segment.unlink()


def in_a_child(path: str) -> None:
    subprocess.run(["sh", "-c", 'touch "$0"', path], check=True)


WAYS: Dict[str, Callable[[str], None]] = {
    "open": write,
    "rename": write_beside_and_rename,
    "link": link,
    "bind": bind,
    "sqlite": connect,
    "mkdir": os.mkdir,
    "symlink": lambda path: os.symlink("nowhere", path),
    "segment": make_segment_and_unlink,
    "child": in_a_child,
}


@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_stranger_takes_the_name_over(way: str) -> None:
    name = new_name(f"taken-{way}")
    path = os.path.join(SHM, name)
    WAYS[way](path)
    if os.path.isdir(path):
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)

    make("file", name=name)

    assert os.path.isfile(path)


def test_a_stranger_takes_the_name_over_and_a_fixture_had_it(worker_id_name: str) -> None:
    path = os.path.join(SHM, f"{worker_id_name}-turns")
    for _ in range(3):
        make("file", name=os.path.basename(path))
        beside.ask("remove", name=os.path.basename(path))
        write(path)
        os.unlink(path)


@pytest.mark.parametrize("pattern", ["torch_{}_1", "pym-{}-xyz", "sem.loky-{}-1", "joblib_memmapping_folder_{}_1"])
def test_a_strangers_name_has_this_processes_pid(pattern: str) -> None:
    """As in a container that shares /dev/shm with another: both count from 1."""
    name = pattern.format(os.getpid()) + new_name("")
    make("folder" if "folder" in name else "semaphore" if name.startswith("sem.") else "file", name=name)


def test_a_stranger_has_the_pid_of_a_child_that_ended() -> None:
    if os.getuid() != 0 or not os.access(LAST_PID, os.W_OK):
        pytest.skip("cannot choose a pid")
    child = subprocess.Popen([*PYTHON, ""])
    child.wait()
    name = new_name("namesake")

    beside.ask("be", pid=str(child.pid), name=name)

    assert os.path.exists(os.path.join(SHM, name))


def test_a_stranger_makes_many_while_the_test_runs() -> None:
    before = set(os.listdir(SHM))
    beside.ask("hello")
    until(lambda: len(set(os.listdir(SHM)) - before) > 2)
