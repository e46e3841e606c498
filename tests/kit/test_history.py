"""Histories are kept: logs survive a kill at any instant, files come back as they were, others are refused by line."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Callable, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_shmstate import Workers, ready
from pytest_shmstate.kit.oracle import logs
from pytest_shmstate.kit.oracle.history import FORMAT, PUBLISH, READ, Event, UnusableHistory, load, save
from pytest_shmstate.kit.oracle.logs import Log, LogFull, Progress, read_logs

TIMES = st.integers(0, 2**62)
TEXTS = st.text(max_size=20)
EVENTS = st.lists(
    st.builds(
        Event,
        TEXTS,
        st.sampled_from([PUBLISH, READ]),
        TIMES,
        st.none() | TIMES,
        st.integers(-1, 2**62),
        TIMES,
        TEXTS,
        TEXTS,
    ),
    max_size=5,
)


def do(log: Log, operation: str, version: int, **what: Any) -> None:
    log.begin(operation, version if operation == PUBLISH else 0)
    log.end(logs.now(), version, **what)


# ---- logs -----------------------------------------------------------------------------------------------------------


def test_a_log_gives_back_what_was_done(tmp_path: Path) -> None:
    with Log(tmp_path, "writer 1", 10) as log:
        do(log, PUBLISH, 1, rank=7)
        do(log, READ, 0)
        do(log, READ, 2**62, problem="torn")
        do(log, PUBLISH, 3, error="Full: no room")

    found = read_logs(tmp_path)

    assert [event[4:] for event in found.history] == [
        (1, 7, "", ""),
        (0, 0, "", ""),
        (2**62, 0, "torn", ""),
        (3, 0, "", "Full: no room"),
    ]
    assert [event.operation for event in found.history] == [PUBLISH, READ, READ, PUBLISH]
    assert {event.process for event in found.history} == {"writer 1"}
    assert all(event.ended is not None and event.began <= event.ended for event in found.history)
    assert found.begun == 4


def test_what_has_not_returned_is_on_record_as_begun(tmp_path: Path) -> None:
    with Log(tmp_path, "writer", 10) as log, Log(tmp_path, "reader", 10) as other:
        log.begin(PUBLISH, 5)
        other.begin(READ)

    by_process = {event.process: event for event in read_logs(tmp_path).history}

    assert by_process["writer"][3:5] == (None, 5)
    assert by_process["reader"][3:5] == (None, 0)


def test_a_log_that_keeps_all_says_when_it_is_full(tmp_path: Path) -> None:
    with Log(tmp_path, "writer", 2) as log:
        do(log, PUBLISH, 1)
        do(log, PUBLISH, 2)
        with pytest.raises(LogFull, match="room for 2 operations"):
            log.begin(PUBLISH, 3)

    assert [event.version for event in read_logs(tmp_path).history] == [1, 2]


def test_another_keeps_the_last_and_tells_how_many_there_were(tmp_path: Path) -> None:
    with Log(tmp_path, "reader", 3, keeps=False) as log:
        for version in range(1, 9):
            do(log, READ, version)

    found = read_logs(tmp_path)

    assert [event.version for event in found.history] == [6, 7, 8]
    assert found.begun == 8


def test_of_reads_of_one_version_in_a_row_the_first_and_the_last_are_kept(tmp_path: Path) -> None:
    seen = [1, 1, 2, 2, 2, 2, 2, 0, 3, 3, 3, 2, 3]
    times = []
    with Log(tmp_path, "reader", 20, keeps=False) as log:
        for version in seen:
            do(log, READ, version)
            times.append(log._words[log._at])
        assert log._words[logs._MOVES] == 5

    found = read_logs(tmp_path)

    kept = [0, 1, 2, 6, 7, 8, 10, 11, 12]
    assert [(event.version, event.began) for event in found.history] == [(seen[at], times[at]) for at in kept]
    assert found.begun == len(seen)


def test_what_went_wrong_is_kept_however_often(tmp_path: Path) -> None:
    with Log(tmp_path, "reader", 20, keeps=False) as log:
        for problem in ("", "", "", "torn", "torn", "torn", "", ""):
            do(log, READ, 1, problem=problem)

    assert [event.problem for event in read_logs(tmp_path).history] == ["", "", "torn", "torn", "torn", "", ""]


def test_one_that_was_forgotten_does_not_lend_its_end_to_the_next(tmp_path: Path) -> None:
    with Log(tmp_path, "reader", 1, keeps=False) as log:
        do(log, READ, 4, problem="torn")
        log.begin(READ)

    (event,) = read_logs(tmp_path).history

    assert event[3:] == (None, 0, 0, "", "")


def test_texts_are_kept_as_far_as_there_is_room(tmp_path: Path) -> None:
    with Log(tmp_path, "reader", 100) as log:
        for number in range(66):
            do(log, READ, 1, problem=f"{number} " + "ä" * 400)

    problems = [event.problem for event in read_logs(tmp_path).history]

    assert [problem.split()[0] for problem in problems[:64]] == [str(number) for number in range(64)]
    assert problems[64] == problems[65] == "(its text is lost: the log has no room for more)"


def test_progress_is_seen_while_it_is_made(tmp_path: Path) -> None:
    with Log(tmp_path, "reader", 10) as log:
        progress = Progress(tmp_path, "reader")
        for version in (1, 1, 2):
            do(log, READ, version)
        log.begin(READ)

        assert (progress.begun, progress.moves) == (4, 1)
        progress.close()


def test_a_log_is_never_written_over(tmp_path: Path) -> None:
    with Log(tmp_path, "reader", 10), pytest.raises(FileExistsError):
        Log(tmp_path, "reader", 10)
    with pytest.raises(ValueError, match="file's name"):
        Log(tmp_path, "../reader", 10)


def count_up(folder: str) -> None:
    with Log(folder, "writer", 1_000_000) as log:
        ready()
        for version in range(1, 1_000_001):
            do(log, PUBLISH, version, rank=version)


def test_what_a_killed_process_did_is_on_record_up_to_the_kill(tmp_path: Path) -> None:
    with Workers() as workers:
        worker = workers.spawn(count_up, str(tmp_path), start_method="fork")
        worker.wait_ready()
        progress = Progress(tmp_path, "writer")
        while progress.begun < 2000:
            assert worker.alive
        worker.kill()
        progress.close()

    history = read_logs(tmp_path).history

    assert [event.version for event in history] == list(range(1, len(history) + 1))
    assert len(history) >= 2000
    assert all(event.ended is not None and event.rank == event.version for event in history[:-1])


class Killed(Exception):
    """Stands in for SIGKILL."""


class Mortal:
    """A log's words, until so many have been stored."""

    def __init__(self, words: Any, stores: int) -> None:
        self._words, self.left = words, stores

    def __getitem__(self, at: Any) -> Any:
        return self._words[at]

    def __setitem__(self, at: int, value: int) -> None:
        if not self.left:
            raise Killed
        self.left -= 1
        self._words[at] = value

    def release(self) -> None:
        self._words.release()


