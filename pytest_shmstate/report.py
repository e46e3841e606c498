"""What people read: each leak as a block that says what it is, whose, where it was made, and what to do about it.

Plain text without colours, and nothing that a terminal would obey: a name in /dev/shm is bytes that anybody chose.
"""

from __future__ import annotations

import json
import linecache
import os
import re
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from pytest_shmstate.known import fitting_glob, is_safe
from pytest_shmstate.leak import (
    DIRECTORY,
    FILE,
    FOREIGN,
    HELD,
    INTERRUPTED,
    KINDS,
    ORPHAN,
    PROCESS,
    SEGMENT,
    SEMAPHORE,
    SYSV,
    UNATTRIBUTED,
    Frame,
    Leak,
    Owner,
)
from pytest_shmstate.recorder import LEFT_OUT

#: Blocks in full; of what comes after them, the names are told.
MOST_BLOCKS = 5
MOST_NAMES = 20
_MOST_LINES_EACH = 3
_WIDEST = 140

_ONE_AND_MANY: Dict[str, Tuple[str, str]] = {
    SEGMENT: ("segment", "segments"),
    SEMAPHORE: ("semaphore", "semaphores"),
    FILE: ("file", "files"),
    DIRECTORY: ("directory", "directories"),
    SYSV: ("System V segment", "System V segments"),
    PROCESS: ("process", "processes"),
}
_VERDICTS = {
    ORPHAN: "orphan: nobody has it open; it stays in memory until somebody removes it by name",
    HELD: "held: still open, so its memory is in use even once the name is gone",
    INTERRUPTED: "interrupted: its owner was stopped before it could clean up; no failure of its own",
    FOREIGN: "foreign: made by a process outside this run; nobody here is blamed",
    UNATTRIBUTED: "unattributed: it came during this run and stayed; nobody can be shown to have made it",
}
_FIXES = {
    SEGMENT: "unlink() it",
    SEMAPHORE: "unlink() it",
    FILE: "remove it, or write to tmp_path",
    DIRECTORY: "remove it, or use tmp_path",
    SYSV: "remove it (shmctl with IPC_RMID)",
    PROCESS: "stop it and join() it",
}
_RUNS = "running: it outlived what started it"

_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_PLUMBING = re.compile(r"/site-packages/(_pytest|pluggy|pytest|xdist|execnet|pytest_shmstate)[/.]|^<frozen ")


def printable(text: str) -> str:
    """The text on one line; what a terminal would not show as it stands, as an escape sequence."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def bytes_text(size: int) -> str:
    """A size to compare with others: exact below 1 MiB."""
    if size < 1 << 20:
        return f"{size:,} B"
    return f"{size / (1 << 20):,.1f} MiB" if size < 1 << 30 else f"{size / (1 << 30):,.1f} GiB"


def _round_bytes(size: int) -> str:
    return bytes_text(size) if size < 1 << 10 or size >= 1 << 20 else f"{size / (1 << 10):.4g} KiB"


def size_text(leak: Leak) -> str:
    """What it reserves and what it really takes; empty where neither means anything."""
    texts = []
    if leak.size >= 0:
        texts.append(f"{bytes_text(leak.size)} reserved" if leak.on_disk >= 0 else bytes_text(leak.size))
    if leak.on_disk >= 0:
        texts.append(f"{bytes_text(leak.on_disk)} on disk")
    return ", ".join(texts)


def counted(leaks: Iterable[Leak]) -> str:
    """``1 segment and 2 semaphores, 64 KiB``."""
    leaks = list(leaks)
    kinds = [leak.kind for leak in leaks]
    texts = []
    for kind in sorted(set(kinds), key=lambda kind: (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)):
        one, many = _ONE_AND_MANY.get(kind, (kind, kind))
        texts.append(f"{kinds.count(kind)} {printable(one if kinds.count(kind) == 1 else many)}")
    total = sum(max(leak.size, 0) for leak in leaks)
    things = " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]])) or "nothing"
    return things + (f", {_round_bytes(total)}" if total else "")


def headline(leaks: Sequence[Leak]) -> str:
    """One line on all of them."""
    hosts = sorted({leak.host for leak in leaks})
    if len(hosts) == 1:
        return f"left behind{on_host(hosts[0])}: {counted(leaks)}"
    told = [f"{counted([leak for leak in leaks if leak.host == host])}{on_host(host)}" for host in hosts]
    return f"left behind: {'; '.join(told) or counted([])}"


def wider_fixture(leak: Leak) -> str:
    """``module fixture `pool```, if several tests share the leak's owner; otherwise empty."""
    owner = leak.owner
    if owner.what != "fixture" or owner.scope in ("", "function"):
        return ""
    return printable(f"{owner.scope} fixture `{owner.name}`")


