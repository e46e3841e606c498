"""An exception out of a signal handler, before each instruction of everything that publishes."""

from __future__ import annotations

import functools
import os
import sys
import threading
import types
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

import numpy as np
import pytest

from shmstate import ShmStateError, StateReader, StateWriter, publishing
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


RAW = {"codec": "raw", "max_size": 4096}
SHARED = {**RAW, "shared": True}
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


def is_stopped_in(frame: types.FrameType) -> bool:
    """Not in a finalizer: what it raises is raised nowhere."""
    around: Any = frame
    while around is not None and os.path.basename(around.f_code.co_filename) in FILES:
        if around.f_code.co_name == "__del__":
            return False
        around = around.f_back
    return os.path.basename(frame.f_code.co_filename) in FILES


def interrupted_at(number: int, act: Callable[[], object]) -> bool:
    """Do something, and raise Interrupted before the instruction ``number`` of it. False if it has fewer."""
    left = [number]

    def trace(frame: types.FrameType, event: str, _arg: object) -> Any:
        if not is_stopped_in(frame):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] == -1:
                raise Interrupted
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
        if case.is_adopted:
            left = StateWriter(name, codec="raw", slots=7)
            left.publish(b"left")
            left.close(unlink=False)
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


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_writer_that_a_signal_handler_closes_in_the_middle_leaves_nothing(name: str, case: Case) -> None:
    number = 0
    while True:
        if case.is_adopted:
            left = StateWriter(name, codec="raw", slots=7)
            left.publish(b"left")
            left.close(unlink=False)
        writer = StateWriter(name, **case.options)
        if not case.is_adopted:
            writer.publish(payload_of(case, 1))
        if case.is_moved:
            with StateWriter(name, **case.options) as other:
                other.trim()
        try:
            was_closed = acted_at(number, writer.close, functools.partial(case.act, writer))
        except ShmStateError:
            was_closed = True
        in_a_thread(functools.partial(is_closed, writer))
        assert list(own_files(name)) == []
        if not was_closed:
            break
        number += STEP + 4
    assert number > 50


def is_closed(writer: StateWriter) -> bool:
    writer.close()
    return True


def acted_at(number: int, action: Callable[[], object], act: Callable[[], object]) -> bool:
    """Do something, and something else before an instruction of it."""
    left = [number]

    def trace(frame: types.FrameType, event: str, _arg: object) -> Any:
        if not is_stopped_in(frame):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] == -1:
                sys.settrace(None)
                action()
                return None
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return left[0] < 0
