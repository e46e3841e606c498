"""The command: what it prints for people and for programs, and the status it exits with."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import msgpack
import pytest

import shmstate
from shmstate import Codec, StateWriter
from shmstate.cli import main
from shmstate.demo.units import duration, size, times
from shmstate.layout import SHM_DIR
from shmstate.looks import Looks
from shmstate.plain import jsonable
from tests.core.children import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shmstate", *arguments],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, **env},
        check=False,
    )


@pytest.fixture
def dead(prefix: str) -> Iterator[str]:
    """A state whose writer has gone and left it."""
    name = f"{prefix}-dead"
    writer = StateWriter(name)
    writer.publish({"last": "words"})
    writer.close(unlink=False)
    yield name
    shmstate.reclaim(name)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Tuple[int, str]:
    """The status and output of the command; it says nothing on stderr."""
    status = main(arguments)
    out, err = capsys.readouterr()
    assert err == ""
    return status, out


# ls


def test_ls_lists_living_and_dead_states_in_aligned_columns(
    prefix: str, dead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with StateWriter(f"{prefix}-living", codec="raw") as writer:
        writer.publish_bytes(bytes(12_345))
        writer.publish_bytes(bytes(12_345))

        status, out = printed(capsys, "ls", prefix)

    header, first, second = out.splitlines()
    assert status == 0
    assert header.split() == ["NAME", "WRITER", "PID", "VERSION", "SIZE", "AGE", "STALE", "MEMORY", "CODEC"]
    assert first.split()[:5] == [dead, "dead", str(os.getpid()), "1", "12"]
    assert second.split()[:6] == [f"{prefix}-living", "alive", str(os.getpid()), "2", "12.3", "KB"]
    assert {line.index(word) for line, word in ((header, "WRITER"), (first, " dead "), (second, " alive "))} <= {
        header.index("WRITER"),
        header.index("WRITER") - 1,
    }


def test_ls_gives_programs_all_that_list_states_knows(
    prefix: str, dead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = printed(capsys, "ls", prefix, "--json")

    (state,) = json.loads(out)
    (known,) = shmstate.list_states(prefix)
    assert status == 0
    assert state.keys() == known._asdict().keys()
    assert (state["name"], state["alive"], state["version"], state["nbytes"]) == (dead, False, 1, known.nbytes)
    assert state["memory"] == known.memory > 0


def test_ls_of_nothing_says_so(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "ls", prefix) == (0, f"no state whose name begins with {prefix!r}\n")
    assert printed(capsys, "ls", prefix, "--json") == (0, "[]\n")


def test_ls_shows_a_state_before_its_first_publish(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with StateWriter(name):
        _, out = printed(capsys, "ls", name)

    assert out.splitlines()[1].split()[:4] == [name, "alive", str(os.getpid()), "0"]


@pytest.fixture
def stranger(prefix: str) -> Iterator[str]:
    """A file that is called like a state and is none, and would clear the screen."""
    name = f"{prefix}-\x1b[2J"
    path = Path(SHM_DIR, f"shmstate.{name}")
    path.write_text("nonsense")
    yield name
    path.unlink()


def test_ls_tells_the_problem_of_what_is_no_state_and_keeps_it_off_the_terminal(
    prefix: str, stranger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = printed(capsys, "ls", prefix)

    assert status == 0
    assert "PROBLEM" in out
    assert "no control characters" in out
    assert "\x1b" not in out
    assert "\\x1b[2J" in out


# show


def test_show_prints_the_value_and_what_is_known_of_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with StateWriter(name) as writer:
        writer.publish({"jobs": 3, "done": [1, 2]})

        status, out = printed(capsys, "show", name)

    facts, value = out.splitlines()
    assert status == 0
    assert facts.startswith(f"{name}: version 1, published ")
    assert facts.endswith("writer alive, codec msgpack")
    assert value == "{'jobs': 3, 'done': [1, 2]}"


def test_show_gives_programs_one_object(dead: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out = printed(capsys, "show", dead, "--json")

    shown = json.loads(out)
    assert 0 < shown.pop("age") < 60
    assert 0 < shown.pop("staleness") < 60
    assert shown == {"name": dead, "version": 1, "alive": False, "codec": "msgpack", "value": {"last": "words"}}


def test_show_of_raw_bytes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with StateWriter(name, codec="raw") as writer:
        writer.publish(b"\x00\xff")

        assert printed(capsys, "show", name)[1].splitlines()[1] == r"b'\x00\xff'"
        assert json.loads(printed(capsys, "show", name, "--json")[1])["value"] == {"base64": "AP8="}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        ({1: "a", "1": "b"}, [[1, "a"], ["1", "b"]]),
        ({b"k": (1, 2)}, {"b'k'": [1, 2]}),
        ([float("nan"), float("-inf"), 1.5], ["nan", "-inf", 1.5]),
        ([bytearray(b"x"), memoryview(b"x")], [{"base64": "eA=="}, {"base64": "eA=="}]),
        (dt.date(2024, 2, 29), "datetime.date(2024, 2, 29)"),
        (msgpack.ExtType(5, b"x"), [5, {"base64": "eA=="}]),
        ([True, 2, None, "s"], [True, 2, None, "s"]),
    ],
)
def test_what_json_lacks_becomes_what_it_has(value: Any, expected: Any) -> None:
    assert json.loads(json.dumps(jsonable(value), allow_nan=False)) == expected


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


def test_show_does_not_unpickle_unless_told_to(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = tmp_path / "mark"
    with StateWriter(name, codec="pickle") as writer:
        writer.publish(Bomb(str(mark)))

        assert main(["show", name]) == 1
        assert "--codec" in capsys.readouterr().err
        assert not mark.exists()
        assert printed(capsys, "show", name, "--codec", "pickle")[0] == 0
        assert mark.exists()


def test_show_of_a_codec_that_is_not_the_writers_fails(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with StateWriter(name, codec=Codec("mine", lambda value: value, lambda payload: payload)):
        for arguments in (["show", name], ["show", name, "--codec", "json"], ["show", name, "--codec", "none-such"]):
            assert main(arguments) == 1
            assert capsys.readouterr().err.startswith("shmstate: ")


def test_show_of_a_value_nested_too_deeply_fails(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with StateWriter(name, codec=Codec("deep", lambda _: b"", lambda _: None)):
        pass
    with StateWriter(name, codec="raw") as writer:
        writer.publish_bytes(b"")
        deep: List[Any] = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("shmstate.codecs._as_is", lambda _: deep)
            assert main(["show", name, "--json"]) == 1

    assert "nested too deeply" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["none-such", "a/b", ""])
def test_show_of_what_is_not_there_fails_with_a_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("shmstate: ")
    assert "Traceback" not in err


def test_a_name_that_the_output_cannot_encode_is_escaped(prefix: str) -> None:
    with StateWriter(f"{prefix}-\N{SNOWMAN}") as writer:
        writer.publish("\N{SNOWMAN}")

        listed = command("ls", prefix, PYTHONIOENCODING="ascii")
        shown = command("show", writer.name, PYTHONIOENCODING="ascii", PYTHONUTF8="1")

    assert (listed.returncode, shown.returncode) == (0, 0)
    assert "\\u2603" in listed.stdout
    assert "\\u2603" in shown.stdout


# reclaim


def test_reclaim_removes_what_the_dead_left_and_says_so(
    prefix: str, dead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with StateWriter(f"{prefix}-living"):
        assert printed(capsys, "reclaim", prefix) == (0, f"removed {dead}\n")
        assert printed(capsys, "reclaim", prefix)[1].startswith("nothing to remove")
        assert [state.name for state in shmstate.list_states(prefix)] == [f"{prefix}-living"]


def test_reclaim_tells_programs_what_it_removed(prefix: str, dead: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out = printed(capsys, "reclaim", prefix, "--json")

    assert json.loads(out) == {"removed": [dead]}


def test_reclaim_says_what_it_would_remove_and_removes_nothing(
    prefix: str, dead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with StateWriter(f"{prefix}-living"):
        assert printed(capsys, "reclaim", prefix, "--dry-run") == (0, f"would remove {dead}\n")
        assert json.loads(printed(capsys, "reclaim", prefix, "--dry-run", "--json")[1]) == {"would_remove": [dead]}
        assert len(shmstate.list_states(prefix)) == 2


# show --hex


def test_show_hex_prints_bytes_that_nobody_here_can_decode(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = Codec("own", lambda value: value, lambda payload: payload)
    with StateWriter(name, codec=own) as writer:
        writer.publish(b"0123456789abcdef" + bytes(64) + b"end\xff")

        status, out = printed(capsys, "show", name, "--hex")
        told = json.loads(printed(capsys, "show", name, "--hex", "--json")[1])

    assert (status, out.splitlines()) == (
        0,
        [
            f"{name}: version 1, 84 bytes, codec own",
            "00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|",
            "00000010  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|",
            "*",
            "00000050  65 6e 64 ff                                       |end.|",
        ],
    )
    assert told == {
        "name": name,
        "version": 1,
        "codec": "own",
        "hex": (b"0123456789abcdef" + bytes(64) + b"end\xff").hex(),
    }


@pytest.mark.parametrize(("payload", "lines"), [(b"", 0), (b"x", 1), (bytes(16), 1), (bytes(17), 2), (bytes(48), 3)])
def test_show_hex_of_few_bytes(name: str, capsys: pytest.CaptureFixture[str], payload: bytes, lines: int) -> None:
    with StateWriter(name, codec="raw") as writer:
        writer.publish(payload)
        out = printed(capsys, "show", name, "--hex")[1]

    assert len(out.splitlines()) == 1 + lines


def test_show_hex_of_what_is_not_there_is_status_1(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name, "--hex"]) == 1
    with StateWriter(name):
        assert main(["show", name, "--hex"]) == 1
    assert "nothing has been published" in capsys.readouterr().err


# watch


class Watching:
    """The command ``watch`` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shmstate", "watch", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip()


