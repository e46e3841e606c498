from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from pathlib import Path
from typing import Callable, Dict, Iterator

import pytest

from shmstate import InvalidName, InvalidOption, StateReader, StateWriter, list_states, makers, reclaim, registry
from shmstate.layout import NEW_PREFIX, OLD_PREFIX, PREFIX
from shmstate.memory import path_of
from tests.core import children
from tests.core.children import Child

Start = Callable[..., Child]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def dead(name: str) -> Iterator[str]:
    """The name of a state that nobody owns."""
    writer = StateWriter(name)
    writer.publish("left")
    writer.close(unlink=False)

    yield name

    if os.path.exists(path_of(name)):
        os.unlink(path_of(name))


# Listing.


@pytest.mark.parametrize("checksum", [False, True])
def test_a_living_state_is_listed_with_all_that_is_known_of_it(name: str, checksum: bool) -> None:
    before = time.time()
    with StateWriter(name, codec="json", slots=3, max_size=5000, checksum=checksum) as writer:
        for jobs in range(5):
            writer.publish({"jobs": jobs})

        (info,) = list_states(name)

        assert info.problem == ""
        assert (info.name, info.alive, info.version, info.nbytes) == (name, True, 5, len('{"jobs":4}'))
        assert (info.owner_pid, info.codec, info.slots, info.max_size) == (os.getpid(), "json", 3, 8192)
        assert info.age is not None
        assert info.staleness is not None
        assert 0 < info.staleness <= info.age < 60
        assert before - 1 < info.created < time.time() + 1
        assert info.memory == 4 * 4096


def test_a_state_without_a_publish_is_listed_without_an_age(name: str) -> None:
    with StateWriter(name):
        (info,) = list_states(name)

        assert (info.alive, info.version, info.nbytes, info.age, info.staleness) == (True, 0, 0, None, None)
        assert info.problem == ""


def test_a_dead_state_is_listed_as_such(dead: str) -> None:
    (info,) = list_states(dead)

    assert (info.name, info.alive, info.version, info.problem) == (dead, False, 1, "")


def test_the_states_of_a_prefix_are_listed_by_name(prefix: str) -> None:
    names = [f"{prefix}-{letter}" for letter in "cab"]
    writers = [StateWriter(name) for name in names]

    listed = [info.name for info in list_states(prefix)]

    assert listed == sorted(names)
    assert listed == registry.state_names(prefix)
    assert list_states(prefix + "-none") == []
    assert set(names) < {info.name for info in list_states()} | {prefix + "-x"}
    for writer in writers:
        writer.close()


def test_what_cannot_be_read_is_listed_with_its_problem(prefix: str) -> None:
    with StateWriter(prefix + "-fine"):
        path = path_of(prefix + "-broken")
        with open(path, "wb") as file:
            file.write(b"not a segment")
        try:
            broken, fine = list_states(prefix)
        finally:
            os.unlink(path)

    assert "13 bytes are too few" in broken.problem
    assert (broken.name, broken.alive, broken.version) == (prefix + "-broken", None, 0)
    assert fine.problem == ""


def test_a_directory_among_the_states_is_listed_with_a_problem(prefix: str) -> None:
    os.mkdir(path_of(prefix + "-directory"))
    try:
        with StateWriter(prefix + "-fine"):
            directory, fine = list_states(prefix)
    finally:
        os.rmdir(path_of(prefix + "-directory"))

    assert directory.problem
    assert not fine.problem


def test_a_socket_among_the_states_is_listed_with_a_problem_and_reclaims_nothing(prefix: str) -> None:
    with socket.socket(socket.AF_UNIX) as left_by_somebody:
        left_by_somebody.bind(path_of(prefix + "-socket"))
        try:
            (listed,) = list_states(prefix)
            reclaimed = reclaim(prefix)
        finally:
            os.unlink(path_of(prefix + "-socket"))

    assert "is a socket, not a file; remove it" in listed.problem
    assert reclaimed == []


