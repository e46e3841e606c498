"""A run of pytest under the plugin, inside a test, and what it made of each of its tests.

What the plugin has to say stands in the inner test file, on the line that makes what is left:

    SharedMemory(create=True, size=70000)  # leaks: test_a, segment 70000
    make()  # leaks: module fixture pool, segment 10, after test_z; test_b[x], segment 10

A line that says nothing must be blamed for nothing, and a test that no such line names must pass in all of its phases.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import psutil
import pytest

from tests.core.children import until

ROOT = Path(__file__).resolve().parent.parent.parent
#: Far more than any of them takes; only a failure waits for it.
PATIENCE = 90.0
ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
PASSED, FAILED, INTERRUPTED, USAGE_ERROR = 0, 1, 2, 4
#: Nothing of the outer run, nor of the machine that it is on, may steer the inner one.
NOT_INHERITED = re.compile(r"GITHUB_|CI$|PYTEST_(?!SHMSTATE_(LEDGER|PARENT)|DEBUG)")
EXPECTATION = re.compile(r"# leaks: (.*)$")
#: Writes down each report where it arrives in the end: on the controller, if there is one.
OUTCOMES = """
    import json, os

    def pytest_runtest_logreport(report):
        if "PYTEST_XDIST_WORKER" not in os.environ:
            worker = getattr(report, "worker_id", "main")
            told = [report.nodeid, report.when, report.outcome, worker, str(report.longrepr or "")]
            with open(os.environ["MATRIX_OUTCOMES"], "a") as file:
                file.write(json.dumps(told) + "\\n")
"""


def needs(*modules: str) -> None:
    """Skip the test where a plugin is not installed."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def text(source: str) -> str:
    """What an indented literal holds, from line 1 on."""
    return textwrap.dedent(source).strip("\n") + "\n"


class Phase(NamedTuple):
    """A report of pytest's: setup, call or teardown of a test."""

    test: str
    when: str
    outcome: str
    worker: str
    longrepr: str


class Blame(NamedTuple):
    """A leak in short. ``after``: the test that was blamed in its stead, where that is another."""

    owner: str
    thing: str
    line: int
    after: str = ""


class Judged:
    """What came of a run."""

    def __init__(self, status: int, output: str, folder: Path, sources: Dict[str, str], left_running: bool) -> None:
        self.status = status
        self.output = output
        self.folder = folder
        self.left_running = left_running
        self._sources = sources
        outcomes = folder / "outcomes.json"
        lines = outcomes.read_text("utf-8").splitlines() if outcomes.exists() else []
        self.phases = [Phase(bare(nodeid), *rest) for nodeid, *rest in map(json.loads, lines)]
        report = folder / "report.json"
        #: Empty if the run had none: it was killed, or did not begin.
        self.report: Dict[str, Any] = json.loads(report.read_text("utf-8")) if report.exists() else {}
        self.leaks: List[Dict[str, Any]] = self.report.get("leaks", [])
        #: Those of the run itself: what others make meanwhile is in the report too, and none of its affair.
        self.ours = [leak for leak in self.leaks if leak["verdict"] in ("orphan", "held", "interrupted")]

    def outcome(self, test: str) -> Dict[str, str]:
        """Phase -> outcome of the last attempt."""
        return {phase.when: phase.outcome for phase in self.phases if phase.test == test}

    def not_passed(self) -> Dict[str, str]:
        """Each test that did not pass all phases, and the first phase that went otherwise: ``teardown failed``."""
        found: Dict[str, str] = {}
        for phase in self.phases:
            if phase.outcome != "passed":
                found.setdefault(phase.test, f"{phase.when} {phase.outcome}")
        return found

    def workers(self, *tests: str) -> List[str]:
        """Who ran these tests (without any: all)."""
        return sorted({phase.worker for phase in self.phases if not tests or phase.test in tests})

    def able(self, what: str) -> bool:
        """Whether the detector said that it can do this here."""
        return any(ability["able"] for ability in self.report["abilities"] if ability["what"] == what)

    def blames(self) -> List[Blame]:
        """All leaks that count as somebody's."""
        return sorted(blame_of(leak) for leak in self.ours if leak["verdict"] != "interrupted")

    def counts(self) -> Dict[str, int]:
        """How many leaks of the run there are in each group that has any."""
        return dict(Counter(leak["group"] for leak in self.ours))

    def removed(self) -> bool:
        """Whether nothing is left of all that is this run's, and nothing runs on."""
        return not self.left_running and not any(map(is_there, self.ours))

    def mismatches(self, status: int = FAILED) -> List[str]:
        """Everything that is not as the inner test files say, each in a line."""
        expected = sorted(blame for source in self._sources.values() for blame in expectations(source))
        told = self.blames()
        wrong = [f"expected, but not told: {blame}" for blame in less(expected, told)]
        wrong += [f"told, but not expected: {blame}" for blame in less(told, expected)]
        blamed = {
            bare(leak["owner"]["found_after"] or leak["owner"]["name"]): 1 for leak in self.leaks if leak["reported"]
        }
        wrong += [f"{test} is not failed for what it left" for test in blamed if test not in self.not_passed()]
        wrong += [f"{test}: {how}" for test, how in self.not_passed().items() if (test, how) not in teardowns(blamed)]
        wrong += [f"{leak['name']} is still there" for leak in self.ours if is_there(leak)]
        wrong += [f"{leak['name']}: interrupted" for leak in self.ours if leak["verdict"] == "interrupted"]
        if self.status != status:
            wrong.append(f"exit status {self.status}, not {status}")
        if self.left_running:
            wrong.append("processes were left running")
        if "INTERNALERROR" in self.output or not self.phases:
            wrong.append("pytest did not get to its end")
        return wrong

    def confirm(self, status: int = FAILED) -> None:
        """Fail with all mismatches, if there are any, and with what the run printed."""
        __tracebackhide__ = True
        wrong = self.mismatches(status)
        assert not wrong, "\n".join([*wrong, "", "the inner run printed:", self.output])


