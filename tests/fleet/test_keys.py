"""What the engine takes a pattern's key to stand for, and what we do."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmstate.fleet import wire

zenoh = pytest.importorskip("zenoh", reason="needs eclipse-zenoh: the extra `fleet`")

PLAIN = st.text("abxyz.-_", max_size=8)
NAMES = st.binary(min_size=1, max_size=12).map(lambda name: name.decode("utf-8", "surrogateescape"))
ANY = st.text("ab*?#$%@/ ~.2AF\u00e9\u6c34", min_size=1, max_size=10)
PATTERNS = st.lists(PLAIN | st.just("*") | st.just("**"), min_size=1, max_size=5).map("".join).filter(bool)
#: No two pieces of it can be the halves of one encoded character.
HOST = "h1"


def key_of(pattern: str) -> object:
    return zenoh.KeyExpr(f"{wire.STATES}/{wire.chunks_like(HOST)}/{wire.chunks_like(pattern)}")


def intersects(name: str, pattern: str) -> bool:
    key = zenoh.KeyExpr(wire.state_key(HOST, name))
    answer: bool = key.intersects(key_of(pattern))
    return answer


@given(PLAIN.filter(bool), PATTERNS)
@example("a", "a*")
@example("a", "*a")
@example("ab", "a**b")
@example("ab", "**")
@example("aXb", "*a*b*")
@example("ba", "a*b")
def test_a_key_of_plain_names_meets_the_key_of_a_pattern_exactly_when_the_pattern_stands_for_it(
    name: str, pattern: str
) -> None:
    assert intersects(name, pattern) == wire.matches(name, pattern)


@given(NAMES | ANY, ANY)
@example("x*", "*A")
def test_a_key_never_misses_a_name_that_the_pattern_stands_for(name: str, pattern: str) -> None:
    if wire.matches(name, pattern):
        assert intersects(name, pattern)


def test_a_key_may_meet_a_name_that_the_pattern_does_not_stand_for_which_is_why_both_ends_look_again() -> None:
    assert intersects("x*", "*A")
    assert not wire.matches("x*", "*A")
    assert not wire.matches_chunk("x*", wire.chunks_like("*A"))


@given(NAMES | ANY)
def test_every_name_makes_a_key_that_stands_for_itself_alone(name: str) -> None:
    for key in (wire.state_key(name, name), wire.gateway_key(name, "0a")):
        assert str(zenoh.KeyExpr(key)) == key
        assert not zenoh.KeyExpr(key).intersects(zenoh.KeyExpr(wire.state_key(name, name + "x")))


@given(PATTERNS | ANY)
def test_every_pattern_makes_a_key_as_the_engine_writes_it(pattern: str) -> None:
    key = f"{wire.STATES}/h/{wire.chunks_like(pattern)}"

    assert str(zenoh.KeyExpr.autocanonize(key)) == key
