"""Whose turn it was when."""

from __future__ import annotations

import time

from pytest_shmstate.leak import Owner
from pytest_shmstate.timeline import Timeline


def test_the_innermost_span_of_a_moment_is_the_owner() -> None:
    timeline = Timeline(Owner("session", "run"))
    before = time.monotonic_ns()
    test = timeline.enter(Owner("test", "t"))
    in_test = time.monotonic_ns()
    fixture = timeline.enter(Owner("fixture", "f"))
    in_fixture = time.monotonic_ns()
    timeline.leave(fixture)
    again = time.monotonic_ns()
    timeline.leave(test)

    spans = [timeline.at(moment) for moment in (before, in_test, in_fixture, again, time.monotonic_ns())]

    assert spans == [timeline.root, test, fixture, test, timeline.root]


def test_before_everything_there_is_the_run() -> None:
    timeline = Timeline(Owner("session", "run"))
    timeline.enter(Owner("test", "t"))

    assert timeline.at(0) is timeline.root


def test_leaving_a_span_leaves_what_is_open_inside_it() -> None:
    timeline = Timeline(Owner("session", "run"))
    test = timeline.enter(Owner("test", "t"))
    timeline.enter(Owner("fixture", "never left: its setup raised"))

    timeline.leave(test)

    assert timeline.current is timeline.root


def test_leaving_a_span_that_is_over_changes_nothing() -> None:
    timeline = Timeline(Owner("session", "run"))
    first = timeline.enter(Owner("test", "1"))
    timeline.leave(first)
    second = timeline.enter(Owner("test", "2"))

    timeline.leave(first)

    assert timeline.current is second


def test_a_fixture_that_finalizes_has_its_turn_again() -> None:
    timeline = Timeline(Owner("session", "run"))
    fixture = timeline.enter(Owner("fixture", "f"))
    timeline.leave(fixture)
    test = timeline.enter(Owner("test", "t"))

    timeline.resume(fixture)
    meanwhile = time.monotonic_ns()
    timeline.pause(fixture, test)

    assert timeline.at(meanwhile) is fixture
    assert timeline.current is test