def bare(nodeid: str) -> str:
    """A node id without its file."""
    return nodeid.split("::", 1)[-1]


def teardowns(tests: Dict[str, int]) -> Dict[Any, int]:
    return {(test, "teardown failed"): 1 for test in tests}


def less(some: Sequence[Blame], others: Sequence[Blame]) -> List[Blame]:
    """Those of ``some`` that have no partner among ``others``; one that does not say after which test fits any."""
    left, unpaired = list(others), []
    for blame in some:
        for other in left:
            if blame[:3] == other[:3] and (blame.after == other.after or "" in (blame.after, other.after)):
                left.remove(other)
                break
        else:
            unpaired.append(blame)
    return unpaired


def blame_of(leak: Dict[str, Any]) -> Blame:
    owner, where = leak["owner"], leak["where"]
    name = f"{owner['scope']} fixture {owner['name']}" if owner["what"] == "fixture" else bare(owner["name"])
    if owner["what"] in ("import", "session", "unknown"):
        name = owner["what"]
    thing = f"{leak['kind']} {leak['size']}" if leak["size"] >= 0 else leak["kind"]
    after = owner["found_after"] or ("" if leak["reported"] else "the run")
    return Blame(name, thing, where["line"] if where else 0, bare(after))


def expectations(source: str) -> Iterator[Blame]:
    for number, line in enumerate(source.splitlines(), 1):
        match = EXPECTATION.search(line)
        for one in match[1].split("; ") if match else ():
            owner, thing, *after = one.split(", ")
            yield Blame(owner, thing, number, after[0][len("after ") :] if after else "")


def is_there(leak: Dict[str, Any]) -> bool:
    if leak["kind"] == "process":
        with suppress(OSError):
            stat = Path(f"/proc/{leak['pid']}/stat").read_bytes()
            return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")
        return False
    if leak["kind"] == "sysv":
        ids = [line.split()[1] for line in Path("/proc/sysvipc/shm").read_text("ascii").splitlines()[1:]]
        return leak["name"].split()[-1] in ids
    return os.path.lexists(f"/dev/shm/{leak['name']}")


def environment(folder: Path, temporary: Path, changes: Dict[str, Optional[str]]) -> Dict[str, str]:
    """That of the outer run, ledgers included, but for what would steer the inner one; None takes a name away."""
    env = {name: value for name, value in os.environ.items() if not NOT_INHERITED.match(name)}
    path = [str(folder / "told"), *filter(None, [env.get("PYTHONPATH")]), str(ROOT)]
    env.update(PYTHONPATH=os.pathsep.join(path), MATRIX_OUTCOMES=str(folder / "outcomes.json"))
    # What else happens to be installed is loaded by the tests that are about that.
    # What killed runs left is told by the next that has its ledgers in the same place. Short: there are sockets in it.
    env.update(TMPDIR=str(temporary))
    env.update(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTHONDONTWRITEBYTECODE="1")
    for name, value in changes.items():
        env.pop(name, None)
        if value is not None:
            env[name] = value
    return env


def run(
    folder: Path,
    temporary: Path,
    sources: Dict[str, str],
    *options: str,
    env: Optional[Dict[str, Optional[str]]] = None,
    around: Sequence[str] = (),
    plugins: Sequence[str] = ("pytest_shmstate",),
    cwd: str = "",
    report: bool = True,
) -> Judged:
    """Write the files, run pytest over them in a process of its own, and wait for its end.

    ``temporary``: the inner run's folder for such files. ``around``: a command that runs another. ``cwd``: relative to the project. ``report``: ask the plugin for one.
    """
    project = folder / "project"
    files = {"pytest.ini": "[pytest]\n", **{name: text(source) for name, source in sources.items()}}
    for path, content in {
        **{project / name: files[name] for name in files},
        folder / "told/told.py": text(OUTCOMES),
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    if any(option.startswith(("-n", "--dist")) for option in options):
        plugins = ["xdist", *plugins]
    command = [*around, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "told"]
    command += [word for plugin in plugins for word in ("-p", plugin)]
    command += [f"--shmstate-report={folder / 'report.json'}"] if report else []
    command += options
    status, left_running = finish(
        command, folder / "output.txt", environment(folder, temporary, env or {}), project / cwd
    )
    output = (folder / "output.txt").read_text("utf-8", errors="replace")
    tests = {name: source for name, source in files.items() if name.endswith(".py")}
    return Judged(status, output, folder, tests, left_running)


def finish(command: Sequence[str], output: Path, env: Dict[str, str], cwd: Path) -> Tuple[int, bool]:
    """Run it to its end; its exit status, and whether anything that it started runs on (which is ended)."""
    with open(output, "wb") as file:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            status = process.wait(PATIENCE)
            return status, not is_over(process.pid)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def is_over(group: int, patience: float = 5.0) -> bool:
    """Whether all processes of the group end; the trackers of those that were killed take a moment."""
    with suppress(AssertionError):
        until(lambda: not running_in(group), patience)
    return not running_in(group)


def running_in(group: int) -> List[int]:
    """The processes of the group, without those that have ended and wait for init, in its own time, to ask how."""
    found = []
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] not in ENDED:
                found.append(process.pid)
    return found
