"""``--shmstate-selftest``: leak one thing of each kind, by each way of starting a process, and see that each is named.

A check that has never failed says little. This is a run of pytest of its own, over canaries.py, with the plugin as it
works in this place: what goes unseen here would go unseen in the project's own tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import pytest

from pytest_shmstate import census, verdict

#: For all canaries together, in seconds; they take some ten.
PATIENCE = 300.0
PASSED, FAILED = 0, 1
TEST_FILE = "test_canaries.py"


class Outcome(NamedTuple):
    """What became of one canary."""

    name: str
    good: bool
    text: str


def main(config: pytest.Config) -> int:
    """Run it and tell; the exit status."""
    from pytest_shmstate import canaries

    _say("shmstate selftest")
    with tempfile.TemporaryDirectory(prefix="shmstate-selftest-") as folder:
        shutil.copy(canaries.__file__, Path(folder, TEST_FILE))
        left = Path(folder, "left")
        left.touch()
        try:
            environment = {**os.environ, canaries.LEFT: str(left)}
            ended = _run(Path(folder), getattr(config.option, "numprocesses", None), environment)
        finally:
            _remove(left.read_text("utf-8").splitlines())
        report = Path(folder, "report.json")
        document = json.loads(report.read_text("utf-8")) if report.exists() else None
    if document is None:
        _say(ended.stdout)
        _say(f"the canaries could not be run: pytest ended with {ended.returncode}, without a report")
        return FAILED
    outcomes = [*judged(document["leaks"], ended.stdout), gate(ended.returncode)]
    for outcome in outcomes:
        _say(f"  {'ok    ' if outcome.good else 'FAILED'}  {outcome.name}: {outcome.text}")
    bad = sum(not outcome.good for outcome in outcomes)
    told = f"{bad} of {len(outcomes)} went wrong" if bad else f"all {len(outcomes)} as they should be"
    _say(told)
    return FAILED if bad else PASSED


def _say(text: str) -> None:
    # This stands in for a run, before pytest has set up its own terminal.
    print(text, flush=True)  # noqa: T201


def _remove(left: Sequence[str]) -> None:
    """Remove what the canaries told of and is still there: what went unseen."""
    for line in left:
        what, name, *start = line.split()
        with suppress(OSError):
            if what == "process" and census.runs(int(name), int(start[0])):
                os.kill(int(name), signal.SIGKILL)
            elif what == "sysv":
                verdict.remove_sysv(int(name))
            elif what == "entry":
                path = Path(census.SHM_DIR, name)
                path.rmdir() if path.is_dir() else path.unlink()


def _run(folder: Path, processes: Optional[object], environment: Dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "pytest_shmstate", "-p", "no:cacheprovider", "-v", "-rA"]
    command += ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder), "--shmstate-leaks=error"]
    command += [f"--shmstate-report={folder / 'report.json'}", "-W", "ignore", TEST_FILE]
    command += ["-n", str(processes)] if processes else []
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    return subprocess.run(  # noqa: S603 - our own command
        command,
        cwd=str(folder),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def judged(leaks: List[Dict[str, Any]], output: str) -> List[Outcome]:
    """Each canary against what the report says of it; each neighbour has to be in no report."""
    ran = sorted(set(re.findall(rf"^PASSED {re.escape(TEST_FILE)}::(\S+)", output, re.MULTILINE)))
    if not ran:
        return [Outcome("canaries", False, "none of them ran")]
    outcomes = []
    for test in ran:
        named = [leak["kind"] for leak in leaks if leak["owner"]["name"].endswith("::" + test)]
        expected = expected_of(test)
        if named == ([expected] if expected else []):
            outcomes.append(Outcome(test, True, f"named for its {expected}" if expected else "not blamed"))
        else:
            outcomes.append(
                Outcome(test, False, f"was named for {named or 'nothing'}, not for {expected or 'nothing'}")
            )
    fixtures = [leak["owner"]["name"] for leak in leaks if leak["owner"]["what"] == "fixture"]
    outcomes.append(Outcome("module fixture", set(fixtures) == {"wide"}, f"fixtures named: {sorted(set(fixtures))}"))
    return outcomes


def expected_of(test: str) -> Optional[str]:
    """The kind that the canary leaves behind; None for a neighbour."""
    if test == "test_by_c":
        return "segment"
    if test.startswith("test_in_fixture"):
        return None
    kind = re.split(r"[\[\]-]", test)[-2]
    return None if kind == "nothing" else kind


def gate(returncode: int) -> Outcome:
    """A run with leaks has to fail."""
    return Outcome("exit status", returncode == FAILED, f"a run with leaks ended with {returncode}")


__all__ = ["main"]
