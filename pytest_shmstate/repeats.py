"""Tells a leak in full once, and in short where the same fixture or line of code leaves the same again."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Sequence

from pytest_shmstate.leak import Leak
from pytest_shmstate.report import (
    MOST_BLOCKS,
    MOST_NAMES,
    blocks,
    counted,
    describe,
    first_texts,
    headline_of_test,
    line,
    made_at,
    named,
    names,
    on_host,
    printable,
    size_text,
)


def source_of(leak: Leak) -> Any:
    """Return the fixture or line of code that left it, to compare with that of another leak; None if not known."""
    owner = leak.owner
    if owner.what == "fixture":
        return leak.host, owner.name, owner.scope, owner.file, owner.line
    return (leak.host, leak.where.file, leak.where.line) if leak.where is not None else None


def alike(leaks: Iterable[Leak]) -> List[List[Leak]]:
    """Puts together leaks whose blocks say the same but for names, sizes and tests."""
    groups: Dict[Any, List[Leak]] = {}
    for number, leak in enumerate(leaks):
        groups.setdefault(_key(leak) or number, []).append(leak)
    return list(groups.values())


def _key(leak: Leak) -> Any:
    source = source_of(leak)
    where = (leak.where.file, leak.where.line) if leak.where is not None else None
    what = (leak.kind, leak.verdict, leak.mode, leak.fate, leak.after_failure, leak.reported)
    return None if source is None else (source, where, what)


class Repeats:
    """Knows which tests of this process have told which leaks in full."""

    def __init__(self) -> None:
        self._told: Dict[Any, str] = {}

    def forget(self, test: str) -> None:
        """Tell again what that test told: it is run again, and pytest shows no error of an earlier try."""
        self._told = {key: first for key, first in self._told.items() if first != test}

    def text(self, leaks: Sequence[Leak], test: str) -> str:
        """Return what the teardown error of a test says."""
        again = [leak for leak in leaks if self._told.get(_key(leak), test) != test]
        new = [leak for leak in leaks if leak not in again]
        for leak in new[:MOST_BLOCKS]:
            if _key(leak) is not None:
                self._told.setdefault(_key(leak), test)
        lines = [headline_of_test(leaks), "", *blocks(new)]
        for members in alike(again):
            lines += [*([""] if lines[-1] else []), *self._in_short(members)]
        return "\n".join(lines)

    def _in_short(self, leaks: Sequence[Leak]) -> List[str]:
        made = next(iter(made_at(leaks[0])))
        return [
            _together(leaks),
            line(*made),
            line("same as", f"what {printable(self._told[_key(leaks[0])])} left, told in full above"),
        ]


def _together(leaks: Sequence[Leak]) -> str:
    if len(leaks) == 1:
        size = size_text(leaks[0])
        return named(leaks[0]) + (f": {size}" if size else "")
    told = ", ".join(first_texts(names(leaks), MOST_NAMES))
    return f"{counted(leaks)}{on_host(leaks[0].host)}: {told}"


def blocks_of_run(leaks: Sequence[Leak]) -> List[str]:
    """The first of each source in full, with the count of those like it; the sources after the first by name."""
    groups = alike(leaks)
    lines: List[str] = []
    for members in groups[:MOST_BLOCKS]:
        lines += describe(members[0])
        if members[1:]:
            tests = list(dict.fromkeys(printable(leak.owner.during or leak.owner.name) for leak in members))
            where = f", in {len(tests):,} tests: {', '.join(first_texts(tests))}" if len(tests) > 1 else ""
            lines.append(line("and alike", _together(members[1:]) + where))
        lines.append("")
    rest = [leak for members in groups[MOST_BLOCKS:] for leak in members]
    if rest:
        return [*lines, f"and {counted(rest)}: {', '.join(first_texts(names(rest), MOST_NAMES))}"]
    return lines[:-1]
