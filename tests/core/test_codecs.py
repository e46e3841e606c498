from __future__ import annotations

import datetime as dt
import enum
import functools
import math
import os
import pickle
import random
import signal
from collections import Counter, OrderedDict, defaultdict, namedtuple
from typing import Any, List

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmstate import Codec, CodecMismatch, DecodeError, EncodeError, InvalidOption, StateReader, StateWriter, codecs

try:
    import msgspec
except ImportError:
    msgspec = None  # type: ignore[assignment]

needs_msgspec = pytest.mark.skipif(msgspec is None, reason="msgspec is not installed")

PLAIN = codecs.plain_msgpack()
#: What is installed decides what this is.
DEFAULT = codecs.codec_named("msgpack")
BOTH = [PLAIN, DEFAULT]

INTEGERS = st.integers(-(2**63), 2**64 - 1)
LEAVES = st.none() | st.booleans() | INTEGERS | st.floats() | st.text(max_size=40) | st.binary(max_size=40)
KEYS = st.text(max_size=40) | INTEGERS
UTC = dt.timezone.utc


def nested(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(keys, inner, max_size=6), max_leaves=12
    )


plain_values = nested(LEAVES, KEYS)
CENTURY = dt.timedelta(days=36524)
moments = st.timedeltas(-CENTURY, CENTURY).map(lambda since: dt.datetime(2020, 1, 1, tzinfo=UTC) + since)
json_values = nested(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=40),
    st.text(max_size=40),
)
python_values = nested(st.frozensets(st.integers()) | st.complex_numbers(allow_nan=False) | moments, KEYS)


