"""Several writers of one state."""

from __future__ import annotations

import fcntl
import functools
import os
import pickle
import signal
import threading
from typing import Any, Callable, Dict, List, Tuple

import pytest

from shmstate import (
    CodecMismatch,
    NameInUse,
    ReentrantPublish,
    StateReader,
    StateWriter,
    WaitTimeout,
    WriterClosed,
    list_states,
    ownership,
    predecessors,
    publishing,
    reclaim,
    turns,
)
from shmstate.layout import LATEST, OLD_PREFIX, SHM_DIR
from shmstate.protocol import Publishing
from tests.core import children
from tests.core.children import Child, until
from tests.core.stand_in import Bytes, Names, SharingOwner, Stopped, Turn, View, Visitor, layout
from tests.core.test_protocol import NAME, PROTOCOL, SLOTS, as_it_is, payload_of, unchanged

Start = Callable[..., Child]


def file_of(name: str) -> str:
    return f"{SHM_DIR}/shmstate.{name}"


# Over the stand-in.


class Sharers:
    """Two writers and a reader of one state."""

    def __init__(self, slots: int) -> None:
        self.names = Names(Bytes(layout(slots)))
        self.turn = Turn()
        self.owners = [SharingOwner(self.names, View(self.names.named), self.turn) for _ in range(2)]
        self.writers: List[Publishing] = [publishing.open_publishing(owner, NAME) for owner in self.owners]
        self.publish = [writer.through(as_it_is, unchanged) for writer in self.writers]
        self.reader = PROTOCOL.open_reading(Visitor(self.names, View(self.names.named)), NAME, 5)

    def publish_next(self, writer: int) -> None:
        version = self.names.named.words[LATEST] + 1
        assert self.publish[writer](payload_of(version)) == version

    def move(self, writer: int) -> None:
        self.writers[writer].move(lambda _: layout(self.names.named.shape.slots))

    def check(self) -> None:
        latest = self.names.named.words[LATEST]
        assert self.reader.snapshot()[:2] == (payload_of(latest), latest)
        assert self.reader.read_bytes() == payload_of(latest)


ACTS: Dict[str, Callable[[Sharers, int], None]] = {"publishes": Sharers.publish_next, "moves the state": Sharers.move}


