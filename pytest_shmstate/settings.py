"""Settings, each with its source: default, then ini, environment, command line, closest marker.

    mode     ini shmstate_leaks    env PYTEST_SHMSTATE_LEAKS    --shmstate-leaks    shmstate(leaks=...)
    ignore   ini shmstate_ignore                                                    shmstate(allow=[...], reason=...)
    grace    ini shmstate_grace                                 --shmstate-grace

What stands further right wins; what is to be ignored adds up.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import pytest

from pytest_shmstate.known import BUILT_IN, make_suppression, parse_suppression
from pytest_shmstate.leak import Suppression

MODES = ("error", "warn", "off")
ENVIRONMENT = "PYTEST_SHMSTATE_LEAKS"
MARKER = "shmstate"
#: How a marker is to be written; also what ``pytest --markers`` shows.
MARKER_USAGE = f'{MARKER}(leaks="warn", allow=["psm_*"], reason="why they may stay")'

_MARKER_LINE = (
    f"{MARKER_USAGE}: how leaks of shared memory count here (error, warn, off), and the names that may be left behind"
)
_DEFAULT_GRACE = 2.0
_LONGEST_GRACE = 60.0


@dataclass(frozen=True)
class Settings:
    """What was asked for, once for the whole run, and again for each test that a marker speaks of."""

    #: ``error``, ``warn`` or ``off``.
    leaks: str
    #: Who said so: ``default``, ``--shmstate-leaks``, ``marker of NODEID``, ...
    leaks_source: str
    #: Those of markers first, then the user's own, then what is built in.
    ignore: Tuple[Suppression, ...]
    #: Seconds to wait at most for what is about to go by itself.
    grace: float
    #: Leave what leaked in place.
    keep: bool
    #: Where the JSON goes, absolute. None in an xdist worker: its controller writes for all.
    report: Optional[str]
    selftest: bool


def add_options(parser: pytest.Parser) -> None:
    """Declare what can be set. Values are checked in ``resolve``, in one way for every source."""
    group = parser.getgroup("shmstate", "shared memory left behind by tests")
    group.addoption(
        "--shmstate-leaks",
        metavar="{error,warn,off}",
        help="what a test that leaves shared memory behind does: fail, warn, or nothing (default: error)",
    )
    group.addoption("--shmstate-report", metavar="FILE", help="write what was left behind to FILE, as JSON")
    group.addoption(
        "--shmstate-keep", action="store_true", help="leave what leaked in place, to look at it (default: remove it)"
    )
    group.addoption("--shmstate-grace", metavar="SECONDS", help="the same as shmstate_grace")
    group.addoption(
        "--shmstate-selftest", action="store_true", help="leak one thing of each kind, and see that it is found"
    )
    parser.addini("shmstate_leaks", "error, warn or off (default: error)")
    parser.addini("shmstate_ignore", "what may be left behind, one `GLOB  # reason` a line", type="linelist")
    parser.addini("shmstate_grace", f"longest wait for what is about to go by itself (default: {_DEFAULT_GRACE} s)")


def declare_marker(config: pytest.Config) -> None:
    """Make the marker known to ``--strict-markers`` and ``--markers``."""
    if _MARKER_LINE not in config.getini("markers"):
        config.addinivalue_line("markers", _MARKER_LINE)


def resolve(config: pytest.Config) -> Settings:
    """Read every source but markers. A mistake raises ``pytest.UsageError``."""
    mode, mode_source = _closest(
        (config.getoption("shmstate_leaks"), "--shmstate-leaks"),
        (os.environ.get(ENVIRONMENT) or None, f"environment variable {ENVIRONMENT}"),
        (_ini(config, "shmstate_leaks"), _ini_source(config, "shmstate_leaks")),
        ("error", "default"),
    )
    if mode not in MODES:
        raise pytest.UsageError(_wrong_mode(mode_source, mode))
    grace, grace_source = _closest(
        (config.getoption("shmstate_grace"), "--shmstate-grace"),
        (_ini(config, "shmstate_grace"), _ini_source(config, "shmstate_grace")),
        (str(_DEFAULT_GRACE), "default"),
    )
    return Settings(
        leaks=mode,
        leaks_source=mode_source,
        ignore=(*_ignored(config), *BUILT_IN),
        grace=_seconds(grace, grace_source),
        keep=config.getoption("shmstate_keep"),
        report=_report_file(config),
        selftest=config.getoption("shmstate_selftest"),
    )


def _closest(*candidates: Tuple[Optional[str], str]) -> Tuple[str, str]:
    """The first that says anything, and its source."""
    return next((value, source) for value, source in candidates if value is not None)


def _wrong_mode(source: str, seen: object) -> str:
    return f"{source}: {seen!r} is no mode: write one of {', '.join(MODES)}"


def _ini(config: pytest.Config, name: str) -> Optional[str]:
    try:
        # What is not set reads as "" or as None, which depends on pytest.
        return config.getini(name) or None
    except TypeError as error:
        # pytest 9 keeps the types of its own TOML table, and wants a string here. Later ones say so themselves.
        raise pytest.UsageError(f'{_ini_source(config, name)}: {error}: write it in quotes, {name} = "..."') from error


def _ini_source(config: pytest.Config, name: str) -> str:
    overrides = config.getoption("override_ini", None) or []
    if any(override.partition("=")[0].strip() == name for override in overrides):
        return f"-o {name}"
    return f"{name} in {config.inipath.name if config.inipath else 'the ini file'}"


def _ignored(config: pytest.Config) -> List[Suppression]:
    source = _ini_source(config, "shmstate_ignore")
    suppressions, mistakes = [], []
    try:
        lines = config.getini("shmstate_ignore")
    except TypeError as error:
        raise pytest.UsageError(f"{source}: {error}: write a list of `GLOB  # reason`") from error
    for line in lines:
        try:
            suppressions.append(parse_suppression(line, source))
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        raise pytest.UsageError("\n".join(mistakes))
    return suppressions


def _seconds(text: str, source: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    # A nan fails both comparisons.
    if not 0 <= seconds <= _LONGEST_GRACE:
        raise pytest.UsageError(f"{source}: {text!r} is no wait: write seconds from 0 to {_LONGEST_GRACE:g}")
    return seconds


def _report_file(config: pytest.Config) -> Optional[str]:
    file: Optional[str] = config.getoption("shmstate_report")
    if file is None or hasattr(config, "workerinput"):
        return None
    # Tests may change the current directory before the report is written.
    path = os.path.join(str(config.invocation_params.dir), file)
    if not file or os.path.isdir(path):
        raise pytest.UsageError(f"--shmstate-report: {file!r} is no file: name one, such as shmstate.json")
    return path


def for_item(settings: Settings, item: pytest.Item) -> Settings:
    """Apply the markers of one test, its class and its modules. A mistake in one raises ``pytest.UsageError``."""
    allowed: Dict[Suppression, None] = {}
    for node, mark in _marks(item):
        mistakes = _mistakes(mark, node.nodeid)
        if mistakes:
            raise pytest.UsageError(_with_example(mistakes))
        allowed.update(dict.fromkeys(_allowed(mark, node.nodeid)))
    for node, mark in _marks(item):
        if "leaks" in mark.kwargs:
            settings = replace(settings, leaks=mark.kwargs["leaks"], leaks_source=f"marker of {node.nodeid}")
            break
    return replace(settings, ignore=(*allowed, *settings.ignore)) if allowed else settings


def check_markers(items: Sequence[pytest.Item]) -> None:
    """Raise one ``pytest.UsageError`` that tells every mistake in every marker, once. Also where the mode is ``off``."""
    # The tests that parametrize makes of one function share its marks, those of one module the module's.
    marks: Dict[int, pytest.Mark] = {}
    nodes: Dict[int, Dict[str, None]] = {}
    for item in items:
        for node, mark in _marks(item):
            marks[id(mark)] = mark
            nodes.setdefault(id(mark), {})[node.nodeid] = None
    mistakes = []
    for key, mark in marks.items():
        nodeid, *others = nodes[key]
        mistakes += _mistakes(mark, nodeid + (f" (and {len(others)} more)" if others else ""))
    if mistakes and hasattr(items[0].config, "workerinput"):
        # From a worker of xdist this error would end the run without its text.
        _fail_in_setup(items)
    elif mistakes:
        raise pytest.UsageError(_with_example(mistakes))


def _fail_in_setup(items: Sequence[pytest.Item]) -> None:
    for item in items:
        mistakes = [mistake for node, mark in _marks(item) for mistake in _mistakes(mark, node.nodeid)]
        if mistakes:
            fail = partial(pytest.fail, _with_example(mistakes), pytrace=False)
            item.setup = fail  # type: ignore[method-assign]


def _marks(item: pytest.Item) -> Iterable[Tuple[Any, pytest.Mark]]:
    """The nodes that carry our marker, and the mark; closest first."""
    return item.iter_markers_with_node(MARKER)


def _allowed(mark: pytest.Mark, nodeid: str) -> List[Suppression]:
    source = f"marker of {nodeid}"
    return [make_suppression(glob, mark.kwargs["reason"], source) for glob in mark.kwargs.get("allow", ())]


def _mistakes(mark: pytest.Mark, nodeid: str) -> List[str]:
    return [f"marker of {nodeid}: {text}" for text in _wrong_with(mark)]


def _with_example(mistakes: List[str]) -> str:
    return "\n".join([*mistakes, f"write it like @pytest.mark.{MARKER_USAGE}"])


def _wrong_with(mark: pytest.Mark) -> Iterable[str]:
    given = mark.kwargs
    unknown = sorted(set(given) - {"leaks", "allow", "reason"})
    if mark.args:
        yield f"{mark.args[0]!r} is given without a keyword"
    if unknown:
        yield f"there is no keyword {', '.join(unknown)}"
    if not {"leaks", "allow"} & set(given) and not mark.args and not unknown:
        yield "it says neither leaks= nor allow="
    if "leaks" in given and given["leaks"] not in MODES:
        yield f"leaks={given['leaks']!r} is no mode, only {', '.join(MODES)} are"
    if "reason" in given and not (isinstance(given["reason"], str) and given["reason"].strip()):
        yield f"reason={given['reason']!r} says nothing"
    if "allow" in given:
        yield from _wrong_with_allow(given["allow"], "reason" in given)


def _wrong_with_allow(allow: object, has_reason: bool) -> Iterable[str]:
    if not isinstance(allow, (list, tuple)):
        yield f"allow={allow!r} is no list of globs"
        return
    if allow and not has_reason:
        yield f"allow={allow!r} has no reason="
    for glob in allow:
        if not isinstance(glob, str):
            yield f"{glob!r} in allow= is no glob"
            continue
        try:
            make_suppression(glob, "any", "allow")
        except ValueError as error:
            yield str(error)