def same(one: Any, other: Any) -> bool:
    """Equal, of one type, nan equal to nan, and 0.0 not to -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one), list(other)) and same(list(one.values()), list(other.values()))
    return bool(one == other)


def test_values_that_differ_are_told_apart() -> None:
    assert same([1, {"a": math.nan}], [1, {"a": math.nan}])
    for one, other in [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ([1], (1,)),
        ({"a": 1}, {"a": 2}),
        ({1: 1}, {2: 1}),
        (b"", ""),
    ]:
        assert not same(one, other)


# Round trips.


@pytest.mark.parametrize(
    "codec", [*BOTH, pytest.param("msgspec", marks=needs_msgspec)], ids=["plain", "default", "msgspec"]
)
@given(value=plain_values)
def test_msgpack_gives_back_what_it_was_given(codec: Any, value: Any) -> None:
    codec = codecs.codec_named(codec) if isinstance(codec, str) else codec

    assert same(codec.decode(bytes(codec.encode(value))), value)


@given(json_values)
def test_json_gives_back_what_it_was_given(value: Any) -> None:
    codec = codecs.codec_named("json")

    assert codec.decode(codec.encode(value)) == value


@given(python_values)
def test_pickle_gives_back_what_it_was_given(value: Any) -> None:
    codec = codecs.codec_named("pickle")

    assert codec.decode(codec.encode(value)) == value


@given(st.binary())
def test_raw_gives_back_the_bytes(payload: bytes) -> None:
    codec = codecs.codec_named("raw")

    assert codec.decode(codec.encode(payload)) == payload


# msgspec in place of msgpack.


@needs_msgspec
@given(plain_values)
def test_msgspec_writes_the_bytes_that_msgpack_writes(value: Any) -> None:
    assert bytes(DEFAULT.encode(value)) == bytes(PLAIN.encode(value))


@needs_msgspec
@given(st.one_of(plain_values, nested(LEAVES | moments, KEYS)))
def test_msgspec_and_msgpack_read_the_same_from_each_others_bytes(value: Any) -> None:
    ours, theirs = bytes(DEFAULT.encode(value)), bytes(PLAIN.encode(value))

    read = [codec.decode(payload) for codec in BOTH for payload in (ours, theirs)]

    assert [one for one in read if not same(one, value)] == []


class Text(str):
    __slots__ = ()


class Colour(enum.IntEnum):
    RED = 1


class Row(dict):  # type: ignore[type-arg]
    pass


class Numbers(list):  # type: ignore[type-arg]
    pass


class Fraction(float):
    pass


class Payload(bytes):
    pass


Point = namedtuple("Point", "x y")  # noqa: PYI024

ACCEPTED = {
    "int keys": {1: "a", -5: "b", 2**63: "c"},
    "bytes keys": {b"a": 1},
    "float and bool keys": {1.5: 1, True: 2},
    "None as key": {None: 1},
    "mixed keys": {"a": 1, 2: [3], b"c": None},
    "tuple": (1, (2, 3), [4]),
    "bytes": b"\0\xff",
    "bytearray": bytearray(b"abc"),
    "memoryview": memoryview(b"abc"),
    "memoryview of a part": memoryview(bytearray(b"abcdef"))[1:3],
    "extension type": msgpack.ExtType(5, b"data"),
    "extension types": [msgpack.ExtType(0, b""), {"x": msgpack.ExtType(127, b"x" * 300)}],
    "timestamp": msgpack.Timestamp(1_700_000_000, 5_000),
    "datetime in UTC": dt.datetime(2024, 2, 29, 12, 30, 15, 123456, UTC),
    "datetime elsewhere": dt.datetime(2024, 2, 29, tzinfo=dt.timezone(dt.timedelta(hours=5.5))),
    "datetime long ago": dt.datetime(1901, 1, 1, 0, 0, 0, 1, UTC),
    "subclass of str": [Text("abc"), {"key": Text("x")}],
    "subclass of str as key": {Text("abc"): 1},
    "subclass of int": [Colour.RED, {"key": Colour.RED}],
    "subclass of int as key": {Colour.RED: 1},
    "subclass of dict": Row(a=Row(b=1)),
    "subclass of list": Numbers([1, Numbers([2])]),
    "subclass of float": Fraction(1.5),
    "subclass of bytes": Payload(b"abc"),
    "named tuple": Point(1, [2]),
    "counter": Counter("hello"),
    "default dict": defaultdict(list, {"a": [1]}),
    "ordered dict": OrderedDict([("b", 1), ("a", 2)]),
    "not a number": [math.nan, math.inf, -math.inf, -0.0],
    "64-bit integers": [2**64 - 1, -(2**63), 2**32, -(2**31) - 1],
    "nested 200 deep": [[]],
    "empty": [{}, [], "", b"", ()],
    "long text": "ü" * 70000,
}
for _ in range(200):
    ACCEPTED["nested 200 deep"] = [ACCEPTED["nested 200 deep"]]


@pytest.mark.parametrize("value", ACCEPTED.values(), ids=ACCEPTED)
def test_what_msgpack_accepts_the_default_accepts_and_reads_as_the_same(value: Any) -> None:
    ours, theirs = bytes(DEFAULT.encode(value)), bytes(PLAIN.encode(value))

    expected = PLAIN.decode(theirs)

    assert [codec for codec in BOTH for payload in (ours, theirs) if not same(codec.decode(payload), expected)] == []


def recursive() -> List[Any]:
    loop: List[Any] = []
    loop.append(loop)
    return loop


REFUSED = {
    "too large": 2**64,
    "too small": -(2**63) - 1,
    "huge": 10**400,
    "an object": object(),
    "a class": int,
    "a function": len,
    "a complex number": 1j,
    "deep inside": {"a": [1, {"b": object()}]},
    "an object as key": {object(): 1},
    "itself": recursive(),
    "lone surrogate": "\ud800",
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("codec", BOTH, ids=["plain", "default"])
def test_what_msgpack_cannot_write_neither_of_both_writes(codec: Codec, value: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError, RecursionError)):
        codec.encode(value)

    assert codec.decode(bytes(codec.encode([1, "still fine"]))) == [1, "still fine"]


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_encoded_is_an_encode_error(name: str, value: Any) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish("before")

        with pytest.raises(EncodeError, match=f"'{name}': a {type(value).__name__} did not encode"):
            writer.publish(value)

        assert reader.get() == "before"


def test_threads_and_interruptions_do_not_mix_what_they_encode() -> None:
    class Interrupting:
        pass

    codec = codecs.plain_msgpack()
    with pytest.raises(TypeError):
        codec.encode(["a" * 1000, Interrupting()])

    assert codec.encode("b") == msgpack.packb("b")


# Bytes that are no state.


READABLE = {"plain": PLAIN, "default": DEFAULT, "json": codecs.codec_named("json")}
HOSTILE = {
    "deep lists": b"\x91" * 100_000,
    "deep maps": b"\x81" * 100_000,
    "deep json": b"[" * 100_000,
    "4 G pairs": b"\xdf\xff\xff\xff\xff",
    "4 G items": b"\xdd\xff\xff\xff\xff\x01",
    "4 GB": b"\xc6\xff\xff\xff\xffx",
    "a time out of range": b"\xc7\x0c\xff" + b"\xff" * 12,
    "a time of the wrong size": b"\xd4\xff\x00",
    "a list as key": b"\x81\x90\x90",
    "text that is none": b"\xa2\xff\xfe",
}


def assert_decoded_or_refused(codec: Codec, payload: bytes) -> None:
    try:
        codec.decode(payload)
    except Exception as error:
        assert not isinstance(error, MemoryError), f"{payload[:60]!r}: it tried to allocate what a length claimed"


@pytest.mark.parametrize("codec", READABLE.values(), ids=READABLE)
@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_decoded_or_refused_with_an_ordinary_exception(codec: Codec, payload: bytes) -> None:
    assert_decoded_or_refused(codec, payload)


@pytest.mark.parametrize("codec", READABLE.values(), ids=READABLE)
def test_garbage_is_decoded_or_refused_with_an_ordinary_exception(codec: Codec) -> None:
    for _ in range(5000):
        assert_decoded_or_refused(codec, os.urandom(random.randrange(60)))


@needs_msgspec
@given(plain_values, st.data())
def test_damaged_states_never_crash_either_reader(value: Any, data: st.DataObject) -> None:
    payload = bytearray(PLAIN.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))

    for codec in BOTH:
        try:
            codec.decode(bytes(payload))
        except Exception as error:
            assert not isinstance(error, MemoryError)


@pytest.mark.parametrize("codec", ["msgpack", "json", "pickle"])
def test_garbage_in_a_state_is_a_decode_error(name: str, codec: str) -> None:
    with StateWriter(name, codec=codec) as writer, StateReader(name, codec=codec) as reader:
        writer.publish_bytes(b"\xc1\xff\xfe")

        with pytest.raises(DecodeError, match=f"'{name}'"):
            reader.get()


# Which codec.


@pytest.mark.parametrize("codec", ["msgpack", "json", "raw", pytest.param("msgspec", marks=needs_msgspec)])
def test_a_reader_that_names_no_codec_takes_a_safe_one_from_the_writer(name: str, codec: str) -> None:
    with StateWriter(name, codec=codec) as writer, StateReader(name) as reader:
        writer.publish(b"x" if codec == "raw" else "x")

        assert reader.get() in ("x", b"x")
        assert reader.codec == codec


@needs_msgspec
@pytest.mark.parametrize(("written", "read"), [("msgpack", "msgspec"), ("msgspec", "msgpack")])
def test_msgpack_and_msgspec_read_each_other(name: str, written: str, read: str) -> None:
    with StateWriter(name, codec=written) as writer, StateReader(name, codec=read) as reader:
        writer.publish({"a": 1})

        assert reader.get() == {"a": 1}


@pytest.mark.parametrize(
    ("written", "read"), [("msgpack", "json"), ("json", "raw"), ("json", "pickle"), ("pickle", "json")]
)
def test_a_reader_that_names_another_codec_is_told_both(name: str, written: str, read: str) -> None:
    with StateWriter(name, codec=written), pytest.raises(
        CodecMismatch, match=f"'{name}' is written with codec '{written}', this reader asked for '{read}'"
    ):
        StateReader(name, codec=read)


def test_pickle_is_read_only_by_who_names_it(name: str) -> None:
    with StateWriter(name, codec="pickle") as writer:
        writer.publish({1, 2})

        with pytest.raises(CodecMismatch, match=rf"must name itself: StateReader\('{name}', codec='pickle'\)"):
            StateReader(name)
        with StateReader(name, codec="pickle") as reader:
            assert reader.get() == {1, 2}


def test_pickle_is_written_with_a_protocol_that_all_supported_pythons_read() -> None:
    assert codecs.codec_named("pickle").encode(1)[:2] == pickle.dumps(1, protocol=5)[:2]


def test_a_codec_of_your_own_is_used_by_both_sides(name: str) -> None:
    codec = Codec("upper", lambda value: bytearray(value.upper(), "ascii"), lambda payload: payload.decode() + "!")

    with StateWriter(name, codec=codec) as writer, StateReader(name, codec=codec) as reader:
        writer.publish("text")

        assert reader.get() == "TEXT!"
        assert reader.codec == "upper"


def test_a_codec_of_your_own_must_be_named_by_the_reader(name: str) -> None:
    codec = Codec("mine", bytes, bytes)

    with StateWriter(name, codec=codec):
        with pytest.raises(CodecMismatch, match="written with codec 'mine', which a reader must name itself"):
            StateReader(name)
        with pytest.raises(CodecMismatch, match="asked for 'other'"):
            StateReader(name, codec=Codec("other", bytes, bytes))


@pytest.mark.parametrize("result", ["text", 5, None, [1]], ids=repr)
def test_a_codec_of_your_own_that_returns_no_bytes_publishes_nothing(name: str, result: Any) -> None:
    results = [b"fine", result]
    codec = Codec("mine", lambda value: results[value], bytes)

    with StateWriter(name, codec=codec) as writer, StateReader(name, codec=codec) as reader:
        writer.publish(0)
        with pytest.raises(EncodeError):
            writer.publish(1)

        assert (reader.get(), reader.version) == (b"fine", 1)


def test_what_a_codec_of_your_own_raises_is_the_cause_of_the_error(name: str) -> None:
    cause = LookupError("my own")

    def fail(value: object) -> Any:
        if value:
            raise cause
        return b"x"

    codec = Codec("mine", fail, fail)
    with StateWriter(name, codec=codec) as writer, StateReader(name, codec=codec) as reader:
        with pytest.raises(EncodeError, match="LookupError: my own") as caught:
            writer.publish(1)
        assert caught.value.__cause__ is cause

        writer.publish(0)
        with pytest.raises(DecodeError, match="LookupError: my own") as read:
            reader.get()
        assert read.value.__cause__ is cause


@pytest.mark.parametrize("title", ["", "with space", "ü", "x" * 33, "-dash", "a/b", None])
def test_a_codecs_name_must_fit_the_header(title: Any) -> None:
    with pytest.raises(InvalidOption, match="1 to 32 ASCII letters"):
        codecs.codec_named(Codec(title, bytes, bytes))


@pytest.mark.parametrize("title", ["msgpack", "pickle", "raw"])
def test_a_codec_of_your_own_cannot_take_the_name_of_a_built_in(title: str) -> None:
    with pytest.raises(InvalidOption, match=f"'{title}' is built in"):
        codecs.codec_named(Codec(title, bytes, bytes))


@pytest.mark.parametrize("codec", ["yaml", "", "MSGPACK", 5, None, b"raw", ["raw"]], ids=repr)
def test_an_unknown_codec_is_refused_with_those_that_there_are(codec: Any) -> None:
    with pytest.raises(InvalidOption, match="is none of array, json, msgpack, msgspec, pickle, raw"):
        codecs.codec_named(codec)


def test_msgspec_asked_for_by_name_must_be_installed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(codecs, "load_msgspec", lambda: None)

    with pytest.raises(InvalidOption, match=r"pip install 'shmstate\[fast\]'"):
        StateWriter(name, codec="msgspec")


def test_without_msgspec_msgpack_is_plain_and_reads_what_msgspec_wrote(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with StateWriter(name, codec="msgpack" if msgspec is None else "msgspec") as writer:
        writer.publish({1: "a"})
        monkeypatch.setattr(codecs, "load_msgspec", lambda: None)

        with StateReader(name) as reader:
            assert reader.get() == {1: "a"}


@pytest.mark.parametrize("codec", BOTH, ids=["plain", "default"])
def test_an_unknown_extension_is_kept_as_such(codec: Codec) -> None:
    assert codec.decode(msgpack.packb(msgpack.ExtType(9, b"x"))) == msgpack.ExtType(9, b"x")


# What no codec has raised.


class FromOutside(Exception):
    pass


def in_the_middle(_value: Any) -> bytes:
    signal.raise_signal(signal.SIGUSR1)
    return b"x" * sum(range(10))


def plain_handler(number: int, frame: Any) -> None:
    raise FromOutside(number, frame.f_lineno)


class Handler:
    def method(self, _number: int, _frame: Any) -> None:
        self.fail()

    def fail(self) -> None:
        raise FromOutside

    __call__ = method


HANDLERS = {
    "function": plain_handler,
    "method": Handler().method,
    "object": Handler(),
    "any arguments": lambda *arguments: plain_handler(*arguments),  # noqa: PLW0108
    "partial": functools.partial(lambda _more, number, frame: plain_handler(number, frame), 1),
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
def test_an_exception_of_a_signal_handler_comes_out_as_it_is(name: str, handler: Any) -> None:
    before = signal.signal(signal.SIGUSR1, handler)
    codec = Codec("mine", in_the_middle, in_the_middle)
    try:
        with StateWriter(name, codec=codec) as writer, StateReader(name, codec=codec) as reader:
            for write in (writer.publish, writer.encode):
                with pytest.raises(FromOutside) as caught:
                    write(1)
                assert caught.value.__cause__ is None
            writer.publish_bytes(b"x")
            reads: List[Any] = [reader.get, reader.read, lambda: reader.apply(lambda _data: in_the_middle(1))]
            for call in reads:
                with pytest.raises(FromOutside):
                    call()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_what_says_nothing_of_the_state_comes_out_as_it_is(name: str, error: Any) -> None:
    def fail(_value: object) -> Any:
        raise error("mine")

    codec = Codec("mine", fail, fail)
    with StateWriter(name, codec=codec) as writer, StateReader(name, codec=codec) as reader:
        for write in (writer.publish, writer.encode):
            with pytest.raises(error, match="mine"):
                write(1)
        writer.publish_bytes(b"x")
        for read in (reader.get, reader.read):
            with pytest.raises(error, match="mine"):
                read()


# What a codec of the user's own gives.


def _fails(_view: memoryview) -> None:
    raise LookupError("in write")


FILLS = {
    "negative": lambda _: (-1, bytes),
    "nan": lambda _: (math.nan, bytes),
    "text": lambda _: ("5", bytes),
    "nothing": lambda _: None,
    "a write that fails": lambda _: (5, _fails),
}


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_a_fill_that_fails_is_an_encode_error_and_loses_nothing(name: str, fill: Any) -> None:
    good = Codec(
        "own", bytes, bytes, fill=lambda value: (len(value), lambda view: view.__setitem__(slice(None), value))
    )
    with StateWriter(name, codec=good) as writer:
        writer.publish(b"good")
        writer.close(unlink=False)
    with StateWriter(name, codec=good._replace(fill=fill)) as writer, StateReader(name, codec=good) as reader:
        for _ in range(2):
            with pytest.raises(EncodeError, match="nothing was published"):
                writer.publish(b"bad")
        assert reader.read()[:2] == (b"good", 1)
        assert writer.publish_bytes(b"next") == 2


@pytest.mark.parametrize(
    "given", [5, "text", None, [1, 2], memoryview(b"abcd")[::2]], ids=["number", "text", "None", "list", "view"]
)
def test_what_publish_refuses_encode_refuses_too(name: str, given: Any) -> None:
    with StateWriter(name, codec=Codec("own", lambda _: given, bytes)) as writer:
        for encode in (writer.publish, writer.encode):
            with pytest.raises(EncodeError, match="did not encode"):
                encode("value")


def test_a_codec_of_many_digits_is_refused(name: str) -> None:
    with pytest.raises(InvalidOption, match="codec an integer of"):
        StateWriter(name, codec=10**5000)  # type: ignore[arg-type]