@pytest.mark.parametrize("slots", SLOTS)
def test_each_goes_on_where_the_other_is(slots: int) -> None:
    play = Sharers(slots)
    for number in range(40):
        play.publish_next(number * 7 // 5 % 2)
        if number % 3 == 0:
            play.move(number // 3 % 2)
        play.check()
        assert [writer.latest() for writer in play.writers] == [number + 1] * 2
        for writer in play.writers:
            writer.beat()


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_one_that_dies_at_any_access_in_its_turn_leaves_the_other_what_was_published(
    act: Callable[[Sharers, int], None], slots: int
) -> None:
    def ready() -> Sharers:
        play = Sharers(slots)
        for number in range(slots + 1):
            play.publish_next(number % 2)
        for owner in play.owners:
            owner.segment.go_on()
        return play

    whole = ready()
    act(whole, 0)
    for number in range(len(whole.owners[0].segment.accesses)):
        play = ready()
        play.owners[0].segment.stop_before(number)
        with pytest.raises(Stopped):
            act(play, 0)
        play.check()
        if play.turn.taken_by is play.owners[0]:
            play.turn.taken_by = None  # as the kernel does

        for _ in range(slots + 1):
            play.publish_next(1)
            play.check()
        play.move(1)
        play.check()


# In this process.


@pytest.fixture
def pair(name: str) -> Any:
    with StateWriter(name, shared=True) as first, StateWriter(name, shared=True) as second, StateReader(name) as reader:
        yield first, second, reader


def test_versions_are_in_the_order_of_publishes(pair: Any) -> None:
    first, second, reader = pair

    assert [first.publish("a"), second.publish("b"), second.publish("c"), first.publish("d")] == [1, 2, 3, 4]

    assert [snapshot.value for snapshot in reader.read_since(0).snapshots] == ["a", "b", "c", "d"]
    assert first.version == second.version == reader.version == 4


def test_each_follows_when_the_other_moves_the_state(pair: Any, name: str) -> None:
    first, second, reader = pair
    first.publish("small")

    version = 1
    for number in range(1, 6):
        for writer, other in ((first, second), (second, first)):
            size = (64 << 20) + number * 4096 if number == 3 else number
            version = writer.publish(["x" * size])
            assert other.version == version
            assert reader.read()[:2] == (["x" * size], version)
            writer.trim()
            other.beat()
            with other.loan(1) as view:
                view[:] = b"\5"
            version += 1
            assert reader.read()[:2] == (5, version)
    assert [file for file in os.listdir(SHM_DIR) if name in file] == [f"shmstate.{name}"]


def publish_within_patience(writer: StateWriter, value: object) -> None:
    """In a thread, as it may have to wait for a turn that never ends."""
    thread = threading.Thread(target=writer.publish, args=(value,), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits for its turn"


def test_nobody_waits_for_a_turn_at_a_segment_that_was_left(pair: Any) -> None:
    first, second, reader = pair
    first.publish(1)
    in_use = first._segment  # as by another thread, in the middle of a load

    first.trim()
    publish_within_patience(second, 2)

    assert reader.get() == 2
    in_use.close()


def test_the_state_lives_until_the_last_of_its_writers_closes(name: str) -> None:
    first, second = StateWriter(name, shared=True), StateWriter(name, shared=True)
    first.publish("a")
    with StateReader(name) as reader:
        alive: List[Any] = [reader.writer_alive]
        first.close()
        alive += [reader.writer_alive, list_states(name)[0].alive]
        assert reclaim(name) == []
        assert second.publish("b") == 2
        second.close()
        alive.append(reader.writer_alive)

        assert alive == [True, True, True, False]
        assert not os.path.exists(file_of(name))
        assert reader.get() == "b"


#: When the states of the test that runs were created: other tests run beside it.
created: List[str] = []


@pytest.fixture(autouse=True)
def own_states() -> None:
    created.clear()


def old_segments() -> List[str]:
    """Second names of the states that ``remember`` was called with."""
    return [file for file in os.listdir(SHM_DIR) if file.startswith(tuple(created) or "/")]


def remember(writer: StateWriter) -> StateWriter:
    created.append(f"{OLD_PREFIX}{writer._segment.identity().created_ns:x}.")
    return writer


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def is_kept_alive_by(living: StateWriter, name: str) -> bool:
    """Whether nothing and nobody takes the state away from a writer that has not followed it yet."""
    with StateReader(name) as reader:
        assert reader.writer_alive
        assert [state.alive for state in list_states(name)] == [True]
        assert reclaim(name) == reclaim(name=name) == []
        assert not set(reclaim(dry_run=True)) & {name, *old_segments()}
        with pytest.raises(NameInUse, match=f"'{name}' is owned by"):
            StateWriter(name)
        version = reader.version
        assert [living.publish(number) for number in range(3)] == [version + 1, version + 2, version + 3]
        return bool(reader.get() == 2)


WAYS_TO_MOVE: Dict[str, Callable[[StateWriter], object]] = {
    "trim": StateWriter.trim,
    "grow": lambda writer: writer.publish("x" * 70_000),
    "trim and grow": lambda writer: (writer.trim(), writer.publish("x" * 70_000), writer.trim()),
}


@pytest.mark.parametrize("move", WAYS_TO_MOVE.values(), ids=WAYS_TO_MOVE)
def test_a_writer_that_moves_the_state_and_closes_takes_it_away_from_none(
    name: str, move: Callable[[StateWriter], object]
) -> None:
    before = old_segments()
    with StateWriter(name, shared=True, max_size=4096) as living:
        remember(living)
        for number in range(8):
            living.publish(number)
        for _ in range(2):
            mover = StateWriter(name, shared=True, max_size=4096)
            mover.publish("A9")
            move(mover)
            mover.close()
            assert is_kept_alive_by(living, name)
            assert old_segments() == before
        move(living)
    assert not os.path.exists(file_of(name))
    assert old_segments() == before


@pytest.mark.parametrize("move", ["trim", "grow"])
def test_a_writer_that_moves_the_state_and_is_killed_takes_it_away_from_none(
    start: Start, name: str, move: str
) -> None:
    before = old_segments()
    with StateWriter(name, shared=True, max_size=4096) as living:
        remember(living)
        for number in range(8):
            living.publish(number)
        child = start(children.share_and_move, name, move)
        assert child.line() == "moved"
        child.kill()
        assert is_kept_alive_by(living, name)
        assert old_segments() == before
    assert not os.path.exists(file_of(name))


def test_writers_that_are_moves_behind_each_other_keep_the_state_alive(name: str) -> None:
    before = old_segments()
    writers = []
    for _ in range(4):  # each is left behind by the next one's move
        writers.append(remember(StateWriter(name, shared=True, max_size=4096)))
        writers[-1].publish(len(writers))
        writers[-1].trim()
    reader = StateReader(name)
    for writer in (writers[3], writers[1], writers[2]):
        writer.close()
        assert reader.writer_alive
        assert reclaim(name) == []
    assert writers[0].publish("on") == 5
    assert reader.get() == "on"
    assert old_segments() == before
    writers[0].close()
    assert not reader.writer_alive
    assert not os.path.exists(file_of(name))


def test_a_writer_that_ends_without_having_followed_leaves_nothing(name: str) -> None:
    before = old_segments()
    behind = remember(StateWriter(name, shared=True))
    behind.publish(1)
    mover = StateWriter(name, shared=True)
    mover.trim()
    behind.close()
    assert old_segments() == before
    assert mover.publish(2) == 2
    mover.close()
    assert not os.path.exists(file_of(name))


def test_what_killed_writers_left_of_their_moves_is_reclaimed(start: Start, name: str) -> None:
    before = old_segments()
    behind = start(children.share, name, 0, 1)
    assert behind.line() == "ready"
    mover = start(children.share_and_move, name, "trim")
    assert mover.line() == "moved"
    with StateWriter(name, shared=True) as seen:
        remember(seen)
    assert len(old_segments()) == len(before) + 1
    behind.kill()
    mover.kill()

    assert reclaim(name) == [name]

    assert old_segments() == before
    assert not os.path.exists(file_of(name))


@pytest.mark.parametrize("then", [StateWriter.close, StateWriter.trim, lambda writer: writer.publish(2)])
@pytest.mark.parametrize("is_named", [False, True])
def test_a_move_that_was_cut_short_takes_no_second_name_from_a_later_move(
    name: str, is_named: bool, then: Callable[[StateWriter], object]
) -> None:
    before = old_segments()
    with StateWriter(name, shared=True) as living:
        remember(living).publish(1)
        cut, mover = StateWriter(name, shared=True), StateWriter(name, shared=True)
        title: Any = cut._title
        take_name = title.take_name

        def interrupted() -> None:
            del title.take_name
            if is_named:
                take_name()
            raise KeyboardInterrupt

        title.take_name = interrupted
        with pytest.raises(KeyboardInterrupt):
            cut.trim()
        mover.trim()
        then(cut)
        for writer in (cut, mover):
            writer.close()
        assert is_kept_alive_by(living, name)
        assert old_segments() == before
    assert not os.path.exists(file_of(name))
    assert old_segments() == before


def test_a_writer_that_closes_takes_no_second_name_from_a_move_under_way(name: str) -> None:
    before = old_segments()
    with StateWriter(name, shared=True) as living:
        remember(living).publish(1)
        cut, mover = StateWriter(name, shared=True), StateWriter(name, shared=True)
        title: Any = cut._title
        title.take_name = raise_interrupt
        with pytest.raises(KeyboardInterrupt):
            cut.trim()
        title = mover._title
        take_name = title.take_name
        title.take_name = lambda: [act() for act in (cut.close, take_name)]
        mover.trim()
        mover.close()
        assert is_kept_alive_by(living, name)
        assert old_segments() == before
    assert not os.path.exists(file_of(name))


def test_a_second_name_of_a_segment_that_has_its_first_one_is_not_taken_away_alone(name: str) -> None:
    before = old_segments()
    writer = remember(StateWriter(name, shared=True))
    writer.publish(1)
    title: Any = writer._title
    title.take_name = raise_interrupt
    with pytest.raises(KeyboardInterrupt):
        writer.trim()
    (second,) = set(old_segments()) - set(before)
    title._heir.close()  # as a kill does
    os.unlink(title._draft)
    writer._segment.close()
    writer._ending.cancel()
    # Two writers may join, and one of them move the state.
    assert not predecessors.remove_if_left(f"{SHM_DIR}/{second}")
    assert second not in reclaim(dry_run=True)
    assert reclaim(name=name) == [name]
    assert old_segments() == before


def test_a_second_name_that_leads_nowhere_else_is_reclaimed(name: str) -> None:
    behind = remember(StateWriter(name, shared=True))
    behind.publish(1)
    with StateWriter(name, shared=True) as mover:
        mover.trim()
        (second,) = [file for file in old_segments() if os.stat(f"{SHM_DIR}/{file}").st_ino == behind._segment.inode]
        assert second not in reclaim(dry_run=True)
        assert not predecessors.remove_if_left(f"{SHM_DIR}/{second}")
        behind._segment.close()  # as a kill does
        behind._ending.cancel()
        assert second in reclaim(dry_run=True)
        assert predecessors.remove_if_left(f"{SHM_DIR}/{second}")
        assert second not in old_segments()


def test_a_state_that_is_left_by_all_is_taken_over(name: str) -> None:
    first, second = StateWriter(name, shared=True), StateWriter(name, shared=True)
    first.publish("a")
    first.close(unlink=False)
    second.close(unlink=False)

    assert not list_states(name)[0].alive
    with StateWriter(name) as heir:
        assert heir.version == 1


def test_who_shares_and_who_does_not_keep_each_other_out(name: str) -> None:
    with StateWriter(name, shared=True):
        with pytest.raises(NameInUse, match=f"'{name}' is owned by"):
            StateWriter(name)
    with StateWriter(name):
        with pytest.raises(NameInUse, match=f"'{name}' is owned by"):
            StateWriter(name, shared=True)


def test_all_must_use_one_codec(name: str) -> None:
    with StateWriter(name, shared=True) as first:
        first.publish(1)
        with pytest.raises(CodecMismatch, match=f"'{name}' is shared with writers that use codec 'msgpack', this one"):
            StateWriter(name, shared=True, codec="json")
        assert first.publish(2) == 2


@pytest.mark.parametrize("moves", [False, True])
def test_a_writer_that_follows_while_it_is_asked_for_is_not_missed(
    name: str, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StateWriter(name, shared=True) as behind, StateWriter(name, shared=True) as mover:
        behind.publish(1)
        mover.trim()
        mover.close()
        is_any_owned = predecessors.is_any_owned

        def followed_and_asked(fd: int) -> bool:
            monkeypatch.undo()
            behind.publish(2)
            if moves:
                behind.trim()
            return is_any_owned(fd)

        monkeypatch.setattr(predecessors, "is_any_owned", followed_and_asked)
        with pytest.raises(CodecMismatch):
            StateWriter(name, shared=True, codec="json")
        assert behind.publish(3) == 3


def test_a_writer_that_follows_waits_for_a_process_that_only_looks(name: str) -> None:
    with StateWriter(name, shared=True) as behind, StateWriter(name, shared=True, lock_timeout=0.1) as hasty:
        behind.publish(1)
        with StateWriter(name, shared=True) as mover:
            mover.trim()
        published: List[int] = []
        thread = threading.Thread(target=lambda: published.append(behind.publish(2)), daemon=True)
        with open(file_of(name), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # as reclaim() does, and a writer that wants the state alone
            with pytest.raises(WaitTimeout, match="a stopped process"):
                hasty.publish(3)
            thread.start()
            thread.join(0.2)
            assert thread.is_alive()
        thread.join(20)
        assert published == [2]
        assert hasty.publish(3) == 3


def test_a_writer_whose_state_another_has_taken_alone_does_not_wait_for_it(name: str) -> None:
    with StateWriter(name, shared=True) as behind:
        behind.publish(1)
        with StateWriter(name, shared=True) as mover:
            mover.trim()
        os.unlink(file_of(name))
        with StateWriter(name):
            with pytest.raises(NameInUse, match="is owned by"):
                behind.publish(2)


def test_a_codec_that_changed_after_this_writer_had_joined_is_told(name: str) -> None:
    writer = StateWriter(name, codec="json")
    writer.publish(1)
    writer.close(unlink=False)
    # Each was alone when it came, and would change the codec with its first publish.
    with StateWriter(name, shared=True) as first:
        with pytest.raises(CodecMismatch):
            StateWriter(name, shared=True, codec="raw")
        with StateWriter(name, shared=True, codec="json") as second:
            first.publish(2)
            for use in (lambda: second.publish(3), second.beat):
                with pytest.raises(CodecMismatch, match="writers that use codec 'msgpack', this one uses 'json'"):
                    use()
        assert first.publish(4) == 3


def test_a_state_that_was_closed_by_force_and_made_anew_is_not_taken_for_ours(pair: Any, name: str) -> None:
    first, second, _ = pair
    first.publish(1)
    first.trim()
    os.unlink(file_of(name))

    with StateWriter(name, shared=True) as stranger:
        stranger.publish("another")
        with pytest.raises(NameInUse, match=f"'{name}' was closed, and made anew by another writer"):
            second.publish(2)


def test_signal_handlers_that_publish_are_refused_wherever_they_come(name: str) -> None:
    with StateWriter(name, shared=True) as writer, StateWriter(name, shared=True) as other, StateReader(name) as reader:
        writer.publish("before")
        before = signal.signal(signal.SIGUSR1, lambda *_: writer.publish("in between"))
        try:
            title: Any = writer._title
            for step in ("take_turn", "settle", "end_turn"):
                original = getattr(title, step)

                def interrupted(step: str = step, original: Any = original) -> None:
                    delattr(title, step)
                    signal.raise_signal(signal.SIGUSR1)
                    original()

                setattr(title, step, interrupted)
                with pytest.raises(ReentrantPublish, match=name):
                    writer.publish("outer")
                publish_within_patience(other, "other")
                assert reader.get() == "other"
                writer.publish("after")
                assert reader.get() == "after"
        finally:
            signal.signal(signal.SIGUSR1, before)


def test_two_exceptions_in_a_row_leave_no_turn_behind(pair: Any) -> None:
    """One where the turn is taken, and one more where it is ended for that."""
    first, second, reader = pair
    title: Any = first._title
    for publish in (lambda: first.publish(1), first.trim, lambda: first.loan(1).__enter__()):
        second.publish("before")
        raised: List[str] = []

        def interrupted(original: Any, step: str, raised: List[str] = raised) -> None:
            delattr(title, step)
            original()
            raised.append(step)
            raise KeyboardInterrupt

        for step in ("take_turn", "end_turn"):
            setattr(title, step, functools.partial(interrupted, getattr(title, step), step))
        with pytest.raises(KeyboardInterrupt):
            publish()
        assert raised == ["take_turn", "end_turn"]
        publish_within_patience(second, "other")
        publish_within_patience(first, "after")
        assert reader.get() == "after"


def test_an_exception_where_the_descriptor_was_closed_leaves_the_writer_usable(pair: Any) -> None:
    first, second, reader = pair
    first.publish(1)
    segment = first._segment
    close = segment._kept

    def closed_and_interrupted() -> None:
        close()
        raise KeyboardInterrupt

    segment._kept = closed_and_interrupted
    with pytest.raises(KeyboardInterrupt):
        first.trim()
    assert segment.fd == -1
    publish_within_patience(second, 2)
    publish_within_patience(first, 3)
    assert reader.get() == 3


def test_a_close_that_is_cut_short_lets_no_publish_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = StateWriter(name, shared=True)
    writer.publish(1)
    let_go = ownership.let_go

    def let_go_and_interrupted(segment: Any) -> None:
        monkeypatch.undo()
        let_go(segment)
        raise KeyboardInterrupt

    monkeypatch.setattr(ownership, "let_go", let_go_and_interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.close()
    with pytest.raises(WriterClosed):
        writer.publish(2)
    writer.close()
    assert not os.path.exists(file_of(name))


def test_an_error_of_the_codec_takes_no_turn(pair: Any) -> None:
    first, second, reader = pair
    with pytest.raises(Exception, match="did not encode"):
        first.publish(object())
    assert second.publish(1) == 1
    assert reader.get() == 1


def test_threads_and_writers_take_turns(name: str) -> None:
    versions: List[Tuple[int, int, int]] = []

    def publish(writer: StateWriter, thread: int) -> None:
        for number in range(100):
            versions.append((writer.publish([thread, number]), thread, number))

    with StateWriter(name, shared=True, slots=32) as first, StateWriter(name, shared=True) as second:
        threads = [
            threading.Thread(target=publish, args=(writer, number))
            for number, writer in enumerate([first, first, second, second])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert first.version == second.version == 400
    assert sorted(version for version, _, _ in versions) == list(range(1, 401))
    for number in range(4):
        assert [n for _, thread, n in sorted(versions) if thread == number] == list(range(100))


def test_a_pickled_writer_shares(name: str) -> None:
    with StateWriter(name, shared=True) as writer:
        writer.publish(1)
        with pickle.loads(pickle.dumps(writer)) as other:
            assert other.publish(2) == 2


def test_one_descriptor_more_than_others_and_none_is_left(name: str) -> None:
    before = children.descriptors_before()
    with StateWriter(name, shared=True, max_size=4096, codec="raw") as writer:
        writer.publish(b"")
        opened = children.open_descriptors()
        for _ in range(5):
            writer.publish(bytes(5000))
            writer.publish(b"")
            writer.trim()
        assert children.open_descriptors() == opened
    assert children.open_descriptors() == before


# Other processes.


def test_processes_that_share_a_state_lose_no_version(start: Start, name: str) -> None:
    sharers = [start(children.share, name, number, 300) for number in range(3)]
    assert [child.line() for child in sharers] == ["ready"] * 3
    with StateReader(name) as reader:
        for child in sharers:
            child.say("go")
        last: Dict[int, int] = {}
        seen = 0
        while seen < 900:
            snapshot = reader.get_if_newer(seen)
            if snapshot is not None:
                who, number, filling = snapshot.value
                assert filling == "x" * (number * 37 % 6000)
                assert snapshot.version > seen
                assert number > last.get(who, -1)
                seen, last[who] = snapshot.version, number
        versions = [[int(word) for word in child.line().split()] for child in sharers]
    assert sorted(version for ours in versions for version in ours) == list(range(1, 901))
    assert all(ours == sorted(ours) for ours in versions)
    for child in sharers:
        child.say("end")
        assert child.finish() == (0, "", "")
    assert not os.path.exists(file_of(name))


@pytest.mark.parametrize("where", ["in place", "prepare", "take_name", "settle"])
def test_one_that_is_killed_in_its_turn_holds_up_nobody(start: Start, name: str, where: str) -> None:
    with StateWriter(name, shared=True, codec="raw", max_size=4096) as writer, StateReader(name) as reader:
        child = start(children.share_and_stop_in_the_turn, name, where)
        assert child.line() == where
        published: List[int] = []
        thread = threading.Thread(target=lambda: published.append(writer.publish(b"next")))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive() == (not published)
        assert not published, "it did not wait for its turn"

        child.kill()
        thread.join(30)

        version = 3 if where == "settle" else 2
        assert published == [version]
        assert reader.read()[:2] == (b"next", version)
        assert writer.publish(b"on") == version + 1
    children.remove_drafts_of(child.pid)


def test_a_stopped_one_that_is_not_in_its_turn_holds_up_nobody(start: Start, name: str) -> None:
    with StateWriter(name, shared=True, max_size=4096) as writer:
        child = start(children.share, name, 0, 10)
        child.line()
        child.signal(signal.SIGSTOP)

        assert writer.publish("on") == 1

        child.signal(signal.SIGCONT)
        child.say("go")
        assert child.line().split() == [str(version) for version in range(2, 12)]


def test_a_forked_childs_copy_is_closed_and_the_turn_stays_the_parents(name: str) -> None:
    with StateWriter(name, shared=True) as writer, StateWriter(name, shared=True) as other:
        with writer.loan(1) as view:
            pid = os.fork()
            if not pid:
                try:
                    writer.publish(1)
                except WriterClosed:
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0
            fd = os.open(file_of(name), os.O_RDWR)
            try:
                assert turns._lock(fd, turns._GET, fcntl.F_WRLCK, turns._TURN) == fcntl.F_WRLCK
            finally:
                os.close(fd)
            view[:] = b"\1"
        assert other.publish(2) == 2


def test_liveness_is_asked_for_without_getting_in_the_way(pair: Any) -> None:
    first, second, reader = pair
    ended = threading.Event()
    errors: List[Exception] = []

    def ask() -> None:
        while not ended.is_set():
            try:
                assert reader.writer_alive
            except Exception as error:
                errors.append(error)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for _ in range(100):
        first.publish(1)
        second.publish(2)
    ended.set()
    for asker in askers:
        asker.join()
    assert errors == []
    until(lambda: reader.version == 200)
