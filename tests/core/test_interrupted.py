"""An exception out of a signal handler, before each instruction of everything that publishes."""

from __future__ import annotations

import contextlib
import dis
import functools
import gc
import os
import sys
import threading
import types
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Set

import numpy as np
import pytest

from shmstate import StateReader, StateWriter, WriterClosed, lending, publishing, reclaim
from shmstate.layout import NEW_PREFIX, OLD_PREFIX, SHM_DIR

#: Where a publish is under way. What these call is stopped as a whole.
FILES = {"publishing.py", "lending.py", "loan.py", "writer.py", "title.py", "bound_segment.py"}

#: A quick run takes every fifth instruction, and each Python others: together they take all. A thorough one takes all.
STEP = 1 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 5
FIRST = sys.version_info[1] % STEP

Act = Callable[[StateWriter], object]


class Interrupted(BaseException):
    """What a signal handler raises."""


class Case(NamedTuple):
    """What is interrupted, of a writer with which options."""

    act: Act
    options: Dict[str, Any]
    #: Whether another writer moves the state before.
    is_moved: bool = False
    #: Whether a dead writer has left a state with other options.
    is_adopted: bool = False


def lend(writer: StateWriter) -> None:
    with writer.loan(4) as view:
        view[:] = b"loan"


def lend_in_vain(writer: StateWriter) -> None:
    try:
        with writer.loan(4) as view:
            view[:] = b"loan"
            raise LookupError
    except LookupError:
        pass


def beat_when_a_look_is_due(writer: StateWriter) -> None:
    os.unlink(f"{SHM_DIR}/shmstate.{writer.name}")
    writer.beat()


RAW: Dict[str, Any] = {"codec": "raw", "max_size": 4096}
SHARED: Dict[str, Any] = {**RAW, "shared": True}
ARRAY = {"codec": "array", "max_size": 4096}
CASES = {
    "publish": Case(lambda writer: writer.publish(b"next"), RAW),
    "publish with notify": Case(lambda writer: writer.publish(b"next"), {**RAW, "notify": True, "checksum": True}),
    "publish that moves": Case(lambda writer: writer.publish(bytes(5000)), RAW),
    "loan": Case(lend, RAW),
    "loan in vain": Case(lend_in_vain, RAW),
    "loan where the state has yet to move": Case(lend, RAW, is_adopted=True),
    "array": Case(lambda writer: writer.publish(np.arange(9)), ARRAY),
    "trim": Case(StateWriter.trim, RAW),
    "beat": Case(beat_when_a_look_is_due, RAW),
    "shared publish": Case(lambda writer: writer.publish(b"next"), SHARED),
    "shared publish_bytes": Case(lambda writer: writer.publish_bytes(b"next"), {**SHARED, "codec": "msgpack"}),
    "shared publish that follows": Case(lambda writer: writer.publish(b"next"), SHARED, is_moved=True),
    "shared publish that moves": Case(lambda writer: writer.publish(bytes(5000)), SHARED),
    "shared loan": Case(lend, SHARED),
    "shared trim": Case(StateWriter.trim, SHARED),
    "shared beat": Case(StateWriter.beat, SHARED, is_moved=True),
}


#: Where a writer is opened.
OPENING = {*FILES, "ownership.py", "memory.py", "predecessors.py", "turns.py"}


def is_stopped_in(frame: types.FrameType, files: Set[str]) -> bool:
    """Whether an exception may come before each instruction of the frame."""
    return os.path.basename(frame.f_code.co_filename) in files


def interrupt() -> None:
    raise Interrupted


def interrupted_at(
    number: int, act: Callable[[], object], handle: Callable[[], object] = interrupt, files: Set[str] = FILES
) -> bool:
    """Do something, and call ``handle`` before the instruction ``number`` of it. False if it has fewer."""
    left = [number]

    def trace(frame: types.FrameType, event: str, _arg: object) -> Any:
        if not is_stopped_in(frame, files):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] == -1:
                handle()
                _ = frame.f_locals  # until 3.13 variables that others have are set back to what this showed last
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        act()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return left[0] < 0


def in_a_thread(act: Callable[[], Any]) -> Any:
    results: List[Any] = []
    thread = threading.Thread(target=lambda: results.append(act()), daemon=True)
    thread.start()
    thread.join(20)
    assert results, "it waits for a turn that never ends"
    return results[0]


