"""The commands ``gateway`` and ``ask``: what they print for people and for programs, and the status they exit with."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import Any, Callable, Dict, Iterator, List

import pytest

import shmstate
from shmstate import StateWriter
from shmstate.cli import main
from shmstate.fleet import Gateway
from tests.core.children import PATIENCE, ROOT, Child, until
from tests.fleet import others

zenoh = pytest.importorskip("zenoh", reason="needs eclipse-zenoh: the extra `fleet`")

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """It, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "shmstate", *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=PATIENCE,
        check=False,
    )


class Running:
    """It, while it runs."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shmstate", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], PATIENCE)[0], "no line"
        return self.process.stdout.readline().rstrip()

    def end(self, number: int) -> List[Any]:
        """Send it a signal: [status, the rest of its output, its errors]."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        return [self.process.returncode, out, err]


Run = Callable[..., Running]


@pytest.fixture
def running() -> Iterator[Run]:
    """Starts the command; it is ended with the test."""
    started: List[Running] = []

    def run(*arguments: str) -> Running:
        started.append(Running(*arguments))
        return started[-1]

    yield run

    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate(timeout=PATIENCE)


@pytest.fixture
def place(endpoint: Callable[[], str]) -> str:
    return endpoint()


@pytest.fixture
def fleet(place: str, prefix: str) -> Iterator[Dict[str, Any]]:
    """Two states of a host h1."""
    with ExitStack() as stack:
        writers = {}
        for state, value in (("a", {"jobs": 3}), ("b", b"\1")):
            writers[state] = stack.enter_context(StateWriter(f"{prefix}-{state}"))
            writers[state].publish(value)
        stack.enter_context(Gateway("h1", states=[f"{prefix}*"], listen=[place], interval=0.005))
        yield writers


# gateway


def test_a_gateway_says_where_it_is_and_what_it_has_done_and_answers_meanwhile(
    running: Run, place: str, name: str
) -> None:
    with StateWriter(name) as writer:
        writer.publish({"jobs": 3})
        gateway = running("gateway", name, "--host", "h1", "--listen", place)
        first = gateway.line()
        asked = command("ask", name, "--connect", place, "--deadline", "20")
        ended = gateway.end(signal.SIGTERM)

    assert first == f"gateway 'h1' answers for 1 states, listening on {place}; Ctrl-C ends it"
    assert asked.stdout.startswith(f"h1 {name}: version 1, ")
    assert asked.stdout.endswith(" old: {'jobs': 3}\n")
    assert (asked.stderr, asked.returncode) == ("", 0)
    assert ended == [143, "1 queries, 1 answers, 7 nbytes, 0 problems, 0 pushed\n", ""]


def test_a_gateway_tells_programs_the_same(running: Run, place: str, name: str) -> None:
    gateway = running("gateway", name, "--host", "h1", "--listen", place, "--json")
    first = json.loads(gateway.line())
    status, out, err = gateway.end(signal.SIGTERM)

    assert len(first.pop("gateway")) == 16
    assert first == {"host": "h1", "listen": [place], "connect": [], "states": 0}
    assert json.loads(out) == {"queries": 0, "answers": 0, "nbytes": 0, "problems": 0, "pushed": 0}
    assert (status, err) == (143, "")


def test_a_gateway_that_is_interrupted_ends_with_130(running: Run, place: str, name: str) -> None:
    gateway = running("gateway", name, "--listen", place)
    first = gateway.line()
    status, out, err = gateway.end(signal.SIGINT)

    assert first.startswith(f"gateway {socket.gethostname()!r} answers")
    assert out.startswith("0 queries, ")
    assert (status, err) == (130, "shmstate: interrupted\n")


