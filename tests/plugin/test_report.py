from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_shmstate.known import Suppressions, make_suppression
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
    VERDICTS,
    Frame,
    Holder,
    Leak,
    Owner,
)
from pytest_shmstate.recorder import LEFT_OUT
from pytest_shmstate.report import MOST_BLOCKS, blocks, counted, describe, failure_text, headline, owned_by, size_text

SOURCE = """\
def make():
    return SharedMemory(create=True, size=65536)

def pool():
    return make()
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with code, in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conftest.py").write_text(SOURCE)
    return str(tmp_path / "conftest.py")


def leak(**fields: Any) -> Leak:
    plain = {"kind": SEGMENT, "name": "psm_1a2b", "verdict": ORPHAN, "owner": Owner("test", "test_a.py::test_a")}
    return Leak(**{**plain, "evidence": "ledger of pid 12", **fields})


def told(leak: Leak, label: str) -> Optional[str]:
    """What the block says behind a label."""
    for line in describe(leak):
        if line.startswith(f"  {label:<12} "):
            return line[15:]
    return None


@pytest.mark.parametrize(
    ("size", "on_disk", "text"),
    [
        (65536, 4096, "65,536 B reserved, 4,096 B on disk"),
        (0, 0, "0 B reserved, 0 B on disk"),
        (65536, -1, "65,536 B"),
        (-1, 4096, "4,096 B on disk"),
        (-1, -1, ""),
        ((1 << 20) - 1, -1, "1,048,575 B"),
        (1 << 20, -1, "1.0 MiB"),
        (3 << 29, 1 << 30, "1.5 GiB reserved, 1.0 GiB on disk"),
    ],
)
def test_sizes_are_exact_until_nobody_counts(size: int, on_disk: int, text: str) -> None:
    assert size_text(leak(size=size, on_disk=on_disk)) == text


def test_the_headline_counts_by_kind() -> None:
    one, two = leak(size=65536), leak(kind=SEMAPHORE, size=0)

    assert headline([two, one, two]) == "left behind: 1 segment and 2 semaphores, 64 KiB"
    assert headline([leak(kind=PROCESS)]) == "left behind: 1 process"
    assert headline([]) == "left behind: nothing"


def test_every_kind_has_a_word_for_one_and_for_many() -> None:
    everything = [leak(kind=kind, size=100) for kind in KINDS]

    assert counted(everything) == (
        "1 segment, 1 semaphore, 1 file, 1 directory, 1 System V segment and 1 process, 600 B"
    )
    assert counted(everything * 2) == (
        "2 segments, 2 semaphores, 2 files, 2 directories, 2 System V segments and 2 processes, 1.172 KiB"
    )


def test_the_first_line_says_what_it_is() -> None:
    assert describe(leak(size=10))[0] == "segment psm_1a2b: 10 B"
    assert describe(leak())[0] == "segment psm_1a2b"
    assert describe(leak(kind=PROCESS, name="sleep 60", pid=7))[0] == "process sleep 60 (pid 7)"
    assert describe(leak(kind=SYSV, name="shmid 12"))[0] == "System V segment shmid 12"


def test_a_fixture_is_told_with_its_scope_its_place_and_its_tests() -> None:
    owner = Owner("fixture", "pool", "session", "/x/conftest.py", 12, "test_a", "test_z", "gw0")

    assert owned_by(owner) == (
        "session fixture `pool` (/x/conftest.py:12), made during setup for test_a, torn down after test_z [gw0]"
    )
    assert owned_by(Owner("fixture", "pool")) == "function fixture `pool`"


@pytest.mark.parametrize(
    ("owner", "text"),
    [
        (Owner("test", "t/test_a.py::test_a", file="/x/t/test_a.py", line=3), "t/test_a.py::test_a (line 3)"),
        (Owner("test", "test_a.py::test_a", file="/x/base.py", line=3), "test_a.py::test_a (/x/base.py:3)"),
        (Owner("test", "test_a", attempt=2, worker="gw1"), "test_a, attempt 2 [gw1]"),
        (Owner("import", "t.test_a"), "the import of t.test_a"),
        (Owner("import", "test_a.py", file="/x/test_a.py", line=1), "the import of test_a.py (/x/test_a.py:1)"),
        (Owner("session", "before the first test"), "no test, but between tests: before the first test"),
        (Owner("block", "check", file="/x/a.py", line=3), "the with-block check (/x/a.py:3)"),
        (Owner("unknown", "while test_a ran"), "unknown: while test_a ran"),
        (Owner("novelty", "x"), "novelty x"),
    ],
)
def test_every_owner_is_told(owner: Owner, text: str) -> None:
    assert owned_by(owner) == text


@pytest.mark.parametrize(
    ("verdict", "label"),
    [
        (ORPHAN, "leaked by"),
        (HELD, "leaked by"),
        (INTERRUPTED, "belonged to"),
        (FOREIGN, "belonged to"),
        (UNATTRIBUTED, "belonged to"),
    ],
)
def test_blame_is_only_where_it_is_due(verdict: str, label: str) -> None:
    assert told(leak(verdict=verdict), label) == "test_a.py::test_a"
    assert told(leak(verdict=verdict, owner=Owner("unknown", "at 12:00")), "owner") == "unknown: at 12:00"


def test_the_line_that_made_it_is_shown_with_its_source(source: str) -> None:
    frames = (Frame(source, 5, "pool"), Frame(source, 2, "make"))

    lines = describe(leak(stack=frames, where=frames[1]))

    at = lines.index("  made at      conftest.py:2 in make")
    assert lines[at + 1].strip() == "return SharedMemory(create=True, size=65536)"
    assert lines[at + 2] == "  called from  conftest.py:5 in pool"


def test_a_line_that_is_not_in_the_stack_did_not_make_it(source: str) -> None:
    frames = (Frame(source, 5, "pool"), Frame(source, 2, "make"))

    assert told(leak(stack=frames, where=Frame(source, 1, "make")), "look at") == "conftest.py:1 in make"
    assert told(leak(stack=frames, where=Frame(source, 1, "make")), "made at") is None
    assert told(leak(where=frames[0]), "look at") == "conftest.py:5 in pool"
    assert told(leak(kind=PROCESS, stack=frames, where=frames[1]), "started at") == "conftest.py:2 in make"


def test_without_a_line_to_look_at_the_innermost_that_is_nobodys_plumbing_is_taken(source: str) -> None:
    library = Frame(os.__file__, 10, "open")

    assert told(leak(stack=(Frame(source, 2, "make"), library)), "made at") == "conftest.py:2 in make"
    assert told(leak(stack=(library,)), "made at") == f"{os.__file__}:10 in open"
    assert told(leak(), "made at") == "not seen"


def test_plumbing_is_left_out_of_the_stack_and_libraries_are_not(source: str) -> None:
    packages = os.path.join(os.path.dirname(os.__file__), "site-packages")
    frames = (
        Frame(f"{packages}/_pytest/python.py", 1, "pytest_pyfunc_call"),
        Frame(f"{packages}/pluggy/_callers.py", 2, "_multicall"),
        Frame("<frozen importlib._bootstrap>", 3, "_call_with_frames_removed"),
        Frame(source, 5, "pool"),
        Frame(source, 2, "make"),
        Frame(f"{packages}/joblib/pool.py", 4, "start"),
        Frame(os.__file__, 5, "open"),
    )

    shown = leak(stack=frames, where=frames[4])

    assert told(shown, "made at") == "conftest.py:2 in make"
    assert told(shown, "by way of") == f"{packages}/joblib/pool.py:4 in start"
    assert told(shown, "called from") == "conftest.py:5 in pool"


@pytest.mark.parametrize(
    ("depth", "between"), [(5, ""), (6, ", 1 frame between"), (40, ", 35 frames between")], ids=str
)
def test_of_many_callers_the_nearest_are_told_and_the_outermost(source: str, depth: int, between: str) -> None:
    frames = tuple(Frame(source, line, "f") for line in range(1, depth + 1))

    shown = leak(stack=frames, where=frames[-1])

    nearest = ", ".join(f"conftest.py:{depth - back} in f" for back in (1, 2, 3))
    assert told(shown, "called from") == f"{nearest}{between}, conftest.py:1 in f"


@pytest.mark.parametrize(
    ("owner", "line"),
    [
        (Owner("test", "t.py::TestA::test_a[x::y]", file="/x/t.py", line=3), 4),
        (Owner("fixture", "pool", file="/x/t.py", line=8), 9),
        (Owner("fixture", "renamed", file="/x/t.py", line=1), 4),
        (Owner("test", "other.py::test_b", file="/x/other.py", line=3), 1),
    ],
    ids=["test", "fixture", "another name", "another file"],
)
def test_the_frame_of_the_test_or_fixture_is_always_told(owner: Owner, line: int) -> None:
    deep = [Frame("/x/lib.py", number, "deeper") for number in range(100, 150)]
    own = [Frame("/x/t.py", 4, "test_a"), Frame("/x/lib.py", 50, "helper"), Frame("/x/t.py", 9, "pool")]
    frames = (Frame("/x/wrapper.py", 1, "wrapped"), *own, Frame(LEFT_OUT, 1000, ""), *deep)

    callers = told(leak(stack=frames, where=frames[-1], owner=owner), "called from")

    file = "wrapper" if line == 1 else "t"
    assert callers is not None
    assert re.search(rf"148 in deeper, .*, 1,0\d\d frames between, \S*x/{file}.py:{line} in \w+$", callers)


def test_of_a_recursion_the_innermost_call_is_meant(source: str) -> None:
    frames = (Frame(source, 5, "pool"), Frame(source, 2, "make"), Frame(source, 2, "make"))

    shown = leak(stack=frames, where=frames[-1])

    assert told(shown, "by way of") is None
    assert told(shown, "called from") == "conftest.py:2 in make, conftest.py:5 in pool"


def test_paths_outside_the_current_directory_stay_whole(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = told(leak(where=Frame(source, 9, "")), "look at")
    monkeypatch.chdir("/proc")
    outside = told(leak(where=Frame(source, 9, "")), "look at")

    assert (inside, outside) == ("conftest.py:9", f"{source}:9")


def test_a_current_directory_that_is_gone_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert told(leak(where=Frame("/x/a.py", 9, "")), "look at") == "x/a.py:9"


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (ORPHAN, "nobody has it open"),
        (HELD, "still open"),
        (INTERRUPTED, "no failure"),
        (FOREIGN, "outside this run"),
        (UNATTRIBUTED, "nobody can be shown"),
    ],
)
def test_every_verdict_is_told_in_words(verdict: str, words: str) -> None:
    state = told(leak(verdict=verdict), "state")

    assert state is not None
    assert state.startswith(f"{verdict}: ")
    assert words in state


def test_a_process_is_not_open_but_runs() -> None:
    assert told(leak(kind=PROCESS, verdict=HELD), "state") == "running: it outlived what started it"


def test_holders_evidence_fate_and_notes_are_told() -> None:
    holders = tuple(Holder(pid, "python app.py", "maps, fd") for pid in range(1, 6))
    lines = describe(leak(holders=holders, fate="removed", notes=("first", "second")))

    assert "  open in      pid 3 (python app.py), by maps, fd" in lines
    assert "  open in      pid 4 (python app.py), by maps, fd" not in lines
    assert "  open in      and 2 more" in lines
    assert "  known by     ledger of pid 12" in lines
    assert "  now          removed" in lines
    assert "  note         second" in lines
    assert not [line for line in describe(leak(evidence="")) if re.match("  (open in|known by|now|note) ", line)]


def test_it_is_told_why_a_leak_is_no_failure() -> None:
    assert told(leak(), "note") is None
    assert str(told(leak(mode="warn"), "note")).startswith("a warning")
    assert told(leak(mode="warn", verdict=UNATTRIBUTED), "note") is None
    assert str(told(leak(after_failure=True), "note")).startswith("told only")


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (SEGMENT, "psm_1", "unlink() it"),
        (SEMAPHORE, "sem.jobs", "unlink() it"),
        (SEMAPHORE, "sem.mp-1", "Queue, Pool or Lock"),
        (FILE, "x", "tmp_path"),
        (DIRECTORY, "x", "tmp_path"),
        (SYSV, "shmid 12", "IPC_RMID"),
        (PROCESS, "sleep 60", "join() it"),
    ],
)
def test_it_is_told_how_to_fix_it(kind: str, name: str, words: str) -> None:
    assert words in str(told(leak(kind=kind, name=name), "to fix"))


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        (Owner("fixture", "pool", "module"), "after the fixture's `yield`: unlink() it"),
        (Owner("test", "test_a"), "before the test ends, also if it fails (`finally`, or a fixture): unlink() it"),
        (Owner("import", "test_a"), "make it in a fixture, not on import, and after the `yield`: unlink() it"),
        (Owner("session", "between tests"), "unlink() it"),
    ],
)
def test_it_is_told_where_to_fix_it(owner: Owner, words: str) -> None:
    assert told(leak(owner=owner), "to fix") == words


def test_what_belongs_to_a_test_is_allowed_by_a_marker_and_what_is_wider_by_the_ini_file() -> None:
    marker, ini = '@pytest.mark.shmstate(allow=["psm_*"], reason="...")', "below shmstate_ignore: psm_*  # reason"

    assert told(leak(), "to allow it") == marker
    assert told(leak(owner=Owner("fixture", "pool", "function")), "to allow it") == marker
    for owner in (Owner("fixture", "pool", "module"), Owner("import", "a"), Owner("session", "a")):
        assert str(told(leak(owner=owner), "to allow it")).endswith(ini)


@pytest.mark.parametrize(("verdict", "both"), [(INTERRUPTED, (False, False)), (FOREIGN, (False, False))])
def test_there_is_nothing_to_fix_where_nobody_is_to_blame(verdict: str, both: object) -> None:
    found = leak(verdict=verdict)

    assert (told(found, "to fix") is not None, told(found, "to allow it") is not None) == both


def test_what_nobody_can_be_blamed_for_can_still_be_allowed() -> None:
    assert told(leak(verdict=UNATTRIBUTED), "to fix") is None
    assert told(leak(verdict=UNATTRIBUTED), "to allow it") is not None


def test_the_marker_in_the_report_is_python_that_allows_it() -> None:
    name = 'quoted "name"\nwith \x1b[31m'
    line = str(told(leak(name=name), "to allow it"))

    stand_in = SimpleNamespace(mark=SimpleNamespace(shmstate=lambda **given: given["allow"]))
    (glob,) = eval(line[1:], {"pytest": stand_in})

    assert line.isprintable()
    assert glob == 'quoted "name"?with ?[[]*'
    assert Suppressions([make_suppression(glob, "...", "marker")]).match(SEGMENT, name) is not None


def test_nothing_in_a_name_reaches_the_terminal_as_a_command() -> None:
    lines = describe(leak(name="a\nb\x1b[2J\udcff", owner=Owner("test", "t\r\n::error::x"), fate="\x07"))

    assert [line for line in lines if not line.isprintable()] == []
    assert lines[0] == "segment a\\nb\\x1b[2J\\udcff"


def test_long_lines_are_cut_but_not_what_is_to_be_copied() -> None:
    lines = describe(leak(name="psm" * 100, notes=("long " * 100,), owner=Owner("test", "t" * 300)))

    assert len(lines[0]) <= 140
    assert lines[0].endswith("...")
    assert f"  leaked by    {'t' * 300}" in lines
    assert f'allow=["{"psm" * 100}"]' in str(told(leak(name="psm" * 100), "to allow it"))


def test_an_ordinary_block_is_twelve_lines_at_most(source: str) -> None:
    frames = (Frame(source, 5, "pool"), Frame(source, 2, "make"), Frame("/lib/joblib/pool.py", 4, "start"))
    owner = Owner("fixture", "pool", "session", source, 4, "test_a", "test_z")
    held = leak(
        verdict=HELD, size=1, on_disk=1, stack=frames, where=frames[1], owner=owner, holders=(Holder(1, "a", "fd"),)
    )

    assert len(describe(held)) <= 12


def test_the_first_are_told_in_full_and_the_rest_by_name() -> None:
    leaks = [leak(name=f"seg_{number}", size=1) for number in range(MOST_BLOCKS + 30)]

    lines = blocks(leaks)

    assert [line for line in lines if line.startswith("segment ")] == [f"segment seg_{n}: 1 B" for n in range(5)]
    assert lines[-1].startswith("and 30 segments, 30 B: seg_5, seg_6, ")
    assert lines[-1].endswith("seg_24, and 10 more")
    assert blocks(leaks[:1]) == describe(leaks[0])


def test_the_text_of_a_failure_begins_with_the_headline() -> None:
    leaks = [leak(), leak(kind=SEMAPHORE, name="sem.a")]

    text = failure_text(leaks)

    assert text.splitlines()[:2] == [headline(leaks), ""]
    assert text.endswith("\n".join([*describe(leaks[0]), "", *describe(leaks[1])]))


TEXTS = st.text(max_size=20) | st.sampled_from(["", "\0", "/", "/dev/null", "\udcff", __file__, os.__file__])
NUMBERS = st.integers(-2, 1 << 40)
FRAMES = st.builds(Frame, TEXTS, NUMBERS, TEXTS)
OWNERS = st.builds(
    Owner,
    st.sampled_from(["test", "fixture", "import", "session", "block", "unknown", "?"]),
    *[TEXTS] * 3,
    NUMBERS,
    *[TEXTS] * 3,
    NUMBERS,
)
LEAKS = st.builds(
    Leak,
    st.sampled_from(KINDS) | TEXTS,
    TEXTS,
    st.sampled_from(VERDICTS) | TEXTS,
    OWNERS,
    TEXTS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.lists(FRAMES, max_size=4).map(tuple),
    st.none() | FRAMES,
    st.lists(st.builds(Holder, NUMBERS, TEXTS, TEXTS), max_size=4).map(tuple),
    st.sampled_from(["error", "warn", ""]),
    TEXTS,
    st.booleans(),
    st.booleans(),
    st.lists(TEXTS, max_size=4).map(tuple),
)


@given(st.lists(LEAKS, max_size=8))
def test_any_leak_can_be_told(leaks: List[Leak]) -> None:
    lines = failure_text(leaks).split("\n")

    assert [line for line in lines if not line.isprintable()] == []
    assert all(len(describe(one)) <= 24 for one in leaks)