def killed_after(folder: Path, operation: str, stores: int) -> bool:
    """Write a whole operation over a forgotten one, and die after so many stores; whether it came that far."""
    with Log(folder, "reader", 1, keeps=False) as log:
        do(log, READ, 77, rank=77, problem="old")
        words = log._words
        log._words = Mortal(words, stores)  # type: ignore[assignment]
        try:
            do(log, operation, 5, rank=6, error="new")
        except Killed:
            return True
        finally:
            log._words = words
    return False


@pytest.mark.parametrize(("operation", "begun"), [(PUBLISH, 5), (READ, 0)])
def test_at_whatever_store_a_process_dies_its_log_holds_no_mixture(operation: str, begun: int, tmp_path: Path) -> None:
    seen: List[Any] = []
    stores = 0
    while killed_after(tmp_path, operation, stores):
        seen.append([(*event[1:2], *event[4:], event.ended is not None) for event in read_logs(tmp_path).history])
        os.unlink(tmp_path / "reader.log")
        stores += 1

    allowed: List[Any] = [[(READ, 77, 77, "old", "", True)], [], [(operation, begun, 0, "", "", False)]]
    assert [found for found in seen if found not in allowed] == []
    assert all(found in seen for found in allowed)
    assert read_logs(tmp_path).history[0][4:] == (5, 6, "", "new")