def test_a_gateway_that_others_can_reach_warns_of_it(running: Run, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"tcp/0.0.0.0:{free.getsockname()[1]}"
    gateway = running("gateway", name, "--listen", place)
    gateway.line()
    status, _, err = gateway.end(signal.SIGTERM)

    assert err == f"shmstate: {place} asks nobody who he is: all who reach it read these states\n"
    assert status == 143


def test_a_gateway_whose_address_is_taken_fails_with_a_sentence(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"tcp/127.0.0.1:{taken.getsockname()[1]}"
        done = command("gateway", name, "--host", "h1", "--listen", place)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"shmstate: gateway 'h1' could not listen on {place} (")
    assert done.stderr.count("\n") == 1


def test_a_gateway_whose_reader_is_gone_is_no_traceback(place: str, name: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    process = subprocess.Popen(
        [sys.executable, "-m", "shmstate", "gateway", name, "--listen", place],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    os.close(theirs)
    _, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, err) == (141, b"")


# ask


def test_a_pattern_gives_a_line_for_each_state(fleet: Dict[str, Any], place: str, prefix: str) -> None:
    done = command("ask", f"{prefix}-*", "--connect", place, "--deadline", "20")

    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"h1 {prefix}-a", f"h1 {prefix}-b"]
    assert [line.rpartition(": ")[2] for line in lines] == ["3}", r"b'\x01'"]
    assert (done.returncode, done.stderr) == (0, "")


def test_programs_get_one_object(fleet: Dict[str, Any], place: str, prefix: str) -> None:
    done = command("ask", f"{prefix}-*", "--connect", place, "--deadline", "20", "--json")

    told = json.loads(done.stdout)
    assert [answer["value"] for answer in told["answers"]] == [{"jobs": 3}, {"base64": "AQ=="}]
    assert told["answers"][0].keys() == {
        *("host", "state", "value", "version", "age", "staleness", "alive", "codec", "nbytes")
    }
    assert (told["silent"], told["problems"]) == ({}, [])
    assert 0 < told["seconds"] < 20
    assert (done.returncode, done.stderr) == (0, "")


def test_hosts_that_are_silent_are_named_and_make_it_fail(fleet: Dict[str, Any], place: str, prefix: str) -> None:
    done = command("ask", f"{prefix}-a", "--hosts", "h1", "--hosts", "h2\n", "--connect", place, "--deadline", "5")

    assert done.stdout.startswith(f"h1 {prefix}-a: ")
    assert done.stderr == "shmstate: no answer of h2\\n: never seen\n"
    assert done.returncode == 1


def test_a_gateway_that_is_not_there_is_named(place: str) -> None:
    done = command("ask", "a", "--connect", place)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"shmstate: no answer of {place}: no connection; is a gateway running there?\n"


def test_programs_are_told_who_is_silent(place: str) -> None:
    done = command("ask", "a", "--connect", place, "--json")

    assert json.loads(done.stdout)["silent"] == {place: "no connection; is a gateway running there?"}
    assert done.returncode == 1


def test_a_state_that_nobody_has_makes_it_fail(fleet: Dict[str, Any], place: str, prefix: str) -> None:
    done = command("ask", f"{prefix}-none", "--connect", place, "--deadline", "20")

    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"shmstate: no such state: '{prefix}-none'\n")


def test_pickle_is_read_where_it_is_named_alone(place: str, name: str) -> None:
    with StateWriter(name, codec="pickle") as writer, Gateway("h1", states=[name], listen=[place]):
        writer.publish({1})
        unnamed = command("ask", name, "--connect", place, "--deadline", "20")
        named = command("ask", name, "--connect", place, "--deadline", "20", "--codec", "pickle")

    assert (unnamed.returncode, unnamed.stdout) == (1, "")
    assert unnamed.stderr.startswith(f"shmstate: h1 {name}: is written with codec 'pickle'")
    assert "--codec pickle" in unnamed.stderr
    assert (named.returncode, named.stderr) == (0, "")
    assert named.stdout.endswith(" old: {1}\n")


