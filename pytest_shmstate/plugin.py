"""The hooks of pytest, and nothing else: each hands on to who does the work.

PYTEST_DONT_REWRITE: there is nothing to rewrite, and importing this first is no reason to warn.

    controller (or the only process)   a Run and a Gate, from configure to unconfigure
    xdist's worker                     a Part in that run, as long
    process that runs tests            an Attendant, from the session's start to its end

Written for pytest 7.0 as well: old-style hook wrappers.
"""

from __future__ import annotations

import os
import unittest
import warnings
from contextlib import suppress
from typing import Any, Generator, List, Optional, Sequence, Tuple

import pytest

from pytest_shmstate import hooks, messages, recorder, report, selftest
from pytest_shmstate.attendant import Attendant
from pytest_shmstate.away import Part, part_in
from pytest_shmstate.fixtures import shm_leaks, shm_prefix, shm_state, shm_workers
from pytest_shmstate.gate import Gate
from pytest_shmstate.leak import FOREIGN, Leak
from pytest_shmstate.repeats import Repeats
from pytest_shmstate.run import Run
from pytest_shmstate.settings import Settings, add_options, check_markers, declare_marker, resolve

Wrapper = Generator[None, Any, Any]
NAME = "shmstate-wiring"
#: How pytest calls what stands in for a fixture where a test has a parameter.
DIRECT_PARAM = "get_direct_param_fixture_func"
#: Raised to say that there is nothing to test.
SKIPPED = (pytest.skip.Exception, unittest.SkipTest)


