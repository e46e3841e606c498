"""Schedules: who did what in which order, and what came of each turn; kept as text, to be taken again.

A schedule taken again goes the same way, or says where it no longer does: the code, or the Python, is another one then.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any, List, NamedTuple, Sequence, Tuple, Union

#: What a turn may be.
BEGIN, GO, KILL, STOP, CONT, THROW = "begin", "go", "kill", "stop", "cont", "throw"
#: Nobody's: what follows is judged by itself; and what a schedule came to, at the end of one that is kept.
ANEW, VIOLATED = "anew", "violated"
_TEXT = "shmstate-schedule:"


class Turn(NamedTuple):
    """One turn of one process. ``passed``: the gates that it went through; ``outcome`` and ``told``: where that ended.

    ``outcome`` is at, blocked, done, refused, raised, hang, died, or the action itself where nothing more came of it.
    """

    process: str
    action: str
    arguments: Tuple[Any, ...]
    passed: Tuple[str, ...]
    outcome: str
    told: Any


class Diverged(Exception):
    """A schedule taken again went another way."""


def to_text(turns: Sequence[Turn]) -> str:
    """One line of letters that holds it all."""
    packed = zlib.compress(json.dumps(turns, separators=(",", ":")).encode(), 9)
    return _TEXT + base64.urlsafe_b64encode(packed).decode()


def save(turns: Sequence[Turn], path: Union[str, Path]) -> None:
    """Write it to a file, as JSON, a turn a line."""
    lines = ",\n".join(json.dumps(turn) for turn in turns)
    Path(path).write_text(f"[\n{lines}\n]\n", "utf-8")


def load(source: Union[str, Path]) -> List[Turn]:
    """What ``to_text`` gave, or the file at that path."""
    if isinstance(source, str) and source.startswith(_TEXT):
        rows = json.loads(zlib.decompress(base64.urlsafe_b64decode(source[len(_TEXT) :])))
    else:
        rows = json.loads(Path(source).read_text("utf-8"))
    return [_turn(*row) for row in rows]


def _turn(process: str, action: str, arguments: Any, passed: Any, outcome: str, told: Any) -> Turn:
    return Turn(
        process, action, tuple(arguments), tuple(passed), outcome, tuple(told) if isinstance(told, list) else told
    )


def compare(number: int, expected: Turn, came: Turn) -> None:
    """Raise Diverged unless the turn ``number``, counted from 1, went as it did before."""
    before, after = (*expected.passed, *_end_of(expected)), (*came.passed, *_end_of(came))
    for index, (wanted, found) in enumerate(zip(before, after)):
        if wanted != found:
            where = f"turn {number} ({came.process}, {came.action}), step {index + 1}"
            raise Diverged(f"diverged at {where}: expected {wanted}, came {found}")
    if len(before) != len(after):
        where = f"turn {number} ({came.process}, {came.action})"
        raise Diverged(f"diverged at {where}: expected {len(before)} steps, came {len(after)}")


def _end_of(turn: Turn) -> Tuple[str, ...]:
    if turn.outcome in ("at", "blocked"):
        return (f"{turn.outcome} gate {turn.told!r}",)
    return (f"{turn.outcome} {turn.told!r}",)
