"""Gates: which accesses have one, and that what stands behind them still does what it did."""

from __future__ import annotations

import os
import threading
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Dict, List, Tuple

import pytest

from pytest_shmstate.kit.seams.adapter import ShmstateAdapter
from pytest_shmstate.kit.seams.buffers import Buffer, line_tracer
from pytest_shmstate.kit.seams.gates import Bytes, Copying, Gates, Words
from pytest_shmstate.kit.seams.system_calls import label_of
from pytest_shmstate.kit.stepping.stepper import Stepper


class Passed:
    """A gate that is always open, and writes down who came by."""

    def __init__(self) -> None:
        self.names: List[str] = []

    def __call__(self, access: str, would_block: Any = None) -> None:
        self.names.append(access)


@pytest.fixture
def gate() -> Passed:
    return Passed()


# ---- copies


@pytest.mark.parametrize(
    ("length", "parts", "expected"),
    [
        (24, 2, [(0, 16), (16, 24)]),
        (24, 3, [(0, 8), (8, 16), (16, 24)]),
        (5000, 2, [(0, 2504), (2504, 5000)]),
        (8, 3, [(0, 8)]),
        (3, 2, [(0, 3)]),
        (0, 2, [(0, 0)]),
    ],
)
def test_a_copy_is_made_in_parts_of_whole_words(length: int, parts: int, expected: List[Tuple[int, int]]) -> None:
    assert Copying(parts).parts_of(0, length) == expected


def test_a_copy_may_run_downward() -> None:
    assert Copying(3, downward=True).parts_of(100, 124) == [(116, 124), (108, 116), (100, 108)]


@pytest.mark.parametrize("downward", [False, True])
def test_bytes_are_copied_behind_gates_whole_and_in_place(gate: Passed, downward: bool) -> None:
    real = bytearray(64)
    data = Bytes(real, lambda offset: offset // 32, gate, Copying(3, downward))

    data[32:56] = b"abcdefghijklmnopqrstuvwx"

    assert data[32:56] == b"abcdefghijklmnopqrstuvwx"
    assert bytes(real) == bytes(32) + b"abcdefghijklmnopqrstuvwx" + bytes(8)
    assert gate.names == ["fill 1"] * 3 + ["copy 1"] * 3


def test_words_are_loaded_and_stored_behind_gates(gate: Passed) -> None:
    real = memoryview(bytearray(64)).cast("Q")
    words = Words(real, {3: "LATEST"}, gate)

    words[3] = 7
    words[4] = words[3]

    assert list(real)[3:5] == [7, 7]
    assert gate.names == ["store LATEST", "load LATEST", "store 4"]


# ---- who is stopped


def test_only_the_thread_that_is_watched_is_stopped_and_nobody_at_rest() -> None:
    passed = Passed()
    gates = Gates(passed)

    gates("before")
    with gates.watching():
        gates("within")
        with gates.resting():
            gates("at rest")
        other = threading.Thread(target=gates, args=("elsewhere",))
        other.start()
        other.join()
        gates("again")
    gates("after")

    assert passed.names == ["within", "again"]


def test_stopping_is_no_access_and_what_it_raises_is_raised() -> None:
    def stop(access: str, would_block: Any = None) -> None:
        gates("inner")
        raise LookupError(access)

    gates = Gates(stop)
    with gates.watching():
        for name in ("one", "two"):
            with pytest.raises(LookupError, match=name):
                gates(name)


# ---- other people's buffers


def test_a_buffer_does_what_a_memoryview_does(gate: Passed) -> None:
    real = bytearray(64)
    view = Buffer(memoryview(real), "name", 0, gate, Copying(2))

    view[1] = 5
    view[8:32] = b"x" * 24
    view[40:].cast("Q")[1] = 2**40

    assert (view[1], view[-63], bytes(view[8:32]), view[8:12].tobytes()) == (5, 5, b"x" * 24, b"xxxx")
    assert view[8:10] == b"xx"
    assert view[8:10] == view[10:12]
    assert list(view[7:9]) == [0, 120]
    assert (len(view), view.nbytes, view[40:].cast("Q")[1]) == (64, 64, 2**40)
    assert int.from_bytes(real[48:56], "little") == 2**40


def test_a_buffer_s_gates_say_which_bytes(gate: Passed) -> None:
    view = Buffer(memoryview(bytearray(64)), "name", 0, gate, Copying(2))

    view[16:][-1] = 1
    view[16:][8:32] = bytes(24)
    bytes(view[20:24])
    view[0:16].cast("Q")[1]

    assert gate.names == [
        "store name[63]",
        "fill name[24:40]",
        "fill name[40:48]",
        "copy name[20:24]",
        "load name.Q[1]",
    ]


def test_a_buffer_refuses_what_does_not_fit_and_has_nothing_for_c(gate: Passed) -> None:
    view = Buffer(memoryview(bytearray(64)), "name", 0, gate, Copying(2))

    with pytest.raises(ValueError, match="3 bytes do not fit a slice of 4"):
        view[0:4] = b"abc"
    with pytest.raises(TypeError):
        memoryview(view)  # type: ignore[arg-type]


def test_a_line_tracer_stops_before_each_line_of_its_modules(gate: Passed) -> None:
    from tests.kit import lines

    tracer = line_tracer(gate, ["tests.kit.lines"])
    frame = type("Frame", (), {"f_code": lines.Packed.close.__code__, "f_lineno": 7})
    elsewhere = type("Frame", (), {"f_code": test_words_are_loaded_and_stored_behind_gates.__code__})

    assert tracer(elsewhere, "call", None) is None
    tracer(frame, "call", None)(frame, "line", None)
    tracer(frame, "call", None)(frame, "return", None)

    assert gate.names == ["line lines.py:7"]


# ---- files


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/dev/shm/shmstate.N", "name"),
        ("/dev/shm/N", "name"),
        ("/dev/shm/N_flag", "flag"),
        ("/dev/shm/ring-N", "ring"),
        ("/dev/shm/shmstate-new.1.2.abc", "draft"),
        ("/dev/shm/N (deleted)", "name"),
        ("/tmp/N", None),
        (-1, None),
        (None, None),
    ],
)
def test_files_are_called_by_what_they_are_to_the_structure(path: Any, label: Any) -> None:
    assert label_of(path, "N") == label


