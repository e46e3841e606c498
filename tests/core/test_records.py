from __future__ import annotations

import ctypes
import dataclasses
import threading
from typing import Any, Callable, Dict, List

import pytest

from shmstate import CodecMismatch, DecodeError, EncodeError, InvalidOption, StateReader, StateWriter, reclaim, record
from tests.core import children
from tests.core.children import Child

Start = Callable[..., Child]


@dataclasses.dataclass
class Stats:
    jobs: int
    load: float
    is_idle: bool
    host: str = dataclasses.field(default="", metadata={"size": 8})
    token: bytes = dataclasses.field(default=b"", metadata={"size": 4})


class Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int16), ("y", ctypes.c_int16))


class Pose(ctypes.Structure):
    _fields_ = (("at", ctypes.c_double), ("point", Point), ("row", ctypes.c_uint8 * 3), ("name", ctypes.c_char * 5))


FORMATS = {"jobs": "I", "load": "d", "tag": "4s", "flag": "?", "letter": "c"}


def test_a_dataclass_comes_back_as_it_was(name: str) -> None:
    codec = record(Stats)
    stats = Stats(-3, 0.5, True, "höst", b"\1\2")
    with StateWriter(name, codec=codec) as writer, StateReader(name, codec=codec) as reader:
        writer.publish(stats)

        assert reader.get() == stats
        assert reader.nbytes == 8 + 8 + 1 + 8 + 4
        fields = {field: reader.field(field) for field in vars(stats)}
        assert fields == vars(stats)
        assert codec.name.startswith("Stats-")


def test_a_structure_comes_back_as_it_was(name: str) -> None:
    codec = record(Pose)
    with StateWriter(name, codec=codec) as writer, StateReader(name, codec=codec) as reader:
        writer.publish(Pose(1.5, Point(-1, 2), (ctypes.c_uint8 * 3)(1, 2, 3), b"abc"))

        pose = reader.get()
        assert (pose.at, pose.point.x, pose.point.y, list(pose.row), pose.name) == (1.5, -1, 2, [1, 2, 3], b"abc")
        assert (reader.field("at"), reader.field("name"), list(reader.field("row"))) == (1.5, b"abc", [1, 2, 3])
        assert reader.field("point").y == 2


def test_a_mapping_of_formats_makes_dicts(name: str) -> None:
    codec = record(FORMATS, "fleet.stats")
    values = {"jobs": 7, "load": -1.0, "tag": b"ab", "flag": False, "letter": b"\0"}
    with StateWriter(name, codec=codec) as writer, StateReader(name, codec=codec) as reader:
        writer.publish(values)

        assert reader.get() == values
        assert {field: reader.field(field) for field in values} == values
        assert codec.name.startswith("fleetstats-")


@pytest.mark.parametrize("checksum", [False, True])
def test_a_field_is_read_of_the_latest_state_wherever_that_is(name: str, checksum: bool) -> None:
    codec = record(Stats)
    with StateWriter(name, codec=codec, checksum=checksum) as writer, StateReader(name, codec=codec) as reader:
        for jobs in range(20):
            writer.publish(Stats(jobs, 0.0, False))
            if jobs % 7 == 0:
                writer.trim()
            assert reader.field("jobs") == jobs


def test_fields_are_never_torn(name: str) -> None:
    codec = record({"twice": "256s"})
    ended = threading.Event()

    with StateWriter(name, codec=codec, slots=2) as writer, StateReader(name, codec=codec) as reader:
        writer.publish({"twice": b"a" * 256})

        def publish() -> None:
            number = 0
            while not ended.is_set():
                number += 1
                writer.publish({"twice": bytes([97 + number % 26]) * 256})

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            for _ in range(3000):
                assert len(set(reader.field("twice"))) == 1
        finally:
            ended.set()
            thread.join()


def test_records_and_fields_of_a_process_that_never_rests_are_whole(start: Start, name: str) -> None:
    child = start(children.publish_records_without_rest, name)
    codec = record(children.RECORD)
    with StateReader(name, codec=codec, timeout=30) as reader:
        last = reader.wait(after=0).version
        for _ in range(600):
            values, version, _ = reader.read()
            assert values["before"] == values["after"] == version
            assert set(values["filling"]) == {1 + version % 251}
            before, after = reader.field("before"), reader.field("after")
            assert last <= version <= before <= after
            assert len(set(reader.field("filling"))) == 1
            last = after
    child.kill()
    reclaim(name)


