"""Histories: who did what, when it began and ended, and what came of it. And their files, to be judged again.

A file is lines of JSON. The first says what the history is of, each other one is an event, without what is 0 or empty:

    {"format": "shmstate history 1", "events": 2, "title": "my ring", "seed": 7, "python": "3.11.7", ...}
    {"process": "writer 1", "operation": "publish", "began": 100, "ended": 140, "version": 1}
    {"process": "reader 1", "operation": "read", "began": 120, "ended": 130, "version": 1}
"""

from __future__ import annotations

import json
import os
import platform
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union

PUBLISH, READ = "publish", "read"

#: What a file's first line says it is.
FORMAT = "shmstate history 1"


class Event(NamedTuple):
    """One operation of one process. Times are of one clock for all, in any unit: nanoseconds, or steps of a schedule.

    ``version`` is the number that the payload carries: of a publish, what was to be published, each number once; of a
    read, what came back. 0: nothing had been published yet. ``ended`` is None where it never returned: killed at it,
    or at it still. ``rank`` is the version that the structure itself gives, if it does, else 0: where several publish
    at a time it says in what order they took effect. ``problem``: what is wrong with the bytes that came back.
    ``error``: a documented error that came in place of a state.
    """

    process: str
    operation: str
    began: int
    ended: Optional[int]
    version: int = 0
    rank: int = 0
    problem: str = ""
    error: str = ""


History = Sequence[Event]
Path = Union[str, "os.PathLike[str]"]

_TEXTS = {"process", "operation", "problem", "error"}
_NEEDED = {"process", "operation", "began"}
_TOLD_IF_0 = {*_NEEDED, "ended"}  # which is None where it is not told


class UnusableHistory(ValueError):
    """A file that holds no history, or not all of one. The text names file and line, and says what to do."""


class Saved(NamedTuple):
    """What a file holds."""

    history: List[Event]
    #: What its first line says: ``title`` of the structure, ``shared``, ``seed``, options, and where it was recorded.
    header: Dict[str, Any]


def save(history: History, path: Path, **header: Any) -> None:
    """Write a history to a file, with what ``header`` says of it, and Python, kernel and machine. Replaces the file."""
    first = {"format": FORMAT, "events": len(history), **where(), **header}
    beside = f"{os.fspath(path)}.part"
    with open(beside, "w", encoding="utf-8") as file:
        file.write(json.dumps(first, default=str) + "\n")
        for event in history:
            given = {field: value for field, value in event._asdict().items() if value or field in _TOLD_IF_0}
            if given["ended"] is None:
                del given["ended"]
            file.write(json.dumps(given) + "\n")
    os.replace(beside, path)


def load(path: Path) -> Saved:
    """Read a file. Raises UnusableHistory, naming the line, and OSError."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    header = _header(path, lines)
    history = [_event(path, number, line) for number, line in enumerate(lines[1:], 2)]
    if len(history) != header["events"]:
        raise UnusableHistory(
            f"{os.fspath(path)}:{len(lines)}: the file ends after {len(history)} events, its first line promises"
            f" {header['events']}: it was cut; copy it again from where it was saved"
        )
    return Saved(history, header)


def where() -> Dict[str, str]:
    """What this runs on, for headers."""
    return {"python": platform.python_version(), "kernel": platform.release(), "machine": platform.machine()}


def _header(path: Path, lines: Sequence[str]) -> Dict[str, Any]:
    header = _object(path, 1, lines[0] if lines else "")
    if header.get("format") != FORMAT:
        raise UnusableHistory(
            f"{os.fspath(path)}:1: format is {header.get('format')!r}, and this release reads {FORMAT!r}: judge it"
            f" with the release that wrote it, or save it again with pytest_shmstate.kit.save()"
        )
    if not isinstance(header.get("events"), int):
        raise UnusableHistory(f'{os.fspath(path)}:1: "events" must say how many lines follow; save the history again')
    return header


def _event(path: Path, number: int, line: str) -> Event:
    given = _object(path, number, line)
    wrong = sorted(_NEEDED - set(given)) or sorted(set(given) - set(Event._fields))
    for field, value in given.items():
        meant = str if field in _TEXTS else int
        if (
            not wrong
            and (not isinstance(value, meant) or isinstance(value, bool))
            and (field, value) != ("ended", None)
        ):
            wrong = [field]
    if wrong:
        raise UnusableHistory(
            f"{os.fspath(path)}:{number}: {wrong[0]!r} is missing, unknown, or of the wrong type in {line[:200]!r};"
            f" an event has the fields {', '.join(Event._fields)}"
        )
    return Event(**{"ended": None, **given})


def _object(path: Path, number: int, line: str) -> Dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnusableHistory(
            f"{os.fspath(path)}:{number}: not an object of JSON: {line[:80]!r}; a history is what"
            f" pytest_shmstate.kit.save() writes"
        )
    return found
