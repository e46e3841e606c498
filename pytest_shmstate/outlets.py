"""Where the end of a run is told: the terminal's section, a JSON file, GitHub's annotations and its step summary."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass, replace
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

from pytest_shmstate.known import Use
from pytest_shmstate.leak import FOREIGN, INTERRUPTED, UNATTRIBUTED, Leak, Suppression
from pytest_shmstate.repeats import alike, blocks_of_run, source_of
from pytest_shmstate.report import (
    bytes_text,
    counted,
    named,
    on_host,
    owned_by,
    place,
    printable,
    size_text,
    whose,
)

#: Of the JSON document. It changes when something in it is renamed or goes, not when something is added.
FORMAT = 1
MOST_ROWS = 200
_MOST_IN_SHORT = 10
_FIRST_TESTS = 3

#: What a leak counts as, and what the terminal says above those that do. In the order of their weight.
GROUPS = {
    "failing": "left behind, and a failure",
    "told": "left behind by tests that failed anyway",
    "warned": "left behind, and only warned of",
    "interrupted": "left by what was killed or stopped before it could clean up",
    "unattributed": "came during this run and stayed, by whom is not known",
    "foreign": "made by others meanwhile, left alone",
}

#: A line of the terminal, and how to show it: ``write_line(text, **markup)``.
Line = Tuple[str, Dict[str, bool]]


class ReportNotWritten(OSError):
    """A report could not be written where it was asked for."""


#: What was watched, whether that worked, and why not.
Abilities = Tuple[Tuple[str, bool, str], ...]


@dataclass(frozen=True)
class Host:
    """Another host, on which workers of the run were."""

    name: str
    workers: Tuple[str, ...]
    #: Why it is not known what is left there, a line each; none: it is known.
    untold: Tuple[str, ...] = ()
    #: What has to be known of it beside that, a line each.
    remarks: Tuple[str, ...] = ()
    abilities: Abilities = ()
    tests_checked: int = 0


@dataclass(frozen=True)
class Summary:
    """All that is told at the end of a run."""

    mode: str
    #: Who set the mode.
    mode_source: str
    leaks: Tuple[Leak, ...] = ()
    used: Tuple[Use, ...] = ()
    unused: Tuple[Suppression, ...] = ()
    #: Those of the host that the run was started on.
    abilities: Abilities = ()
    #: On all hosts.
    tests_checked: int = 0
    #: The others.
    hosts: Tuple[Host, ...] = ()
    #: The tests passed, and the run fails all the same.
    exit_status_changed: bool = False
    #: The id of the run.
    run: str = ""
    #: Tests that other processes ran, without a hook of this one.
    tests_unseen: int = 0


def group_of(leak: Leak) -> str:
    """The key in ``GROUPS``."""
    by_verdict = {FOREIGN: "foreign", INTERRUPTED: "interrupted", UNATTRIBUTED: "unattributed"}
    if leak.verdict in by_verdict:
        return by_verdict[leak.verdict]
    if leak.after_failure:
        return "told"
    return "warned" if leak.mode == "warn" else "failing"


def grouped(leaks: Iterable[Leak]) -> Dict[str, List[Leak]]:
    """The groups that are not empty."""
    groups: Dict[str, List[Leak]] = {key: [] for key in GROUPS}
    for leak in leaks:
        groups[group_of(leak)].append(leak)
    return {key: members for key, members in groups.items() if members}


def section(summary: Summary) -> List[Line]:
    """The terminal's section "shared memory". One line if all is well."""
    groups = grouped(summary.leaks)
    foreign = groups.pop("foreign", [])
    tests = tests_text(summary)
    mode = f"mode {summary.mode}, {summary.mode_source}"
    lines: List[Line] = []
    if not groups:
        # Green is for what was looked at.
        checked = summary.tests_checked > 0 and summary.mode != "off"
        only = "only tests whose marker asks for it are checked" if summary.mode == "off" else "no test was checked"
        found = f"{'nothing known to be' if lines_of_hosts(summary) else 'nothing'} left behind by {tests}"
        lines.append((f"{found if checked else only} ({mode})", {"green": checked and not lines_of_hosts(summary)}))
    for key, leaks in groups.items():
        lines += _findings(key, leaks)
    if groups:
        lines.append((f"{tests} checked ({mode})", {}))
        # Above a clean run it stands in the header already.
        lines += [(text, {"yellow": True}) for text in _blind_spots(summary)]
    if summary.tests_unseen:
        alarm = {"red": True, "bold": True} if summary.mode == "error" else {"yellow": True}
        lines.append((_unseen(summary.tests_unseen), alarm))
    lines += _other_hosts(summary)
    if foreign:
        lines.append((f"{GROUPS['foreign']}: {counted(foreign)}", {}))
    lines += [(text, {}) for text in _suppression_lines(summary)]
    if summary.exit_status_changed:
        blamed = "failing" in groups or any(leak.mode == "error" for leak in groups.get("unattributed", ()))
        what = "was left behind" if blamed or not lines_of_hosts(summary) else "is not known"
        lines.append((f"the tests passed, but this run fails for what {what}", {"red": True, "bold": True}))
    return lines