def test_a_descriptor_is_called_as_its_file() -> None:
    block = SharedMemory(create=True, size=8)
    try:
        with open(f"/dev/shm/{block.name}", "rb") as file:
            assert label_of(file.fileno(), block.name) == "name"
    finally:
        block.close()
        block.unlink()


# ---- shmstate's accesses, all of them


def gates_of(stepper: Stepper, *operations: Tuple[Any, ...]) -> List[str]:
    """What the last of these operations passes."""
    stepper.reset()
    for name, *operation in operations:
        stepper.process(name).do(*operation)
    return list(stepper.turns[-1].passed)


@pytest.fixture(scope="module")
def stepper(shmstate_stepper: Stepper) -> Stepper:
    return shmstate_stepper


MADE = (("w", "create", 4096), ("w", "publish", 24), ("r", "attach"))
DRAWN_UP = "truncate draft, map draft, open draft, try to lock draft, stat draft, posix_fallocate draft, pwrite draft"
NAMED = "load CREATED, load OWNER_PID, load OWNER_STARTED"
FILLED = "store LENGTH 0, store PUBLISHED 0"
PUBLISHED = "posix_fallocate draft, pwrite draft, map draft, appear"
MOVED = "store INTENT, rename name, ask for the name, store OWNER_PID, load WAKE"
CHAIN = "pread name, pread name, pread name, pread name, stat draft"
SIGNED = "store OWNER_PID, store OWNER_STARTED"
ATTACHED = "open name, pread name, map name"
NEW = "load LENGTH 0, load PUBLISHED 0, load CHECKSUM 0, copy 0, copy 0, load INTENT"
OLD = "load LATEST, load LENGTH 1, copy 1, copy 1, load INTENT"