@pytest.fixture(autouse=True)
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each publish and heartbeat looks whether the name is there."""
    monkeypatch.setattr(publishing, "LOOK_INTERVAL_NS", -1)


def payload_of(case: Case, number: int) -> Any:
    return np.arange(number) if case.options["codec"] == "array" else b"%d" % number


def own_files(name: str) -> Iterator[str]:
    for file in os.listdir(SHM_DIR):
        if name in file or file.startswith(f"{NEW_PREFIX}{os.getpid()}."):
            yield file


def leave_what_is_adopted(name: str, case: Case) -> None:
    if case.is_adopted:
        left = StateWriter(name, codec="raw", slots=7)
        left.publish(b"left")
        left.close(unlink=False)


def check(case: Case, name: str, writer: StateWriter, other: Any, reader: StateReader) -> None:
    """Everything works on: in this thread, in another, in another writer of the same state."""
    last = reader.version
    for act in (writer.publish_bytes, other.publish_bytes if other else writer.publish_bytes):
        publish: Callable[[], int] = functools.partial(act, b"thread")
        for run in (publish, functools.partial(in_a_thread, publish)):
            version = run()
            assert version > last
            assert reader.version == StateReader(name).version == version
            assert reader.read_bytes() == b"thread"
            last = version
    assert reader.writer_alive


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_exception_before_any_instruction_leaves_the_writer_usable(name: str, case: Case) -> None:
    number = FIRST
    while True:
        leave_what_is_adopted(name, case)
        with StateWriter(name, **case.options) as writer, StateReader(name) as reader:
            other = StateWriter(name, **case.options) if case.options.get("shared") else None
            if not case.is_adopted:
                writer.publish(payload_of(case, 1))
            if case.is_moved and other:
                other.trim()
            was = reader.version
            second_name = f"{OLD_PREFIX}{writer._segment.identity().created_ns:x}."
            was_interrupted = interrupted_at(number, functools.partial(case.act, writer))
            assert was <= reader.version <= was + 1
            check(case, name, writer, other, reader)
            if other:
                other.close()
        assert list(own_files(name)) == []
        assert not [file for file in os.listdir(SHM_DIR) if file.startswith(second_name)]
        if not was_interrupted:
            break
        number += STEP
    assert number > 50


@pytest.mark.parametrize("options", [RAW, SHARED], ids=["exclusive", "shared"])
def test_an_exception_before_any_instruction_of_closing_lets_it_be_closed_again(name: str, options: Any) -> None:
    number = 0
    while True:
        writer = StateWriter(name, **options)
        writer.publish(b"1")
        was_interrupted = interrupted_at(number, writer.close)
        in_a_thread(functools.partial(is_closed, writer))
        assert list(own_files(name)) == []
        if not was_interrupted:
            break
        number += 1
    assert number > 20


def open_into(opened: List[StateWriter], name: str) -> None:
    opened.append(StateWriter(name, **SHARED))


@pytest.mark.filterwarnings("ignore:unclosed file <_io.FileIO:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "joining"])
def test_an_exception_before_any_instruction_of_opening_leaves_no_owner(name: str, is_first: bool) -> None:
    number, step = FIRST, 1 if STEP == 1 else 6 * STEP + 1  # each opens two writers, and makes files
    while True:
        other = None if is_first else StateWriter(name, **SHARED)
        if other:
            other.publish(b"1")
        opened: List[StateWriter] = []
        was_interrupted = interrupted_at(number, functools.partial(open_into, opened, name), files=OPENING)
        if not was_interrupted:
            opened.pop().close()
        gc.collect()
        # A descriptor may stay open, lost between two instructions; a lock may not.
        if other:
            other.close()
            assert list(own_files(name)) == []
        reclaim(name=name)
        assert list(own_files(name)) == []
        if not was_interrupted:
            break
        number += step
    assert number > 50


def is_closed(writer: StateWriter) -> bool:
    writer.close()
    return True


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_handler_that_closes_the_writer_before_any_instruction_closes_it(name: str, case: Case) -> None:
    number = FIRST
    while True:
        leave_what_is_adopted(name, case)
        writer = StateWriter(name, **case.options)
        other = StateWriter(name, **case.options) if case.options.get("shared") else None
        writer.publish(payload_of(case, 1))
        if case.is_moved and other:
            other.trim()
        was_interrupted = False
        with contextlib.suppress(WriterClosed):
            was_interrupted = interrupted_at(number, functools.partial(case.act, writer), writer.close)
        was_interrupted = was_interrupted or not writer._title.is_held
        in_a_thread(functools.partial(is_closed, writer))
        with pytest.raises(WriterClosed):
            writer.publish(payload_of(case, 2))
        if other:
            in_a_thread(functools.partial(other.publish_bytes, b"other"))
            with StateReader(name) as reader:
                assert reader.read_bytes() == b"other"
            other.close()
        assert list(own_files(name)) == []
        if not was_interrupted:
            break
        number += STEP
    assert number > 50


def codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from codes_in(constant)


#: What takes a turn, and ends it in a handler.
HOLDING = {"publish", "exclusively", "lend", "take_back", "close", "finish"}
CODES = [
    code
    for function in (publishing.open_publishing, lending.open_lending)
    for code in codes_in(function.__code__)
    if code.co_name in HOLDING
]


def test_no_jump_back_stands_in_what_holds_a_turn() -> None:
    """Signals are handled at a jump back, and CPython 3.14 leaves one out of the exception table of a try around it."""
    assert {code.co_name for code in CODES} == HOLDING
    for code in CODES:
        for instruction in dis.get_instructions(code):
            is_jump = instruction.opcode in (*dis.hasjrel, *dis.hasjabs)
            assert not (is_jump and isinstance(instruction.argval, int) and instruction.argval < instruction.offset), (
                code.co_name,
                instruction,
            )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception tables came with Python 3.11")
def test_each_call_between_taking_a_turn_and_ending_it_is_covered_by_a_handler() -> None:
    for code in CODES:
        if code.co_name != "publish":
            continue
        entries = dis._parse_exception_table(code)  # type: ignore[attr-defined]
        instructions = list(dis.get_instructions(code))
        first = next(at for at, one in enumerate(instructions) if one.argval in {"take_turn", "take_turn_among_all"})
        handler = max(entry.target for entry in entries if entry.start <= instructions[first].offset < entry.end)
        calls = [one for one in instructions[first:] if one.opname.startswith("CALL") and one.offset < handler]
        assert len(calls) >= 3
        for call in calls:
            assert any(entry.start <= call.offset < entry.end for entry in entries), (code.co_name, call)


def test_a_writer_behind_keeps_the_state_alive_where_the_mover_was_interrupted(name: str) -> None:
    number = FIRST
    while True:
        mover, behind = StateWriter(name, **SHARED), StateWriter(name, **SHARED)
        mover.publish(b"1")
        second_name = f"{OLD_PREFIX}{mover._segment.identity().created_ns:x}."
        mover.trim()  # where the other one has not followed
        was_interrupted = interrupted_at(number, mover.trim)
        with StateReader(name) as reader:
            mover.close()
            assert reader.writer_alive
            assert reclaim(name) == []
            assert in_a_thread(functools.partial(behind.publish, b"2")) == 2
            assert reader.read_bytes() == b"2"
        behind.close()
        assert list(own_files(name)) == []
        assert not [file for file in os.listdir(SHM_DIR) if file.startswith(second_name)]
        if not was_interrupted:
            break
        number += STEP
    assert number > 50


def test_a_writer_whose_move_was_interrupted_waits_for_its_turn_where_the_state_is_now(name: str) -> None:
    with StateWriter(name, **SHARED) as mover, StateWriter(name, **SHARED) as other, StateReader(name) as reader:
        mover.publish(b"1")
        title: Any = mover._title
        take_name = title.take_name

        def take_name_and_stop() -> None:
            take_name()
            raise Interrupted

        title.take_name = take_name_and_stop
        with pytest.raises(Interrupted):
            mover.trim()
        published: List[int] = []
        thread = threading.Thread(target=lambda: published.append(mover.publish(b"3")))
        with other.loan(1) as view:
            thread.start()
            thread.join(0.1)
            assert thread.is_alive()
            view[:] = b"2"
        thread.join(20)

        assert (other.version, published) == (3, [3])
        assert [snapshot.value for snapshot in reader.read_since(1).snapshots] == [b"2", b"3"]
