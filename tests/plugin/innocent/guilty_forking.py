"""Tests that leak what their forked children leave."""

from __future__ import annotations

import pytest

from tests.plugin.innocent.innocent_forking import ALONE, EXITS, RAISES, fork, make_and_leave
from tests.plugin.innocent.parts import new_name


@pytest.mark.parametrize("how", sorted(EXITS))
def test_leaves_what_its_child_left_by_exit(how: str) -> None:
    fork(make_and_leave, EXITS[how], new_name("forked"))


@ALONE
@pytest.mark.parametrize("how", sorted(RAISES))
def test_leaves_what_its_child_left_by_an_exception(how: str) -> None:
    fork(make_and_leave, RAISES[how], new_name("forked"))
