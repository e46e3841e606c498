"""The folder in which workers of one run meet on a host that its controller cannot see."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from pytest_shmstate import census, outpost, whereabouts
from pytest_shmstate.ledger import abandoned, remove_folder
from tests.core.children import until

WORKERS, ROUNDS = 5, 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a run of this test has its outpost."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return outpost.folder_of("5eed", whereabouts.place(whereabouts.facts("")))


class Crew:
    """Forks of this process that do something each."""

    def __init__(self) -> None:
        self.pids: List[int] = []

    def start(self, body: Callable[[], int]) -> int:
        """``body`` gives the exit status."""
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                status = body()
            finally:
                os._exit(status)
        self.pids.append(pid)
        return pid

    def statuses(self) -> List[int]:
        pids, self.pids = self.pids, []
        return [os.WEXITSTATUS(os.waitpid(pid, 0)[1]) for pid in pids]


@pytest.fixture
def crew() -> Iterator[Crew]:
    made = Crew()
    yield made
    for pid in made.pids:
        os.kill(pid, signal.SIGKILL)
    made.statuses()


def test_of_workers_that_end_at_the_same_time_one_is_the_last(folder: str, crew: Crew, tmp_path: Path) -> None:
    for _ in range(ROUNDS):
        come, go = os.pipe(), os.pipe()

        def work(come: int = come[1], go: int = go[0]) -> int:
            with outpost.enter(folder):
                pass
            os.write(come, b"1")
            os.read(go, 1)
            turn = outpost.take_turn(folder)
            if turn is None:
                return 7
            with turn:
                outpost.go(folder)
                if outpost.members(folder):
                    return 0
                remove_folder(outpost.take_away(folder))
                return 1

        for _ in range(WORKERS):
            crew.start(work)
        for _ in range(WORKERS):
            assert os.read(come[0], 1) == b"1"
        os.write(go[1], b"1" * WORKERS)

        assert sorted(crew.statuses()) == [0] * (WORKERS - 1) + [1]
        assert list(tmp_path.iterdir()) == []
        for fd in (*come, *go):
            os.close(fd)


def test_of_workers_that_come_at_the_same_time_all_are_in_one_folder(folder: str, crew: Crew) -> None:
    for number in range(ROUNDS):
        path = f"{folder}{number}"
        come, go = os.pipe(), os.pipe()

        def work(path: str = path, come: int = come[1], go: int = go[0]) -> int:
            with outpost.enter(path):
                pass
            os.write(come, b"1")
            os.read(go, 1)
            return len(outpost.members(path))

        for _ in range(WORKERS):
            crew.start(work)
        for _ in range(WORKERS):
            assert os.read(come[0], 1) == b"1"
        os.write(go[1], b"1" * WORKERS)
        # Who has looked may have ended before the next looks.
        assert max(crew.statuses()) == WORKERS
        for fd in (*come, *go):
            os.close(fd)


def test_who_comes_while_the_last_is_at_work_finds_it_made_anew(folder: str, crew: Crew) -> None:
    with outpost.enter(folder):
        old = os.stat(folder).st_ino

        def work() -> int:
            with outpost.enter(folder):
                return int(os.stat(folder).st_ino != old and outpost.members(folder) == [os.getpid()])

        pid = crew.start(work)
        until(lambda: is_waiting(pid), name="the next to wait for the lock")
        gone = outpost.take_away(folder)

    assert crew.statuses() == [1]
    remove_folder(gone)


def is_waiting(pid: int) -> bool:
    """Whether the process waits for a lock."""
    lines = Path("/proc/locks").read_text("ascii").splitlines()
    return any("->" in line and f" {pid} " in line for line in lines)


def test_a_worker_that_was_killed_is_no_member_any_more(folder: str, crew: Crew) -> None:
    def die() -> int:
        with outpost.enter(folder):
            os._exit(0)

    crew.start(die)
    crew.statuses()

    with outpost.enter(folder):
        assert outpost.members(folder) == [os.getpid()]


def test_one_that_all_have_left_by_dying_is_deserted_and_one_that_is_in_use_is_not(folder: str, crew: Crew) -> None:
    def die() -> int:
        outpost.enter(folder)
        outpost.enter(folder + "0")
        os._exit(0)

    crew.start(die)
    crew.statuses()
    with outpost.enter(folder + "0"):
        pass

    (found,) = outpost.deserted()

    assert os.path.basename(folder)[len("pytest-shmstate-") :] in found
    assert outpost.deserted() == []
    assert os.path.isdir(folder + "0")
    # Should this process be killed now, the next to sweep knows whose it was.
    assert abandoned() == []
    own = census.process(os.getpid())
    assert own is not None
    assert os.path.basename(found).startswith(f"pytest-shmstate-{os.getpid()}.{own.start}.")


def test_one_in_which_somebody_is_at_work_is_not_waited_for_by_a_sweep(folder: str) -> None:
    with outpost.enter(folder):
        outpost.go(folder)

        assert outpost.deserted() == []


def test_one_of_another_place_is_left_alone(tmp_path: Path, folder: str, crew: Crew) -> None:
    elsewhere = outpost.folder_of("5eed", "0123456789abcdef")

    def die() -> int:
        outpost.enter(elsewhere)
        os._exit(0)

    crew.start(die)
    crew.statuses()

    assert outpost.deserted() == []
    assert os.path.isdir(elsewhere)


@pytest.mark.parametrize("what", ["open to others", "a link", "a file"])
def test_what_somebody_else_put_there_is_not_entered(folder: str, tmp_path: Path, what: str) -> None:
    if what == "open to others":
        os.mkdir(folder)
        os.chmod(folder, 0o777)
    elif what == "a link":
        (tmp_path / "real").mkdir(mode=0o700)
        os.symlink(tmp_path / "real", folder)
    else:
        Path(folder).touch()

    with pytest.raises(outpost.OutpostRefused, match="somebody put it there, remove it"):
        outpost.enter(folder)

    assert [path for path in tmp_path.rglob("*") if path.name in ("lock", "before")] == []


def test_one_without_a_lock_is_told_of_and_not_waited_for(folder: str) -> None:
    os.mkdir(folder, 0o700)
    Path(folder, "something").touch()

    with pytest.raises(outpost.OutpostRefused, match="has no lock that can be taken: remove it"):
        outpost.enter(folder)
