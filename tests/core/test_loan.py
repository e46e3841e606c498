from __future__ import annotations

import pickle
import threading
from typing import Any, Iterator, List, Tuple

import pytest

from shmstate import (
    InvalidOption,
    OutOfSharedMemory,
    ReentrantPublish,
    StateReader,
    StateTooLarge,
    StateWriter,
    ViewInUse,
    WriterClosed,
    reclaim,
)
from shmstate.layout import INTENT


@pytest.fixture(params=[False, True], ids=["plain", "checksum"])
def both(request: pytest.FixtureRequest, name: str) -> Iterator[Tuple[StateWriter, StateReader]]:
    with StateWriter(name, codec="raw", slots=2, max_size=8192, checksum=request.param) as writer:
        with StateReader(name) as reader:
            yield writer, reader


@pytest.mark.parametrize("nbytes", [0, 1, 8192, 8193, 100_000])
def test_what_is_filled_in_is_published_on_leaving(both: Any, nbytes: int) -> None:
    writer, reader = both
    writer.publish(b"before")

    for version in (2, 3, 4):
        loan = writer.loan(nbytes)
        with loan as view:
            assert (len(view), view.readonly) == (nbytes, False)
            view[:] = bytes([version]) * nbytes
            assert reader.read()[1] == version - 1

        assert loan.version == writer.version == version
        assert reader.read()[:2] == (bytes([version]) * nbytes, version)


def test_the_bytes_are_the_segments_own(both: Any) -> None:
    writer, _ = both
    writer.publish(b"before")

    with writer.loan(3) as view:
        view[:] = b"abc"
        assert b"abc" in bytes(writer._segment.view[4096:])


def test_an_error_in_the_block_drops_the_loan(both: Any) -> None:
    writer, reader = both
    writer.publish(b"before")

    for nbytes in (10, 10_000):
        with pytest.raises(LookupError), writer.loan(nbytes) as view:
            view[:5] = b"torn."
            raise LookupError

        assert reader.read()[:2] == (b"before", 1)
        assert reader.read_bytes() == b"before"
    assert writer.publish(b"next") == 2
    assert reader.get() == b"next"


def test_a_writer_that_dies_with_a_loan_leaves_the_last_state(both: Any) -> None:
    writer, reader = both
    for _ in range(3):
        writer.publish(b"before")
    view = writer.loan(6).__enter__()
    view[:] = b"torn.."
    assert writer._segment.words[INTENT] == 4

    view.release()
    writer._segment.close()

    assert reader.read()[:2] == (b"before", 3)
    assert reclaim(writer.name) == [writer.name]


def test_an_array_that_outlives_the_block_is_told_and_nothing_is_published(both: Any) -> None:
    writer, reader = both
    writer.publish(b"before")

    with pytest.raises(ViewInUse, match=f"'{writer.name}': something still refers to the bytes of the loan"):
        with writer.loan(10) as view:
            array = pickle.PickleBuffer(view)

    assert reader.read()[:2] == (b"before", 1)
    array.release()
    assert writer.publish(b"next") == 2


def test_a_slice_or_an_array_of_numpy_that_outlives_the_block_is_told(both: Any) -> None:
    numpy = pytest.importorskip("numpy")
    writer, reader = both
    writer.publish(b"before")
    held: List[Any] = []

    for make in (lambda view: view[2:5], numpy.asarray, lambda view: numpy.frombuffer(view, "u1")[3:]):
        with pytest.raises(ViewInUse):
            with writer.loan(10) as view:
                held.append(make(view))
        assert reader.read()[:2] == (b"before", 1)
        held.clear()


def test_an_error_is_not_hidden_by_what_its_frames_hold(both: Any) -> None:
    writer, reader = both
    writer.publish(b"before")

    with pytest.raises(LookupError):
        with writer.loan(10) as view:
            array = pickle.PickleBuffer(view)
            raise LookupError

    array.release()
    assert reader.version == 1


def test_nothing_else_is_published_while_a_loan_is_out(both: Any) -> None:
    writer, reader = both
    writer.publish(b"before")
    published = threading.Event()

    def publish() -> None:
        writer.publish(b"by another thread")
        published.set()

    thread = threading.Thread(target=publish)
    with writer.loan(4) as view:
        for use in (lambda: writer.publish(b"x"), lambda: writer.loan(1).__enter__(), writer.trim):
            with pytest.raises(ReentrantPublish, match=f"'{writer.name}'.*inside the loan's block"):
                use()
        thread.start()
        assert not published.wait(0.02)
        view[:] = b"loan"
    thread.join(30)

    assert reader.read()[:2] == (b"by another thread", 3)
    assert reader.read_version(2).value == b"loan"


@pytest.mark.parametrize("nbytes", [-1, 1.5, True, "1", None])
def test_what_is_no_number_of_bytes_is_refused(both: Any, nbytes: Any) -> None:
    with pytest.raises(InvalidOption, match="give their number"):
        both[0].loan(nbytes)


def test_a_loan_serves_once(both: Any) -> None:
    writer, _ = both
    loan = writer.loan(1)
    with loan:
        pass

    with pytest.raises(InvalidOption, match="serves once"):
        with loan:
            pass
    assert writer.version == 1


def test_a_loan_that_cannot_be_given_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OutOfSharedMemory("no")

    with StateWriter(name, codec="raw", max_size=4096, grow=False) as writer, StateReader(name) as reader:
        writer.publish(b"before")
        with pytest.raises(StateTooLarge):
            writer.loan(4097).__enter__()
        with monkeypatch.context() as patched:
            patched.setattr(writer._title, "commit", refuse)
            with pytest.raises(OutOfSharedMemory):
                with writer.loan(1):
                    pass
        assert reader.read()[:2] == (b"before", 1)
        assert writer.publish(b"next") == 2


def test_a_closed_writer_lends_nothing(name: str) -> None:
    writer = StateWriter(name)
    writer.close()

    with pytest.raises(WriterClosed, match=name):
        with writer.loan(1):
            pass


def test_a_loan_for_which_there_is_no_memory_is_a_typed_error(name: str) -> None:
    with StateWriter(name, max_size=4096) as writer, pytest.raises(OutOfSharedMemory, match=f"'{name}'"):
        with writer.loan(1 << 40):
            pass
