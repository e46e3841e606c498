from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from contextlib import suppress
from typing import Callable, Set

import pytest

from shmstate import (
    AccessDenied,
    CorruptSegment,
    NameInUse,
    NotPublished,
    StateReader,
    StateWriter,
    UntrustedSegment,
    ownership,
)
from shmstate.layout import AT_SLOTS, NEW_PREFIX, PAGE, SHM_DIR, WORD
from shmstate.makers import maker_is_alive, start_time
from shmstate.memory import path_of
from tests.core import children
from tests.core.children import Child, until

Start = Callable[..., Child]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def left_by_a_killed_writer(start: Start, name: str, *options: str) -> int:
    """Have a writer publish ``{"from": pid}`` as version 1 and be killed. Returns the pid."""
    child = start(children.own, name, *options)
    child.line()
    child.kill()
    return child.pid


def remove_dead(name: str) -> None:
    assert ownership.remove_if_dead(path_of(name), name)


# One owner.


def test_a_second_writer_is_told_the_pid_and_command_of_the_first(start: Start, name: str) -> None:
    owner = start(children.own, name)
    owner.line()

    with pytest.raises(NameInUse, match=f"'{name}' is owned by pid {owner.pid} .*python.*close that writer"):
        StateWriter(name)


def test_a_second_writer_of_one_process_is_told_so(name: str) -> None:
    with StateWriter(name), pytest.raises(NameInUse, match=rf"another writer of this process \(pid {os.getpid()}\)"):
        StateWriter(name)


def test_a_refused_writer_leaves_the_state_and_no_file(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish("mine")
        with pytest.raises(NameInUse):
            StateWriter(name)

        with StateReader(name) as reader:
            assert reader.get() == "mine"
            assert reader.writer_alive


def test_exactly_one_of_many_that_claim_at_once_wins(start: Start, prefix: str) -> None:
    claimants = [start(children.claim_on_demand) for _ in range(5)]

    for turn in range(12):
        for claimant in claimants:
            claimant.say(f"{prefix}-{turn}")
        outcomes = {claimant.pid: claimant.line() for claimant in claimants}
        (winner,) = [pid for pid, outcome in outcomes.items() if outcome == "won"]
        losers = [outcome for outcome in outcomes.values() if outcome != "won"]

        assert [outcome for outcome in losers if f"owned by pid {winner} " not in outcome] == []
        next(claimant for claimant in claimants if claimant.pid == winner).say("enough")


def test_exactly_one_of_many_that_adopt_at_once_wins(start: Start, prefix: str) -> None:
    claimants = [start(children.claim_on_demand) for _ in range(4)]

    for turn in range(4):
        name = f"{prefix}-{turn}"
        left_by_a_killed_writer(start, name)
        for claimant in claimants:
            claimant.say(name)
        outcomes = {claimant.pid: claimant.line() for claimant in claimants}
        (winner,) = [pid for pid, outcome in outcomes.items() if outcome == "won"]

        assert sum(f"owned by pid {winner} " in outcome for outcome in outcomes.values()) == 3
        next(claimant for claimant in claimants if claimant.pid == winner).say("enough")


def test_somebody_who_only_asks_does_not_make_a_claim_fail(start: Start, name: str) -> None:
    left_by_a_killed_writer(start, name)
    fd = os.open(path_of(name), os.O_RDONLY)
    try:
        assert ownership._try_lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)

    with StateWriter(name) as writer:
        assert writer.version == 1


