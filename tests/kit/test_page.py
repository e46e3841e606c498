"""The page of a history: whole, safe, and about what broke."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Dict, List, Optional, Tuple

import pytest

from pytest_shmstate.kit.oracle.checkers import check
from pytest_shmstate.kit.oracle.history import PUBLISH, READ, Event
from pytest_shmstate.kit.oracle.page import page
from pytest_shmstate.kit.oracle.verdict import INTEGRITY

STALE = [
    Event("writer 1", PUBLISH, 10, 20, 1, 4),
    Event("writer 1", PUBLISH, 30, 40, 2, 5),
    Event("reader 1", READ, 35, 45, 2),
    Event("reader 2", READ, 50, 60, 1),
    Event("reader 2", READ, 70, 80, error="Later: come back"),
    Event("writer 1", PUBLISH, 90, None, 3),
]
NASTY = "</script><script>alert('1')</script>\"&"
ALONE = {"meta", "br"}


class Found(HTMLParser):
    """What a page is made of; raises if it is not well nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: List[Tuple[str, Dict[str, Optional[str]]]] = []
        self.texts: List[str] = []
        self._open: List[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ALONE:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of_class(self, name: str) -> List[Dict[str, Optional[str]]]:
        return [attrs for _, attrs in self.tags if name in (attrs.get("class") or "").split()]


def drawn(history: List[Event], **header: object) -> Found:
    return Found(page(history, check(history), header))


def test_every_operation_is_a_bar_in_the_lane_of_its_process() -> None:
    found = drawn(STALE)

    assert [text for text in found.texts if re.fullmatch(r"(writer|reader) \d", text)][-3:] == [
        "writer 1",
        "reader 1",
        "reader 2",
    ]
    assert len(found.of_class("op")) == 6
    assert len(found.of_class("publish")) == 3 + 2  # and twice in the legend
    assert [bar["title"] for bar in found.of_class("op") if "pending" in str(bar["class"])] == [
        "publish of version 3\nfrom 90, never returned"
    ]
    assert [bar["title"] for bar in found.of_class("op") if "refused" in str(bar["class"])] == [
        "read of version -\n70 to 80\nLater: come back"
    ]
    assert "publish of version 2, rank 5\n30 to 40" in [bar["title"] for bar in found.of_class("op")]


def test_what_broke_is_said_on_top_and_marked_below() -> None:
    found = drawn(STALE)

    assert check(STALE).sentence in found.texts
    assert [bar["title"] for bar in found.of_class("marked")] == [
        "publish of version 1, rank 4\n10 to 20",
        "publish of version 2, rank 5\n30 to 40",
        "read of version 1\n50 to 60",
    ]
    links = [str(attrs["href"])[1:] for tag, attrs in found.tags if tag == "a"]
    assert links == ["e1", "e2", "e3"]
    assert set(links) == {str(attrs["id"]) for _, attrs in found.tags if "id" in attrs}
    assert len(found.of_class("guide")) == 6


def test_bars_lie_in_order_and_as_long_as_they_took() -> None:
    places = [re.findall(r"--(\w+):([\d.]+)", str(bar["style"])) for bar in drawn(STALE).of_class("op")]
    by_name = [{name: float(value) for name, value in place} for place in places]

    # By lane: the writer's, then reader 1's, then reader 2's.
    assert [place["o"] for place in by_name] == [0, 2, 10, 3, 6, 8]
    assert [place["ow"] for place in by_name] == [1, 2, 0, 2, 1, 1]
    scale = by_name[0]["tw"] / 10
    assert scale > 1
    assert [round(place["t"] / scale) for place in by_name] == [0, 20, 80, 25, 40, 60]


@pytest.mark.parametrize("field", ["process", "problem", "error"])
def test_nothing_that_a_history_says_is_taken_for_html(field: str) -> None:
    history = [STALE[0], Event("reader", READ, 30, 40, 1)._replace(**{field: NASTY})]  # type: ignore[arg-type]

    text = page(history, check(history), {"title": NASTY})

    assert len(re.findall("<script", text)) == 1
    assert NASTY not in text
    assert [tag for tag, _ in Found(text).tags].count("script") == 1


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = page(STALE, check(STALE), {})

    assert re.findall(r"https?://|\bsrc=|@import|url\(|<link", text) == []


def test_of_a_long_history_what_is_around_the_fault_is_drawn_and_the_rest_is_counted() -> None:
    history = [Event("writer", PUBLISH, 10 * number, 10 * number + 5, number) for number in range(1, 2001)]
    history += [Event("reader", READ, 15_006, 15_007, 3)]

    found = Found(page(history, check(history), {}, around=5))

    # Around versions 3 and 4, and around the read.
    assert len(found.of_class("op")) == 9 + 11
    assert "1486 left out" in found.texts
    assert "20 of 2001 operations drawn" in found.texts
    (gap,) = found.of_class("gap")
    # Nine operations are before it, 18 moments; the tenth begins three steps behind them.
    assert gap["style"] == "--o:18"
    assert "--o:21;" in str(found.of_class("op")[9]["style"])


def test_a_history_without_a_fault_has_a_page_too() -> None:
    found = drawn(STALE[:3])

    assert found.of_class("ok")
    assert found.of_class("marked") == []
    assert len(found.of_class("op")) == 3
    assert "The history is empty." in drawn([]).texts


def test_bytes_that_differ_are_told() -> None:
    history = [STALE[0], Event("reader", READ, 30, 40, 1, problem="byte 8 of version 1: 00 is there")]

    found = drawn(history)

    assert check(history).rule == INTEGRITY
    assert "byte 8 of version 1: 00 is there" in found.texts
    assert len(found.of_class("wrong")) == 1