class ShmstateLeakWarning(pytest.PytestWarning):
    """A test left shared memory behind, in mode ``warn``."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini values."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hook that others may implement."""
    pluginmanager.add_hookspecs(hooks)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Optional[int]:
    """``--shmstate-selftest`` runs that instead of tests."""
    if not config.getoption("shmstate_selftest"):
        return None
    return selftest.main(config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Begin a run, or join that of the controller."""
    declare_marker(config)
    config.pluginmanager.register(Wiring(config, resolve(config)), NAME)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Put everything back."""
    wiring = config.pluginmanager.unregister(name=NAME)
    if wiring is not None:
        wiring.close()


class Wiring:
    """The hooks that need to know the run.

    They do nothing in a fork that left a test by an exception: it goes on as pytest does, through all hooks to the end,
    while the run is its parent's. A fork that was made to run a test, as by pytest-forked, judges that test itself.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._pid = os.getpid()
        self._settings = settings
        workerinput = getattr(config, "workerinput", None)
        self._worker = "main" if workerinput is None else workerinput["workerid"]
        self._gate: Optional[Gate] = None
        self._attendant: Optional[Attendant] = None
        self._distributes = workerinput is None and config.getoption("dist", "no") != "no"
        self._begun = ""
        #: Tests that ended here and did not begin here.
        self._elsewhere: List[str] = []
        self._is_in_loop = self._is_fork = False
        self._part: Optional[Part] = None
        self._said: Tuple[str, ...] = ()
        if workerinput is None:
            self._run = Run.begin()
            self._gate = Gate(self._run, settings)
        else:
            self._part = part_in(workerinput, settings)
            self._run, self._settings = self._part.run, self._part.settings
        if not self._distributes:
            recorder.write(self._run.folder, "worker", self._worker)

    @property
    def _is_own(self) -> bool:
        """Whether this is the process that runs the tests, and no fork of it."""
        return os.getpid() == self._pid

    @property
    def gate(self) -> Optional[Gate]:
        """The end of the run, in the process that began it."""
        return self._gate if self._is_own else None

    @property
    def attendant(self) -> Optional[Attendant]:
        """Who follows the tests, in the process that runs them and between the session's start and end."""
        return self._attendant if self._is_own else None

    def close(self) -> None:
        """The process is done with pytest."""
        if not self._is_own:
            return
        if self._attendant is not None:
            self._attendant.hand_over()
            self._attendant = None
        if self.gate is not None:
            self.gate.close()
        if self._part is not None:
            self._part.close()
        else:
            self._run.close()

    # The controller.

    def pytest_report_header(self) -> Optional[str]:
        """What the detector can see here."""
        return self.gate.header() if self.gate is not None else None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker where the ledger is."""
        if self.gate is not None:
            self.gate.hosts.invite(node)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Everybody's fixtures are through by now, and xdist's workers are gone, or this is one of them."""
        if not self._is_own:
            return
        if self._attendant is not None:
            self._attendant.end_session()
            self._attendant.hand_over()
            self._attendant = None
        if self._elsewhere:
            judged = {content for _, word, content in self._run.told() if word == "forked"}
            self._run.tell(self._worker, "unseen", sum(nodeid not in judged for nodeid in self._elsewhere))
        if self._part is not None:
            output = getattr(session.config, "workeroutput", {})
            output[messages.FROM_WORKER] = self._part.finish()
        if self.gate is not None:
            session.exitstatus = self.gate.finish(int(session.exitstatus))
            # A leak in a test's report was sent by the process that ran the test.
            for leak in self.gate.summary.leaks if self.gate.summary is not None else ():
                if not leak.reported and leak.verdict != FOREIGN:
                    self.gate.mistakes += hooks.send(session.config, leak, None)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Tell what was found."""
        if self.gate is not None:
            self.gate.tell(terminalreporter)

    # The process that runs tests.

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """From here on everything that is made is somebody's."""
        if not self._distributes and self._is_own:
            host = self._part.host if self._part is not None else ""
            self._attendant = Attendant(self._run, self._settings, self._worker, host)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: List[pytest.Item]) -> None:
        """Mistakes in markers end the run here."""
        check_markers(items)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Wrapper:
        """What a module makes when it is imported is its own."""
        if self.attendant is None or not isinstance(collector, pytest.Module):
            return (yield)
        span = self.attendant.begin_import(collector.nodeid)
        try:
            return (yield)
        finally:
            if self.attendant is not None:
                self.attendant.end_import(span)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Wrapper:
        """A test begins; one that is run again begins again."""
        if not self._is_own:
            self._begin_fork(item)
        self._begun = item.nodeid
        if self.attendant is not None:
            self.attendant.begin_test(item)
        try:
            return (yield)
        except BaseException as error:
            self._see(error, item, "setup")
            raise

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """A fork that is made from here on outside of a test may be made to run one."""
        self._is_in_loop = self._is_own

    def _begin_fork(self, item: pytest.Item) -> None:
        """Judge the test in this fork, if the fork was made to run it: by the same ledger, as a worker of xdist does."""
        if self._attendant is None or not self._is_in_loop or self._attendant.is_in_test:
            return
        self._pid, self._is_fork = os.getpid(), True
        self._gate = self._part = None
        self._worker += f".{self._pid}"
        recorder.write(self._run.folder, "worker", self._worker)
        self._run.tell(self._worker, "forked", item.nodeid)
        self._attendant = self._attendant.of_fork(self._worker)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Note a test that ended here and did not begin here: another process ran it, as pytest-forked does."""
        if nodeid != self._begun and self.attendant is not None:
            self._elsewhere.append(nodeid)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Wrapper:
        """What a fixture makes is due when the fixture ends."""
        # The value of a parameter is a fixture as well, to pytest; it makes nothing.
        if self.attendant is None or getattr(fixturedef.func, "__name__", "") == DIRECT_PARAM:
            return (yield)
        active = self.attendant.begin_fixture(fixturedef)
        try:
            return (yield)
        finally:
            if self.attendant is not None:
                self.attendant.made_fixture(active)

    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        """Now."""
        if self.attendant is not None:
            self.attendant.end_fixture(fixturedef)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Wrapper:
        """See whether the test fails by itself; expected failures count."""
        # Not by makereport: that is asked three times a test, and what passes would pay for it.
        try:
            return (yield)
        except BaseException as error:
            self._see(error, item, "call")
            raise
        finally:
            for info in getattr(item, "_excinfo", None) or ():  # errors of a TestCase wait there for the report
                self._see(info.value, item, "call")

    def _see(self, error: BaseException, item: pytest.Item, phase: str) -> None:
        if self.attendant is not None and not isinstance(error, SKIPPED):
            self.attendant.failed()
            lines = self.attendant.removals.behind(error)
            said = (item.nodeid, phase, *lines)
            if lines and said != self._said:  # a TestCase's error comes by two ways
                self._said = said
                item.add_report_section(phase, "shared memory", "\n".join(lines))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: Optional[pytest.Item]) -> Wrapper:
        """The test is through, and so are the fixtures that it was the last to use."""
        try:
            result = yield
        except BaseException as own:
            if self.attendant is not None:
                self.attendant.failed()
                self._see(own, item, "teardown")
                _tell(item, self.attendant.end_test(item), self.attendant.repeats, failing=True)
            self._end_fork(nextitem)
            raise
        if self.attendant is not None:
            error = _tell(item, self.attendant.end_test(item), self.attendant.repeats, failing=False)
            self._end_fork(nextitem)
            if error is not None:
                raise error
        return result

    def _end_fork(self, nextitem: Optional[pytest.Item]) -> None:
        """After the last test of a fork no hook is called in it."""
        if self._is_fork and nextitem is None and self.attendant is not None:
            self.attendant.end_session()
            self.attendant.hand_over()
            self._attendant = None


def _tell(item: pytest.Item, leaks: Sequence[Leak], repeats: Repeats, failing: bool) -> Optional[BaseException]:
    """Put leaks into the test's report; the exception that its teardown has to end with, if any."""
    for leak in leaks:
        item.user_properties.append(("shmstate_leak", report.headline_of_test([leak])))
    for leak in leaks:
        for line in hooks.send(item.config, leak, hooks.item_of(leak, item)):
            item.add_report_section("teardown", "shared memory", line)
            with suppress(pytest.PytestWarning):  # -W error
                warnings.warn(pytest.PytestWarning(line), stacklevel=2)
    blamed, warned, added = _sorted_by_weight(leaks, failing)
    if added:
        item.add_report_section("teardown", "shared memory", repeats.text(added, item.nodeid))
    error: Optional[BaseException] = None
    if warned:
        try:
            warnings.warn(ShmstateLeakWarning(repeats.text(warned, item.nodeid)), stacklevel=2)
        except ShmstateLeakWarning as raised:  # -W error
            error = raised
    if blamed:
        error = pytest.fail.Exception(repeats.text(blamed, item.nodeid), pytrace=False)
    return error


def _sorted_by_weight(leaks: Sequence[Leak], failing: bool) -> Tuple[List[Leak], List[Leak], List[Leak]]:
    """Those that fail the teardown, those to warn of, those only to be told since the test has failed anyway."""
    blamed, warned, added = [], [], []
    for leak in leaks:
        if failing or leak.after_failure:
            added.append(leak)
        elif leak.mode == "warn":
            warned.append(leak)
        else:
            blamed.append(leak)
    return blamed, warned, added


__all__ = ["shm_leaks", "shm_prefix", "shm_state", "shm_workers", "ShmstateLeakWarning"]
