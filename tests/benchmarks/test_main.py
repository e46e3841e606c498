"""The program: what it runs, what it keeps, what it says of what went wrong, and its exit status."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict

import pytest

from benchmarks import __main__ as program
from benchmarks import progress, remains, results
from benchmarks.document import Answer, Section
from tests.benchmarks import samples
from tests.core.children import until

pytest.importorskip("rich")
CAN_RENDER = all(find_spec(name) for name in program.TO_RENDER)
needs_page = pytest.mark.skipif(not CAN_RENDER, reason="needs jinja2 and matplotlib")

Measure = Callable[[Any, Any], Any]
Add = Callable[[str, Measure], None]


def shared(name: str) -> Path:
    return Path("/dev/shm", name)


@pytest.fixture(autouse=True)
def _alone_and_not_long(monkeypatch: pytest.MonkeyPatch, shm_prefix: str) -> None:
    """Other tests make things in /dev/shm too, at the same time."""
    entries = remains._entries
    monkeypatch.setattr(remains, "_entries", lambda: (one for one in entries() if one[0].startswith(shm_prefix)))
    monkeypatch.setattr(remains.Before.left, "__defaults__", (0.5,))


def section(name: str, data: Any) -> Section:
    return Section(name, f"About {name}", "What was done.", [Answer("What?", f"It measured {data['value']}.")])


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Add:
    """Adds a part to those that there are: its name, and what measures."""

    def add(name: str, measure: Measure) -> None:
        part, told = ModuleType(f"benchmarks.parts.{name}"), ModuleType(f"benchmarks.sections.{name}")
        vars(part).update(measure=measure, steps=lambda _effort: 1)
        vars(told).update(section=lambda data: section(name, data))
        for module in (part, told):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(results.PARTS, name, f"About {name}")

    add("first", lambda effort, _tell: {"value": 42, "quick": effort.quick})
    add("second", finds(value=43))
    return add


def run(folder: Path, *arguments: str) -> int:
    return program.main(["--output", str(folder), *arguments])


def kept(folder: Path) -> Dict[str, Any]:
    return results.load(folder / "results.json")


def fail(effort: Any, tell: Any) -> None:
    raise ZeroDivisionError("on purpose")


def finds(**data: Any) -> Measure:
    """What measures nothing, and says this."""
    return lambda _effort, _tell: data


def wait_for_a_signal(begun: Any) -> None:
    begun.set()
    until(lambda: False)  # pause() would sleep through one that comes just before it


@pytest.mark.usefixtures("add")
def test_only_the_parts_that_were_asked_for_are_measured_and_kept(tmp_path: Path) -> None:
    assert run(tmp_path / "made", "--only", "second", "--only", "first") == 0

    found = kept(tmp_path / "made")
    assert list(found["parts"]) == ["first", "second"]
    assert found["parts"]["first"]["data"] == {"value": 42, "quick": False}
    assert found["parts"]["first"]["seconds"] >= 0
    assert (found["schema"], found["quick"]) == (1, False)
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["packages"]["shmstate"]
    assert time.strptime(found["began"], "%Y-%m-%dT%H:%M:%SZ")
    assert (tmp_path / "made" / "report.html").exists() == CAN_RENDER


@pytest.mark.usefixtures("add")
def test_a_quick_run_says_so_to_the_parts_and_in_what_is_kept(tmp_path: Path) -> None:
    assert run(tmp_path, "--quick", "--only", "first") == 0

    assert kept(tmp_path)["quick"] is True
    assert kept(tmp_path)["parts"]["first"]["data"]["quick"] is True


@pytest.mark.usefixtures("add")
def test_where_no_terminal_is_each_part_is_a_line_with_its_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "--only", "first", "--only", "second")

    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["first", "second"]
    assert all(line.endswith(" s") for line in lines)


def test_on_a_terminal_each_part_is_a_bar_that_says_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, this is a terminal
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setenv("COLUMNS", "120")

    with progress.shown() as show:
        with show("first", 2) as tell:
            tell("one thing")
            tell("another")
        with contextlib.suppress(ZeroDivisionError), show("second", 3) as tell:
            tell("what fails")
            raise ZeroDivisionError

    lines = [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())) if line]
    assert any("0/2" in line and line.rstrip().endswith("one thing") for line in lines)
    assert any("1/2" in line and line.rstrip().endswith("another") for line in lines)
    assert "2/2" in [line for line in lines if line.startswith("first")][-1]
    assert "0/3" in [line for line in lines if line.startswith("second")][-1]


def test_a_part_that_fails_is_told_and_the_others_are_measured(
    tmp_path: Path, add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    add("first", fail)

    assert run(tmp_path, "--only", "first", "--only", "second") == 1

    parts = kept(tmp_path)["parts"]
    assert "ZeroDivisionError: on purpose" in parts["first"]["failed"]
    assert "Traceback" in parts["first"]["failed"]
    assert "data" not in parts["first"]
    assert parts["second"]["data"] == {"value": 43}
    assert "first: 0.0 s, failed: ZeroDivisionError: on purpose" in capsys.readouterr().err


@pytest.mark.usefixtures("add")
def test_a_part_that_cannot_even_be_imported_is_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "benchmarks.parts.first")

    assert run(tmp_path, "--only", "first", "--only", "second") == 1

    parts = kept(tmp_path)["parts"]
    assert "ModuleNotFoundError" in parts["first"]["failed"]
    assert "data" in parts["second"]


@pytest.mark.parametrize("value", [float("nan"), b"bytes"], ids=["NaN", "bytes"])
def test_what_json_does_not_have_is_a_failure_of_that_part_alone(tmp_path: Path, add: Add, value: Any) -> None:
    add("first", finds(value=value))

    assert run(tmp_path, "--only", "first", "--only", "second") == 1

    parts = kept(tmp_path)["parts"]
    assert "JSON" in parts["first"]["failed"]
    assert "data" in parts["second"]


def test_what_is_left_in_dev_shm_is_told(
    tmp_path: Path, add: Add, capsys: pytest.CaptureFixture[str], shm_prefix: str
) -> None:
    thing = shared(f"{shm_prefix}left")

    def leave(effort: Any, tell: Any) -> Any:
        thing.write_bytes(b"12345")
        return {"value": 1}

    add("first", leave)
    try:
        assert run(tmp_path, "--only", "first", "--only", "second") == 1
    finally:
        thing.unlink()

    parts = kept(tmp_path)["parts"]
    assert parts["first"]["left"] == [f"{thing}: 5 bytes"]
    assert "left" not in parts["second"]
    assert f"left behind: {thing}: 5 bytes" in capsys.readouterr().err


HOLDS = {
    "a file": "kept = open({path!r}, 'wb')",
    "a mapping": "import mmap, os; file = os.open({path!r}, os.O_CREAT | os.O_RDWR); os.truncate(file, 9);"
    " kept = mmap.mmap(file, 9); os.close(file)",
    # As a semaphore is made: mapped by a name that it has no more.
    "a mapping by another name": "import mmap, os; file = os.open({path!r} + '.new', os.O_CREAT | os.O_RDWR);"
    " os.truncate(file, 9); kept = mmap.mmap(file, 9); os.close(file); os.link({path!r} + '.new', {path!r});"
    " os.unlink({path!r} + '.new')",
}


@pytest.mark.parametrize("how", HOLDS)
def test_what_others_have_open_is_theirs(tmp_path: Path, add: Add, shm_prefix: str, how: str) -> None:
    thing = shared(f"{shm_prefix}theirs")
    # Its parent ends at once, so it is nobody's child here: another program, as far as anybody can see.
    holder = f"{HOLDS[how].format(path=str(thing))}; import signal; print(flush=True); signal.pause()"
    start = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {holder!r}]).pid, flush=True)"
    pids = []

    def meanwhile(effort: Any, tell: Any) -> Any:
        with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            pids.append(int(process.stdout.readline()))
            process.stdout.readline()
        return {"value": 1}

    add("first", meanwhile)
    try:
        assert run(tmp_path, "--only", "first") == 0
        assert thing.exists()
    finally:
        os.kill(pids[0], signal.SIGKILL)
        thing.unlink()


def test_a_process_that_is_left_is_told(tmp_path: Path, add: Add) -> None:
    started = []

    def leave(effort: Any, tell: Any) -> Any:
        started.append(subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]))
        return {"value": 1}

    add("first", leave)
    try:
        assert run(tmp_path, "--only", "first") == 1
    finally:
        started[0].kill()
        started[0].wait()

    assert kept(tmp_path)["parts"]["first"]["left"][0].startswith(f"process {started[0].pid}: {sys.executable}")


def test_what_is_about_to_go_is_waited_for(tmp_path: Path, add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remains.Before.left, "__defaults__", (30.0,))
    started = []

    def leave(effort: Any, tell: Any) -> Any:
        started.append(multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.3,)))
        started[0].start()
        return {"value": 1}

    add("first", leave)

    assert run(tmp_path, "--only", "first") == 0


def test_what_goes_with_a_traceback_is_not_left(tmp_path: Path, add: Add, shm_prefix: str) -> None:
    class Thing:
        def __init__(self) -> None:
            self.path = shared(f"{shm_prefix}held")
            self.path.touch()

        def __del__(self) -> None:
            self.path.unlink()

    def interrupted(effort: Any, tell: Any) -> Any:
        thing = Thing()
        thing.itself = thing  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    add("first", interrupted)

    assert run(tmp_path, "--only", "first") == 130
    assert "left" not in kept(tmp_path)["parts"]["first"]


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path, add: Add, how: str) -> None:
    def interrupt(effort: Any, tell: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM if how == "SIGTERM" else signal.SIGINT)
        signal.pause()

    add("second", interrupt)
    add("third", finds(value=44))
    before = signal.getsignal(signal.SIGTERM)

    assert run(tmp_path, "--only", "first", "--only", "second", "--only", "third") == 130

    parts = kept(tmp_path)["parts"]
    assert list(parts) == ["first", "second"]
    assert parts["first"]["data"]["value"] == 42
    assert parts["second"]["failed"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) == before
    assert (tmp_path / "report.html").exists() == CAN_RENDER


def test_a_forked_child_ends_by_sigterm_as_ever(tmp_path: Path, add: Add) -> None:
    def measure(effort: Any, tell: Any) -> Any:
        context = multiprocessing.get_context("fork")
        begun = context.Event()
        child = context.Process(target=wait_for_a_signal, args=(begun,))
        child.start()
        begun.wait()
        child.terminate()
        child.join()
        return {"value": child.exitcode}

    add("first", measure)

    assert run(tmp_path, "--only", "first") == 0
    assert kept(tmp_path)["parts"]["first"]["data"]["value"] == -signal.SIGTERM


def test_the_json_is_written_after_every_part(tmp_path: Path, add: Add) -> None:
    seen = []

    def look(effort: Any, tell: Any) -> Any:
        seen.append(list(kept(tmp_path)["parts"]))
        return {"value": 1}

    add("second", look)
    run(tmp_path, "--only", "first", "--only", "second")

    assert seen == [["first"]]
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".html"] == ["results.json"]


@pytest.mark.usefixtures("add")
def test_results_of_before_are_put_aside(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("of before", encoding="utf-8")

    run(tmp_path, "--only", "first")

    assert [path.read_text(encoding="utf-8") for path in tmp_path.glob("results-*.json")] == ["of before"]
    assert kept(tmp_path)["parts"]


def test_an_unknown_part_is_named_beside_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["--only", "latencies"])

    assert ended.value.code == 2
    assert "--only latencies: there is no such part; there are numbers, latency, " in capsys.readouterr().err


def test_the_parts_are_listed_in_the_order_that_they_are_measured_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--list"]) == 0

    lines = capsys.readouterr().out.splitlines()
    names = ["numbers", "latency", "interference", "interval", "many", "formats", "peers", "scaling", "plugin"]
    assert [line.split()[0] for line in lines] == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read, No such file or directory"),
        ("{", "is no JSON"),
        ("[]", "is JSON, and has no schema"),
        ('{"other": 1}', "is JSON, and has no schema"),
        ('{"schema": 2}', "its schema is 2, this program reads 1"),
        ('{"schema": 1, "quick": false, "machine": {}}', "has no began, parts, seconds"),
    ],
)
def test_a_file_that_is_no_results_is_named_with_what_it_is(tmp_path: Path, text: Any, said: str) -> None:
    file = tmp_path / "some.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")

    with pytest.raises(results.Unreadable, match=f"^{file}: {said}.*: (give|render)"):
        results.load(file)


@needs_page
def test_such_a_file_ends_the_program_with_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, "--render", str(tmp_path / "nothing.json"))

    assert ended.value.code == 2
    assert "nothing.json: cannot be read" in capsys.readouterr().err


def test_without_what_makes_the_page_it_is_measured_and_kept(
    tmp_path: Path, add: Add, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "find_spec", lambda name: None if name == "jinja2" else True)

    assert run(tmp_path, "--only", "first") == 0

    assert kept(tmp_path)["parts"]["first"]["data"]
    assert not (tmp_path / "report.html").exists()
    assert "for lack of jinja2" in capsys.readouterr().out


@needs_page
@pytest.mark.usefixtures("add")
def test_render_measures_nothing_and_makes_the_page_of_what_was_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "old.json"
    results.save(samples.results(first={"data": {"value": "an old value"}}), file)

    assert run(tmp_path / "made", "--render", str(file), "--docs", str(tmp_path / "docs")) == 0

    assert "It measured an old value." in (tmp_path / "made" / "report.html").read_text(encoding="utf-8")
    assert "It measured an old value." in (tmp_path / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert (tmp_path / "docs" / "experiments.json").read_bytes() == file.read_bytes()
    assert (tmp_path / "docs" / "experiments.html").read_bytes() == (tmp_path / "made" / "report.html").read_bytes()
    assert not (tmp_path / "made" / "results.json").exists()
    assert f"report: {tmp_path / 'made' / 'report.html'}" in capsys.readouterr().out


@needs_page
@pytest.mark.usefixtures("add")
def test_a_part_that_cannot_be_told_makes_the_exit_status_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "old.json"
    results.save(samples.results(first={"data": {"other": 1}}, second={"data": {"value": "told"}}), file)

    assert run(tmp_path, "--render", str(file)) == 1

    assert "It measured told." in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "first: cannot be told: KeyError: 'value'" in capsys.readouterr().err


def test_results_replace_the_file_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(*paths: str) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "results.json"
    results.save({"schema": 1}, file)

    with pytest.raises(ValueError, match="JSON"):
        results.save({"schema": float("inf")}, file)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space"):
        results.save({"schema": 2}, file)

    assert json.loads(file.read_text(encoding="utf-8")) == {"schema": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
