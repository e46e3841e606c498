"""Which hosts there are, whatever order it is told in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from shmstate.fleet.roster import Roster

zenoh = pytest.importorskip("zenoh", reason="needs eclipse-zenoh: the extra `fleet`")

FIRST, SECOND = "shmstate/host/h1/1", "shmstate/host/h1/2"


class Tokens:
    """Stands in for a session: tells of tokens when it is told to."""

    def __init__(self, old: Callable[[Tokens], Iterator[str]] = lambda _: iter(())) -> None:
        self._old = old

    def liveliness(self) -> Tokens:
        return self

    def declare_subscriber(self, key: str, handler: Any, history: bool) -> None:
        self._tell = handler.callback

    def get(self, key: str, timeout: float) -> Iterator[Any]:
        for old in self._old(self):
            yield SimpleNamespace(ok=SimpleNamespace(key_expr=old))

    def come(self, key: str) -> None:
        self._tell(SimpleNamespace(key_expr=key, kind=zenoh.SampleKind.PUT))

    def go(self, key: str) -> None:
        self._tell(SimpleNamespace(key_expr=key, kind=zenoh.SampleKind.DELETE))


def test_a_host_is_there_as_long_as_one_of_its_gateways_is() -> None:
    tokens = Tokens()
    roster = Roster(tokens, ["*"])

    seen = []
    for act, key in ((tokens.come, FIRST), (tokens.come, SECOND), (tokens.go, FIRST), (tokens.go, SECOND)):
        act(key)
        seen.append((roster.there(), roster.gateways("h1")))

    assert seen == [(["h1"], 1), (["h1"], 2), (["h1"], 1), ([], 0)]
    assert roster.due() == ["h1"]


def test_a_host_of_which_nothing_is_known_but_that_it_went_was_never_seen() -> None:
    tokens = Tokens()
    roster = Roster(tokens, ["*"])

    tokens.go(FIRST)

    assert roster.due() == []
    assert roster.absence("h1") == "never seen"


def test_a_gateway_that_goes_while_the_first_look_is_under_way_is_not_there() -> None:
    def old(tokens: Tokens) -> Iterator[str]:
        tokens.come(FIRST)
        tokens.go(FIRST)  # it has answered the look, and is told of to whoever subscribes, before the answer is taken
        yield FIRST
        yield SECOND

    roster = Roster(Tokens(old), ["*"])

    assert roster.gateways("h1") == 1


def test_a_gateway_that_is_cut_off_and_reached_again_is_there() -> None:
    tokens = Tokens(lambda _: iter([FIRST]))
    roster = Roster(tokens, ["*"])

    tokens.go(FIRST)
    assert "gone" in str(roster.absence("h1"))
    tokens.come(FIRST)

    assert roster.absence("h1") is None


def test_listeners_are_told_of_hosts_not_of_gateways_until_they_end_it() -> None:
    tokens = Tokens()
    roster = Roster(tokens, ["h*"])
    told: List[Tuple[str, bool]] = []
    end = roster.listen(lambda host, is_there: told.append((host, is_there)))

    for act, key in (
        *((tokens.come, FIRST), (tokens.come, SECOND), (tokens.come, "shmstate/host/other/1"), (tokens.come, "else")),
        *((tokens.go, FIRST), (tokens.go, SECOND)),
    ):
        act(key)
    end()
    tokens.come(FIRST)

    assert told == [("h1", True), ("h1", False)]