def test_another_layout_under_the_same_name_is_told_at_attach(name: str) -> None:
    shapes: List[Dict[str, str]] = [
        {"jobs": "I", "load": "d"},
        {"load": "d", "jobs": "I"},
        {"jobs": "i", "load": "d"},
        {"jobs": "I", "load": "d", "more": "d"},
        {"job": "I", "load": "d"},
    ]
    codecs = [record(shape, "same") for shape in shapes]
    assert len({codec.name for codec in codecs}) == len(shapes)
    assert record(dict(shapes[0]), "same").name == codecs[0].name
    with StateWriter(name, codec=codecs[0]) as writer:
        writer.publish({"jobs": 1, "load": 2.0})
        for codec in codecs[1:]:
            with pytest.raises(CodecMismatch, match=f"'{name}' is written with codec 'same-"):
                StateReader(name, codec=codec)


def test_a_structure_within_another_counts_too() -> None:
    class Inner(ctypes.Structure):
        _fields_ = (("x", ctypes.c_int16), ("z", ctypes.c_int16))

    class Other(ctypes.Structure):
        _fields_ = (("at", ctypes.c_double), ("point", Inner))

    class First(ctypes.Structure):
        _fields_ = (("at", ctypes.c_double), ("point", Point))

    assert record(Other, "same").name != record(First, "same").name


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        (Stats, Stats(1, 2.0, True, "too long a name")),
        (Stats, Stats(2**63, 2.0, True)),
        (Stats, Stats("one", 2.0, True)),  # type: ignore[arg-type]
        (Stats, {"jobs": 1}),
        (Stats, Stats(1, 2.0, True, "name\0")),
        (Stats, Stats(1, 2.0, True, b"name")),  # type: ignore[arg-type]
        (Stats, Stats(1, 2.0, True, "", "tok")),  # type: ignore[arg-type]
        (Stats, Stats(1, 2.0, True, "", b"tok\0")),
        (FORMATS, {"jobs": 1}),
        (FORMATS, {"jobs": 1, "load": 0.0, "tag": b"", "flag": True, "letter": b"a", "more": 1}),
        (FORMATS, {"jobs": 1, "load": 0.0, "tag": b"12345", "flag": True, "letter": b"a"}),
        (Pose, Point(1, 2)),
        (Pose, b"bytes"),
    ],
)
def test_what_does_not_fit_publishes_nothing(name: str, shape: Any, value: Any) -> None:
    with StateWriter(name, codec=record(shape)) as writer:
        with pytest.raises(EncodeError, match=f"'{name}'"):
            writer.publish(value)
        assert writer.version == 0


@pytest.mark.parametrize("shape", [Stats, Pose, FORMATS], ids=str)
def test_bytes_of_another_length_are_an_error_of_decoding(name: str, shape: Any) -> None:
    codec = record(shape)
    field = list(codec.fields)[-1]
    with StateWriter(name, codec=codec) as writer, StateReader(name, codec=codec) as reader:
        writer.publish_bytes(b"short")
        for read in (reader.get, lambda: reader.field(field)):
            with pytest.raises(DecodeError, match=f"'{name}'"):
                read()


def test_a_field_that_is_not_there_is_told_with_those_that_are(name: str) -> None:
    codec = record({"jobs": "I"})
    with StateWriter(name, codec=codec) as writer, StateReader(name, codec=codec) as reader:
        writer.publish({"jobs": 1})
        with pytest.raises(InvalidOption, match=f"'{name}': codec 'record-.*' has no field 'load'; it has 'jobs'"):
            reader.field("load")
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish({"jobs": 1})
        with pytest.raises(InvalidOption, match="codec 'msgpack' has no field 'jobs'; it has none"):
            reader.field("jobs")


class Bits(ctypes.Structure):
    _fields_ = (("some", ctypes.c_int, 3),)


class Pointing(ctypes.Structure):
    _fields_ = (("to", ctypes.POINTER(ctypes.c_int)),)


class Named(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p),)


class Nested(ctypes.Structure):
    _fields_ = (("all", Named * 2),)


@dataclasses.dataclass
class Unsized:
    text: str


@dataclasses.dataclass
class Listing:
    jobs: List[int]


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (Bits, "Bits.some: fields of some bits"),
        (Pointing, "Pointing.to: a pointer means nothing"),
        (Named, "Named.name: a pointer"),
        (Nested, "Nested.all: a pointer"),
        (Unsized, "Unsized.text: str has no fixed size"),
        (Listing, r"Listing.jobs: List\[int\] has no fixed size"),
        ({"jobs": "2I"}, "'jobs': format '2I' holds 2 values"),
        ({"jobs": "nonsense"}, "'jobs': format 'nonsense'"),
        ({"jobs": 3}, "'jobs': format 3"),
        ({"jobs": "9p"}, "'jobs': format '9p' cuts off"),
        ({"jobs": ""}, "'jobs': format '' holds 0 values"),
        ("jobs", "a record's shape is"),
        (int, "a record's shape is"),
    ],
    ids=str,
)
def test_what_is_no_shape_of_a_record_is_refused(shape: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        record(shape)
