"""What the kernel says came, by each of the ways to hear it, in a folder of the test's own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Iterator, List, Optional

import pytest

from pytest_shmstate.notices import READ_SIZE, SOMEBODY_ELSE, UNSAID, Notice, Notices

SOURCES = ["fanotify", "inotify", "stat"]


def opened(source: str, folder: Path) -> Iterator[Notices]:
    notices = Notices(os.fspath(folder), (source,))
    if notices.source != source:
        pytest.skip(f"{source} is not allowed here")
    yield notices
    notices.close()


@pytest.fixture(params=SOURCES)
def notices(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Notices]:
    yield from opened(request.param, tmp_path)


def names(found: List[Notice]) -> List[str]:
    return [notice.name for notice in found]


def test_what_comes_is_told_once(notices: Notices, tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    (tmp_path / "two").mkdir()

    assert sorted(names(notices.drain())) == ["one", "two"]
    assert notices.drain() == []


def test_what_was_there_before_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    notices = Notices(os.fspath(tmp_path))

    (tmp_path / "new").touch()

    assert names(notices.drain()) == ["new"]
    notices.close()


def test_what_is_linked_or_renamed_into_place_has_come(notices: Notices, tmp_path: Path) -> None:
    (tmp_path / "draft").touch()
    os.link(tmp_path / "draft", tmp_path / "linked")
    os.rename(tmp_path / "draft", tmp_path / "renamed")

    assert {"linked", "renamed"} <= set(names(notices.drain()))


def test_names_of_any_bytes_are_told(notices: Notices, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\n %s")
    (tmp_path / name).touch()

    assert names(notices.drain()) == [name]


def test_a_fork_leaves_the_notices_to_its_parent(notices: Notices, tmp_path: Path) -> None:
    (tmp_path / "one").touch()

    pid = os.fork()
    if not pid:
        os._exit(len(notices.drain()))

    assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 0
    assert names(notices.drain()) == ["one"]


@pytest.mark.parametrize("source", ["fanotify", "inotify"])
def test_a_test_that_closed_the_descriptor_costs_no_notice(source: str, tmp_path: Path) -> None:
    notices = Notices(os.fspath(tmp_path), (source,))
    if notices.source != source:
        pytest.skip(f"{source} is not allowed here")
    os.close(notices._fd)
    # Whoever opens something next gets its number.
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
    os.write(other, b"not ours to read")
    os.lseek(other, 0, os.SEEK_SET)

    found = names(notices.drain())

    assert found == ["other"]
    assert os.read(other, READ_SIZE) == b"not ours to read"
    (tmp_path / "more").touch()
    assert names(notices.drain()) == ["more"]
    os.close(other)
    notices.close()


@pytest.mark.parametrize("source", ["inotify"])
def test_what_overflowed_the_queue_is_found_by_listing(source: str, tmp_path: Path) -> None:
    notices = Notices(os.fspath(tmp_path), (source,))
    if notices.source != source:
        pytest.skip(f"{source} is not allowed here")
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text("ascii"))
    for _ in range(most // 2 + 100):  # links to and fro, so that the same two names come again and again
        (tmp_path / "a").touch()
        (tmp_path / "b").touch()
        (tmp_path / "a").unlink()
        (tmp_path / "b").unlink()
    (tmp_path / "last").touch()

    assert "last" in names(notices.drain())
    notices.close()


def test_fanotify_says_that_it_was_this_process(tmp_path: Path) -> None:
    notices = Notices(os.fspath(tmp_path), ("fanotify",))
    if notices.source != "fanotify":
        pytest.skip("fanotify is not allowed here")
    (tmp_path / "mine").touch()
    pid = os.fork()
    if not pid:
        (tmp_path / "the-child's").touch()
        os._exit(0)
    os.waitpid(pid, 0)

    makers = {notice.name: notice.pid for notice in notices.drain()}

    assert makers["mine"] == os.getpid()
    # Others are named to root alone.
    assert makers["the-child's"] in (pid, SOMEBODY_ELSE)
    notices.close()


@pytest.mark.parametrize("source", ["inotify", "stat"])
def test_the_other_ways_do_not_say_who(source: str, tmp_path: Path) -> None:
    notices = Notices(os.fspath(tmp_path), (source,))
    (tmp_path / "one").touch()

    assert [notice.pid for notice in notices.drain()] == [UNSAID]
    notices.close()


def test_without_the_folder_nothing_comes(tmp_path: Path) -> None:
    notices = Notices(os.fspath(tmp_path / "not-there"))

    assert notices.source == "nowhere"
    assert notices.drain() == []
    notices.close()


def test_the_next_way_is_taken_where_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_shmstate.notices._fanotify", lambda _: -1)
    monkeypatch.setattr("pytest_shmstate.notices._inotify", lambda _: -1)

    assert Notices(os.fspath(tmp_path)).source == "stat"


def test_no_regular_file_is_kept_open(notices: Notices) -> None:
    if notices.source != "stat":
        assert not os.path.isfile(f"/proc/self/fd/{notices._fd}")


@pytest.fixture(params=["fanotify", "inotify"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Notices]:
    yield from opened(request.param, tmp_path)


def test_changes_within_a_tick_of_the_kernel_are_all_told(
    queue: Notices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = queue._stat  # newer kernels are exact
    monkeypatch.setattr(queue, "_stat", lambda: (stat()[0] // 10_000_000, 0))
    told = []
    for number in range(2000):
        os.close(os.open(tmp_path / str(number), os.O_CREAT))
        told += names(queue.drain())
        os.unlink(tmp_path / str(number))

    assert told == [str(number) for number in range(2000)]


def test_a_folder_that_is_still_is_not_asked_again_until_it_changes(
    queue: Notices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, reads, read = [time.monotonic()], [0], queue._read

    def counted() -> Optional[List[Notice]]:
        reads[0] += 1
        return read()

    monkeypatch.setattr("pytest_shmstate.notices.monotonic", lambda: now[0])
    monkeypatch.setattr(queue, "_read", counted)
    for _ in range(5):
        assert queue.drain() == []
        now[0] += 1
    before = reads[0]
    (tmp_path / "one").touch()

    assert before == 2  # as it was, and once more when that was settled
    assert names(queue.drain()) == ["one"]