# A new access of shmstate's own must be given a place here, and so in every schedule and every crash matrix.
ACCESSES: Dict[str, Tuple[Tuple[Tuple[Any, ...], ...], str]] = {
    "create": (
        MADE[:1],
        f"open name, {DRAWN_UP}, map draft, appear, link name, unlink draft, store WAKE, load WAKE",
    ),
    "publish": (
        (*MADE, ("w", "publish", 24)),
        f"load LATEST, ask for the name, commit 0, load LATEST, store INTENT, fill 0, fill 0, {FILLED}, store LATEST",
    ),
    "growing publish": (
        (*MADE, ("w", "publish", 5000)),
        f"load LATEST, load HEARTBEAT, load WAKE, ask for the name, {NAMED}, {DRAWN_UP}, {PUBLISHED}, {MOVED}",
    ),
    "attach": (MADE, ATTACHED),
    "read": ((*MADE, ("r", "read")), OLD),
    "read after a move": (
        (*MADE, ("w", "publish", 5000), ("r", "read")),
        f"{OLD}, load INTENT, ask for the name, {ATTACHED}, {NAMED}, {NAMED}, load INTENT, load LATEST, {NEW}",
    ),
    "hand over": ((*MADE, ("w", "hand over")), "close"),
    "take over": (
        (*MADE, ("w", "hand over"), ("v", "create", 4096)),
        f"open name, try to lock name, ask for the name, {CHAIN}, map name, appear, {SIGNED}, store WAKE, load WAKE",
    ),
    "close": ((*MADE, ("w", "close")), "store OWNER_PID, ask for the name, unlink name, close"),
    "detach": ((*MADE, ("r", "detach")), ""),
    "alive": ((*MADE, ("r", "alive")), "load LATEST, load INTENT, open name, ask who is there"),
}


@pytest.mark.parametrize("operation", ACCESSES)
def test_every_access_of_shmstate_has_a_gate(stepper: Stepper, operation: str) -> None:
    operations, expected = ACCESSES[operation]

    stepper.reset(ShmstateAdapter(slots=2))

    assert ", ".join(gates_of(stepper, *operations)) == expected


def test_a_shared_writer_s_turns_have_gates_too(stepper: Stepper) -> None:
    stepper.reset(ShmstateAdapter(slots=2, shared=True))

    passed = gates_of(stepper, *MADE, ("w", "publish", 24))

    assert passed[:3] == ["load INTENT", "take turn", "load INTENT"]
    assert passed[-2:] == ["store LATEST", "end turn"]
    left = ["end turn", "lock byte 1 of draft", "unlock draft", "drop"]
    pruned = ["pread name", "open draft", "pread draft", "ask who is there", "unlink draft"]
    assert gates_of(stepper, *MADE, ("w", "publish", 5000))[-11:] == [*left, *pruned, "load WAKE", "end turn"]
    assert gates_of(stepper, *MADE, ("w", "hand over"))[-4:] == [*left[1:3], "open draft", "close"]


def test_what_stands_behind_a_gate_is_done(stepper: Stepper) -> None:
    stepper.reset(ShmstateAdapter(slots=2))
    gates_of(stepper, *MADE)
    path = f"/dev/shm/shmstate.{stepper.name}"
    before = os.stat(path).st_blocks

    stepper.process("w").do("publish", 5, until="store INTENT")

    assert os.stat(path).st_blocks > before


def test_waking_has_a_gate(stepper: Stepper) -> None:
    stepper.reset(ShmstateAdapter(notify=True))

    assert gates_of(stepper, *MADE, ("w", "publish", 24))[-3:] == ["load WAKE", "store WAKE", "ring"]


def test_who_waits_for_a_lock_in_vain_tries_as_often_each_time(stepper: Stepper) -> None:
    stepper.reset(ShmstateAdapter())
    tries = [gates_of(stepper, *MADE, ("v", "create", 64)) for _ in range(2)]

    assert tries[0] == tries[1]
    assert tries[0].count("sleep") == 5
