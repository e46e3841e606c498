"""What a state means does not depend on what is installed: all values, both writers, both readers."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import uuid
from typing import Any, Dict, List

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmstate import Codec, EncodeError, StateReader, StateWriter, codecs

try:
    import msgspec
except ImportError:
    msgspec = None  # type: ignore[assignment]

needs_msgspec = pytest.mark.skipif(msgspec is None, reason="msgspec is not installed")
PLAIN = codecs.plain_msgpack()
WRITERS = [PLAIN, *([] if msgspec is None else [codecs.codec_named("msgpack"), codecs.codec_named("msgspec")])]
READERS = WRITERS
REFUSALS = (TypeError, ValueError, OverflowError)
UTC = dt.timezone.utc


class Text(str):
    __slots__ = ()


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(str, enum.Enum):
    LOW = "low"


class Shade(enum.Enum):
    DARK = 1


class Apart(str):
    """A text that differs from the plain one."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is Apart and str(self) == str(other)

    __hash__ = str.__hash__


class Hashable(dict):  # type: ignore[type-arg]
    def __hash__(self) -> int:  # type: ignore[override]
        return 1


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024


def pair(two: Any) -> Pair:
    return Pair(*two)


@dataclasses.dataclass(frozen=True)
class Record:
    a: int = 1


def read_back(value: Any, as_key: bool = False) -> Any:
    """``value`` as it is to be read, in basic types alone."""
    if isinstance(value, msgpack.ExtType):
        return value
    if isinstance(value, tuple) and as_key:
        return tuple(read_back(item, True) for item in value)
    if isinstance(value, (list, tuple)):
        return [read_back(item) for item in value]
    if isinstance(value, dict):
        return {read_back(key, True): read_back(item) for key, item in value.items()}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__int__(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return value


def shown(value: Any) -> Any:
    """What two values have in common if they are equal and of equal types, nan too."""
    if type(value) in (list, tuple):
        return type(value), [shown(item) for item in value]
    if type(value) is dict:
        return dict, [(shown(key), shown(item)) for key, item in value.items()]
    if type(value) is dt.datetime:
        return dt.datetime, value.astimezone(UTC).isoformat()
    return type(value), repr(value)


def assert_one_meaning(value: Any) -> bool:
    """Whether the writers take it, as one; then all readers read it as it is."""
    payloads: List[bytes] = []
    for writer in WRITERS:
        try:
            payloads.append(bytes(writer.encode(value)))
        except REFUSALS:
            continue
    assert len(payloads) in (0, len(WRITERS)), "one writer takes what another refuses"
    if isinstance(value, dict) and payloads:
        assert len(read_back(value)) == len(value), "a key was lost"
    for payload in payloads:
        for reader in READERS:
            assert shown(reader.decode(payload)) == shown(read_back(value))
    return bool(payloads)


NAIVE = dt.datetime.now(UTC).replace(tzinfo=None)
moments = st.datetimes(
    NAIVE.replace(year=2),
    NAIVE.replace(year=9998),
    timezones=st.sampled_from([UTC, dt.timezone(dt.timedelta(hours=-7))]),
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.text(st.characters(whitelist_categories=("Cs", "Ll")), max_size=3)
    | st.binary(max_size=20)
    | moments
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.complex_numbers()
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
    | st.sampled_from([Level.LOW, Word.LOW, Shade.DARK, Record(), Text("low"), ..., int])
)
keys = st.recursive(
    scalars,
    lambda inner: st.tuples(inner, inner) | st.tuples(inner, inner).map(pair) | st.frozensets(inner, max_size=2),
)
mutable: st.SearchStrategy[Any] = (
    st.binary(max_size=9).map(bytearray)
    | st.binary(max_size=9).map(lambda data: memoryview(data)[:])
    | st.sets(st.integers(), max_size=2)
)
values = st.recursive(
    scalars | mutable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.tuples(inner, inner).map(pair)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4).map(collections.OrderedDict)
    ),
    max_leaves=8,
)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(max_examples=300, deadline=None)
@given(values)
def test_a_value_reads_back_equal_with_both_readers_or_is_refused_by_both_writers(value: Any) -> None:
    assert_one_meaning(value)


def nested(depth: int, wrap: Any) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


