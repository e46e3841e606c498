"""Follows pytest through tests and fixtures, in the process that runs them, and says what each left behind."""

from __future__ import annotations

import builtins
import gc
import os
import sys
import warnings
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import pytest

from pytest_shmstate import reach, recorder, verdict
from pytest_shmstate.attribution import Found, inode_of
from pytest_shmstate.held import holders_of
from pytest_shmstate.known import Suppressions
from pytest_shmstate.leak import PROCESS, SYSV, Leak, Owner, Suppression
from pytest_shmstate.removals import Removals
from pytest_shmstate.repeats import Repeats
from pytest_shmstate.run import Run, uses_as_json
from pytest_shmstate.settings import Settings, for_item
from pytest_shmstate.timeline import Span
from pytest_shmstate.watch import FREED_WITH_OBJECTS, Watch

#: Things that pytest keeps with an item; a bound, should it keep lists of the user's own.
MOST_KEPT = 1000


@dataclass
class ActiveFixture:
    """A fixture between its setup and its end."""

    fixturedef: Any
    span: Span


class Attendant:
    """Owns the watch; each method answers one of pytest's hooks."""

    def __init__(self, run: Run, settings: Settings, worker: str, host: str = "") -> None:
        """``host``: how this one is called in reports; empty for the one that the run was started on."""
        self._run = run
        self._host = host
        self._settings = settings
        self._worker = worker
        self._suppressions = Suppressions(settings.ignore)
        self.watch = Watch(run.folder, Owner("session", "the run, between tests", worker=worker), settings.grace)
        self.watch.keepers = self._keepers
        self.watch.release = self._release
        self._fixtures: List[ActiveFixture] = []
        self._item: Optional[pytest.Item] = None
        self._span: Optional[Span] = None
        self._last: Tuple[str, int] = ("", 0)
        #: What was removed while tests are still to come.
        self.removals = Removals()
        #: Knows what stands in full in an earlier error.
        self.repeats = Repeats()
        self.tests = 0

    def of_fork(self, worker: str) -> Attendant:
        """Return one that follows the tests of a fork of this process."""
        return Attendant(self._run, self._settings, worker, self._host)

    # Tests.

    @property
    def is_in_test(self) -> bool:
        """Whether a test has begun and not ended."""
        return self._span is not None

    def begin_test(self, item: pytest.Item) -> None:
        """Its setup begins."""
        nodeid, attempt = self._last
        attempt = attempt + 1 if nodeid == item.nodeid else 1
        self._last = (item.nodeid, attempt)
        if attempt > 1:
            self._run.tell(self._worker, "again", item.nodeid)
            self.repeats.forget(item.nodeid)
        file, line = _location(item)
        owner = Owner(
            "test", item.nodeid, file=file, line=line, during=item.nodeid, worker=self._worker, attempt=attempt
        )
        self._item = item
        self._span = self.watch.timeline.enter(owner)
        self.tests += 1
        recorder.write(self._run.folder, "test", item.nodeid, file, line, attempt)

    def failed(self) -> None:
        """The current test has failed, or failed as was expected: its leaks are told, but add no failure."""
        if self._span is not None:
            self._span.failed = True
            for active in self._fixtures:
                if active.fixturedef.scope == "function":
                    active.span.failed = True

    def end_test(self, item: pytest.Item) -> List[Leak]:
        """Its teardown is through; what is due and still there."""
        span = self._span
        if span is None:
            return []
        span.due = span.complete = True
        try:
            leaks = self._judge(
                lambda found: found.span is span and span.failed and found.kind in FREED_WITH_OBJECTS,
                item.nodeid,
            )
        finally:
            # Only now: what is first seen here came during the test, however late it says so itself.
            self.watch.timeline.leave(span)
            self._span = self._item = None
        return leaks

    # Fixtures.

    def begin_fixture(self, fixturedef: Any) -> ActiveFixture:
        """Its setup begins."""
        wide = fixturedef.scope != "function"
        if wide:
            self.watch.attend()
        code = getattr(fixturedef.func, "__code__", None)
        nodeid = self._item.nodeid if self._item is not None else ""
        owner = Owner(
            "fixture",
            fixturedef.argname,
            scope=fixturedef.scope,
            file=code.co_filename if code else "",
            line=code.co_firstlineno if code else 0,
            during=nodeid,
            worker=self._worker,
            attempt=1 if wide else self._last[1],
        )
        active = ActiveFixture(fixturedef, self.watch.timeline.enter(owner))
        self._fixtures.append(active)
        if wide:
            recorder.write(self._run.folder, "fixture", owner.name, owner.scope, owner.file, owner.line, nodeid)
        return active

    def made_fixture(self, active: ActiveFixture) -> None:
        """Its setup is through, or has failed; what it makes now, it makes in its finalizer."""
        wide = active.fixturedef.scope != "function"
        if wide:
            self.watch.attend()
        self.watch.timeline.leave(active.span)
        if wide:
            recorder.write(self._run.folder, "rest")
        # Finalizers run last in, first out: this one right before the fixture's own.
        active.fixturedef.addfinalizer(lambda: self._finalize(active))

    def _finalize(self, active: ActiveFixture) -> None:
        if active in self._fixtures:
            if active.fixturedef.scope != "function":
                self.watch.attend()
            self.watch.timeline.resume(active.span)

    def end_fixture(self, fixturedef: Any) -> None:
        """Its finalizers are through. Comes more than once."""
        for active in [one for one in self._fixtures if one.fixturedef is fixturedef]:
            if active.fixturedef.scope != "function":
                self.watch.attend()
            self.watch.timeline.pause(active.span, self._span or self.watch.timeline.root)
            active.span.due = active.span.complete = True
            self._fixtures.remove(active)

    # The whole.

    def begin_import(self, nodeid: str) -> Span:
        """A test module is imported."""
        return self.watch.timeline.enter(Owner("import", nodeid, file=nodeid, worker=self._worker))

    def end_import(self, span: Span) -> None:
        """It is."""
        self.watch.attend()
        self.watch.timeline.leave(span)

    def end_session(self) -> None:
        """All tests are through, and all fixtures; what was cut short is due as well."""
        for active in self._fixtures:
            active.span.due = True
        if self._span is not None:
            self._span.due = True
        self._judge(lambda _: False, "")

    def hand_over(self) -> None:
        """Tell what is still there though nobody has to have removed it before this process ends; then stop."""
        for found in self.watch.pending():
            plain = {
                "kind": found.kind,
                "name": found.name,
                "mark": found.mark,
                "pid": found.pid,
                "evidence": found.evidence,
                "stack": [[frame.file, frame.line, frame.function] for frame in found.stack],
                "owner": vars(found.span.owner),
            }
            self._run.tell(self._worker, "owed", plain)
        for (name, inode), pid in self.watch.makers.items():
            if inode_of(name) == inode:
                self._run.tell(self._worker, "maker", [name, inode, pid])
        content = {"tests": self.tests, "uses": uses_as_json(self._suppressions.used()), "source": self.watch.source}
        self._run.tell(self._worker, "end", content)
        self.watch.close()

    def _judge(self, unless: Any, nodeid: str) -> List[Leak]:
        due = self.watch.due(unless)
        if not due:
            return []
        told = verdict.leaks_of(due)
        # Once for all of them, and only if one of them is not allowed: it goes through all that is loaded.
        holders: Optional[Dict[int, str]] = None
        leaks: List[Leak] = []
        for index, (found, leak) in enumerate(zip(due, told)):
            settings = self._settings_of(found.span)
            if self._is_to_be_told(found, leak, settings):
                holders = holders_of(due, told) if holders is None else holders
                leaks.append(self._decide(found, leak, nodeid, settings, holders.get(index, "")))
        self._run.tell_leaks(self._worker, leaks)
        return leaks

    def _is_to_be_told(self, found: Found, leak: Leak, settings: Settings) -> bool:
        self.watch.forget(found)
        own = settings.ignore[: len(settings.ignore) - len(self._settings.ignore)]
        if settings.leaks == "off" or self._allowed(found, leak, own):
            self._run.tell(self._worker, "allowed", found.as_told())
            return False
        return True

    def _decide(self, found: Found, leak: Leak, nodeid: str, settings: Settings, holder: str) -> Leak:
        """``holder``: the global that still leads to it, if there is one."""
        if found.span.owner.name != nodeid:
            leak = replace(leak, owner=replace(leak.owner, found_after=nodeid))
        leak = replace(leak, mode=settings.leaks, reported=bool(nodeid), host=self._host)
        if self._settings.keep:
            return replace(leak, fate="left in place (--shmstate-keep)")
        if settings.leaks == "warn" or holder:
            why = f": `{holder}` still holds it" if holder else " (mode warn)"
            self._run.tell(self._worker, "left", found.as_told())
            return replace(leak, fate=f"left in place until the run ends{why}")
        leak = verdict.removed(found, leak)
        self.removals.add(leak)
        return leak

    def _allowed(self, found: Found, leak: Leak, own: Sequence[Suppression]) -> bool:
        also = [found.name] if found.kind == PROCESS else []
        if found.kind == SYSV:
            also = verdict.sysv_names(found.mark)
        return self._suppressions.match(found.kind, leak.name, also, size=leak.on_disk, first=own) is not None

    def _settings_of(self, span: Span) -> Settings:
        """Those of the test, for itself and its function's fixtures; a wider fixture is no test's."""
        if self._item is None or (span.owner.what == "fixture" and span.owner.scope != "function"):
            return self._settings
        if span.owner.during != self._item.nodeid:
            return self._settings
        return for_item(self._settings, self._item)

    def _keepers(self) -> Iterable[Tuple[Span, Any]]:
        for active in self._fixtures:
            cached = getattr(active.fixturedef, "cached_result", None)
            if cached is not None:
                yield active.span, cached[0]
            if active.fixturedef.scope == "class" and getattr(self._item, "cls", None) is not None:
                # setUpClass and the like keep what they make in the class.
                yield active.span, self._item.cls  # type: ignore[union-attr]
            if active.fixturedef.scope != "function":
                # What setup_module fills, or a fixture that has no value empties when it ends.
                for thing in reach.named_by(active.fixturedef.func, verdict.is_the_users):
                    yield active.span, thing

    def _release(self) -> None:
        """Let go: pytest keeps a test's arguments and instance longer than the test; what they hold is no leak."""
        for one in gc.get_objects():
            # A recorded ResourceWarning keeps what it warned of.
            if type(one) is warnings.WarningMessage:
                one.source = None
        if hasattr(builtins, "_") and not callable(builtins._):
            del builtins._  # what a doctest showed last
        for name in ("last_exc", "last_value", "last_traceback"):
            if hasattr(sys, name):
                delattr(sys, name)  # of a test that failed, maybe as was expected; it keeps what that had in its frames
        item = self._item
        if item is None:
            return
        funcargs = getattr(item, "funcargs", None)
        if isinstance(funcargs, dict):
            funcargs.clear()
        for instance in _instances(item):
            vars(instance).clear()


def _instances(item: pytest.Item) -> Iterable[Any]:
    """The objects that the item's method was called on, wherever pytest keeps them.

    Not ``item.instance``: asking for it may make another. Before pytest 8.2 only the bound method had it; and what
    skipped in a TestCase is kept in lists before Python 3.11.
    """
    cls = getattr(item, "cls", None)
    if cls is None:
        return
    waiting: List[Any] = [getattr(getattr(item, "_obj", None), "__self__", None), *vars(item).values()]
    for _ in range(MOST_KEPT):
        if not waiting:
            break
        kept = waiting.pop()
        if issubclass(type(kept), (tuple, list)):
            waiting.extend(kept)
        elif issubclass(type(kept), cls) and hasattr(kept, "__dict__"):
            yield kept


def _location(item: pytest.Item) -> Tuple[str, int]:
    _, line, _ = item.location
    return os.fspath(item.path), (line or 0) + 1


__all__ = ["Attendant"]
