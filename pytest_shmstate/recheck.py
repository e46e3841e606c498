"""``python -m pytest_shmstate.recheck FILE``: judge a history once more, and show what broke.

Exit status 0: all are OK. 1: one is violated. 2: of one nobody can tell, or it is no history.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Dict, List, Optional, Sequence

from pytest_shmstate.kit.oracle.checkers import check
from pytest_shmstate.kit.oracle.excerpt import as_table, excerpt
from pytest_shmstate.kit.oracle.history import Event, Saved, UnusableHistory, load, save
from pytest_shmstate.kit.oracle.minimise import minimise
from pytest_shmstate.kit.oracle.page import page
from pytest_shmstate.kit.oracle.vacuity import what_was_met
from pytest_shmstate.kit.oracle.verdict import LEVELS, OK, VIOLATED, Verdict

_STATUS = {OK: 0, VIOLATED: 1}
_UNUSABLE = 2
#: Of the header, what is told.
_TOLD = ("title", "seed", "python", "kernel", "machine")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Judge, print, write a page; return the worst exit status."""
    given = _arguments(arguments)
    worst = 0
    for path in given.files:
        if len(given.files) > 1:
            print(f"==> {path}")  # noqa: T201
        try:
            saved = load(path)
        except (OSError, UnusableHistory) as error:
            print(f"UNKNOWN: {error}", file=sys.stderr)  # noqa: T201
            status = _UNUSABLE
        else:
            status = _judge(saved, given)
        # 1 is worse than 2: what is known to be broken is, whatever could not be read beside it.
        worst = min(filter(None, (worst, status)), default=0)
    return worst


def _arguments(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m pytest_shmstate.recheck",
        description="Judge histories that a stress run or a stepper saved, and show what broke.",
        epilog="exit status: 0 all are OK; 1 one is violated; 2 of one nobody can tell, or it is no history",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a history, as history.save() writes it: *.jsonl")
    parser.add_argument("--level", choices=LEVELS, help="what to ask of reads (default: what the file says, or atomic)")
    parser.add_argument(
        "--around", type=int, default=6, metavar="N", help="show N events around each that broke a rule"
    )
    parser.add_argument(
        "--html", metavar="FILE", help="write a page that draws it, with nothing to load from elsewhere"
    )
    parser.add_argument(
        "--minimise", metavar="FILE", help="write the least part of the history that still breaks the same rule"
    )
    given = parser.parse_args(arguments)
    if len(given.files) > 1 and (given.html or given.minimise):
        parser.error("--html and --minimise take one history at a time")
    return given


def _judge(saved: Saved, given: argparse.Namespace) -> int:
    history, header = saved
    level = given.level or header.get("level") or LEVELS[-1]
    if level not in LEVELS:
        print(f"UNKNOWN: the file asks for level {level!r}; give --level: {', '.join(LEVELS)}", file=sys.stderr)  # noqa: T201
        return _UNUSABLE
    shared = header.get("shared")
    verdict = check(history, level, shared=shared if isinstance(shared, bool) else None)
    print("\n".join(told(history, header, verdict, given.around)))  # noqa: T201
    if given.minimise:
        least = minimise(history, level, shared=shared)
        save(least, given.minimise, **{**header, "events": len(least)})
        print(f"\n{len(least)} of {len(history)} events break the same rule: {given.minimise}")  # noqa: T201
    if given.html:
        with open(given.html, "w", encoding="utf-8") as file:
            file.write(page(history, verdict, header))
        print(f"\ndrawn in {given.html}")  # noqa: T201
    return _STATUS.get(verdict.outcome, _UNUSABLE)


def told(history: Sequence[Event], header: Dict[str, Any], verdict: Verdict, around: int) -> List[str]:
    """The verdict, what the history is of, what it met, and the events around those that broke a rule."""
    met = ", ".join(f"{name} {number}" for name, number in what_was_met(history).items() if number)
    of = ", ".join(f"{name} {header[name]}" for name in _TOLD if name in header)
    lines = [str(verdict), f"of: {of}", f"met: {met or 'nothing'}"]
    if verdict.outcome == OK:
        return lines
    return [*lines, "", *as_table(excerpt(history, verdict.events, around))]


if __name__ == "__main__":
    sys.exit(main())
