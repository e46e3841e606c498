from __future__ import annotations

import struct
import sys
from typing import Any, Callable, List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmstate import DecodeError, EncodeError, InvalidOption, StateReader, StateWriter, ViewInUse, reclaim
from tests.core import children
from tests.core.children import Child

np = pytest.importorskip("numpy")
from shmstate import arrays  # noqa: E402  (needs NumPy)

Start = Callable[..., Child]
STRUCTURED = [("id", "<u4"), ("at", "<f8", (2, 3)), ("of", [("x", "|u1"), ("y", ">i2")])]
ARRAYS: List[Any] = [
    np.arange(12, dtype="<f4").reshape(3, 4),
    np.arange(12, dtype=">i8").reshape(3, 2, 2).T,
    np.zeros((0, 5)),
    np.zeros((3, 0, 2), dtype="?"),
    np.array(7.5),
    np.float32(2.5),
    np.array(["a", "bcd"]),
    np.array([b"a", b"bcd"]),
    np.array(["2026-01-01", "NaT"], dtype="M8[s]"),
    np.arange(10)[::-2],
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.zeros(3, dtype=STRUCTURED),
    np.zeros(2, dtype={"names": ["a", "b"], "formats": ["u1", "f8"], "offsets": [0, 8], "itemsize": 24}),
    np.arange(4, dtype="c16"),
    np.full((2, 2), np.nan, dtype="f2"),
]


def same(left: Any, right: Any) -> bool:
    return bool(left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes())


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_an_array_is_read_as_it_was_published(name: str, array: Any) -> None:
    with StateWriter(name, codec="array") as writer, StateReader(name) as reader:
        for version in (1, 2, 3):
            assert writer.publish(array) == version
            assert same(reader.get(), np.asarray(array))
        assert same(arrays.decode(arrays.encode(array)), np.asarray(array))


def test_what_is_read_is_no_second_copy_and_cannot_be_changed_by_mistake(name: str) -> None:
    with StateWriter(name, codec="array") as writer, StateReader(name) as reader:
        writer.publish(np.arange(1000))
        array = reader.get()
        assert not array.flags.owndata
        assert array.ctypes.data % 16 == 0 or sys.version_info < (3, 9)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        writer.publish(np.zeros(1000))
        assert array[999] == 999


def test_a_view_is_an_array_without_a_copy(name: str) -> None:
    with StateWriter(name, codec="array") as writer, StateReader(name) as reader:
        writer.publish(np.arange(1000.0))
        with reader.view() as view:
            array = arrays.decode(view.data)
            assert array.ctypes.data % 64 == 0
            assert array.sum() == 499_500
            del array
        with pytest.raises(ViewInUse, match="such as an array"), reader.view() as view:
            array = arrays.decode(view.data)
        assert reader.apply(lambda data: float(arrays.decode(data).max())) == 999
        del array


def test_an_array_that_is_larger_than_the_segment_moves_it(name: str) -> None:
    with StateWriter(name, codec="array", max_size=4096) as writer, StateReader(name) as reader:
        for size in (10, 10_000, 100):
            writer.publish(np.arange(size))
            assert same(reader.get(), np.arange(size))


def test_arrays_of_a_process_that_never_rests_are_whole(start: Start, name: str) -> None:
    child = start(children.publish_arrays_without_rest, name)
    with StateReader(name, timeout=30) as reader:
        first = reader.wait(after=0).version
        seen = first
        while seen < first + 2000:
            array, version, _ = reader.read()
            assert (array == version).all()
            assert version >= seen
            seen = version
            assert len(set(reader.apply(lambda data: arrays.decode(data).tolist()))) == 1
            assert (reader.get() >= seen).all()
        assert reader.max_size > 4096
    child.kill()
    reclaim(name)


@pytest.mark.parametrize(
    "value", [np.array([object()]), [1, 2], b"bytes", None, np.array([{"a": 1}]), np.ma.array([1, 2], mask=[0, 1])]
)
def test_what_is_no_array_of_plain_values_publishes_nothing(name: str, value: Any) -> None:
    with StateWriter(name, codec="array") as writer, StateReader(name) as reader:
        writer.publish(np.arange(3))
        with pytest.raises(EncodeError, match=f"'{name}': a .* did not encode .*the last state stands"):
            writer.publish(value)
        assert (reader.version, list(reader.get())) == (1, [0, 1, 2])


def test_without_numpy_the_codec_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "shmstate.arrays")
    monkeypatch.setitem(sys.modules, "numpy", None)
    import shmstate

    monkeypatch.delattr(shmstate, "arrays")

    with pytest.raises(InvalidOption, match=r"pip install 'shmstate\[array\]'"):
        StateWriter(name, codec="array")


