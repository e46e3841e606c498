from __future__ import annotations

import html
import json
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_shmstate.github import (
    MOST_ANNOTATIONS,
    escape_cell,
    escape_data,
    escape_property,
    github_annotations,
    github_summary,
)
from pytest_shmstate.known import BUILT_IN
from pytest_shmstate.leak import (
    FOREIGN,
    HELD,
    INTERRUPTED,
    ORPHAN,
    PROCESS,
    SEGMENT,
    SEMAPHORE,
    UNATTRIBUTED,
    VERDICTS,
    Frame,
    Leak,
    Owner,
    Suppression,
    leak_from_json,
)
from pytest_shmstate.outlets import (
    GROUPS,
    Host,
    ReportNotWritten,
    Summary,
    append_summary,
    as_document,
    group_of,
    grouped,
    section,
    write_json,
)
from pytest_shmstate.report import printable
from tests.plugin.test_report import LEAKS

OWN = Suppression("psm_*", "made by the cache", "shmstate_ignore in tox.ini")


def leak(**fields: Any) -> Leak:
    plain = {"kind": SEGMENT, "name": "psm_1a2b", "verdict": ORPHAN, "owner": Owner("test", "test_a.py::test_a")}
    return Leak(**{**plain, "evidence": "ledger of pid 12", **fields})


def summary(*leaks: Leak, **fields: Any) -> Summary:
    return Summary(**{"mode": "error", "mode_source": "default", "tests_checked": 12, "leaks": leaks, **fields})


def texts(summary: Summary) -> List[str]:
    return [text for text, _ in section(summary)]


ONE_OF_EACH = {
    "failing": leak(name="f"),
    "told": leak(name="t", after_failure=True),
    "warned": leak(name="w", mode="warn"),
    "interrupted": leak(name="i", verdict=INTERRUPTED),
    "unattributed": leak(name="u", verdict=UNATTRIBUTED),
    "foreign": leak(name="s", verdict=FOREIGN),
}


# Groups.


def test_every_leak_is_in_the_group_that_its_fields_say() -> None:
    assert {key: group_of(leak) for key, leak in ONE_OF_EACH.items()} == {key: key for key in ONE_OF_EACH}
    assert list(ONE_OF_EACH) == list(GROUPS)


@pytest.mark.parametrize("verdict", [INTERRUPTED, FOREIGN, UNATTRIBUTED])
def test_no_mode_makes_more_of_a_leak_than_its_verdict_does(verdict: str) -> None:
    assert group_of(leak(verdict=verdict, mode="warn", after_failure=True)) == verdict
    assert group_of(leak(verdict=HELD, mode="warn", after_failure=True)) == "told"


def test_groups_that_are_empty_are_left_out() -> None:
    assert grouped([]) == {}
    assert grouped([ONE_OF_EACH["warned"]]) == {"warned": [ONE_OF_EACH["warned"]]}


# The section of the terminal.


def test_a_clean_run_is_one_line() -> None:
    missing = ("makers in C", False, "inotify")

    assert section(summary(abilities=(missing,))) == [
        ("nothing left behind by 12 tests (mode error, default)", {"green": True})
    ]
    assert texts(summary(tests_checked=1)) == ["nothing left behind by 1 test (mode error, default)"]


def test_a_run_that_checked_nothing_is_not_called_clean() -> None:
    assert section(summary(tests_checked=0)) == [("no test was checked (mode error, default)", {"green": False})]
    assert section(summary(mode="off", mode_source="--shmstate-leaks")) == [
        ("only tests whose marker asks for it are checked (mode off, --shmstate-leaks)", {"green": False})
    ]


def test_what_was_left_behind_stands_in_groups_and_strangers_are_only_counted() -> None:
    lines = texts(summary(*ONE_OF_EACH.values()))

    headings = [f"{GROUPS[key]}: 1 segment" for key in GROUPS]
    assert [line for line in lines if line in headings] == headings
    assert [name for name in "ftwu" if f"  segment {name}" not in lines] == []
    assert "  segment i, belonged to test_a.py::test_a" in lines
    assert "  segment s" not in lines
    assert "nothing left behind" not in "\n".join(lines)


def test_a_leak_that_an_error_tells_already_is_told_in_one_line() -> None:
    lines = texts(summary(leak(reported=True)))

    assert lines[1] == "  segment psm_1a2b, leaked by test_a.py::test_a (see its error above)"
    assert not [line for line in lines if "to fix" in line]
    assert [line for line in texts(summary(leak())) if "to fix" in line]