def test_a_name_that_vanishes_while_it_is_claimed_is_created(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    first = StateWriter(name)
    lock = ownership._lock_or_name_owner

    def vanish_before_the_lock(fd: int, state: str, kind: int, patience: float) -> None:
        first.close()
        lock(fd, state, kind, patience)

    monkeypatch.setattr(ownership, "_lock_or_name_owner", vanish_before_the_lock)

    with StateWriter(name) as writer:
        assert os.stat(path_of(name)).st_ino == writer._segment.inode
        assert writer.version == 0


def test_a_name_that_another_takes_while_it_is_created_is_in_use(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rivals = []

    def link(source: str, target: str) -> None:
        monkeypatch.undo()
        rivals.append(StateWriter(name))
        os.link(source, target)

    monkeypatch.setattr(os, "link", link)

    with pytest.raises(NameInUse, match="another writer of this process"):
        StateWriter(name)
    rivals.pop().close()


def test_a_claim_that_never_finds_rest_gives_up(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def taken(*_: object) -> None:
        raise FileExistsError(errno.EEXIST, "taken")

    monkeypatch.setattr(os, "link", taken)

    with pytest.raises(NameInUse, match="appeared and vanished 100 times"):
        StateWriter(name)


# After a death.


def test_a_killed_writers_state_is_still_read(start: Start, name: str) -> None:
    pid = left_by_a_killed_writer(start, name)

    with StateReader(name) as reader:
        assert reader.get() == {"from": pid}
        assert not reader.writer_alive
    remove_dead(name)


def test_the_next_writer_adopts_version_and_last_state_and_readers_stay(start: Start, name: str) -> None:
    pid = left_by_a_killed_writer(start, name)

    with StateReader(name) as reader, StateWriter(name) as heir:
        assert reader.writer_alive
        assert (reader.get(), reader.version, heir.version) == ({"from": pid}, 1, 1)

        assert heir.publish("new") == 2
        assert (reader.get(), reader.version) == ("new", 2)


def test_the_heir_is_the_one_named_as_owner(start: Start, name: str) -> None:
    left_by_a_killed_writer(start, name)

    with StateWriter(name), pytest.raises(NameInUse, match=f"pid {os.getpid()}"):
        StateWriter(name)


def test_the_heir_may_leave_the_state_to_the_next(name: str) -> None:
    for version in (1, 2, 3):
        writer = StateWriter(name)
        assert writer.publish(version) == version
        writer.close(unlink=False)
    remove_dead(name)


def test_a_checksum_that_nobody_asked_about_is_adopted_as_it_was(start: Start, name: str) -> None:
    left_by_a_killed_writer(start, name, "checksum=true")

    with StateWriter(name) as heir:
        assert heir._segment.layout.checksum


def test_a_forked_child_does_not_keep_its_dead_parents_state(start: Start, name: str) -> None:
    parent = start(children.own_with_a_fork_that_stays, name)
    _, child = parent.line().split()

    parent.kill()

    with StateWriter(name) as heir:
        assert heir.version == 1
        os.kill(int(child), 0)  # it lives


def test_a_program_that_the_owner_executed_does_not_keep_its_state(start: Start, name: str) -> None:
    parent = start(children.own_with_an_executed_child, name)
    parent.line()

    with pytest.raises(NameInUse):
        StateWriter(name)
    parent.kill()

    with StateWriter(name) as heir:
        assert heir.version == 1


def test_a_stopped_owner_is_still_the_owner(start: Start, name: str) -> None:
    owner = start(children.own, name)
    owner.line()
    owner.signal(signal.SIGSTOP)

    with StateReader(name) as reader:
        assert reader.writer_alive
    with pytest.raises(NameInUse):
        StateWriter(name)
    owner.signal(signal.SIGCONT)


def assert_readable_and_adoptable(name: str) -> None:
    """By a reader that was attached before the heir came."""
    with StateReader(name) as reader, StateWriter(name) as heir:
        try:
            assert reader.get() == [heir.version, "x" * 5000]
        except NotPublished:
            assert heir.version == 0
        assert heir.publish("of the heir") == heir.version
        assert reader.get() == "of the heir"


def test_an_owner_killed_at_any_line_of_its_life_leaves_a_whole_state_or_none(
    start: Start, prefix: str, makers: Set[int]
) -> None:
    child = start(children.be_killed_at_every_line, prefix)
    found = {"nothing": 0, "a draft": 0, "a state": 0}

    while True:
        line, pid = child.line().split()
        if line == "done":
            break
        makers.add(int(pid))
        name = f"{prefix}.{line}"
        drafts = [file for file in os.listdir(SHM_DIR) if file.startswith(f"{NEW_PREFIX}{pid}.")]
        for draft in drafts:
            path = os.path.join(SHM_DIR, draft)
            assert not maker_is_alive(draft)
            assert ownership.remove_if_dead(path, None) or not os.path.exists(path)  # other tests may be at drafts, too
        found["a draft"] += len(drafts)
        if os.path.exists(path_of(name)):
            found["a state"] += 1
            assert_readable_and_adoptable(name)
        else:
            found["nothing"] += 1
        child.say("next")

    assert int(pid) > 100, "few lines were tried"
    assert min(found.values()) > 5
    assert child.finish() == (0, "", "")


# Names and files.


def test_close_removes_the_name_only_if_it_still_leads_to_its_own_segment(name: str) -> None:
    replaced = StateWriter(name)
    os.unlink(path_of(name))
    with StateWriter(name) as successor:
        successor.publish("of the successor")

        replaced.close()

        with StateReader(name) as reader:
            assert reader.get() == "of the successor"
            assert reader.writer_alive


def test_a_writer_whose_file_was_removed_counts_as_alive_until_it_closes(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        reader = StateReader(name)
        os.unlink(path_of(name))

        assert reader.writer_alive
        assert not reader.superseded
        assert reader.get() == 1
    assert not reader.writer_alive


def test_a_symbolic_link_is_refused(prefix: str) -> None:
    target, link = prefix + "-target", prefix + "-link"
    with StateWriter(target) as writer:
        writer.publish(1)
        os.symlink(path_of(target), path_of(link))
        try:
            for kind in (StateReader, StateWriter):
                with pytest.raises(UntrustedSegment, match=f"'{link}': .* is a symbolic link"):
                    kind(link)
        finally:
            os.unlink(path_of(link))


@needs_root
def test_another_users_state_is_refused_naming_the_uid(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        os.chown(path_of(name), 12345, -1)

        with pytest.raises(
            UntrustedSegment, match=r"belongs to uid 12345, this process is uid 0; pass trust_uid=12345"
        ):
            StateReader(name)
        with pytest.raises(UntrustedSegment):
            StateReader(name, trust_uid=54321)


@needs_root
def test_another_users_state_is_read_if_that_user_is_trusted(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        os.chown(path_of(name), 12345, -1)

        with StateReader(name, trust_uid=12345) as reader:
            assert reader.get() == 1


@needs_root
def test_another_users_state_is_not_adopted(start: Start, name: str) -> None:
    left_by_a_killed_writer(start, name)
    os.chown(path_of(name), 12345, -1)

    with pytest.raises(UntrustedSegment, match="uid 12345"):
        StateWriter(name)
    with pytest.raises(UntrustedSegment):
        ownership.remove_if_dead(path_of(name), name)

    os.unlink(path_of(name))


@needs_root
def test_a_state_that_may_not_be_opened_is_refused_naming_both_users(start: Start, name: str) -> None:
    with StateWriter(name):
        nobody = start(children.open_as_nobody, name)

        for _ in range(2):
            assert "belongs to uid 0 and may not be opened by uid 65534" in nobody.line()
        assert nobody.finish() == (0, "", "")


def test_a_state_is_readable_by_its_user_alone(name: str) -> None:
    with StateWriter(name):
        assert os.stat(path_of(name)).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes are too few"),
        (b"x" * 100, "100 bytes are too few"),
        (b"x" * PAGE, "starts with b'xxxxxxxx'"),
        (bytes(2 * PAGE), "not with the magic word"),
    ],
    ids=["empty", "short", "foreign", "zeros"],
)
def test_a_foreign_file_under_a_states_name_is_refused_and_left_alone(name: str, content: bytes, said: str) -> None:
    with open(path_of(name), "wb") as file:
        file.write(content)
    try:
        for kind in (StateReader, StateWriter):
            with pytest.raises(CorruptSegment, match=f"'{name}'.*{said}"):
                kind(name)

        with open(path_of(name), "rb") as file:
            assert file.read() == content
    finally:
        os.unlink(path_of(name))


@pytest.mark.parametrize("change", ["truncate", "extend", "overwrite"])
def test_a_damaged_segment_is_refused_by_readers_and_heirs(start: Start, name: str, change: str) -> None:
    left_by_a_killed_writer(start, name)
    path = path_of(name)
    if change == "overwrite":
        with open(path, "r+b") as file:
            file.seek(AT_SLOTS * WORD)
            file.write(b"\1")
    else:
        os.truncate(path, os.path.getsize(path) + (PAGE if change == "extend" else -PAGE))

    for kind in (StateReader, StateWriter):
        with pytest.raises(CorruptSegment, match=f"'{name}'"):
            kind(name)

    os.unlink(path)


def test_a_directory_under_a_states_name_is_refused(name: str) -> None:
    os.mkdir(path_of(name))
    try:
        for kind in (StateReader, StateWriter):
            with pytest.raises((CorruptSegment, UntrustedSegment), match=f"'{name}'"):
                kind(name)
    finally:
        os.rmdir(path_of(name))


def test_a_pipe_under_a_states_name_is_refused_and_nobody_waits_for_it(start: Start, name: str) -> None:
    os.mkfifo(path_of(name))
    try:
        child = start(children.list_with_a_fifo, name)

        assert name in child.line(timeout=10)
        assert [child.line(timeout=10) for _ in range(2)] == ["CorruptSegment", "CorruptSegment"]
        assert child.line(timeout=10) == "[]"
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path_of(name))


# Drafts and their makers.


def test_a_maker_that_runs_is_alive_and_one_with_its_pid_and_another_start_is_not() -> None:
    pid, started = os.getpid(), start_time(os.getpid())

    assert maker_is_alive(f"{NEW_PREFIX}{pid}.{started}.0123")
    assert not maker_is_alive(f"{NEW_PREFIX}{pid}.{started - 1}.0123")


def test_a_maker_that_is_gone_is_not_alive(start: Start, name: str) -> None:
    child = start(children.own, name)
    child.line()
    started = start_time(child.pid)
    draft = f"{NEW_PREFIX}{child.pid}.{started}.0123"
    assert maker_is_alive(draft)

    child.say("enough")
    child.finish()

    assert not maker_is_alive(draft)


@pytest.mark.parametrize("file", ["", "x", "1.2", "1.x.y", "1.2.3.4"])
def test_a_draft_whose_name_tells_nothing_has_no_living_maker(file: str) -> None:
    assert not maker_is_alive(NEW_PREFIX + file)


def test_a_failed_creation_leaves_nothing_and_the_name_free(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", fail)
        with pytest.raises(AccessDenied, match="no links here"):
            StateWriter(name)

    assert [file for file in os.listdir(SHM_DIR) if file.startswith(f"{NEW_PREFIX}{os.getpid()}.")] == []
    StateWriter(name).close()


def test_a_claimant_waits_a_moment_for_a_lock_that_is_held_for_a_moment(start: Start, name: str) -> None:
    owner = start(children.own, name)
    owner.line()

    began = time.monotonic()
    with pytest.raises(NameInUse):
        StateWriter(name)
    assert time.monotonic() - began >= ownership.CLAIM_GRACE

    owner.say("enough")
    until(lambda: not os.path.exists(path_of(name)))