def test_a_dead_writer_is_said_to_be(place: str, name: str) -> None:
    writer = StateWriter(name)
    writer.publish(1)
    writer.close(unlink=False)
    with Gateway("h1", states=[name], listen=[place]):
        done = command("ask", name, "--connect", place, "--deadline", "20")
    shmstate.reclaim(name)

    assert done.stdout.endswith(" old, its writer is dead: 1\n")
    assert done.returncode == 0


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_state_nested_too_deeply_fails_with_a_sentence(place: str, name: str, more: List[str]) -> None:
    with StateWriter(name, codec="pickle") as writer, Gateway("h1", states=[name], listen=[place]):
        writer.publish_bytes(b"(l" * 5000 + b"a" * 4999 + b".")  # lists in lists
        done = command("ask", name, "--connect", place, "--deadline", "20", "--codec", "pickle", *more)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"shmstate: a state of {name!r} is nested too deeply to be printed\n"


def test_one_that_follows_prints_what_changes_and_ends_after_so_many(
    running: Run, fleet: Dict[str, Any], place: str, prefix: str
) -> None:
    following = running("ask", f"{prefix}-a", "--connect", place, "--follow", "--count", "3")
    lines = sorted([following.line(), following.line()], key=len)  # a push can be there before the host is told of
    fleet["a"].publish({"jobs": 4})
    lines.append(following.line())
    out, err = following.process.communicate(timeout=PATIENCE)

    assert lines[0] == "h1: found"
    assert lines[1].startswith(f"h1 {prefix}-a: version 1, ")
    assert lines[2].startswith(f"h1 {prefix}-a: version 2, ")
    assert lines[2].endswith(": {'jobs': 4}")
    assert (out, err, following.process.returncode) == ("", "", 0)


def test_one_that_follows_tells_programs_the_same_until_it_is_interrupted(
    running: Run, fleet: Dict[str, Any], place: str, prefix: str
) -> None:
    following = running("ask", f"{prefix}-a", "--connect", place, "--follow", "--json")
    found, state = sorted((json.loads(following.line()) for _ in range(2)), key=lambda change: str(change["kind"]))
    ended = following.end(signal.SIGINT)

    assert (found["kind"], found["host"], found["answer"]) == ("found", "h1", None)
    assert (state["kind"], state["answer"]["value"]) == ("state", {"jobs": 3})
    assert ended == [130, "", "shmstate: interrupted\n"]


@pytest.mark.parametrize("more", [[], ["--json"], ["--follow"]])
def test_answers_that_nobody_reads_are_no_traceback(place: str, name: str, more: List[str]) -> None:
    with StateWriter(name) as writer, Gateway("h1", states=[name], listen=[place]):
        writer.publish(list(range(100_000)))
        ours, theirs = os.pipe()
        os.close(ours)
        done = subprocess.run(
            [sys.executable, "-m", "shmstate", "ask", name, "--connect", place, "--deadline", "20", *more],
            stdout=theirs,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            timeout=PATIENCE,
            check=False,
        )
        os.close(theirs)

    assert (done.returncode, done.stderr) == (141, b"")


# Usage.


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask"],
        ["ask", "a", "--deadline", "soon"],
        ["ask", "a", "--count", "1"],
        ["ask", "a", "--follow", "--count", "0"],
        ["ask", "a", "--max-payload", "much"],
        ["ask", "a", "b"],
        ["gateway", "--interval", "often"],
        ["gateway", "--listen"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(arguments: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)

    assert exited.value.code == 2
    assert "usage: shmstate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["ask", "a/b"], "states='a/b'"),
        (["ask", "a", "--deadline", "0"], "deadline=0.0"),
        (["ask", "a", "--codec", "yaml"], "'yaml'"),
        (["ask", "a", "--config", "/no/such/file"], "/no/such/file"),
        (["gateway", "--host", "a*"], "host='a*'"),
        (["gateway", "--interval", "0"], "interval=0.0"),
        (["gateway", "--listen", "nowhere"], "listen/endpoints"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_out_of_range_is_status_1_with_a_sentence(
    arguments: List[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("shmstate: ")
    assert why in err


def test_a_gateway_in_a_child_is_found_by_its_host(place: str, name: str, start: Callable[..., Child]) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        start(others.answer, place, "h7", json.dumps({"states": [name]})).line()

        until(lambda: command("ask", name, "--hosts", "h7", "--connect", place, "--deadline", "20").returncode == 0)
