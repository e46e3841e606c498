"""A child that outlives its test is known by what it runs, and by the line that started it."""

from __future__ import annotations

from typing import Tuple

import pytest

from pytest_shmstate.known import RUNS, Suppressions, fitting_glob, is_safe, parse_suppression
from pytest_shmstate.leak import KINDS, ORPHAN, PROCESS, SEGMENT, Leak, Owner
from tests.plugin.conftest import Judge

CHILDREN = """
    import multiprocessing, os, subprocess, sys, threading, time
    from functools import partial

    def sleeper(seconds=60):
        time.sleep(seconds)

    class Server(multiprocessing.get_context("fork").Process):
        def run(self):
            time.sleep(60)

    def process(method):
        one = multiprocessing.get_context(method).Process(target=sleeper, name="my-sleeper")
        one.start()  # starts: process
        return one

    def forked():
        pid = os.fork()  # starts: forked
        if pid == 0:
            time.sleep(60)
            os._exit(0)

    def popen():
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])  # starts: popen

    def other():
        return subprocess.Popen(["sleep", "50"])

    def test_it():
        {call}
"""


@pytest.mark.parametrize("options", [(), ("-n1",)], ids=["alone", "xdist"])
@pytest.mark.parametrize(
    ("call", "name", "line"),
    [
        ("process('fork')", "test_it.sleeper (my-sleeper)", "process"),
        ("process('spawn')", "test_it.sleeper (my-sleeper)", "process"),
        ("process('forkserver')", "test_it.sleeper (my-sleeper)", "process"),
        ("Server().start()", "test_it.Server.run (Server-1)", ""),
        ("forked()", "fork in forked (test_it.py:", "forked"),
        ("popen(); other()", "import time; time.sleep(60)", "popen"),
    ],
    ids=["fork", "spawn", "forkserver", "class", "os.fork", "Popen"],
)
def test_a_child_is_named_with_its_target_and_its_line(
    judge: Judge, call: str, name: str, line: str, options: Tuple[str, ...]
) -> None:
    judged = judge(CHILDREN.replace("{call}", call), "--shmstate-grace=0.2", *options)

    found = [leak for leak in judged.ours if leak["kind"] == "process" and name in leak["name"]]
    assert len(found) == 1, judged.output
    lines = (judged.folder / "project/test_it.py").read_text().splitlines()
    shown = lines[found[0]["where"]["line"] - 1]
    assert f"# starts: {line}" in shown if line else "Server().start()" in shown
    assert "started at" in judged.output
    assert not [one for one in judged.output.splitlines() if "to allow it" in one and "pytest*" in one]
    assert judged.removed()


NAMES = [
    ("psm_1a2b3c4d", True),
    ("psm_abcdefgh", True),
    ("tmpabcdefgh", True),
    ("sem.mp-abcdefgh", True),
    ("cache-deadbeef-dead-beef-dead-beefdeadbeef", True),
    ("cache-7f3e2c1a9b8d4e5fa6b7c8d9e0f1a2b3", True),
    ("worker-31337", True),
    ("7f3e2c1a-9b8d-4e5f-a6b7-c8d9e0f1a2b3", False),
    ("abcdefab-abcd-abcd-abcd-abcdefabcdef", False),
    ("31337", False),
    ("a-fixed-name", True),
]


@pytest.mark.parametrize(("name", "safe"), NAMES)
def test_no_random_name_is_proposed(name: str, safe: bool) -> None:
    leak = Leak(SEGMENT, name, ORPHAN, Owner("test", "t"), "")
    glob = fitting_glob(leak)

    assert is_safe(glob, SEGMENT, name) == safe
    if safe and name != "a-fixed-name":
        assert name not in glob
        assert "*" in glob


@pytest.mark.parametrize("command", RUNS)
def test_a_pattern_that_fits_a_run_of_pytest_is_not_proposed(command: str) -> None:
    assert not is_safe(fitting_glob(Leak(PROCESS, command, ORPHAN, Owner("test", "t"), "")), PROCESS)


@pytest.mark.parametrize(
    "command",
    [
        "sleep 60",
        "/usr/bin/python3.11 server1.py",
        "/opt/x1/bin/redis-server 127.0.0.1:6379",
        "test_it.sleeper (Process-1)",
        "fork in forked (test_it.py:12)",
    ],
)
def test_a_proposed_pattern_fits_its_process_and_no_run_of_pytest(command: str) -> None:
    glob = fitting_glob(Leak(PROCESS, command, ORPHAN, Owner("test", "t"), ""))
    proposed = Suppressions([parse_suppression(f"{glob}  # a", "ini")])

    assert is_safe(glob, PROCESS)
    assert proposed.match(PROCESS, command) is not None
    assert [run for run in RUNS if proposed.match(PROCESS, run) is not None] == []
    assert PROCESS in KINDS
