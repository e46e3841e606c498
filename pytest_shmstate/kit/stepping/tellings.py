"""The turns of a schedule as the rows of a table."""

from __future__ import annotations

from typing import Iterator, Sequence

from pytest_shmstate.kit.columns import Row, columns
from pytest_shmstate.kit.stepping.schedules import BEGIN, CONT, KILL, STOP, THROW, Turn

_MARKS = {KILL: "KILLED here", STOP: "STOPPED", CONT: "goes on", THROW: "EXCEPTION here"}
_ENDS = {"hang": "HANGS behind this", "died": "DIES behind this"}


def table(turns: Sequence[Turn], processes: Sequence[str]) -> str:
    """A column a process: its operations, beneath each the gates that it passed and what came of it."""
    return columns([row for turn in turns if turn.process for row in _rows(turn)], processes)


def _rows(turn: Turn) -> Iterator[Row]:
    who = turn.process
    if turn.action == BEGIN:
        yield Row(who, _operation(*turn.arguments))
    elif turn.action in _MARKS:
        where = turn.arguments[0] if turn.action == THROW else turn.told
        yield Row(who, f"  {where}" if where else ".", _MARKS[turn.action])
    for gate in turn.passed:
        yield Row(who, f"  {gate}")
    if turn.outcome == "blocked":
        yield Row(who, f"  {turn.told}", "would wait")
    elif turn.outcome in ("refused", "raised"):
        yield Row(who, f"  raised {turn.told}")
    elif turn.outcome in _ENDS:
        yield Row(who, f"  {turn.told}", _ENDS[turn.outcome])
    elif turn.outcome == "done" and turn.told is not None:
        yield Row(who, f"  = {_result(turn.told)}")


def _operation(what: str, size: int, version: int, *_: object) -> str:
    if version:
        return f"{what} version {version}, {size} bytes"
    return f"{what} {size}" if size else what


def _result(told: object) -> str:
    if isinstance(told, (tuple, list)):
        version, problem = told
        return f"version {version}{': ' + problem if problem else ''}"
    return str(told)
