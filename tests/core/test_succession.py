"""A state that moves to another segment: S1 to S3 and R5 of protocol.py, over a stand-in and over real segments."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import pickle
import sys
import threading
import time
import types
from random import Random
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest

import shmstate
from shmstate import (
    CodecMismatch,
    NotPublished,
    OutOfSharedMemory,
    Overwritten,
    ReaderClosed,
    StateNotFound,
    StateReader,
    StateTooLarge,
    StateWriter,
    publishing,
)
from shmstate.layout import INTENT, LATEST, SHM_DIR
from tests.core import children
from tests.core.stand_in import Owner, Stopped, View, layout
from tests.core.test_protocol import (
    NAME,
    PROTOCOL,
    SLOTS,
    Code,
    Scene,
    Torn,
    as_it_is,
    judge,
    mutant,
    payload_of,
    read_bytes_of,
    scene,
    snapshot_of,
    unchanged,
    whole_snapshot_of,
)

Read = Callable[[Scene], Tuple[bytes, Optional[int]]]

# Over the stand-in: a move cut short at every access, and reads with a move in between at every access.


class Way(NamedTuple):
    """How a state comes to move, after ``SLOTS + 1`` versions."""

    open: Callable[[Scene], Scene]
    move: Callable[[Scene], None]
    #: Versions that the move publishes.
    publishes: int


def as_asked_for(play: Scene) -> Scene:
    """A writer that wants another layout."""
    slots = play.shared.shape.slots
    writer = PROTOCOL.open_publishing(play.owner, NAME, wanted=layout(slots + 1, play.shared.shape.checksum))
    return play._replace(writer=writer, publish_bytes=writer.through(as_it_is, unchanged))


def trim(play: Scene) -> None:
    play.writer.move(lambda _: layout(play.shared.shape.slots, play.shared.shape.checksum))


WAYS = {
    "with a publish": Way(as_asked_for, Scene.publish, 1),
    "as it is": Way(lambda play: play, trim, 0),
}


def before_a_move(way: Way, slots: int, *, code: Code = PROTOCOL, **options: Any) -> Scene:
    play = scene(slots, code=code, **options)
    play.publish(slots + 1)
    play = way.open(play)
    play.writing.go_on()
    return play


def accesses_of_a_move(way: Way, slots: int, **options: Any) -> List[str]:
    play = before_a_move(way, slots, **options)
    way.move(play)
    return list(play.writing.accesses)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_move_takes_the_steps_s1_s2_s3(way: Way) -> None:
    steps = [access for access in accesses_of_a_move(way, 2) if not access.startswith(("load", "copy"))]

    assert steps == ["prepare", "store INTENT", "take name", "settle"]


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_writer_that_dies_at_any_access_of_a_move_leaves_the_last_state_to_readers_and_an_heir(
    way: Way, slots: int, weak: bool, checksum: bool
) -> None:
    accesses = accesses_of_a_move(way, slots, weak=weak, checksum=checksum)
    named = accesses.index("take name")
    for number in range(len(accesses)):
        play = before_a_move(way, slots, weak=weak, checksum=checksum)
        play.writing.stop_before(number)
        with pytest.raises(Stopped):
            way.move(play)

        version = slots + 1 + way.publishes * (number > named)
        assert play.reader.read_bytes() == payload_of(version)
        assert snapshot_of(play.reader) == (payload_of(version), version)

        heir = publishing.open_publishing(Owner(play.names, View(play.shared, weak)), NAME)
        heir.through(as_it_is, unchanged)(payload_of(version + 1))
        assert snapshot_of(play.reader) == (payload_of(version + 1), version + 1)
        assert play.shared.words[INTENT] == version + 1


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_writer_whose_move_an_error_ended_at_any_access_publishes_on(way: Way, slots: int) -> None:
    for number in range(len(accesses_of_a_move(way, slots))):
        play = before_a_move(way, slots)
        play.writing.stop_before(number)
        with pytest.raises(Stopped):
            way.move(play)
        play.writing.go_on()

        for _ in range(slots + 1):
            play.publish()
            latest = play.shared.words[LATEST]
            assert snapshot_of(play.reader) == (payload_of(latest), latest)
        assert play.reader.read_bytes() == payload_of(play.shared.words[LATEST])


class Between(NamedTuple):
    """What happens in the middle of a read."""

    publishes: int
    #: Whether the last of them is followed by one that ends with half its bytes stored.
    is_cut_short: bool
    #: The access of the move before which it ends; none after the last.
    stop: int


def cut_short(play: Scene) -> None:
    """A publish into a slot that is committed, ended after the second piece of its payload."""
    play.writing.stop_before(len(["load LATEST", "store INTENT", "fill", "fill"]))
    with pytest.raises(Stopped):
        play.publish()
    play.writing.go_on()


def reads_with_a_move_in_between(
    way: Way, read: Read, slots: int, code: Code = PROTOCOL, after: int = 1, overtaken: bool = False, **options: Any
) -> Iterator[int]:
    """Read once for each place where the state may move meanwhile, wholly or in part; judge each, yield the place.

    ``after``: how many publishes follow the move for each that came before it. ``overtaken``: another thread that has
    the same reader reads then, and takes it to the new segment.
    """
    whole = before_a_move(way, slots, code=code, **options)
    read(whole)
    steps = len(accesses_of_a_move(way, slots, **options))
    counts = (0,) if way.publishes else (0, slots - 1, slots + 2)  # with a publish, the first one is the move
    between = [Between(n, cut, stop) for n in counts for cut in {False, n > 0} for stop in range(steps + 1)]
    for place in range(len(whole.reading.accesses)):
        for one in between:
            play = before_a_move(way, slots, code=code, **options)
            play.reading.once_before(place, functools.partial(interrupt, play, way, one, after, overtaken))
            payload, version = read(play)
            play.reading.go_on()
            latest = play.shared.words[LATEST]
            judge(payload, version, slots + 1, latest)
            # Whatever is read now is at least as new.
            if play.reader.latest() != latest or snapshot_of(play.reader) != (payload_of(latest), latest):
                raise Torn(f"{snapshot_of(play.reader)} where {latest} is the latest")
            yield place


def interrupt(play: Scene, way: Way, one: Between, after: int, overtaken: bool) -> None:
    play.publish(one.publishes)
    if one.is_cut_short:
        cut_short(play)
    latest = play.shared.words[LATEST]
    play.writing.stop_before(one.stop)
    try:
        way.move(play)
    except Stopped:
        pass
    else:
        if play.shared.words[LATEST] != latest + way.publishes:
            raise Torn(f"{play.shared.words[LATEST]} is the latest where the name leads, after a move from {latest}")
    play.writing.go_on()
    play.publish(one.publishes * after)
    if overtaken:
        play.reader.snapshot()


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("read", [read_bytes_of, whole_snapshot_of])
@pytest.mark.parametrize(("after", "overtaken"), [(0, False), (1, False), (1, True)])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_move_in_between_tears_a_read_or_makes_it_old(
    way: Way, read: Read, slots: int, checksum: bool, after: int, overtaken: bool
) -> None:
    places = list(reads_with_a_move_in_between(way, read, slots, checksum=checksum, after=after, overtaken=overtaken))

    assert max(places) >= 5


S2, S3 = "words[intent_at] = RETIRED  # S2", "title.take_name()  # S3"
MUTANTS = {
    "S2 is dropped": [(S2, "pass", 1)],
    "S3 is dropped": [(S3, "pass", 1)],
    "S2 comes after S3 and the next publish": [
        (S2, "pass", 1),
        ("moving = False  # a move has begun", "late = []; moving = False  #", 1),
        (S3, S3 + "; late.append(words)", 1),
        (
            "words[intent_at] = version  # W1",
            "[w.__setitem__(INTENT, RETIRED) for w in late]; words[INTENT] = version",
            1,
        ),
    ],
    "R5 is dropped": [("if steps.words[INTENT] != RETIRED:", "if True:", 1)],
    "R4 of a retired segment allows one publish too many": [
        ("intent = words[LATEST] + 1", "intent = words[LATEST]", 1)
    ],
    "R4 takes a retired segment for whole": [("intent = words[LATEST] + 1", "return True", 1)],
    "the successor begins anew": [("Content(version, payload,", "Content(1, payload,", 1)],
    "the reader keeps the old bytes": [
        ("_MOST_MOVES = 1000", "_MOST_MOVES, old = 1000, {}", 1),
        (
            "payload = data[start : start + length]",
            "payload = old.setdefault(id(spoilt), data)[start : start + length]",
            1,
        ),
    ],
    "R4 asks the words of another segment than R1": [
        ("_MOST_MOVES = 1000", "_MOST_MOVES, old = 1000, {}", 1),
        (
            "intent: int = these[intent_at]",
            "intent = old[id(spoilt)][intent_at]; intent = these[LATEST] if intent == RETIRED else intent",
            1,
        ),
        ("            these = words\n", "            these = words\n            old[id(spoilt)] = words\n", 1),
    ],
    "the reader never leaves": [
        ("            steps.leave(_LEFT)\n", "", 1),
        ("            switch_to(successor)\n", "", 1),
    ],
}


@pytest.mark.parametrize("mutation", MUTANTS)
def test_a_mutant_of_a_move_is_caught(mutation: str) -> None:
    code = mutant(*MUTANTS[mutation])
    ways = [way._replace(open=functools.partial(_open_with, code, name)) for name, way in WAYS.items()]
    cases = itertools.product(ways, (read_bytes_of, whole_snapshot_of), SLOTS)

    assert any(is_caught(code, *case) for case in cases)


def is_caught(code: Code, way: Way, read: Read, slots: int) -> bool:
    for after, overtaken in ((0, False), (1, False), (1, True)):
        try:
            list(reads_with_a_move_in_between(way, read, slots, code, after, overtaken))
        except (Torn, AssertionError, shmstate.ShmStateError):
            return True
    return False


#: Where a thread is while it follows a move.
FOLLOWING = ("current", "successor", "bind", "__init__", "_quick_reads", "leave", "switch_to", "install")


def reads_at_any_instruction_of_following(code: Code, publishes: int, moves: int) -> int:
    """Follow a move in one thread. At each instruction of that, other threads do what is read here; return how often.

    At one of them, each in its turn, the state moves ``moves`` times more, and is published, and a second thread that
    shares the reader follows it there. From then on a third thread reads at every instruction of the first: by a
    function that it has kept since the beginning, and by the present one.
    """
    number = reads = 0
    while True:
        play = before_a_move(WAYS["as it is"], 2, code=code)
        kept = play.reader.read_bytes
        play.writer.move(lambda _: layout(4))
        left = [number]

        def trace(
            frame: types.FrameType,
            event: str,
            _arg: object,
            play: Scene = play,
            left: List[int] = left,
            kept: Callable[[], bytes] = kept,
        ) -> Any:
            nonlocal reads
            if frame.f_code.co_name not in FOLLOWING:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                left[0] -= 1
                if left[0] == -1:
                    for slots in range(moves):
                        play.writer.move(lambda _, slots=slots: layout(3 + slots))  # type: ignore[misc]
                    play.publish(publishes)
                    latest = play.names.named.words[LATEST]
                    judge(*whole_snapshot_of(play), latest, latest)
                if left[0] < 0:
                    reads += 1
                    latest = play.names.named.words[LATEST]
                    for read in (kept, play.reader.read_bytes):
                        judge(read(), latest, latest, latest)
            return trace

        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True
        sys.settrace(trace)
        try:
            play.reader.snapshot()
        finally:
            sys.settrace(before)
        if left[0] >= 0:
            return reads
        number += 1


@pytest.mark.parametrize("moves", range(3))
@pytest.mark.parametrize("publishes", range(4))
def test_threads_that_follow_at_the_same_time_have_all_of_one_segment(publishes: int, moves: int) -> None:
    assert reads_at_any_instruction_of_following(PROTOCOL, publishes, moves) > 1000


PARTS_STORED_ONE_BY_ONE = [
    ("_MOST_MOVES = 1000", "_MOST_MOVES, of_all = 1000, {}", 1),
    (
        "    def leave(instead: Any) -> None:\n",
        """\
    parts = of_all.setdefault(id(spoilt), [None] * 5)
    parts[1] = data
    parts[2] = slots
    parts[3] = stride
    parts[4] = places
    parts[0] = words
    def leave(instead: Any) -> None:
""",
        1,
    ),
    ("these = words\n", "these = parts[0]\n", 1),
    ("places[version % slots]", "parts[4][version % parts[2]]", 1),
    ("            if length <= stride:", "            if length <= parts[3]:", 1),
    ("payload = data[start : start + length]", "payload = parts[1][start : start + length]", 1),
]


@pytest.mark.parametrize("moves", range(3))
def test_a_thread_that_stores_the_parts_of_an_older_segment_after_a_newer_one_is_seen(moves: int) -> None:
    """Words last, as this reader once did: that holds where one thread follows, not where two follow two moves."""
    code = mutant(*PARTS_STORED_ONE_BY_ONE)

    if moves:
        with pytest.raises((Torn, shmstate.ShmStateError, IndexError)):
            for publishes in range(4):
                reads_at_any_instruction_of_following(code, publishes, moves)
    else:
        for publishes in range(4):
            reads_at_any_instruction_of_following(code, publishes, moves)


def _open_with(code: Code, way: str, play: Scene) -> Scene:
    if way == "as it is":
        return play
    writer = code.open_publishing(play.owner, NAME, wanted=layout(play.shared.shape.slots + 1))
    return play._replace(writer=writer, publish_bytes=writer.through(as_it_is, unchanged))


# Over real segments.


def inode(name: str) -> int:
    return os.stat(f"{SHM_DIR}/shmstate.{name}").st_ino


def drafts() -> List[str]:
    return children.drafts_of(os.getpid())


@pytest.fixture
def small(name: str) -> Iterator[Tuple[StateWriter, StateReader]]:
    """A page a state, and room for four."""
    with StateWriter(name, codec="raw", max_size=4096) as writer, StateReader(name) as reader:
        yield writer, reader


def test_a_state_that_outgrows_its_segment_moves_and_its_readers_follow(small: Any, name: str) -> None:
    writer, reader = small
    writer.publish(b"small")
    get, read_bytes, publish = reader.get, reader.read_bytes, writer.publish
    before = inode(name)

    for size in (4096, 4097, 8193, 1_000_000, 10):
        version = publish(b"x" * size)
        assert get() == read_bytes() == reader.get() == b"x" * size
        assert reader.read()[:2] == (b"x" * size, version)
        assert reader.version == writer.version == version
        assert (reader.nbytes, reader.writer_alive, reader.superseded) == (size, True, False)

    assert inode(name) != before
    assert writer.max_size == reader.max_size == 1 << 20
    assert not drafts()
    assert reader.retries < 10


def test_states_grow_to_the_largest_max_size_and_not_beyond(name: str) -> None:
    with StateWriter(name, codec="raw", max_size=4096, grow=False) as writer:
        with pytest.raises(StateTooLarge, match=f"'{name}': 4097 bytes are more than its max_size of 4096.*grow=True"):
            writer.publish(bytes(4097))


def test_what_a_reader_has_of_a_state_that_moves(small: Any) -> None:
    writer, reader = small
    writer.publish(b"one")
    writer.publish(b"two")
    view = reader.view()

    writer.publish(b"3" * 5000)

    # The view's bytes stay what they were; versions before the move are gone for those who ask anew.
    assert bytes(view.data) == b"two"
    assert view.valid
    assert reader.read_version(3).value == b"3" * 5000
    assert bytes(view.data) == b"two"
    assert view.valid
    with pytest.raises(Overwritten, match=r"version 2 was left behind when the state moved .* at version 3"):
        reader.read_version(2)
    assert [snapshot.version for snapshot in reader.read_since(0).snapshots] == [3]
    assert reader.read_since(0).missed == 2
    assert reader.get_if_newer(3) is None
    assert reader.age < 60
    assert reader.staleness < 60
    buffer = bytearray(5000)
    assert bytes(reader.read_into(buffer).value) == b"3" * 5000
    assert reader.apply(len) == 5000
    view.release()


def test_the_memory_of_the_old_segment_goes_with_its_last_reader(small: Any) -> None:
    writer, reader = small
    writer.publish(b"small")
    old = reader._segment
    map_of_old = old._map
    maps = f"/proc/{os.getpid()}/maps"

    def mapped() -> int:
        with open(maps) as file:
            return sum("(deleted)" in line and writer.name in line for line in file)

    del old, map_of_old
    writer.publish(bytes(5000))
    assert mapped() == 1  # the reader's

    reader.get()
    assert mapped() == 0


def certified(number: int, size: int) -> bytes:
    return number.to_bytes(8, "little") * (size // 8)


def is_certified(payload: bytes) -> bool:
    return len(payload) > 0 and payload == payload[:8] * (len(payload) // 8)


def pauses(random: Random) -> Any:
    """A trace function that pauses at random lines of shmstate."""

    def trace(frame: types.FrameType, _event: str, _arg: object) -> Any:
        if os.path.basename(os.path.dirname(frame.f_code.co_filename)) != "shmstate":
            return None
        if random.random() < 0.1:
            time.sleep(random.random() / 2000)  # what the test is about: a thread that is late
        return trace

    return trace


@pytest.mark.concurrent
def test_threads_that_are_slow_at_any_line_read_nothing_that_was_not_published(name: str) -> None:
    """Threads that share a reader, and pause at random lines while the state grows and shrinks below them."""
    ended = threading.Event()
    torn: List[bytes] = []
    reads = [0]

    def slow(seed: int) -> None:
        sys.settrace(pauses(Random(seed)))
        read()

    def read() -> None:
        last = 0
        kept = reader.read_bytes
        while not ended.is_set():
            for payload in (reader.read_bytes(), kept(), reader.get(), reader.read().value):
                reads[0] += 1
                number = int.from_bytes(payload[:8], "little")
                if not is_certified(payload) or number < last:
                    torn.append(payload[:64])
                last = number

    with StateWriter(name, codec="raw", max_size=4096, slots=2) as writer:
        writer.publish(certified(1, 8))
        with StateReader(name) as reader:
            threads = [threading.Thread(target=slow, args=(seed,)) for seed in range(3)]
            threads.append(threading.Thread(target=read))
            for thread in threads:
                thread.start()
            number, due = 1, time.monotonic() + 2
            while time.monotonic() < due:
                for size in (8, 6000, 16):
                    number += 1
                    writer.publish(certified(number, size))
                writer.trim()
            ended.set()
            for thread in threads:
                thread.join()

    assert not torn
    assert reads[0] > 1000
    assert number > 100


def test_handles_that_have_moved_are_freed_without_the_garbage_collector(name: str) -> None:
    gc.disable()
    try:
        writer = StateWriter(name, codec="raw", max_size=4096)
        reader = StateReader(name)
        writer.publish(bytes(5000))
        reader.get()
        del reader
        with open(f"/proc/{os.getpid()}/maps") as file:
            assert sum(name in line for line in file) == 1
        del writer
        assert not os.path.exists(f"{SHM_DIR}/shmstate.{name}")
    finally:
        gc.enable()


def test_a_reader_that_was_closed_says_so_also_to_those_who_hold_its_methods_from_before_a_move(small: Any) -> None:
    writer, reader = small
    writer.publish(b"one")
    get, read_bytes = reader.get, reader.read_bytes
    view = reader.view()
    writer.publish(bytes(5000))
    reader.get()

    reader.close()

    for use in (get, read_bytes, reader.get, lambda: reader.version, lambda: view.valid):
        with pytest.raises(ReaderClosed):
            use()


def test_a_move_that_memory_does_not_suffice_for_changes_nothing(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = small
    writer.publish(b"small")
    before = inode(writer.name)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(OutOfSharedMemory, match=f"'{writer.name}'.*nothing was published"):
            writer.publish(bytes(5000))

    assert (reader.get(), inode(writer.name), drafts()) == (b"small", before, [])
    assert writer.publish(bytes(5000)) == 2
    assert reader.version == 2


def test_a_state_whose_name_was_removed_has_it_again_after_a_move(small: Any, name: str) -> None:
    writer, reader = small
    writer.publish(b"small")
    os.unlink(f"{SHM_DIR}/shmstate.{name}")

    writer.publish(bytes(5000))

    assert reader.read()[:2] == (bytes(5000), 2)
    assert StateReader(name).version == 2
    assert not drafts()


def test_a_state_whose_name_leads_elsewhere_does_not_move(small: Any, name: str) -> None:
    writer, reader = small
    writer.publish(b"small")
    os.unlink(f"{SHM_DIR}/shmstate.{name}")
    with StateWriter(name, codec="raw") as another:
        with pytest.raises(StateNotFound, match="was replaced by another program, so no reader finds"):
            writer.publish(bytes(5000))
        with pytest.raises(StateNotFound, match="was replaced by another program, so no reader finds"):
            writer.trim()
        another.publish(b"another")

        assert StateReader(name).get() == b"another"
    assert reader.get() == b"small"
    assert not drafts()


def test_a_reader_that_missed_the_last_move_before_the_end_keeps_what_it_had(small: Any) -> None:
    writer, reader = small
    writer.publish(b"before")
    writer.publish(bytes(5000))

    writer.close()

    assert reader.get() == b"before"
    assert not reader.writer_alive


def test_a_state_that_was_closed_and_made_anew_is_not_followed(small: Any, name: str) -> None:
    writer, reader = small
    for _ in range(10):
        writer.publish(b"before")
    writer.publish(bytes(5000))
    writer.close()

    with StateWriter(name, codec="raw") as stranger:
        stranger.publish(b"another")

        for _ in range(2):
            assert reader.read()[:2] == (b"before", 10)
        assert reader.superseded
        assert not reader.writer_alive


# trim().


def test_trim_gives_memory_back_and_keeps_the_state(name: str) -> None:
    with StateWriter(name, codec="raw", max_size=4096) as writer, StateReader(name) as reader:
        for _ in range(4):
            writer.publish(bytes(1 << 20))
        writer.publish(b"small")
        before = reader.read()

        freed = writer.trim()

        assert freed > 3 << 20
        assert reader.read() == before
        assert reader.max_size == writer.max_size == 4096
        assert writer.trim() == 0
        assert (writer.publish(b"next"), reader.get()) == (6, b"next")


def test_trim_keeps_the_checksum_and_the_heartbeat(name: str) -> None:
    with StateWriter(name, checksum=True) as writer, StateReader(name) as reader:
        writer.publish({"a": 1})
        writer.beat()
        before = (reader.read(), reader._steps.heartbeat())

        writer.trim()

        assert (reader.read(), reader._steps.heartbeat()) == before
        assert before[1] > before[0].published_ns
        assert reader._segment.layout.checksum


def test_there_is_nothing_to_trim_before_the_first_publish(name: str) -> None:
    with StateWriter(name) as writer:
        with pytest.raises(
            NotPublished, match=f"'{name}': nothing has been published yet, so there is nothing to move"
        ):
            writer.trim()
        assert writer.publish(1) == 1


# Another writer, other options.


def left_behind(name: str, value: Any = "left", times: int = 5, **options: Any) -> None:
    writer = StateWriter(name, **options)
    for _ in range(times):
        writer.publish(value)
    writer.close(unlink=False)


OPTIONS: Dict[str, Dict[str, Any]] = {
    "slots": {"slots": 2},
    "more room": {"max_size": 1 << 30},
    "less room": {"max_size": 4096, "grow": False},
    "codec": {"codec": "json"},
    "checksum": {"checksum": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_writer_with_other_options_takes_over_with_its_first_publish(name: str, options: Dict[str, Any]) -> None:
    left_behind(name, checksum=False)
    with StateReader(name) as reader, StateWriter(name, **options) as heir:
        assert reader.read()[:2] == ("left", 5)
        assert heir.version == 5

        assert heir.publish({"a": 1}) == 6

        assert reader.read()[:2] == ({"a": 1}, 6)
        assert reader.get() == {"a": 1}
        for option, value in options.items():
            if option in ("slots", "max_size", "codec"):
                assert getattr(reader, option) == getattr(heir, option) == value
        before = inode(name)
        assert heir.publish("next") == 7
        assert (reader.get(), inode(name)) == ("next", before)


def test_a_writer_that_may_grow_keeps_the_room_that_was_made(name: str) -> None:
    left_behind(name, "x" * 5000, max_size=4096)
    before = inode(name)

    with StateWriter(name, max_size=4096) as heir:
        heir.publish("small")

        assert (heir.max_size, inode(name)) == (8192, before)


def test_a_codec_that_a_reader_did_not_name_is_not_followed(name: str) -> None:
    left_behind(name)
    with StateReader(name) as silent, StateReader(name, codec="msgpack") as named:
        with StateWriter(name, codec="pickle") as heir:
            heir.publish("next")

            for reader in (silent, named):
                for use in (reader.get, reader.read, reader.read_bytes):
                    with pytest.raises(CodecMismatch, match=f"'{name}' is written with codec 'pickle'"):
                        use()
            with StateReader(name, codec="pickle") as knowing:
                assert knowing.get() == "next"


def test_a_writer_of_other_options_that_never_publishes_changes_nothing(name: str) -> None:
    left_behind(name)
    before = inode(name)

    StateWriter(name, codec="json").close(unlink=False)

    with StateReader(name) as reader:
        assert (reader.get(), reader.codec, inode(name)) == ("left", "msgpack", before)
    shmstate.reclaim(name)


def test_trim_before_the_first_publish_leaves_the_other_options_to_that(name: str) -> None:
    left_behind(name)
    with StateReader(name) as reader, StateWriter(name, codec="json", slots=2) as heir:
        heir.trim()
        assert (reader.get(), reader.codec, reader.slots) == ("left", "msgpack", 4)

        heir.publish("next")
        assert (reader.get(), reader.codec, reader.slots) == ("next", "json", 2)


def test_a_pickled_writer_asks_for_the_same_again(name: str) -> None:
    with StateWriter(name, grow=False, max_size=4096) as writer:
        again = pickle.dumps(writer)
    with pickle.loads(again) as heir, pytest.raises(StateTooLarge):
        heir.publish("x" * 5000)


def test_list_states_looks_at_the_segment_that_the_name_leads_to(small: Any, name: str) -> None:
    writer, _ = small
    writer.publish(bytes(5000))

    (info,) = shmstate.list_states(name)

    assert (info.version, info.nbytes, info.max_size, info.alive) == (1, 5000, 8192, True)


# Threads, and processes that die.


def test_threads_that_share_a_reader_all_follow(name: str) -> None:
    errors: List[BaseException] = []
    ended = threading.Event()

    def read(reader: StateReader) -> None:
        last = 0
        try:
            while not ended.is_set():
                value, version, _ = reader.read()
                assert version >= last
                assert value == {"version": version, "filling": "x" * (version * 997 % 40_000)}
                last = version
                assert reader.get()["version"] >= version
        except BaseException as error:
            errors.append(error)

    with StateWriter(name, max_size=4096) as writer, StateReader(name) as reader:
        writer.publish({"version": 1, "filling": "x" * 997})
        threads = [threading.Thread(target=read, args=(reader,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for version in range(2, 150):
            writer.publish({"version": version, "filling": "x" * (version * 997 % 40_000)})
            if version % 5 == 0:
                writer.trim()
        ended.set()
        for thread in threads:
            thread.join()

    assert errors == []


def test_a_chain_of_moves_leaves_one_segment(name: str) -> None:
    with StateWriter(name, codec="raw", max_size=4096) as writer, StateReader(name) as reader:
        for round_ in range(50):
            writer.publish(bytes(5000))
            if round_ % 2:
                reader.get()
            writer.publish(b"")
            writer.trim()

        files = [file for file in os.listdir(SHM_DIR) if name in file]
        assert files == [f"shmstate.{name}"]
        assert not drafts()
        assert reader.read()[:2] == (b"", 100)


@pytest.mark.parametrize("stop", ["prepare", "retire", "take_name", "settle"])
def test_a_writer_that_is_killed_during_a_move_leaves_the_state_to_readers_and_heirs(
    start: Callable[..., children.Child], name: str, stop: str
) -> None:
    child = start(children.move_and_stop, name, stop)
    assert child.line() == "published 3"
    with StateReader(name) as reader:
        assert reader.read()[:2] == (b"3", 3)
        child.say("move")
        assert child.line() == stop
        expected = (bytes(5000), 4) if stop == "settle" else (b"3", 3)
        assert reader.read()[:2] == expected
        assert len(children.drafts_of(child.pid)) == (stop in ("retire", "take_name"))

        child.kill()

        assert reader.read()[:2] == expected
        assert not reader.writer_alive
        with StateReader(name) as late:
            assert late.read()[:2] == expected
        with StateWriter(name, codec="raw", max_size=4096) as heir:
            assert heir.publish(b"of the heir") == expected[1] + 1
            assert (*reader.read()[:2], reader.writer_alive) == (b"of the heir", expected[1] + 1, True)
    children.remove_drafts_of(child.pid)
