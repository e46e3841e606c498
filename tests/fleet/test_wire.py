"""What gateways and those who ask say to each other: it survives the way, and nothing that is said breaks who hears it."""

from __future__ import annotations

import re
import time
import tracemalloc
from typing import Any, Callable, Dict, List, Tuple

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmstate.fleet import wire
from shmstate.fleet.wire import Brief, End, Facts, OtherFormat, Pulse, Request, Unreadable

NUMBERS = st.integers(0, 2**64 - 1)
#: As they come from a listing of /dev/shm: what is no UTF-8 becomes a surrogate.
NAMES = st.binary(min_size=1, max_size=40).map(lambda name: name.decode("utf-8", "surrogateescape"))
ODD_NAMES = st.text("*?#$%@/ ~.aA2F\u00e9\u6c34\U0001f600", min_size=1, max_size=12)
BRIEFS = st.builds(Brief, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans())
CONTENTS: Dict[Callable[[bytes], Any], st.SearchStrategy[Any]] = {
    wire.request_in: st.builds(Request, NUMBERS),
    wire.facts_in: st.builds(
        Facts, NAMES, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans(), NAMES, NUMBERS, NAMES
    ),
    wire.end_in: st.builds(End, NAMES, NUMBERS, NAMES),
    wire.pulse_in: st.builds(Pulse, NAMES, NUMBERS, st.dictionaries(NAMES, BRIEFS, max_size=5)),
}
SAID = st.one_of([st.tuples(st.just(read), content) for read, content in CONTENTS.items()])
FACTS = Facts("g", 1, 2, 3, 4, 5, True, "msgpack", 6, "none")
EXAMPLES: List[Tuple[Callable[[bytes], Any], Any]] = [
    (wire.request_in, Request(1)),
    (wire.facts_in, FACTS),
    (wire.end_in, End("g", 1, "none")),
    (wire.pulse_in, Pulse("g", 1, {"a": Brief(1, 2, 3, 4, True)})),
]
FIELDS = [(read, content, field) for read, content in EXAMPLES for field in content._fields]


def header_of(content: Any) -> bytes:
    packed: bytes = msgpack.packb(content, unicode_errors="surrogatepass")
    return b"S\x01" + packed


# Headers.


@given(SAID)
def test_what_is_said_survives_the_way(said: Tuple[Callable[[bytes], Any], Any]) -> None:
    read, content = said

    assert read(wire.pack(content)) == content


@given(SAID, st.dictionaries(st.text(min_size=15), st.integers() | st.text() | st.lists(st.none()), max_size=3))
def test_what_a_later_release_adds_is_left_aside(
    said: Tuple[Callable[[bytes], Any], Any], more: Dict[str, Any]
) -> None:
    read, content = said
    more = {key: value for key, value in more.items() if not isinstance(value, int) or abs(value) < 2**63}

    assert read(header_of({**more, **content._asdict()})) == content


def test_a_brief_that_a_later_release_makes_longer_is_read_as_far_as_it_is_known() -> None:
    header = header_of({"gateway": "g", "seq": 1, "states": {"a": [1, 2, 3, 4, True, "later"]}})

    assert wire.pulse_in(header) == Pulse("g", 1, {"a": Brief(1, 2, 3, 4, True)})