def headline_of_test(leaks: Sequence[Leak]) -> str:
    """One line for the report of a test; it names wider fixtures, whose leaks are not about that test."""
    texts = []
    for fixture in sorted(set(map(wider_fixture, leaks))):
        text = headline([leak for leak in leaks if wider_fixture(leak) == fixture])
        by = f"left behind by {fixture}, not by this test"
        texts.append(text.replace("left behind", by, 1) if fixture else text)
    return "; ".join(texts)


def on_host(host: str) -> str:
    """`` on host h2``; empty for the one that the run was started on."""
    return f" on host {printable(host)}" if host else ""


def short_path(file: str) -> str:
    """The path as one would type it here: relative, if it is below the current directory."""
    here = current_directory().rstrip(os.sep) + os.sep
    return printable(file[len(here) :] if file.startswith(here) else file)


def current_directory() -> str:
    """Absolute; ``/`` once somebody has removed it."""
    try:
        return os.getcwd()
    except OSError:
        return os.sep


def place(frame: Frame) -> str:
    """``conftest.py:14 in pool``."""
    return f"{short_path(frame.file)}:{frame.line}" + (f" in {printable(frame.function)}" if frame.function else "")


def owned_by(owner: Owner) -> str:
    """Who had to clean up, and when that would have been."""
    name = printable(owner.name)
    at = f" ({short_path(owner.file)}:{owner.line})" if owner.file and owner.line > 0 else ""
    if at and owner.what == "test" and owner.file.endswith(owner.name.split("::")[0]):
        at = f" (line {owner.line})"
    texts = {
        "test": f"{name}{at}",
        "fixture": f"{owner.scope or 'function'} fixture `{name}`{at}",
        "import": f"the import of {name}{at}",
        "session": f"no test, but between tests: {name}{at}",
        "block": f"the with-block {name}{at}",
        "unknown": f"unknown: {name}",
    }
    text = texts.get(owner.what, f"{owner.what} {name}{at}")
    if owner.what == "fixture" and owner.during:
        text += f", made during setup for {owner.during}"
    if owner.what == "fixture" and owner.found_after:
        text += f", torn down after {owner.found_after}"
    if owner.attempt > 1:
        text += f", attempt {owner.attempt}"
    return printable(text + (f" [{owner.worker}]" if owner.worker != "main" else ""))


def named(leak: Leak) -> str:
    """``segment psm_4f1c``, or ``segment psm_4f1c on host h2``."""
    return printable(f"{_ONE_AND_MANY.get(leak.kind, (leak.kind, ''))[0]} {leak.name}") + on_host(leak.host)


def describe(leak: Leak) -> List[str]:
    """The block of one leak: a line that names it, and indented ones, each with what it tells."""
    size = size_text(leak)
    process = f" (pid {leak.pid})" if leak.kind == PROCESS and leak.pid > 0 else ""
    lines = [_cut(named(leak) + process + (f": {size}" if size else ""))]
    for label, text in _told(leak):
        # Whole, however long: what the reader looks for, and what is to be copied.
        whole = label in (whose(leak), "called from", "to allow it")
        lines.append(line(label, text if whole else _cut(text)))
    return lines


def line(label: str, text: str) -> str:
    """Return an indented line of a block."""
    return f"  {label:<12} {text}"


def _told(leak: Leak) -> Iterator[Tuple[str, str]]:
    yield whose(leak), owned_by(leak.owner)
    yield from made_at(leak)
    yield "state", _RUNS if leak.kind == PROCESS and leak.verdict == HELD else _VERDICTS.get(leak.verdict, leak.verdict)
    holders = [f"pid {holder.pid} ({holder.command}), by {holder.how}" for holder in leak.holders]
    yield from (("open in", text) for text in first_texts(holders))
    if leak.evidence:
        yield "known by", leak.evidence
    if leak.fate:
        yield "now", leak.fate
    yield from (("note", text) for text in first_texts(leak.notes))
    if leak.after_failure:
        yield "note", "told only: the test failed anyway, so this is no second failure"
    elif leak.mode == "warn" and leak.verdict in (ORPHAN, HELD):
        yield "note", "a warning, no failure: the mode here is warn"
    if leak.verdict in (ORPHAN, HELD):
        yield "to fix", _fix(leak)
    if leak.verdict in (ORPHAN, HELD, UNATTRIBUTED):
        yield "to allow it", _allowance(leak)


def whose(leak: Leak) -> str:
    """A word of blame only where there is some."""
    if leak.owner.what == "unknown":
        return "owner"
    return "leaked by" if leak.verdict in (ORPHAN, HELD) else "belonged to"