def test_what_asks_nothing_of_anybody_is_told_in_short() -> None:
    owner = Owner("unknown", "at 12:00")
    others = [leak(verdict=UNATTRIBUTED, mode="warn", owner=owner, size=size, fate="left alone") for size in range(14)]

    lines = texts(summary(*others))

    shown = "  segment psm_1a2b, owner unknown: at 12:00; {} B; left alone"
    assert lines[1:11] == [shown.format(size) for size in range(13, 3, -1)]
    assert lines[11] == "  and 4 segments, 6 B more"
    assert len(lines) == 13


def test_one_fixture_that_leaks_in_many_tests_is_one_line() -> None:
    def of(number: int, name: str) -> Leak:
        owner = Owner("fixture", name, "function", "/a/conftest.py", 5, during=f"test_a.py::test_{number}")
        return leak(reported=True, owner=owner, name=f"psm_{number}")

    lines = texts(summary(*[of(number, "shm") for number in range(41)], of(50, "other")))

    rows = [line for line in lines if "above)" in line]
    assert len(rows) == 2
    assert (
        "41 segments, leaked by function fixture `shm` (/a/conftest.py:5), in 41 tests: test_a.py::test_0, " in rows[0]
    )
    assert "test_a.py::test_2 and 38 more (see their errors above)" in rows[0]
    assert "psm_50" in rows[1]


def test_one_line_of_code_in_two_tests_is_one_line_and_two_lines_are_two() -> None:
    def of(test: str, line: int) -> Leak:
        return leak(reported=True, owner=Owner("test", test), where=Frame("/a/lib.py", line, "make"))

    rows = [text for text in texts(summary(of("a", 1), of("b", 1), of("c", 2))) if "above)" in text]

    assert len(rows) == 2
    assert "2 segments, leaked by /a/lib.py:1 in make, in 2 tests: a, b (see" in rows[0]


def test_very_many_reported_leaks_are_not_all_listed() -> None:
    lines = texts(summary(*[leak(reported=True)] * 1000))

    assert len(lines) < 250
    assert "  and 800 more, each with its error above" in lines


def test_what_is_not_possible_here_stands_with_the_findings() -> None:
    abilities = (("makers in C", False, "inotify"), ("/proc", True, "fine"), ("ledger", False, ""))

    assert "not possible here: makers in C (inotify); ledger" in texts(summary(leak(), abilities=abilities))
    assert not [line for line in texts(summary(leak(), abilities=abilities[1:2])) if "not possible" in line]


def test_suppressions_are_told_with_their_use() -> None:
    lines = texts(summary(used=((OWN, 3, 8192), (BUILT_IN[3], 1, 0)), unused=(OWN,)))

    assert lines[1:] == [
        "allowed 3 times, 8,192 B: psm_*  # made by the cache (shmstate_ignore in tox.ini)",
        f"allowed once: pytest-of-*  # {BUILT_IN[3].reason} (built in)",
        "allowed, but never seen: psm_*  # made by the cache (shmstate_ignore in tox.ini)",
    ]


def test_a_run_that_fails_for_this_alone_says_so_last() -> None:
    line = "the tests passed, but this run fails for what was left behind"

    assert section(summary(leak(), exit_status_changed=True))[-1] == (line, {"red": True, "bold": True})
    assert line not in texts(summary(leak()))


@given(st.lists(LEAKS, max_size=6))
def test_any_leaks_can_be_told_in_every_outlet(leaks: List[Leak]) -> None:
    told = summary(*leaks)

    assert [text for text in texts(told) if not text.isprintable()] == []
    assert [line for line in github_annotations(leaks) if not line.isprintable()] == []
    assert all(line.isprintable() for line in github_summary(told).split("\n"))
    assert json.loads(json.dumps(as_document(told)))["leaks"] is not None


# JSON.


@given(st.lists(LEAKS, max_size=3))
def test_leaks_come_back_from_the_document(leaks: List[Leak]) -> None:
    document = json.loads(json.dumps(as_document(summary(*leaks))))

    groups = [plain.pop("group") for plain in document["leaks"]]
    assert [leak_from_json(plain) for plain in document["leaks"]] == leaks
    assert groups == [group_of(one) for one in leaks]