TAKEN: Dict[str, Any] = {
    "tuples as keys": {(1, 2): 3, (): 4, ((1,), ("a", b"b")): (5,)},
    "a named tuple as key": {Pair(1, 2): Pair(3, 4)},
    "a tuple with an extension as key": {(msgpack.ExtType(1, b"x"), 1): 1},
    "keys of many types": {None: 1, True: 2, 2: 3, 2.5: 4, "a": 5, b"a": 6, float("nan"): 7, float("inf"): 8},
    "members as keys": {Level.LOW: 1, Level.HIGH: 2, Word.LOW: 3},
    "a moment as key": {dt.datetime(2024, 1, 1, tzinfo=UTC): 1},
    "the first and the last moment": [dt.datetime.min.replace(tzinfo=UTC), dt.datetime.max.replace(tzinfo=UTC)],
    "100 tuples deep as key": {nested(100, lambda inner: (inner,)): 1},
    "100,000 numbers": list(range(100_000)),
    "100,000 keys": {str(number): number for number in range(100_000)},
    "1 MB": [b"x" * (1 << 20), "y" * (1 << 20)],
}


@pytest.mark.parametrize("value", TAKEN.values(), ids=TAKEN)
def test_what_has_a_form_in_msgpack_is_taken(value: Any) -> None:
    assert assert_one_meaning(value)


REFUSED: Dict[str, Any] = {
    "two texts that become one": {Apart("a"): 1, "a": 2},
    "two texts that become one, deep inside": [{"a": [{(1, Apart("a")): 1, (1, "a"): 2}]}],
    "a dict as key": {Hashable(): 1},
    "a frozen set as key": {frozenset([1]): 1},
    "a record as key": {Record(): 1},
    "a record": Record(),
    "a set": {1, 2},
    "a member of no basic type": Shade.DARK,
    "a moment without a time zone": NAIVE,
    "a date": dt.date(2024, 1, 1),
    "a UUID": uuid.uuid4(),
    "a decimal": decimal.Decimal("1.5"),
    "a fraction": fractions.Fraction(1, 2),
    "an array": array.array("d", [1.0]),
    "a deque": collections.deque([1]),
    "a generator": (number for number in [1]),
    "a large integer": [2**64],
    "a surrogate as key": {"\udc80": 1},
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_would_not_read_back_equal_is_refused(value: Any) -> None:
    assert not assert_one_meaning(value)


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: (inner,), lambda inner: {"a": inner}])
@pytest.mark.parametrize("depth", [500, 512, 1000, 1024, 1100])
def test_what_is_written_is_read_however_deep_it_is(depth: int, wrap: Any) -> None:
    value = nested(depth, wrap)
    for writer in WRITERS:
        try:
            payload = bytes(writer.encode(value))
        except ValueError:
            assert depth > 511
            continue
        assert depth <= 1024
        for reader in READERS:
            assert bytes(writer.encode(reader.decode(payload))) == payload


@needs_msgspec
@pytest.mark.parametrize(
    "value",
    [
        lambda: msgspec.Raw(b"\x01"),
        lambda: msgspec.msgpack.Ext(1, b"x"),
        lambda: msgspec.defstruct("S", [("a", int)])(1),
    ],
    ids=["raw", "ext", "struct"],
)
def test_what_is_msgspecs_own_is_refused(value: Any) -> None:
    assert not assert_one_meaning(value())


def test_numpys_scalars_are_taken_if_they_are_pythons_too() -> None:
    numpy = pytest.importorskip("numpy")

    assert assert_one_meaning({"a": [numpy.float64(1.5), numpy.float64("nan"), numpy.str_("a")], numpy.str_("b"): 1})
    for value in (numpy.int64(1), numpy.float32(1), numpy.bool_(True), numpy.arange(3), numpy.datetime64("2024")):
        assert not assert_one_meaning([value])


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ({1, 2}, r"sorted\(...\), or use codec='pickle'"),
        (NAIVE, "give it a time zone"),
        (Record(), "has no Record; publish what it consists of"),
        (2**70, r"71 bits; 64 fit: publish str\(number\)"),
        ({Apart("a"): 1, "a": 2}, "two keys of one dict have the same form in msgpack, so one would be lost"),
    ],
)
def test_an_encode_error_says_what_to_do(name: str, value: Any, advice: str) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish({(1, 2): 3})
        with pytest.raises(EncodeError, match=advice):
            writer.publish(value)

        assert reader.get() == {(1, 2): 3}


@pytest.mark.parametrize("codec", WRITERS, ids=lambda codec: codec.name)
def test_a_state_is_taken_after_one_that_was_refused(codec: Codec) -> None:
    for value in ({Apart("a"): 1, "a": 2}, [Shade.DARK], [Level.LOW]):
        try:
            codec.encode(value)
        except REFUSALS:
            pass
        assert codec.decode(bytes(codec.encode({1: [Level.LOW]}))) == {1: [1]}