def made_at(leak: Leak) -> Iterator[Tuple[str, str]]:
    """Yield where it was made, and the frames around that: labels and texts."""
    where = leak.where
    made = "started at" if leak.kind == PROCESS else "made at"
    own = [frame for frame in leak.stack if not _is_plumbing(frame)]
    if where is None and own:
        where = own[-1]
    if where is None:
        if not leak.stack:
            yield made, "not seen"
            return
        where = leak.stack[-1]
    yield made if where in leak.stack else "look at", place(where)
    source = _source(where)
    if source:
        yield "", f"    {source}"
    if where in own:
        # A function that calls itself stands in the stack more than once: the innermost is meant.
        at = len(own) - 1 - own[::-1].index(where)
        inner, outer = own[at + 1 :], own[:at]
        if inner:
            yield "by way of", ", ".join(map(place, inner[-2:]))
        if outer:
            yield "called from", _callers(leak, outer)


def _callers(leak: Leak, outer: Sequence[Frame]) -> str:
    """Names the nearest callers and the frame of the test or fixture; of those between, their count."""
    function = re.sub(r"\[.*", "", leak.owner.name, flags=re.DOTALL).rpartition("::")[2]
    in_file = [frame for frame in outer if leak.owner.file and frame.file == leak.owner.file]
    own = next((frame for frame in in_file if frame.function == function), (in_file or outer)[0])
    at = outer.index(own)
    nearest = outer[max(at + 1, len(outer) - _MOST_LINES_EACH) :]
    between = outer[at + 1 : len(outer) - len(nearest)]
    texts = [*map(place, reversed(nearest)), place(own)]
    left_out = sum(frame.line for frame in leak.stack if frame.file == LEFT_OUT)
    count = len(between) + left_out
    if count:
        texts.insert(len(nearest), f"{count:,} {'frame' if count == 1 else 'frames'} between")
    return ", ".join(texts)


def _is_plumbing(frame: Frame) -> bool:
    if frame.file == LEFT_OUT:
        return True
    library = frame.file.startswith(_STANDARD_LIBRARY) and "/site-packages/" not in frame.file
    return library or _PLUMBING.search(frame.file) is not None


def _source(frame: Frame) -> str:
    try:
        return linecache.getline(frame.file, frame.line).strip()
    except (OSError, ValueError):  # No file has such a name: there is a NUL or half a character in it.
        return ""


def _fix(leak: Leak) -> str:
    what = _FIXES.get(leak.kind, "remove it")
    if leak.kind == SEMAPHORE and leak.name.startswith("sem.mp-"):
        what = "close, join and drop the Queue, Pool or Lock that it belongs to"
    if leak.owner.what == "fixture":
        return f"after the fixture's `yield`: {what}"
    if leak.owner.what == "import":
        return f"make it in a fixture, not on import, and after the `yield`: {what}"
    if leak.owner.what == "test":
        return f"before the test ends, also if it fails (`finally`, or a fixture): {what}"
    return what


def _allowance(leak: Leak) -> str:
    glob = fitting_glob(leak)
    owner = leak.owner
    if not is_safe(glob, leak.kind, leak.name):
        others = (
            "every fork and every run of pytest" if leak.kind == PROCESS else "this one alone, as its name is random"
        )
        return f"give it a name of its own first: a pattern would allow {others}"
    # A marker reaches what belongs to its test; what is wider is due when another test ends, or none.
    if owner.what == "test" or (owner.what == "fixture" and owner.scope in ("", "function")):
        return f'@pytest.mark.shmstate(allow=[{json.dumps(glob, ensure_ascii=False)}], reason="...")'
    return f"in the ini file, below shmstate_ignore: {glob}  # reason"


def blocks(leaks: Sequence[Leak], most: int = MOST_BLOCKS) -> List[str]:
    """The first in full, the rest by name."""
    lines: List[str] = []
    for leak in leaks[:most]:
        lines += [*describe(leak), ""]
    if leaks[most:]:
        lines.append(f"and {counted(leaks[most:])}: {', '.join(first_texts(names(leaks[most:]), MOST_NAMES))}")
    return lines if leaks[most:] else lines[:-1]


def failure_text(leaks: Sequence[Leak]) -> str:
    """What the teardown error of a test says."""
    return "\n".join([headline_of_test(leaks), "", *blocks(leaks)])


def names(leaks: Iterable[Leak]) -> List[str]:
    """Return the name of each, with its host."""
    return [printable(leak.name) + on_host(leak.host) for leak in leaks]


def first_texts(texts: Sequence[str], most: int = _MOST_LINES_EACH) -> List[str]:
    """Return so many of them, and the count of the rest."""
    return [*texts[:most], f"and {len(texts) - most:,} more"] if len(texts) > most else list(texts)


def _cut(text: str, widest: Optional[int] = None) -> str:
    text, widest = printable(text), widest or _WIDEST
    return text if len(text) <= widest else text[: widest - 3] + "..."