def test_a_corrupt_state_is_listed_with_its_problem(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        writer._segment.words[writer._segment.layout.where[1].length] = 2**60

        (info,) = list_states(name)

        assert "LENGTH 1152921504606846976" in info.problem


@needs_root
def test_another_users_state_is_listed_with_its_problem_or_read_if_trusted(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        os.chown(path_of(name), 12345, -1)

        (refused,) = list_states(name)
        (trusted,) = list_states(name, trust_uid=12345)

        assert "belongs to uid 12345" in refused.problem
        assert (trusted.problem, trusted.version) == ("", 1)


def test_a_state_that_goes_while_it_is_looked_at_is_not_listed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    writer = StateWriter(name)
    names = registry.state_names

    def names_then_close(prefix: str) -> object:
        found = names(prefix)
        writer.close()
        return found

    monkeypatch.setattr(registry, "state_names", names_then_close)

    assert list_states(name) == []


# Reclaiming.


def test_what_a_dead_writer_left_is_removed_and_named(dead: str) -> None:
    assert reclaim(dead) == [dead]
    assert not os.path.exists(path_of(dead))
    assert reclaim(dead) == []


def test_what_a_killed_writer_left_is_removed(start: Start, name: str) -> None:
    child = start(children.own, name)
    child.line()
    child.kill()

    assert reclaim(name) == [name]


def test_what_a_living_writer_owns_is_left_alone(start: Start, name: str) -> None:
    child = start(children.own, name)
    child.line()

    assert reclaim(name) == []
    with StateReader(name) as reader:
        assert reader.get() == {"from": child.pid}
        assert reader.writer_alive


def test_attached_readers_keep_the_last_state(dead: str) -> None:
    with StateReader(dead) as reader:
        reclaim(dead)

        assert reader.get() == "left"


def test_only_the_prefix_is_reclaimed(prefix: str) -> None:
    names = [f"{prefix}-a", f"{prefix}-b"]
    for name in names:
        StateWriter(name).close(unlink=False)

    assert reclaim(prefix + "-a") == names[:1]
    assert os.path.exists(path_of(names[1]))
    assert reclaim(prefix) == names[1:]


def test_what_is_no_segment_is_left_alone(prefix: str) -> None:
    file, folder, link = (path_of(prefix + kind) for kind in ("-file", "-folder", "-link"))
    with open(file, "wb") as content:
        content.write(b"not a segment")
    os.mkdir(folder)
    os.symlink(file, link)
    try:
        assert reclaim(prefix) == []
        assert os.path.exists(file)
        assert os.path.isdir(folder)
        assert os.path.islink(link)
    finally:
        os.unlink(link)
        os.unlink(file)
        os.rmdir(folder)


@needs_root
def test_another_users_dead_state_is_left_alone(dead: str) -> None:
    os.chown(path_of(dead), 12345, -1)

    assert reclaim(dead) == []
    assert os.path.exists(path_of(dead))


def test_a_damaged_state_is_left_alone(dead: str) -> None:
    os.truncate(path_of(dead), 8192)

    assert reclaim(dead) == []
    assert os.path.exists(path_of(dead))


# Reclaiming everything: in a folder of the test's own, as the real one is shared with everybody.


@pytest.fixture
def shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: str) -> Path:
    """A stand-in for /dev/shm with a dead state and a file of somebody else's in it."""
    folder = tmp_path / "shm"
    folder.mkdir()
    (folder / "psm_1234").write_bytes(b"somebody else's")
    sparse = folder / f"{PREFIX}{dead}"
    with open(path_of(dead), "rb") as source, open(sparse, "wb") as target:
        target.write(source.read(3 * 4096))
        target.truncate(os.path.getsize(path_of(dead)))
    monkeypatch.setattr(registry, "SHM_DIR", str(folder))
    return folder


def test_without_a_prefix_all_dead_states_go_and_nothing_else(shared_memory: Path, dead: str) -> None:
    assert reclaim() == [dead]
    assert [file.name for file in shared_memory.iterdir()] == ["psm_1234"]


def test_a_draft_whose_maker_is_dead_goes_and_is_named_by_its_file(
    shared_memory: Path, dead: str, start: Start
) -> None:
    child = start(children.claim_on_demand)
    draft = f"{NEW_PREFIX}{child.pid}.{makers.start_time(child.pid)}.0123"
    (shared_memory / draft).write_bytes(b"")
    assert reclaim() == [dead]

    child.kill()

    assert reclaim(dry_run=True) == [draft]
    assert (shared_memory / draft).exists()
    assert reclaim() == [draft]
    assert not (shared_memory / draft).exists()


def test_a_draft_whose_maker_lives_stays(shared_memory: Path, dead: str) -> None:
    draft = f"{NEW_PREFIX}{os.getpid()}.{makers.start_time(os.getpid())}.0123"
    (shared_memory / draft).write_bytes(b"")

    assert reclaim() == [dead]
    assert (shared_memory / draft).exists()


def test_a_draft_is_not_touched_when_a_prefix_is_asked_for(shared_memory: Path, dead: str) -> None:
    (shared_memory / f"{NEW_PREFIX}1.1.0123").write_bytes(b"")

    assert reclaim(dead) == [dead]
    assert (shared_memory / f"{NEW_PREFIX}1.1.0123").exists()


@needs_root
def test_another_users_draft_stays(shared_memory: Path, dead: str) -> None:
    draft = shared_memory / f"{NEW_PREFIX}1.1.0123"
    draft.write_bytes(b"")
    os.chown(draft, 12345, -1)

    assert reclaim() == [dead]
    assert draft.exists()


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


ODD_FILES: Dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to("/nonexistent"),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a socket": _bind,
}


@pytest.mark.parametrize("prefix", [PREFIX, NEW_PREFIX, OLD_PREFIX])
@pytest.mark.parametrize("kind", ODD_FILES)
def test_what_is_no_file_does_not_keep_the_rest_from_being_reclaimed(
    shared_memory: Path, dead: str, prefix: str, kind: str
) -> None:
    odd = shared_memory / f"{prefix}1.1.0123"
    ODD_FILES[kind](odd)

    assert reclaim(dry_run=True) == reclaim() == [dead]
    assert os.path.lexists(odd)


@pytest.mark.parametrize("prefix", [PREFIX, NEW_PREFIX, OLD_PREFIX])
def test_a_file_that_another_process_has_leased_does_not_keep_the_rest_from_being_reclaimed(
    shared_memory: Path, dead: str, prefix: str
) -> None:
    leased = shared_memory / f"{prefix}1.1.0123"
    leased.write_bytes(b"")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    lease = os.open(leased, os.O_RDWR)
    try:
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)

        assert reclaim() == [dead]
    finally:
        os.close(lease)
        signal.signal(signal.SIGIO, before)
    assert leased.exists()


def test_an_exact_name_is_reclaimed_without_those_that_begin_so(name: str) -> None:
    names = [name, name + "2"]
    for each in names:
        StateWriter(each).close(unlink=False)

    assert reclaim(name=name, dry_run=True) == [name]
    assert reclaim(name=name) == [name]
    assert reclaim(name=name) == []
    assert reclaim(name) == [name + "2"]


@pytest.mark.parametrize("wrong", ["", "a/b"])
def test_an_exact_name_that_can_be_none_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidName):
        reclaim(name=wrong)


def test_a_prefix_and_an_exact_name_together_are_refused(name: str) -> None:
    with pytest.raises(InvalidOption, match="give one of them"):
        reclaim(name, name=name)
