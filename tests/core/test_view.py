from __future__ import annotations

import gc
import pickle
import signal
import subprocess
import sys
from typing import Any, Callable, Dict, Iterator, List

import pytest

from shmstate import (
    NotPublished,
    Overwritten,
    ReaderClosed,
    ReadTimeout,
    StateReader,
    StateWriter,
    View,
    ViewInUse,
)

SLOTS = 4


def open_both(name: str, **options: Any) -> Any:
    writer = StateWriter(name, codec="raw", slots=SLOTS, **options)
    return writer, StateReader(name)


@pytest.fixture(params=[False, True], ids=["plain", "checksum"])
def both(request: pytest.FixtureRequest, name: str) -> Any:
    writer, reader = open_both(name, checksum=request.param)
    with writer, reader:
        yield writer, reader


def publish(writer: StateWriter, times: int) -> None:
    for _ in range(times):
        writer.publish_bytes(bytes([writer.version + 1]) * 100)


def test_a_view_is_the_latest_state_and_no_copy(both: Any) -> None:
    writer, reader = both
    publish(writer, 3)

    with reader.view() as view:
        assert (view.version, bytes(view.data), view.valid) == (3, b"\3" * 100, True)
        assert view.published_ns == reader.read().published_ns
        assert 0 < view.age < 60
        assert repr(view) == f"<View of {reader.name!r} version 3>"
        view.check()


def test_a_view_cannot_be_written_to(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)

    with reader.view() as view:
        with pytest.raises(TypeError, match="read-only"):
            view.data[0] = 1


def test_a_view_lasts_until_its_slot_is_taken(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)
    valid = []

    view = reader.view()
    for _ in range(SLOTS + 1):
        valid.append(view.valid)
        publish(writer, 1)

    assert valid == [True] * SLOTS + [False]
    said = f"'{reader.name}': version 1 is gone, its slot is version 5's: the writer is at 6, and 4 slots keep 3"
    with pytest.raises(Overwritten, match=said):
        view.check()


def test_leaving_the_block_tells_that_the_bytes_were_overwritten(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)

    with pytest.raises(Overwritten, match="version 1 is gone"):
        with reader.view():
            publish(writer, SLOTS)


def test_an_error_of_torn_bytes_is_told_as_what_it_comes_from(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)
    torn = ValueError("cannot be read")

    with pytest.raises(Overwritten) as caught:
        with reader.view():
            publish(writer, SLOTS)
            raise torn

    assert caught.value.__cause__ is torn


@pytest.fixture
def handled() -> Iterator[None]:
    """A handler of SIGUSR1 that raises an ordinary exception."""

    def raise_it(_number: int, _frame: Any) -> None:
        raise TimeoutError("the handler's")

    before = signal.signal(signal.SIGUSR1, raise_it)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize("way", ["block", "apply"])
def test_an_exception_of_a_signal_handler_is_not_taken_for_one_of_torn_bytes(both: Any, way: str) -> None:
    writer, reader = both
    publish(writer, 1)

    def spoil(_data: memoryview) -> None:
        publish(writer, SLOTS)
        signal.raise_signal(signal.SIGUSR1)

    with pytest.raises(TimeoutError, match="the handler's"):
        if way == "apply":
            reader.apply(spoil)
        with reader.view() as view:
            spoil(view.data)


def test_a_call_that_runs_out_of_memory_for_torn_bytes_is_made_again(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)

    def decode(data: memoryview) -> int:
        if data[0] == 1:
            publish(writer, SLOTS)
            raise MemoryError
        return data[0]

    assert reader.apply(decode) == SLOTS + 1


@pytest.mark.parametrize("spoilt", [False, True])
def test_an_interruption_stays_one(both: Any, spoilt: bool) -> None:
    writer, reader = both
    publish(writer, 1)

    with pytest.raises(KeyboardInterrupt):
        with reader.view():
            publish(writer, SLOTS * spoilt)
            raise KeyboardInterrupt


def test_an_error_in_a_block_whose_bytes_are_whole_stays_what_it_is(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)

    with pytest.raises(ValueError, match="mine"):
        with reader.view() as view:
            held = pickle.PickleBuffer(view.data)
            raise ValueError("mine")
    held.release()


def test_a_view_of_nothing_is_not_published(both: Any) -> None:
    with pytest.raises(NotPublished):
        both[1].view()


# What refers to the bytes, and for how long.


def test_the_bytes_cannot_be_used_after_the_block(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)

    with reader.view() as view:
        pass
    view.release()

    with pytest.raises(ValueError, match="released memoryview"):
        bytes(view.data)


def test_an_array_that_outlives_the_block_is_told_and_may_then_be_dropped(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)

    with pytest.raises(ViewInUse, match="still refers to the bytes of the view of version 1, such as an array"):
        with reader.view() as view:
            array = pickle.PickleBuffer(view.data)  # holds the bytes as an array of NumPy's does

    array.release()
    view.release()


def test_a_reader_whose_view_is_in_use_does_not_close_and_works_on(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)
    view = reader.view()
    array = pickle.PickleBuffer(view.data)

    with pytest.raises(ViewInUse, match=f"'{reader.name}'.*version 1"):
        reader.close()

    assert reader.get() == b"\1" * 100
    assert view.valid
    array.release()
    reader.close()
    with pytest.raises(ReaderClosed):
        _ = view.valid


def test_closing_a_reader_releases_its_views(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)
    view = reader.view()

    reader.close()

    with pytest.raises(ValueError, match="released memoryview"):
        bytes(view.data)


def test_a_slice_that_outlives_the_block_is_told_too(both: Any) -> None:
    writer, reader = both
    writer.publish(b"0123456789")

    with pytest.raises(ViewInUse, match="such as an array or a slice"):
        with reader.view() as view:
            part = view.data[2:5]

    with pytest.raises(ViewInUse):
        reader.close()
    assert bytes(part) == b"234"
    del part
    view.release()
    reader.close()