# ---- files ----------------------------------------------------------------------------------------------------------


@given(events=EVENTS)
def test_a_file_gives_back_what_was_saved(events: List[Event]) -> None:
    with tempfile.NamedTemporaryFile() as file:
        save(events, file.name, title="my ring", seed=7)

        saved = load(file.name)
        Path(file.name).touch()  # for its own removal: it was replaced
    assert saved.history == events
    assert (saved.header["title"], saved.header["seed"], saved.header["format"]) == ("my ring", 7, FORMAT)
    assert {"python", "kernel", "machine"} <= set(saved.header)


EVENT = '{"process": "p", "operation": "read", "began": 1, "ended": 2}'


def file_of(path: Path, *lines: str, events: Any = 1) -> Path:
    path.write_text("\n".join([json.dumps({"format": FORMAT, "events": events}), *lines]) + "\n", encoding="utf-8")
    return path


def test_a_file_that_was_written_by_hand_is_a_history(tmp_path: Path) -> None:
    assert load(file_of(tmp_path / "h", EVENT)).history == [Event("p", READ, 1, 2)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", r"h:2: not an object of JSON: '\{'"),
        ("[1]", "h:2: not an object of JSON"),
        (EVENT.replace('"began": 1, ', ""), "h:2: 'began' is missing, unknown, or of the wrong type"),
        (EVENT.replace("began", "begun"), "h:2: 'began' is missing"),
        (EVENT.replace("2}", '2, "colour": "red"}'), "h:2: 'colour' is missing, unknown"),
        (EVENT.replace("1", '"1"'), "h:2: 'began' is missing, unknown, or of the wrong type"),
        (EVENT.replace("1", "true"), "h:2: 'began'"),
        (EVENT.replace("1", "1.5"), "h:2: 'began'"),
        (EVENT.replace("1", "null"), "h:2: 'began'"),
        (EVENT.replace('"p"', "null"), "h:2: 'process'"),
    ],
)
def test_a_line_that_is_no_event_is_named(line: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableHistory, match=why):
        load(file_of(tmp_path / "h", line))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda text: text[:0], "h:1: not an object of JSON"),
        (
            lambda text: text.replace("history 1", "history 2"),
            "h:1: format is 'shmstate history 2', and this release reads",
        ),
        (lambda text: text.replace('"events": 1', '"events": "1"'), 'h:1: "events" must say'),
        (
            lambda text: text.replace('"events": 1', '"events": 2'),
            "h:2: the file ends after 1 events, its first line promises 2",
        ),
        (lambda text: text[:-20], "h:2: not an object"),
    ],
)
def test_a_file_that_is_no_history_is_refused(spoil: Callable[[str], str], why: str, tmp_path: Path) -> None:
    path = file_of(tmp_path / "h", EVENT)
    path.write_text(spoil(path.read_text(encoding="utf-8")), encoding="utf-8")

    with pytest.raises(UnusableHistory, match=why):
        load(path)


def test_saving_replaces_a_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    save([Event("p", READ, 1, 2)], path)
    unsavable: Any = [Event("p", READ, 1, object())]  # type: ignore[arg-type]

    with pytest.raises(TypeError):
        save(unsavable, path)

    assert load(path).history == [Event("p", READ, 1, 2)]
