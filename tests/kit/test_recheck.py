"""``python -m pytest_shmstate.recheck``: what it prints, what it writes, and its exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, List, Sequence

import pytest

from pytest_shmstate import recheck
from pytest_shmstate.kit.oracle.checkers import check
from pytest_shmstate.kit.oracle.history import PUBLISH, READ, Event, load, save

GOOD = [Event("writer", PUBLISH, 10 * number, 10 * number + 5, number) for number in range(1, 31)]
STALE = [*GOOD, Event("reader", READ, 208, 209, 19, 0)]
TWICE = [*GOOD, GOOD[0]._replace(process="other")]


def saved(path: Path, history: Sequence[Event], **header: Any) -> str:
    save(history, path, title="my ring", seed=7, **header)
    return str(path)


@pytest.mark.parametrize(("history", "status"), [(GOOD, 0), (STALE, 1), (TWICE, 2)])
def test_the_exit_status_is_the_verdict(history: List[Event], status: int, tmp_path: Path) -> None:
    assert recheck.main([saved(tmp_path / "h", history)]) == status


def test_it_prints_the_verdict_and_the_events_around_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recheck.main([saved(tmp_path / "h", STALE), "--around", "1"])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"VIOLATED (stale): {check(STALE).sentence}"
    assert lines[1].startswith("of: title my ring, seed 7, python 3.")
    assert lines[2] == "met: publishes 30, reads 1, writers 1, readers 1"
    assert lines[4:] == [
        "     began  ended  process  operation  version",
        "... 17 more ...",
        "       180    185  writer   publish         18",
        "1 >    190    195  writer   publish         19",
        "2 >    200    205  writer   publish         20",
        "3 >    208    209  reader   read            19",
        "       210    215  writer   publish         21",
    ]


def test_of_several_files_each_is_judged_and_what_is_broken_outweighs_what_is_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, stale, twice = (saved(tmp_path / name, what) for name, what in (("g", GOOD), ("s", STALE), ("t", TWICE)))

    assert recheck.main([good, twice]) == 2
    assert recheck.main([twice, stale, good]) == 1
    assert f"==> {stale}\nVIOLATED" in capsys.readouterr().out


def test_what_is_no_history_is_said_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes").write_text("buy milk\n", encoding="utf-8")

    assert recheck.main([str(tmp_path / "notes")]) == 2
    assert recheck.main([str(tmp_path / "nowhere")]) == 2
    assert f"{tmp_path}/notes:1: not an object of JSON: 'buy milk'" in capsys.readouterr().err


def test_the_file_says_whether_several_wrote_and_what_was_asked_of_reads(tmp_path: Path) -> None:
    killed = [
        Event("writer 1", PUBLISH, 1, None, 1),
        Event("writer 2", PUBLISH, 2, 3, 2),
        Event("reader 1", READ, 5, 6, 1),
    ]
    inverted = [
        Event("writer", PUBLISH, 1, 9, 1),
        Event("reader 1", READ, 2, 3, 1),
        Event("reader 2", READ, 4, 5, 0),
    ]

    assert recheck.main([saved(tmp_path / "one", killed, shared=False)]) == 1
    assert recheck.main([saved(tmp_path / "several", killed, shared=True)]) == 0
    assert recheck.main([saved(tmp_path / "atomic", inverted)]) == 1
    assert recheck.main([saved(tmp_path / "regular", inverted, level="regular")]) == 0
    assert recheck.main([str(tmp_path / "regular"), "--level", "atomic"]) == 1
    assert recheck.main([saved(tmp_path / "strange", inverted, level="strong")]) == 2


def test_it_writes_the_least_that_breaks_the_same_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    least = tmp_path / "least.jsonl"

    recheck.main([saved(tmp_path / "h", STALE), "--minimise", str(least)])

    assert "3 of 31 events break the same rule" in capsys.readouterr().out
    assert [event.version for event in load(least).history] == [19, 20, 19]
    assert load(least).header["title"] == "my ring"
    assert recheck.main([str(least)]) == 1


def test_it_writes_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"

    assert recheck.main([saved(tmp_path / "h", STALE), "--html", str(page)]) == 1

    assert check(STALE).sentence in page.read_text(encoding="utf-8")


def test_one_page_shows_one_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        recheck.main(["one", "two", "--html", "page.html"])

    assert "one history at a time" in capsys.readouterr().err


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest_shmstate.recheck", saved(tmp_path / "h", STALE)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (1, "")
    assert ended.stdout.startswith(
        "VIOLATED (stale): the read of version 19 by reader (208 to 209) began after version 20"
    )
