from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_shmstate.known import (
    BUILT_IN,
    BUILT_IN_SOURCE,
    PROCESS_WIDE,
    Suppressions,
    fitting_glob,
    is_process_wide,
    is_service,
    make_suppression,
    parse_suppression,
)
from pytest_shmstate.leak import DIRECTORY, FILE, KINDS, ORPHAN, PROCESS, SEGMENT, SEMAPHORE, SYSV, Leak, Owner

NAMED = (SEGMENT, SEMAPHORE, FILE, DIRECTORY)


def suppressions(*lines: str) -> Suppressions:
    return Suppressions(parse_suppression(line, "ini") for line in lines)


def leak(kind: str, name: str, *notes: str) -> Leak:
    return Leak(kind, name, ORPHAN, Owner("test", "test_a"), "ledger", notes=notes)


@pytest.mark.parametrize(
    ("line", "pattern", "reason"),
    [
        ("psm_*  # made by the cache", "psm_*", "made by the cache"),
        (" a #b", "a", "b"),
        ("a\t#\tb", "a", "b"),
        ("a#b  # c # d", "a#b", "c # d"),
        ("my file  # a", "my file", "a"),
        ("process:*server*  # a", "process:*server*", "a"),
        ("process: *bin/x -c *  # a", "process:*bin/x -c *", "a"),
        ("sysv:0x51*  # a", "sysv:0x51*", "a"),
        ("sysv:shmid 12  # a", "sysv:shmid 12", "a"),
        ("qt:x  # a", "qt:x", "a"),
    ],
)
def test_a_line_is_a_glob_and_a_reason(line: str, pattern: str, reason: str) -> None:
    read = parse_suppression(line, "ini")

    assert (read.pattern, read.reason, read.source) == (pattern, reason, "ini")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("psm_*", "no reason: write `psm_*  # why it may stay`"),
        ("psm_*#why", "no reason"),
        ("psm_*  #  ", "no reason"),
        ("", "no reason: write `GLOB  # why it may stay`"),
        ("# all of it commented out", "names nothing"),
        ("process:  # a", "names nothing"),
        ("sysv:# a", "no reason"),
        ("Process:*x*  # a", "write `process:*x*`"),
        ("segment:psm_*  # a", "write `psm_*`, which fits"),
        ("SEM:mp-*  # a", "write `mp-*`"),
        ("/dev/shm/psm_*  # a", "is a path: write the name as `ls /dev/shm` shows it, `psm_*`"),
        ("/psm_1  # a", "`psm_1`"),
        ("/dev/shm/  # a", "`GLOB`"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        parse_suppression(line, "shmstate_ignore in tox.ini")

    assert str(caught.value).startswith("shmstate_ignore in tox.ini: ")


def test_a_glob_given_without_its_reason_holds_none() -> None:
    with pytest.raises(ValueError, match="holds a reason"):
        make_suppression("psm_*  # why", "why", "marker of test_a")

    assert make_suppression("psm_*", "why", "marker of test_a").pattern == "psm_*"


@pytest.mark.parametrize("kind", NAMED)
def test_a_bare_glob_fits_names_of_every_kind(kind: str) -> None:
    assert suppressions("psm_*  # a").match(kind, "psm_1") is not None
    assert suppressions("psm_*  # a").match(kind, "xpsm_1") is None
    assert suppressions("psm_*  # a").match(kind, "PSM_1") is None


@pytest.mark.parametrize("kind", [PROCESS, SYSV])
def test_a_bare_glob_fits_no_process_and_no_system_v_segment(kind: str) -> None:
    assert suppressions("*  # a").match(kind, "x") is None
    assert suppressions(f"{kind}:*  # a").match(kind, "x") is not None


@pytest.mark.parametrize("kind", [PROCESS, SYSV])
def test_a_prefix_fits_its_own_kind_alone(kind: str) -> None:
    fitted = [other for other in KINDS if suppressions(f"{kind}:*  # a").match(other, "x")]

    assert fitted == [kind]


def test_names_that_look_like_a_prefix_are_names() -> None:
    assert suppressions("sysv  # a").match(SEGMENT, "sysv") is not None
    assert suppressions("sysv  # a").match(SYSV, "sysv") is None


def test_other_texts_may_fit_too() -> None:
    line = "process:*--port 80*  # a"

    assert suppressions(line).match(PROCESS, "python -m app...", ["python -m app --port 8000"]) is not None
    assert suppressions(line).match(PROCESS, "python -m app...", ["python -m app --port 7000"]) is None


def test_hexadecimal_digits_fit_in_both_cases() -> None:
    assert suppressions("sysv:0x51AB*  # a").match(SYSV, "shmid 12", ["0x51ab0001"]) is not None
    assert suppressions("sysv:0x51AC*  # a").match(SYSV, "shmid 12", ["0x51ab0001"]) is None


def test_the_first_that_fits_is_used_and_a_tests_own_come_before() -> None:
    both = suppressions("psm_1*  # narrow", "psm_*  # wide")
    own = parse_suppression("psm_12  # own", "marker of test_a")

    fitted = [both.match(SEGMENT, name, first=[own]) for name in ("psm_12", "psm_13", "psm_2", "other")]

    assert [one and one.reason for one in fitted] == ["own", "narrow", "wide", None]


def test_use_is_counted_with_its_bytes() -> None:
    counted = suppressions("psm_*  # a", "q_*  # b")
    counted.match(SEGMENT, "psm_1", size=4096)
    counted.match(SEGMENT, "psm_2", size=4096)
    counted.match(SEGMENT, "psm_3")
    counted.match(SEGMENT, "other", size=1)

    assert [(use.pattern, count, size) for use, count, size in counted.used()] == [("psm_*", 3, 8192)]
    assert [unused.pattern for unused in counted.unused()] == ["q_*"]


def test_what_another_process_used_is_not_unused() -> None:
    here, there = suppressions("psm_*  # a", "q_*  # b"), suppressions("psm_*  # a", "q_*  # b")
    here.match(SEGMENT, "psm_1", size=1)
    there.match(SEGMENT, "psm_2", size=2)
    there.match(SEGMENT, "psm_3", size=2)
    there.match(SEGMENT, "q_2", size=3)

    here.merge(there.used())

    assert [(use.pattern, count, size) for use, count, size in here.used()] == [("psm_*", 3, 5), ("q_*", 1, 3)]
    assert here.unused() == []


def test_what_is_built_in_is_never_unused() -> None:
    own = parse_suppression("psm_*  # a", "ini")

    assert Suppressions((own, *BUILT_IN)).unused() == [own]


@pytest.mark.parametrize(
    "name",
    [
        "pulse-shm-3506809168",
        ".org.chromium.Chromium.TVyeMO",
        ".com.google.Chrome.zZTYMG",
        "pytest-of-root",
        "lttng-ust-wait-8-1000",
        "__KMP_REGISTERED_LIB_7637_0",
    ],
)
def test_what_others_leave_by_design_is_built_in(name: str) -> None:
    fitted = Suppressions(BUILT_IN).match(FILE, name)

    assert fitted is not None
    assert fitted.source == BUILT_IN_SOURCE
    assert Suppressions(BUILT_IN).match(FILE, "x" + name) is None


@pytest.mark.parametrize(
    "name",
    ["psm_1", "sem.mp-abc12345", "sem.worker", "sem.loky-1-a", "PostgreSQL.17", "torch_1_2_3", "chromium", "tmp"],
)
def test_what_a_test_may_have_leaked_is_not_built_in(name: str) -> None:
    assert Suppressions(BUILT_IN).match(FILE, name) is None


def test_every_built_in_one_is_in_order_and_needed() -> None:
    assert [make_suppression(one.pattern, one.reason, one.source) for one in BUILT_IN] == list(BUILT_IN)
    assert len({one.pattern for one in BUILT_IN}) == len(BUILT_IN)


# Services.


def command_lines(pids: List[int]) -> List[str]:
    lines = []
    for pid in pids:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            lines.append(file.read().rstrip(b"\0").replace(b"\0", b" ").decode())
    return lines


STARTS_SERVICES = """
import multiprocessing, os, sys, time
from multiprocessing import forkserver, resource_tracker

if __name__ == "__main__":
    worker = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(60,), daemon=True)
    worker.start()
    print(resource_tracker._resource_tracker._pid, forkserver._forkserver._forkserver_pid, worker.pid, flush=True)
    sys.stdin.read()
    worker.terminate()
"""


def test_the_tracker_and_the_fork_server_of_this_python_are_services_but_not_what_it_forks(tmp_path: object) -> None:
    script = os.path.join(str(tmp_path), "services.py")
    with open(script, "w") as file:
        file.write(STARTS_SERVICES)
    program = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with program:
        assert program.stdout is not None
        tracker, server, worker, test = command_lines([*map(int, program.stdout.readline().split()), program.pid])
        program.communicate()

    assert is_service(tracker, test) == "the resource tracker of multiprocessing"
    assert is_service(server, test) == "the fork server of multiprocessing"
    assert worker == server
    assert is_service(worker, server) is None
    assert is_service(test) is None


@pytest.mark.parametrize(
    ("command", "service"),
    [
        ("python -c from loky.backend.resource_tracker import main; main(5, False)", True),
        ("python -s -c from joblib.externals.loky.backend.resource_tracker import main; main(5, False)", True),
        ("python -B -c from billiard.semaphore_tracker import main;main(15)", True),
        ("python -B -c from billiard.forkserver import main; main(21, 22, ['__main__'], **{'sys_path': []})", True),
        ("python -m loky.backend.popen_loky_posix --process-name LokyProcess-1 --pipe 12", True),
        ("python -m joblib.externals.loky.backend.popen_loky_posix --process-name LokyProcess-1 --pipe 12", True),
        ("python -c from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7)", False),
        ("python -m pytest test_multiprocessing.py::test_resource_tracker", False),
        ("python -m pytest loky/backend/popen_loky_posix.py", False),
        ("vim multiprocessing/forkserver.py", False),
        ("celery worker --pool=billiard.pool", False),
        ("", False),
    ],
)
def test_services_are_known_by_their_command_line(command: str, service: bool) -> None:
    assert (is_service(command) is not None) == service


@pytest.mark.parametrize(
    ("name", "wide"),
    [
        ("sem.loky-6120-1r12jqg2", True),
        ("joblib_memmapping_folder_6120_12_34", True),
        ("sem.mp-1r12jqg2", False),
        ("loky-1", False),
    ],
)
def test_names_of_process_wide_pools_are_known(name: str, wide: bool) -> None:
    assert (is_process_wide(name) is not None) == wide
    assert len(PROCESS_WIDE) == 2


# The pattern that a report proposes.


@pytest.mark.parametrize(
    ("kind", "name", "glob"),
    [
        (SEGMENT, "psm_4f1c2a9b", "psm_*"),
        (SEMAPHORE, "sem.mp-abcdefgh", "sem.mp-*"),
        (SEMAPHORE, "sem.jobs", "sem.jobs"),
        (SEMAPHORE, "sem.a1b2", "sem.a1b2"),
        (SEGMENT, "cache", "cache"),
        (SEGMENT, "cache-12_3", "cache-*_*"),
        (SEGMENT, "a8f3c2", "a8f3c2"),
        (FILE, "tmp12345678", "tmp*"),
        (FILE, "tmpfile", "tmpfile"),
        (FILE, "what[is]this*", "what[[]is]this[*]"),
        (PROCESS, "/usr/bin/python3.11 -m app --port 8000 -v", "process:* -m app --port * -v"),
        (PROCESS, "sleep infinity...", "process:sleep infinity*"),
    ],
)
def test_the_proposed_pattern_fits_the_next_one_too(kind: str, name: str, glob: str) -> None:
    assert fitting_glob(leak(kind, name)) == glob


@pytest.mark.parametrize(
    ("note", "glob"),
    [("key 0x51000001", "sysv:0x51000001"), ("key 0x00000000", "sysv:shmid 12"), ("of nobody", "sysv:shmid 12")],
)
def test_a_system_v_segment_is_best_known_by_its_key(note: str, glob: str) -> None:
    assert fitting_glob(leak(SYSV, "shmid 12", note)) == glob


NAMES = st.text(min_size=1) | st.text(alphabet="ab1 .#:[]*?_-…sem", min_size=1) | st.sampled_from(["sysv", "segment:a"])


@given(st.sampled_from(KINDS), NAMES)
def test_the_proposed_pattern_can_be_pasted_and_fits(kind: str, name: str) -> None:
    name = name.replace("/", "_")
    line = f"{fitting_glob(leak(kind, name))}  # a"

    assert suppressions(line).match(kind, name) is not None
    assert line.isprintable()


@given(NAMES, NAMES)
def test_the_proposed_pattern_fits_no_name_of_another_shape(name: str, other: str) -> None:
    # What may differ are runs with a digit in them, and characters that a line cannot hold.
    name, letters = name.replace("/", "_"), re.sub(r"[\W\d_]", "", other)
    longer = f"{letters}{name}{letters}"
    proposed = suppressions(f"{fitting_glob(leak(SEGMENT, name))}  # a")

    if letters and not re.search(r"\d", name) and not name.startswith(("tmp", "psm", "sem", "torch", "pym", "wnsm")):
        assert proposed.match(SEGMENT, longer) is None