def test_the_document_holds_all_that_the_summary_does() -> None:
    full = summary(
        *ONE_OF_EACH.values(),
        used=((OWN, 3, 8192),),
        unused=(BUILT_IN[0],),
        abilities=(("/proc", True, "holders"),),
        hosts=(Host("h1", ("gw0",), ("why",), ("that",), (("/proc", False, "hidden"),), 3),),
        exit_status_changed=True,
        run="r1",
        tests_unseen=2,
    )

    document = as_document(full)

    leaks = document.pop("leaks")
    assert [plain["group"] for plain in leaks] == list(GROUPS)
    assert document == {
        "format": 1,
        "run": "r1",
        "mode": "error",
        "mode_source": "default",
        "tests_unseen": 2,
        "tests_checked": 12,
        "exit_status_changed": True,
        "counts": dict.fromkeys(GROUPS, 1),
        "suppressions": [
            {"pattern": "psm_*", "reason": "made by the cache", "source": OWN.source, "count": 3, "bytes": 8192}
        ],
        "unused_suppressions": [{"pattern": BUILT_IN[0].pattern, "reason": BUILT_IN[0].reason, "source": "built in"}],
        "abilities": [{"what": "/proc", "able": True, "note": "holders"}],
        "hosts": [
            {
                "name": "h1",
                "workers": ("gw0",),
                "untold": ("why",),
                "remarks": ("that",),
                "abilities": [{"what": "/proc", "able": False, "note": "hidden"}],
                "tests_checked": 3,
            }
        ],
    }


def read(path: Path) -> Dict[str, Any]:
    document: Dict[str, Any] = json.loads(path.read_text("utf-8"))
    return document


def test_the_document_is_written_with_its_folders_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "report.json"

    write_json(str(file), {"format": 1})
    write_json(str(file), {"format": 2})

    assert read(file) == {"format": 2}
    assert os.listdir(file.parent) == ["report.json"]


def test_a_file_name_alone_is_one_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    write_json("report.json", {})

    assert os.listdir(tmp_path) == ["report.json"]


def test_who_reads_meanwhile_sees_the_old_document_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    write_json(str(file), {"format": 0})
    before = file.stat().st_ino
    with file.open() as reader:
        write_json(str(file), {"format": 1})
        old = json.load(reader)

    assert old == {"format": 0}
    assert file.stat().st_ino != before


def test_what_cannot_be_replaced_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.json"
    write_json(str(file), {"format": 0})

    def refuse(*_: object) -> None:
        raise PermissionError(1, "not today")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ReportNotWritten, match=re.escape(f"{file}: ") + ".*not today.*name a file that can be"):
        write_json(str(file), {"format": 1})

    assert read(file) == {"format": 0}
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")

    write_json(str(tmp_path / "link"), {"format": 1})

    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "target") == {"format": 1}


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read_texts: List[str] = []
    reader = threading.Thread(target=lambda: read_texts.append(pipe.read_text()), daemon=True)
    reader.start()

    write_json(str(pipe), {"format": 1})

    reader.join(60)
    assert json.loads(read_texts[0]) == {"format": 1}
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("bad", ["", "file/below", "nul\0"])
def test_where_nothing_can_be_written_the_error_says_where(tmp_path: Path, bad: str) -> None:
    (tmp_path / "file").write_text("")
    path = os.path.join(str(tmp_path), bad)

    with pytest.raises(ReportNotWritten, match="could not be written"):
        write_json(path, {})
    with pytest.raises(ReportNotWritten, match="could not be written"):
        append_summary(path, "text")


# GitHub.


def unescape(text: str) -> str:
    for code, character in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        text = text.replace(code, character)
    return text


@given(st.text() | st.text(alphabet="%25ACD3:,\r\n"))
def test_escaped_texts_come_back_and_hold_nothing_that_github_would_obey(text: str) -> None:
    data, prop = escape_data(text), escape_property(text)

    assert unescape(prop) == text
    assert not set("\r\n") & set(data)
    assert not set("\r\n:,") & set(prop)
    assert data.replace(":", "%3A").replace(",", "%2C") == prop


def annotation(line: str) -> Dict[str, str]:
    found = re.fullmatch(r"::(?P<level>\w+) (?P<told>[^:]*)::(?P<text>.*)", line)
    assert found is not None
    told = dict(pair.split("=", 1) for pair in found["told"].split(","))
    return {"level": found["level"], "text": unescape(found["text"]), **{k: unescape(v) for k, v in told.items()}}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    return str(tmp_path)


def test_an_annotation_points_to_the_line_and_tells_the_block(workspace: str) -> None:
    where = Frame(f"{workspace}/tests/conftest.py", 14, "pool")

    (line,) = github_annotations([leak(name="a,b:c%", where=where)])

    read = annotation(line)
    assert (read["level"], read["file"], read["line"]) == ("error", "tests/conftest.py", "14")
    assert read["title"] == "segment a,b:c% left behind"
    assert read["text"].startswith("segment a,b:c%\n leaked by test_a.py::test_a\n")