def lines_of_hosts(summary: Summary) -> List[str]:
    """Return what is known of other hosts, and what is not known of any."""
    unseen = [_unseen(summary.tests_unseen)] if summary.tests_unseen else []
    return [*unseen, *(line for host in summary.hosts for line in host.untold)]


def _unseen(count: int) -> str:
    tests = "1 test" if count == 1 else f"{count} tests"
    return (
        f"{tests} ran in processes that the detector does not see (pytest-forked does that), and this run does not "
        "know what they left: run them in pytest's own process, or use --shmstate-leaks=warn"
    )


def _other_hosts(summary: Summary) -> Iterator[Line]:
    """What a reader cannot take for granted there."""
    able = {what for what, able, _ in summary.abilities if able}
    for host in summary.hosts:
        for text in host.untold:
            yield printable(text), {"red": True, "bold": True} if summary.mode == "error" else {"yellow": True}
        # The header was printed before anything was known of them.
        missing = [_ability(what, note) for what, works, note in host.abilities if not works and what in able]
        if missing:
            yield printable(f"not possible on host {host.name}: {'; '.join(missing)}"), {"yellow": True}
        for text in host.remarks:
            yield printable(text), {"yellow": True}


def tests_text(summary: Summary) -> str:
    """Return how many tests were checked, in words."""
    return "1 test" if summary.tests_checked == 1 else f"{summary.tests_checked:,} tests"


def _findings(key: str, leaks: List[Leak]) -> Iterator[Line]:
    colour = {"failing": {"red": True, "bold": True}, "told": {"red": True}}.get(key, {"yellow": True})
    yield f"{GROUPS[key]}: {counted(leaks)}", colour
    reported = [leak for leak in leaks if leak.reported]
    rows = _by_source(reported)
    for row in rows[:MOST_ROWS]:
        yield f"  {_row(row)}", {}
    rest = sum(map(len, rows[MOST_ROWS:]))
    if rest:
        yield f"  and {rest:,} more, each with its error above", {}
    new = [leak for leak in leaks if not leak.reported]
    in_full = [leak for leak in new if _asks_for_action(leak)]
    for text in [*blocks_of_run(in_full), ""] if in_full else []:
        yield (f"  {text}" if text else ""), {}
    in_short = sorted((leak for leak in new if not _asks_for_action(leak)), key=lambda leak: -leak.size)
    groups = alike(in_short)
    for members in groups[:_MOST_IN_SHORT]:
        told = [_in_short(members[0]), size_text(members[0])] if len(members) == 1 else [_row_of_many(members)]
        yield "  " + "; ".join(filter(None, [*told, printable(members[0].fate)])), {}
    rest_in_short = [leak for members in groups[_MOST_IN_SHORT:] for leak in members]
    if rest_in_short:
        yield f"  and {counted(rest_in_short)} more", {}


def _test_of(leak: Leak) -> str:
    return leak.owner.during or leak.owner.name


def _by_source(leaks: Iterable[Leak]) -> List[List[Leak]]:
    """Puts together what several tests left by one fixture or line of code; all others stand alone."""
    sources: Dict[Any, List[Leak]] = {}
    for number, leak in enumerate(leaks):
        sources.setdefault(source_of(leak) or number, []).append(leak)
    rows: List[List[Leak]] = []
    for members in sources.values():
        many = len(set(map(_test_of, members))) > 1
        rows += [members] if many else [[leak] for leak in members]
    return rows


def _row(leaks: Sequence[Leak]) -> str:
    first = leaks[0]
    if len(leaks) == 1:
        return f"{_in_short(first)} (see its error above)"
    return f"{_row_of_many(leaks)} (see their errors above)"