@pytest.mark.parametrize(
    ("read", "content", "field"), FIELDS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_has_another_type_is_refused_by_name(read: Callable[[bytes], Any], content: Any, field: str) -> None:
    also = 1 if isinstance(getattr(content, field), bool) else True  # a bool is an int, for Python
    for wrong in (1.5, None, [1], {1: 2}, b"bytes", also):
        packed = msgpack.packb({**content._asdict(), field: wrong})

        with pytest.raises(Unreadable, match=repr(field) if wrong != {1: 2} else "does not decode"):
            read(b"S\x01" + packed)


@pytest.mark.parametrize(
    ("read", "content", "field"), FIELDS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_missing_is_refused_by_name_unless_there_is_something_to_assume(
    read: Callable[[bytes], Any], content: Any, field: str
) -> None:
    rest = {name: value for name, value in content._asdict().items() if name != field}

    if field in content._field_defaults:
        assert read(header_of(rest)) == content._replace(**{field: content._field_defaults[field]})
    else:
        with pytest.raises(Unreadable, match=repr(field)):
            read(header_of(rest))


@pytest.mark.parametrize("field", ["seq", "version", "nbytes", "age_ns"])
def test_a_negative_number_is_refused_by_name(field: str) -> None:
    with pytest.raises(Unreadable, match=f"'{field}' is -1"):
        wire.facts_in(header_of({**FACTS._asdict(), field: -1}))


@pytest.mark.parametrize("brief", [None, {}, [], [1, 2, 3, 4], [1, 2, 3, 4, 5], [1.0, 2, 3, 4, True]])
def test_a_brief_that_is_none_is_refused(brief: Any) -> None:
    with pytest.raises(Unreadable):
        wire.pulse_in(header_of({"gateway": "g", "seq": 1, "states": {"a": brief}}))


@pytest.mark.parametrize(
    ("number", "who"),
    [(0, "this end has a newer shmstate; upgrade that end"), (2, "that end has a newer shmstate; upgrade this end")],
)
def test_another_format_is_refused_saying_who_has_to_upgrade(number: int, who: str) -> None:
    header = bytes([ord("S"), number]) + b"whatever it has"

    with pytest.raises(OtherFormat, match=re.escape(f"speaks wire format {number}, this end 1: {who}")) as refused:
        wire.facts_in(header)

    assert refused.value.number == number


def test_a_long_header_of_another_format_is_told_to_be_one() -> None:
    with pytest.raises(OtherFormat):
        wire.unpack(b"S\x02" + bytes(wire.LONGEST_HEADER))


def test_a_header_of_the_most_bytes_is_read_and_one_of_more_is_not() -> None:
    room = wire.LONGEST_HEADER - len(header_of({"x": bytes(1 << 17)})) + (1 << 17)
    longest = header_of({"x": bytes(room)})

    assert len(longest) == wire.LONGEST_HEADER
    assert len(wire.unpack(longest)["x"]) == room
    with pytest.raises(Unreadable, match="4,194,305 bytes; 4,194,304 are the most"):
        wire.unpack(header_of({"x": bytes(room + 1)}))


# What breaks things.


@given(st.binary(max_size=300).map(lambda rest: b"S\x01" + rest) | st.binary(max_size=50))
@example(b"")
@example(b"S")
@example(b"S\x01")
def test_any_bytes_are_read_or_unreadable(header: bytes) -> None:
    for read in CONTENTS:
        try:
            read(header)
        except Unreadable:
            pass


@given(SAID, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 400))
def test_what_was_changed_on_the_way_is_read_or_unreadable(
    said: Tuple[Callable[[bytes], Any], Any], changes: List[Tuple[int, int]], length: int
) -> None:
    read, content = said
    header = bytearray(wire.pack(content))
    for at, value in changes:
        header[at % len(header)] = value

    for changed in (bytes(header), bytes(header[: length % len(header)])):
        try:
            read(changed)
        except Unreadable:
            pass


@pytest.mark.parametrize(
    "header",
    [
        # Arrays in arrays, each of which says that it has as many items as there are bytes.
        b"\xdd\x00\x3f\xff\x00" * 500 + bytes((4 << 20) - 3000),
        b"\xdf\x00\x1f\xff\x00" * 500 + bytes((4 << 20) - 3000),
        b"\x91" * (4 << 20),
        b"\x81" * (4 << 20),
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
    ],
    ids=["arrays", "maps", "deep arrays", "deep maps", "text", "extension"],
)
def test_a_header_that_claims_to_hold_much_costs_little(header: bytes) -> None:
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(Unreadable):
            wire.facts_in((b"S\x01" + header)[: wire.LONGEST_HEADER])
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert most < 4 * wire.LONGEST_HEADER
    assert time.monotonic() - began < 2


# Keys.


@given(NAMES | ODD_NAMES, NAMES | ODD_NAMES)
def test_names_survive_in_keys(host: str, state: str) -> None:
    assert wire.parts_of(wire.state_key(host, state)) == (host, state)
    assert wire.parts_of(wire.gateway_key(host, "12ab")) == (host, "12ab")


@given(NAMES | ODD_NAMES)
def test_nothing_in_a_name_means_anything_in_a_key(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]+", wire.chunk(name))


def test_a_key_is_a_gateways_or_a_states() -> None:
    assert wire.is_gateway(wire.gateway_key("h", "g"))
    assert not wire.is_gateway(wire.state_key("h", "s"))


@pytest.mark.parametrize(
    "key", ["", "a", "shmstate/state", "shmstate/state/h", "shmstate/state/h/s/x", "other/state/h/s"]
)
def test_a_key_of_somebody_elses_is_unreadable(key: str) -> None:
    with pytest.raises(Unreadable, match="none of shmstate's"):
        wire.parts_of(key)


# Patterns.

FEW = "ab*"


def is_like(name: str, pattern: str) -> bool:
    """What a pattern stands for, said as simply as can be."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return is_like(name, pattern[1:]) or (bool(name) and is_like(name[1:], pattern))
    return bool(name) and name[0] == pattern[0] and is_like(name[1:], pattern[1:])


@given(st.text(FEW, max_size=10), st.text(FEW, max_size=8))
@example("", "")
@example("", "*")
@example("a", "")
@example("ab", "ab*ab")
@example("aba", "*ab*ba*")
@example("aba", "ab*ba")
@example("a\nb", "a*b")
def test_a_star_stands_for_any_characters_and_nothing_else_for_more_than_itself(name: str, pattern: str) -> None:
    assert wire.matches(name, pattern) == is_like(name, pattern)


@given(st.text("ab*%2A/", max_size=10), st.text("ab*%2A/", min_size=1, max_size=8))
@example("*", "*A")
@example("x/", "*2F")
def test_a_pattern_stands_for_the_same_names_when_it_is_part_of_a_key(name: str, pattern: str) -> None:
    assert wire.matches_chunk(name, wire.chunks_like(pattern)) == wire.matches(name, pattern)


def test_the_engines_own_patterns_stand_for_all_names() -> None:
    assert wire.matches_chunk("any", "*")
    assert wire.matches_chunk("any", "**")


def test_a_pattern_made_to_take_long_does_not() -> None:
    name, pattern = "a" * 240, "*a" * 100 + "*b"
    began = time.monotonic()

    assert not wire.matches(name, pattern)
    assert not wire.matches_chunk(name, wire.chunks_like(pattern))
    assert time.monotonic() - began < 1