def test_what_github_cannot_show_is_not_pointed_to(workspace: str) -> None:
    ours, library = Frame(f"{workspace}/a.py", 3, "f"), Frame(f"{workspace}/.venv/site-packages/x.py", 9, "g")
    outside = Frame("/usr/lib/x.py", 9, "g")

    lines = github_annotations(
        [
            leak(stack=(ours, library), where=outside),
            leak(owner=Owner("test", "test_a", file=f"{workspace}/test_a.py", line=7), where=outside),
            leak(where=library),
            leak(where=Frame(f"{workspace}2/a.py", 3, "f")),
            leak(where=Frame(f"{workspace}/a.py", 0, "f")),
        ]
    )

    shown = [annotation(line) for line in lines]
    assert [(read.get("file"), read.get("line")) for read in shown] == [("a.py", "3"), ("test_a.py", "7")] + [
        (None, None)
    ] * 3


def test_without_a_workspace_paths_are_relative_to_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)

    (line,) = github_annotations([leak(where=Frame(f"{tmp_path}/a.py", 3, "f"))])

    assert annotation(line)["file"] == "a.py"


def test_what_fails_is_an_error_and_the_rest_a_warning(workspace: str) -> None:
    lines = github_annotations([*ONE_OF_EACH.values(), leak(name="v", verdict=UNATTRIBUTED, mode="warn")])

    shown = " ".join("{level}:{title}".format(**annotation(line)) for line in lines)
    shown = shown.replace("segment ", "").replace(" left behind", "")
    assert shown == "error:f error:u warning:t warning:w warning:i warning:v"


def test_github_shows_ten_of_a_kind_so_no_more_are_written() -> None:
    errors, warnings = [leak()] * (MOST_ANNOTATIONS + 2), [leak(mode="warn")] * (MOST_ANNOTATIONS + 1)

    lines = github_annotations([*errors, *warnings])

    kinds = [line.split()[0].split("::")[1] for line in lines]
    assert kinds == ["error"] * 10 + ["warning"] * 10 + ["notice"]
    assert lines[-1] == "::notice::and 3 segments more, in the log of this step"
    assert len(github_annotations(errors[:MOST_ANNOTATIONS])) == MOST_ANNOTATIONS


def test_a_long_name_makes_no_long_title() -> None:
    (line,) = github_annotations([leak(kind=PROCESS, name="python " * 100)])

    assert len(annotation(line)["title"]) < 100


@given(st.text() | st.text(alphabet="|\\`*_[]<>&#\r\n ~@"))
def test_a_cell_shows_the_text_and_holds_nothing_that_markdown_would_obey(text: str) -> None:
    cell = escape_cell(text)

    assert html.unescape(cell) == printable(text)
    assert not set("|\\`*_[]<>~@!\r\n.:") & set(cell)


def test_the_summary_is_a_table_with_a_row_for_each(workspace: str) -> None:
    where = Frame(f"{workspace}/a.py", 3, "f")
    text = github_summary(
        summary(leak(name="x|y", size=4096, where=where, fate="removed"), leak(kind=SEMAPHORE), ONE_OF_EACH["foreign"])
    )

    rows = [[html.unescape(cell) for cell in line.split("|")[1:-1]] for line in text.split("\n") if line[:1] == "|"]
    assert [len(row) for row in rows] == [6, 6, 6, 6]
    assert [cell.strip() for cell in rows[2]] == [
        *("segment x|y", "4,096 B", "test_a.py::test_a", "a.py:3 in f", "failing", "removed")
    ]
    assert "left behind: 1 segment and 1 semaphore, 4 KiB (12 tests checked)." in html.unescape(text)
    assert text.endswith("\n")


def test_the_summary_of_a_clean_run_is_a_sentence() -> None:
    assert github_summary(summary()) == "### Shared memory\n\nNothing left behind by 12 tests.\n"
    assert github_summary(summary(ONE_OF_EACH["foreign"])) == github_summary(summary())


def test_the_summary_says_that_the_run_failed_for_this() -> None:
    assert "The tests passed; the run failed for this." in github_summary(summary(leak(), exit_status_changed=True))
    assert "The tests passed" not in github_summary(summary(leak()))


def test_a_very_long_table_is_cut() -> None:
    text = github_summary(summary(*[leak()] * 1000))

    assert text.count("| segment psm") == 200
    assert "and 800 more" in text


def test_the_summary_is_added_to_what_others_wrote(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    file.write_text("before\n")

    append_summary(str(file), github_summary(summary()))

    assert file.read_text() == "before\n### Shared memory\n\nNothing left behind by 12 tests.\n"


def test_every_verdict_has_a_group() -> None:
    assert {group_of(leak(verdict=verdict)) for verdict in VERDICTS} == {
        *("failing", "interrupted", "foreign", "unattributed")
    }