def _row_of_many(leaks: Sequence[Leak]) -> str:
    first = leaks[0]
    tests = list(dict.fromkeys(map(_test_of, leaks)))
    more = f" and {len(tests) - _FIRST_TESTS:,} more" if len(tests) > _FIRST_TESTS else ""
    if first.owner.what == "fixture":
        source = owned_by(replace(first.owner, during="", found_after="", worker="main", attempt=1))
    else:
        source = place(first.where) if first.where is not None else ""
    told = f"{counted(leaks)}{on_host(first.host)}, {whose(first)} {source}"
    if len(tests) > 1:
        told += f", in {len(tests):,} tests: {', '.join(tests[:_FIRST_TESTS])}{more}"
    return printable(told)


def _asks_for_action(leak: Leak) -> bool:
    return group_of(leak) != "interrupted" and not (group_of(leak) == "unattributed" and leak.mode != "error")


def _in_short(leak: Leak) -> str:
    return f"{named(leak)}, {whose(leak)} {owned_by(leak.owner)}"


def _blind_spots(summary: Summary) -> List[str]:
    missing = [_ability(what, note) for what, able, note in summary.abilities if not able]
    return [f"not possible here: {'; '.join(missing)}"] if missing else []


def _ability(what: str, note: str) -> str:
    return f"{what} ({note})" if note else what


def _suppression_lines(summary: Summary) -> Iterator[str]:
    for suppression, count, size in summary.used:
        times = "once" if count == 1 else f"{count:,} times"
        covered = f", {bytes_text(size)}" if size else ""
        yield f"allowed {times}{covered}: {printable(_as_line(suppression))} ({printable(suppression.source)})"
    for suppression in summary.unused:
        yield f"allowed, but never seen: {printable(_as_line(suppression))} ({printable(suppression.source)})"


def _as_line(suppression: Suppression) -> str:
    return f"{suppression.pattern}  # {suppression.reason}"


def as_document(summary: Summary) -> Dict[str, Any]:
    """The summary as plain dicts and lists, for JSON."""
    return {
        "format": FORMAT,
        "run": summary.run,
        "mode": summary.mode,
        "mode_source": summary.mode_source,
        "tests_checked": summary.tests_checked,
        "tests_unseen": summary.tests_unseen,
        "exit_status_changed": summary.exit_status_changed,
        "counts": {key: len(grouped(summary.leaks).get(key, ())) for key in GROUPS},
        "leaks": [{**leak.as_json(), "host": leak.host, "group": group_of(leak)} for leak in summary.leaks],
        "suppressions": [{**asdict(used), "count": count, "bytes": size} for used, count, size in summary.used],
        "unused_suppressions": [asdict(suppression) for suppression in summary.unused],
        "abilities": _abilities(summary.abilities),
        "hosts": [{**asdict(host), "abilities": _abilities(host.abilities)} for host in summary.hosts],
    }


def _abilities(abilities: Abilities) -> List[Dict[str, Any]]:
    return [{"what": what, "able": able, "note": note} for what, able, note in abilities]


def write_json(path: str, document: Dict[str, Any]) -> None:
    """Write the whole document or nothing; folders are made. Raises ``ReportNotWritten``."""
    text = json.dumps(document, indent=2) + "\n"
    try:
        # A link stays a link. What is no regular file (a pipe, a terminal) can be written to, not replaced.
        path = os.path.realpath(path)
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            _write(path, text, "w")
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        beside = f"{path}.{os.getpid()}.part"
        try:
            _write(beside, text, "w")
            os.replace(beside, path)
        except OSError:
            if os.path.exists(beside):
                os.unlink(beside)
            raise
    except (OSError, ValueError) as error:
        raise ReportNotWritten(_not_written(path, error)) from error


def append_summary(path: str, text: str) -> None:
    """Add to the file that ``GITHUB_STEP_SUMMARY`` names; other steps and tools write to it too."""
    try:
        _write(path, text, "a")
    except (OSError, ValueError) as error:
        raise ReportNotWritten(_not_written(path, error)) from error


def _write(path: str, text: str, mode: str) -> None:
    with open(path, mode, encoding="utf-8") as file:
        file.write(text)


def _not_written(path: str, error: Exception) -> str:
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return f"{path}: the report of what was left behind could not be written ({reason}): name a file that can be"
