"""Schedules as tables."""

from __future__ import annotations

import pytest

from pytest_shmstate.kit.columns import Row, columns, folded
from pytest_shmstate.kit.stepping.schedules import BEGIN, GO, KILL, STOP, THROW, Turn
from pytest_shmstate.kit.stepping.tellings import table


def test_each_process_has_a_column_and_a_switch_stands_where_another_goes_on() -> None:
    rows = [Row("a", "publish"), Row("a", "  fill 1"), Row("b", "read"), Row("a", "  fill 1")]

    assert columns(rows, ["a", "b"]).splitlines() == [
        "a          b",
        "--------   --------",
        "publish",
        "  fill 1",
        "  switch",
        "           read",
        "             switch",
        "  fill 1",
    ]


def test_a_mark_stands_behind_what_it_is_about() -> None:
    assert columns([Row("a", "  fill 1", "KILLED here")], ["a"]).endswith("\n  fill 1  <-- KILLED here")


def test_who_did_nothing_has_a_column_too() -> None:
    assert columns([], ["a", "b"]) == "a   b\n-   -"


def test_a_row_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="rows of c, who have no column: a, b have"):
        columns([Row("c", "x")], ["a", "b"])


def test_long_texts_are_cut() -> None:
    assert len(columns([Row("a", "x" * 500)], ["a"]).splitlines()[-1]) == 60


def test_what_repeats_itself_is_told_once_and_how_often() -> None:
    rows = [Row("a", "read"), *[Row("a", "load"), Row("a", "copy")] * 50, Row("a", "= 1")]

    assert folded(rows) == [
        Row("a", "read"),
        Row("a", "load"),
        Row("a", "copy"),
        Row("a", "  ... these 2 50 times in all"),
        Row("a", "= 1"),
    ]


def test_a_single_row_that_repeats_itself_is_folded_as_such() -> None:
    assert folded([Row("a", "load")] * 9) == [Row("a", "load"), Row("a", "  ... this 9 times in all")]


def test_twice_is_no_repetition() -> None:
    rows = [Row("a", "copy"), Row("a", "copy"), Row("b", "load"), Row("b", "load")]

    assert folded(rows) == rows


def test_a_switch_ends_a_repetition() -> None:
    rows = [Row("a", "x"), Row("b", "y")] * 10

    assert folded(rows) == rows


def test_a_mark_ends_a_repetition() -> None:
    rows = [Row("a", "x"), Row("a", "x"), Row("a", "x", "STOPPED"), Row("a", "x")]

    assert folded(rows) == rows


def test_turns_are_told_by_their_gates_and_what_came_of_them() -> None:
    turns = [
        Turn("w", BEGIN, ("publish", 24, 3, 0, ""), (), "at", "store INTENT"),
        Turn("w", GO, (1, ""), ("store INTENT",), "at", "fill 1"),
        Turn("w", STOP, (), (), STOP, "fill 1"),
        Turn("r", BEGIN, ("read", 0, 0, 0, ""), (), "at", "load LATEST"),
        Turn("r", GO, (9, ""), ("load LATEST",), "done", (2, "byte 8 differs")),
        Turn("", "anew", (), (), "anew", None),
        Turn("v", BEGIN, ("create", 64, 0, 9, ""), (), "raised", "NameInUse: it is owned"),
        Turn("v", BEGIN, ("publish", 24, 4, 0, ""), (), "blocked", "take turn"),
        Turn("v", THROW, ("take turn",), (), "refused", "ReadTimeout: x"),
        Turn("v", KILL, (), (), KILL, ""),
        Turn("w", GO, (1, ""), (), "hang", "fill 1"),
    ]

    assert [line.strip() for line in table(turns, ["w", "r", "v"]).splitlines()[2:]] == [
        "publish version 3, 24 bytes",
        "store INTENT",
        "fill 1  <-- STOPPED",
        "switch",
        "read",
        "load LATEST",
        "= version 2: byte 8 differs",
        "switch",
        "create 64",
        "raised NameInUse: it is owned",
        "publish version 4, 24 bytes",
        "take turn  <-- would wait",
        "take turn  <-- EXCEPTION here",
        "raised ReadTimeout: x",
        ".  <-- KILLED here",
        "switch",
        "fill 1  <-- HANGS behind this",
    ]
