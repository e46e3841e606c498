"""The checkers agree with a search that tries every order."""

from __future__ import annotations

import random
from collections import Counter
from typing import Dict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_shmstate.kit.oracle.checkers import check
from pytest_shmstate.kit.oracle.verdict import ATOMIC, LEVELS, OK, REGULAR, SAFE, VIOLATED
from tests.kit.brute import ONE_WRITER, RANKED, UNRANKED, Draw, Kind, draw_history, is_atomic, is_regular, is_safe

BRUTE = {SAFE: is_safe, REGULAR: is_regular, ATOMIC: is_atomic}
KINDS = pytest.mark.parametrize("kind", [ONE_WRITER, RANKED, UNRANKED], ids=["one writer", "ranked", "unranked"])


def outcomes(draw: Draw, kind: Kind) -> Dict[str, str]:
    """What check() says of a history at each level, having been compared with what the search says."""
    history = draw_history(draw, kind)
    verdicts = {level: check(history, level, shared=not kind.one_writer) for level in LEVELS}
    searched = {level: OK if BRUTE[level](history, kind) else VIOLATED for level in LEVELS}
    found = {level: verdict.outcome for level, verdict in verdicts.items()}
    assert found == searched, "\n".join(map(str, [*verdicts.values(), *history]))
    return found


@KINDS
@settings(max_examples=2 * settings().max_examples)
@given(data=st.data())
def test_check_finds_what_trying_every_order_finds(data: st.DataObject, kind: Kind) -> None:
    outcomes(lambda least, most: data.draw(st.integers(least, most)), kind)


@KINDS
def test_both_verdicts_come_up_often_at_every_level_and_agree(kind: Kind) -> None:
    draw = random.Random(str(kind)).randint
    times = 10 * settings().max_examples
    came_up = Counter(item for _ in range(times) for item in outcomes(draw, kind).items())

    assert min(came_up[level, outcome] for level in LEVELS for outcome in (OK, VIOLATED)) > times // 20, came_up