def header(described: bytes, *shape: int) -> bytes:
    head = struct.pack(f"=II{len(shape)}Q", len(described), len(shape), *shape) + described
    return head + bytes(-len(head) % 64)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0" * 7,
        b"\xff" * 100,
        header(b'"<f8"', 3) + bytes(16),
        header(b'"<f8"', 3) + bytes(32),
        header(b'"<f8"', 2**63, 2) + bytes(16),
        header(b'"<f8"', 2**64 - 1) + bytes(16),
        header(b'"|O"', 2) + bytes(16),
        header(b'[["a","|O"]]', 2) + bytes(16),
        header(b'[["a","<f8"],"b"]', 1) + bytes(16),
        header(b"{}", 1) + bytes(8),
        header(b"null", 1) + bytes(8),
        header(b"not json", 1) + bytes(8),
        header(b'"nonsense"', 1) + bytes(8),
        header(b"[[]]", 1) + bytes(8),
        header(b"[" * 5000, 1) + bytes(8),
    ],
)
def test_bytes_that_are_no_array_are_an_error_of_decoding(name: str, payload: bytes) -> None:
    with StateWriter(name, codec="array") as writer, StateReader(name) as reader:
        writer.publish_bytes(payload)
        with pytest.raises(DecodeError, match=f"'{name}'.*did not decode"):
            reader.get()


@pytest.mark.parametrize(
    "payload",
    [
        header(b'"|S0"', 2**63) + b"",
        header(b'"|S0"', 2**62, 2**62) + b"",
        header(b'"<f8"', 2**62, 2**62, 0) + b"",
        header(b'"<f8"', 2**64 - 1, 0) + b"",
        header(b'"f8"', 2) + bytes(16),
        header(b'"float64"', 2) + bytes(16),
        header(b'"=f8"', 2) + bytes(16),
        header(b'"S4"', 4) + bytes(16),
        header(b'"S"', 16) + bytes(16),
        header(b'"<f8,<f8"', 1) + bytes(16),
        header(b'"(2,)<f8"', 1) + bytes(16),
        header(b'"<M8[1000ns]"', 2) + bytes(15),
        header(b'"|S-4"', 4) + bytes(16),
        header(b'"|S99999999999999999999"', 0) + b"",
        header(b'[["a", "|S0"], ["b", "O"]]', 1) + bytes(8),
        header(b'[["a", "<f8", [-1]]]', 1) + bytes(8),
        header(b'[["a", "<f8", [4611686018427387904, 4]]]', 1) + bytes(8),
    ],
)
def test_no_array_is_made_of_a_dtype_or_shape_that_is_not_written_so(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"dtype|does not fill"):
        arrays.decode(payload)


def without_bytes(described: Any, *shape: int) -> Any:
    return np.ndarray(shape, described, b"", strides=(0,) * len(shape))  # np.zeros would make "S1" of "S0"


NO_BYTES = [without_bytes("S0", 3), without_bytes("U0", 2, 3), without_bytes("V0", 4), without_bytes("S0")]
NO_BYTES += [without_bytes([("a", "S0"), ("b", "<f8", (0,))], 5), np.zeros((2, 0, 3), ">i4"), np.zeros((0, 1 << 40))]


@pytest.mark.parametrize("array", NO_BYTES, ids=lambda array: f"{array.dtype} {array.shape}")
def test_an_array_without_bytes_keeps_its_dtype_and_makes_no_memory(array: Any) -> None:
    decoded = arrays.decode(bytes(arrays.encode(array)))

    assert (decoded.dtype, decoded.shape, decoded.nbytes) == (array.dtype, array.shape, 0)
    assert repr(decoded) == repr(array)


def test_a_few_bytes_do_not_become_many() -> None:
    decoded = arrays.decode(header(b'"|S0"', 1 << 30))

    assert (decoded.dtype.str, decoded.nbytes, decoded.shape) == ("|S0", 0, (1 << 30,))


KINDS = "?bhilqBHILQefdgFDG"
dtypes: st.SearchStrategy[Any] = st.deferred(
    lambda: (
        st.sampled_from(KINDS).flatmap(lambda kind: st.sampled_from([f"<{kind}", f">{kind}"]))
        | st.tuples(st.sampled_from("SUV"), st.integers(0, 5)).map(lambda two: f"{two[0]}{two[1]}")
        | st.tuples(st.sampled_from("Mm"), st.sampled_from(["", "[ns]", "[25s]", "[D]"])).map("8".join)
        | st.lists(st.tuples(dtypes, st.sampled_from([(), (2,), (0,), (1, 3)])), min_size=1, max_size=3).map(
            lambda fields: [(f"f{place}", *field) for place, field in enumerate(fields)]
        )
    )
)


@settings(max_examples=200, deadline=None)
@given(dtypes, st.lists(st.integers(0, 3), max_size=3))
def test_any_dtype_and_shape_comes_back_or_is_refused(described: Any, shape: Any) -> None:
    try:
        array = np.zeros(shape, described)
        payload = bytes(arrays.encode(array))
    except (TypeError, ValueError):
        return
    decoded = arrays.decode(payload)

    assert (decoded.dtype, decoded.shape, decoded.tobytes()) == (array.dtype, array.shape, array.tobytes())


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_changed_bytes_are_another_array_or_an_error(data: st.DataObject) -> None:
    array = data.draw(st.sampled_from(ARRAYS))
    payload = arrays.encode(array)
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = arrays.decode(bytes(payload[: data.draw(st.integers(0, len(payload)))]))
    except ValueError:
        return
    assert decoded.nbytes <= len(payload)
    assert not decoded.dtype.hasobject