@pytest.mark.parametrize("notify", [False, True])
def test_watch_prints_each_change_until_the_writer_is_gone(name: str, notify: bool) -> None:
    with StateWriter(name, notify=notify) as writer:
        writer.publish({"jobs": 1})
        watching = Watching(name)
        lines = [watching.line()]
        for jobs in (2, 3):
            writer.publish({"jobs": jobs})
            lines.append(watching.line())
    out, err = watching.process.communicate(timeout=30)

    assert lines == ["1: {'jobs': 1}", "2: {'jobs': 2}", "3: {'jobs': 3}"]
    assert (out, err, watching.process.returncode) == ("", "", 0)


def test_watch_tells_programs_what_was_missed(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(b"\1")
        watching = Watching(name, "--json", "--count", "2")
        first = json.loads(watching.line())
        for _ in range(5):
            writer.publish(b"\2")
        second = json.loads(watching.line())
        assert watching.process.communicate(timeout=30) == ("", "")

    assert (first["version"], first["missed"], first["value"]) == (1, 0, {"base64": "AQ=="})
    assert first["version"] + second["missed"] + 1 == second["version"] <= 6


def test_watch_ends_with_130_when_it_is_interrupted(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        watching = Watching(name)
        watching.line()
        watching.process.send_signal(signal.SIGINT)
        out, err = watching.process.communicate(timeout=30)

    assert (out, err, watching.process.returncode) == ("", "shmstate: interrupted\n", 130)


def test_watch_of_what_is_not_there_is_status_1(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", name]) == 1
    assert f"no state {name!r}" in capsys.readouterr().err


# top


def test_top_lists_states_with_their_rates(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    with StateWriter(f"{prefix}-a") as writer:
        writer.publish(1)
        stop = threading.Event()

        def publish() -> None:
            while not stop.wait(0.001):
                writer.publish(2)

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            _, plain = printed(capsys, "top", prefix, "--interval", "0.2", "--count", "2")
            _, told = printed(capsys, "top", prefix, "--interval", "0.2", "--count", "3", "--json")
        finally:
            stop.set()
            thread.join()

    first, second = plain.strip().split("\n\n")
    assert "RATE" not in first
    assert "RATE" in second
    assert "/s" in second
    looks = [json.loads(line) for line in told.splitlines()]
    assert [look[0]["name"] for look in looks] == [f"{prefix}-a"] * 3
    assert looks[0][0]["rate"] is None
    assert all(look[0]["rate"] > 1 for look in looks[1:])


def test_top_has_no_rate_for_a_state_that_was_made_anew(prefix: str) -> None:
    looks = Looks(prefix)
    with StateWriter(f"{prefix}-a") as writer:
        for _ in range(10):
            writer.publish(1)
        looks.look()
        looks.look()
        assert looks.rate(f"{prefix}-a") == 0
    with StateWriter(f"{prefix}-a") as writer:
        writer.publish(1)
        looks.look()
        assert looks.rate(f"{prefix}-a") is None


def test_top_of_nothing_says_so(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "top", prefix, "--count", "1") == (0, f"no state whose name begins with {prefix!r}\n")


def test_top_draws_on_a_terminal_in_place(prefix: str) -> None:
    with StateWriter(f"{prefix}-a") as writer:
        writer.publish(1)
        seen = on_a_terminal("top", prefix, "--count", "3", "--interval", "0.05")
        nothing = on_a_terminal("top", f"{prefix}-none", "--count", "1")

    assert seen.count(f"{prefix}-a") == 3
    assert "\x1b[?1049h" in seen  # the terminal's other screen, left at the end
    assert "\x1b[?1049l" in seen
    assert "no state" in nothing


# The command as a whole.


def test_the_version_is_the_packages() -> None:
    assert command("--version").stdout == f"shmstate {shmstate.__version__}\n"


def test_help_gives_the_exit_statuses() -> None:
    for arguments in (["--help"], ["demo", "--help"]):
        assert "130  interrupted" in command(*arguments).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["none-such"],
        ["show"],
        ["demo", "--workers", "0"],
        ["demo", "--files", "x"],
        ["demo", "--start-method", "x"],
        ["top", "--interval", "0"],
        ["top", "--interval", "nan"],
        ["watch"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(arguments: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)

    assert exited.value.code == 2
    assert "usage: shmstate" in capsys.readouterr().err


def test_an_interrupt_is_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(prefix: str, **_: object) -> List[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(shmstate, "reclaim", interrupted)

    assert main(["reclaim"]) == 130
    assert capsys.readouterr().err == "shmstate: interrupted\n"


@pytest.mark.parametrize("arguments", [["ls"], ["show", "NAME"], ["demo", "--files", "5", "--start-method", "fork"]])
def test_output_that_nobody_reads_any_more_is_no_traceback(name: str, arguments: List[str]) -> None:
    with StateWriter(name) as writer:
        writer.publish(list(range(100_000)))
        ours, theirs = os.pipe()
        os.close(ours)
        done = subprocess.run(
            [sys.executable, "-m", "shmstate", *(name if word == "NAME" else word for word in arguments)],
            stdout=theirs,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            check=False,
        )
        os.close(theirs)

    assert (done.returncode, done.stderr) == (141, b"")


def on_a_terminal(*arguments: str, **env: str) -> str:
    """What the command writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = {**ENVIRONMENT, "COLUMNS": "150", "TERM": "xterm", **env}
    with subprocess.Popen([sys.executable, "-m", "shmstate", *arguments], stdout=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while select.select([ours], [], [], 30)[0]:
                seen += os.read(ours, 65536)
    os.close(ours)
    assert process.returncode == 0
    return seen.decode()


@pytest.fixture
def without_rich(tmp_path: Path) -> str:
    """A PYTHONPATH on which rich cannot be imported."""
    (tmp_path / "rich.py").write_text("raise ImportError('not installed')")
    return os.pathsep.join([str(tmp_path), str(ROOT)])


def test_a_terminal_gets_a_table_drawn_by_rich(dead: str) -> None:
    pytest.importorskip("rich")

    assert "───" in on_a_terminal("ls", dead)
    assert "\x1b[" in on_a_terminal("show", dead)


def test_a_terminal_without_rich_gets_the_plain_table(dead: str, without_rich: str) -> None:
    listed = on_a_terminal("ls", dead, PYTHONPATH=without_rich)

    assert listed.splitlines()[0].startswith("NAME")
    assert dead in listed
    assert "{'last': 'words'}" in on_a_terminal("show", dead, PYTHONPATH=without_rich)


def test_sizes_times_and_ratios_have_three_digits_and_a_unit() -> None:
    assert [size(n) for n in (0, 999, 1000, 12_345, 999_499, 999_500, 64e6, 2e9)] == [
        "0 B", "999 B", "1 KB", "12.3 KB", "999 KB", "1 MB", "64 MB", "2 GB",
    ]  # fmt: skip
    assert [duration(us) for us in (0.5, 12.34, 999.4, 999.5, 45_600, 2e6, 119e6, 120e6, 8e9, 2e11)] == [
        "0.5 us", "12.3 us", "999 us", "1 ms", "45.6 ms", "2 s", "119 s", "2 min", "2 hours", "2 days",
    ]  # fmt: skip
    assert [times(ratio) for ratio in (0.5, 9.94, 10, 12_345)] == ["0.5x", "9.9x", "10x", "12,345x"]