def test_a_slice_that_only_garbage_refers_to_keeps_nothing_open(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)
    gc.disable()
    try:
        for close in (False, True):
            view = reader.view()
            garbage: List[Any] = [view.data[2:5]]
            garbage.append(garbage)
            del garbage
            (reader.close if close else view.release)()
    finally:
        gc.enable()


def test_calls_that_saw_torn_bytes_leave_no_view_behind(both: Any) -> None:
    """Without the garbage collector, which may come late."""
    writer, reader = both
    publish(writer, 1)

    def sees_torn_bytes(data: memoryview) -> int:
        if data[0] == 1:
            part = data[1:]
            publish(writer, 5)
            raise ValueError(bytes(part)[:1])
        return data[0]

    gc.collect()
    gc.disable()
    try:
        assert reader.apply(sees_torn_bytes) == 6
        assert [view for view in reader._views if not view._is_released] == []
    finally:
        gc.enable()


def test_an_array_of_numpy_that_outlives_the_block_is_told(both: Any) -> None:
    numpy = pytest.importorskip("numpy")
    writer, reader = both
    publish(writer, 1)

    with pytest.raises(ViewInUse):
        with reader.view() as view:
            array = numpy.frombuffer(view.data, "u1")

    assert array.sum() == 100
    del array
    view.release()


def test_views_that_are_dropped_are_forgotten(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)

    for _ in range(10):
        reader.view()

    assert len(reader._views) == 0


# apply().


def test_apply_gives_what_the_function_makes_of_the_latest_state(both: Any) -> None:
    writer, reader = both
    publish(writer, 2)

    assert reader.apply(sum) == 200
    assert reader.apply(bytes) == reader.read_bytes()


def test_apply_calls_again_when_the_bytes_were_overwritten_meanwhile(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)
    calls: List[int] = []

    def disturbed(data: memoryview) -> int:
        calls.append(data[0])
        if len(calls) < 3:
            publish(writer, SLOTS)
        if len(calls) == 2:
            raise ValueError("torn")
        return data[0]

    assert reader.apply(disturbed) == 9
    assert calls == [1, 5, 9]


def test_apply_ends_after_its_tries(name: str) -> None:
    with StateWriter(name, codec="raw", slots=SLOTS) as writer, StateReader(name, tries=3) as reader:
        publish(writer, 1)

        with pytest.raises(ReadTimeout, match=f"'{name}': none of 3 calls of .* was through before the writer"):
            reader.apply(lambda _: publish(writer, SLOTS))


def test_what_the_function_raises_of_a_whole_state_is_raised(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)
    calls = []

    def wrong(data: memoryview) -> None:
        calls.append(1)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        reader.apply(wrong)
    assert calls == [1]


def test_bytes_that_get_away_from_the_function_are_told(both: Any) -> None:
    writer, reader = both
    publish(writer, 1)
    got: List[pickle.PickleBuffer] = []

    with pytest.raises(ViewInUse):
        reader.apply(lambda data: got.append(pickle.PickleBuffer(data)))

    got.pop().release()


USES: Dict[str, Callable[[View], object]] = {"valid": lambda view: view.valid, "check": lambda view: view.check()}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_view_of_a_closed_reader_says_so(both: Any, use: Callable[[View], object]) -> None:
    writer, reader = both
    publish(writer, 1)
    view = reader.view()
    reader.close()

    with pytest.raises(ReaderClosed, match=reader.name):
        use(view)


# What keeps no more than the map: numpy.ndarray(buffer=...).

RAW = """
import os, sys, shmstate, numpy
name, case = sys.argv[1:]
def mapped(): return sum(line.split()[4] == inode for line in open("/proc/self/maps"))
def raw(data): return numpy.ndarray((10_000,), "u1", data)
writer = shmstate.StateWriter(name)
writer.publish_bytes(b"x" * 10_000)
reader = shmstate.StateReader(name)
inode = str(os.stat("/dev/shm/shmstate." + name).st_ino)
if case == "loan":
    with writer.loan(10_000) as data:
        array = raw(data)
        array[:] = 120
    writer.close()
elif case == "apply":
    array = reader.apply(raw)
    reader.close()
elif case == "move":
    array = raw(reader.view().data)
    writer.publish_bytes(b"y" * (100 << 20))
    assert reader.read_bytes()[:1] == b"y"
    reader.close()
elif case == "fork":
    with writer.loan(10_000) as data:
        array = raw(data)
        array[:] = 120
    pid = os.fork()
    if not pid:
        os._exit(int(array.sum() != 1_200_000))
    assert os.waitpid(pid, 0)[1] == 0
    writer.close()
else:
    view = reader.view()
    array = raw(view.data)
    if case == "release":
        view.release()
    reader.close()
    del view
assert array.sum() == 1_200_000, array
held = mapped()
part = array[5:]
del array
assert part.sum() == 120 * 9_995 and mapped() == held
del part
assert mapped() == held - 1, (mapped(), held)
writer.close()
reader.close()
if "data" in globals():
    del data
assert mapped() == 0, mapped()
if case == "exit":
    writer = shmstate.StateWriter(name)
    writer.publish_bytes(b"x" * 10_000)
    array = raw(shmstate.StateReader(name).view().data)
"""


@pytest.mark.parametrize("case", ["view", "release", "loan", "apply", "move", "fork", "exit"])
def test_the_map_stays_as_long_as_anything_refers_to_it_and_no_longer(name: str, case: str) -> None:
    pytest.importorskip("numpy")

    done = subprocess.run(
        [sys.executable, "-c", RAW, name, case], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
