"""``shmstate export --prometheus``: the real command in a process of its own, scraped by a real HTTP client."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, Optional, Set, Tuple

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import openmetrics, parser
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families

from shmstate import StateSync, StateWriter, list_states, reclaim
from shmstate.cli import main
from shmstate.export import metrics
from shmstate.export.rates import Rates
from shmstate.layout import SHM_DIR
from shmstate.memory import path_of
from shmstate.registry import StateInfo
from tests.core.children import PATIENCE, ROOT, Child, own, say, until, wait_for_the_test

Start = Callable[..., Child]
Series = Tuple[str, FrozenSet[Tuple[str, str]]]

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
ENVIRONMENT.pop("PYTHONUNBUFFERED", None)  # what is printed must come through a pipe without it
DOCUMENT = ROOT / "docs" / "monitoring.md"
#: A client that asks the exporter, whatever proxies the environment names.
CLIENT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


class Scrape:
    """What one request got."""

    def __init__(self, text: str, families: Callable[[str], Any] = parser.text_string_to_metric_families) -> None:
        self.values: Dict[Series, float] = {}
        self.types: Dict[str, str] = {}
        for family in families(text):
            self.types[family.name] = family.type
            for sample in family.samples:
                series = (sample.name, frozenset(sample.labels.items()))
                assert series not in self.values, f"twice: {series}"
                self.values[series] = sample.value

    def get(self, metric: str, **labels: str) -> Optional[float]:
        """The value of that one series; None if there is none."""
        return self.values.get((f"shmstate_{metric}", frozenset(labels.items())))

    def value(self, metric: str, **labels: str) -> float:
        """The value of that one series."""
        value = self.get(metric, **labels)
        assert value is not None, f"no {metric}{labels} among {sorted(name for name, _ in self.values)}"
        return value

    def of(self, state: str) -> Set[str]:
        """The metrics that have a series of that state; but for the rate, which needs a scrape a second before."""
        found = {name[len("shmstate_") :] for name, labels in self.values if ("state", state) in labels}
        return found - {"publishes_per_second"}


EVERY_STATE = {"publishes_total", "publishes_created", "state_info", "writer_alive", "writer_pid", "memory_bytes"}
PUBLISHED = {"staleness_seconds", "age_seconds", "size_bytes"}


class Exporter:
    """The command, serving the states that begin with ``prefix``."""

    def __init__(self, prefix: str, *options: str, listen: str = "127.0.0.1:0") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shmstate", "export", "--prometheus", prefix, "--listen", listen, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        assert self.process.stdout is not None
        #: The line that says where it listens.
        self.line = self.process.stdout.readline()
        found = re.search(r"http://[^\s\"]+", self.line)
        self.url = found[0] if found else ""

    def get(self, accept: str = "", query: str = "") -> str:
        """One request, from connecting to the last byte."""
        request = urllib.request.Request(self.url + query, headers={"Accept": accept} if accept else {})
        with CLIENT.open(request, timeout=PATIENCE) as answer:
            text: str = answer.read().decode("utf-8")
            return text

    def scrape(self) -> Scrape:
        return Scrape(self.get())

    def end(self, number: int = signal.SIGTERM) -> Tuple[int, str, str]:
        """Signal it; its exit status, and what else it said."""
        self.process.send_signal(number)
        try:
            out, err = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
        return self.process.returncode, out, err


@pytest.fixture
def serve(prefix: str) -> Iterator[Callable[..., Exporter]]:
    """Starts an exporter of this test's states, which may complain of nothing, and is gone after the test."""
    started: List[Exporter] = []

    def serve(*options: str, **kwargs: str) -> Exporter:
        started.append(Exporter(prefix, *options, **kwargs))
        return started[-1]

    yield serve

    running = [exporter for exporter in started if exporter.process.poll() is None]
    assert [exporter.end()[1:] for exporter in running] == [("", "")] * len(running)


@pytest.fixture
def exporter(serve: Callable[..., Exporter]) -> Exporter:
    return serve()


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """The command, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "shmstate", *arguments],
        capture_output=True,
        env={**ENVIRONMENT, **env},
        timeout=PATIENCE,
        check=False,
    )


def once(prefix: str, **env: str) -> Scrape:
    done = command("export", "--prometheus", prefix, "--once", **env)
    assert (done.returncode, done.stderr) == (0, b"")
    return Scrape(done.stdout.decode("utf-8"))


# Bodies of children.


def vouch(name: str) -> None:
    """Own a state that never changes, and say so again and again."""
    with StateWriter(name) as writer, StateSync(writer, lambda: "the same", interval=0.01):
        say("ready")
        wait_for_the_test()


def publish_without_rest(name: str) -> None:
    """Publish states of changing sizes until the test says something or is gone."""
    with StateWriter(name, codec="raw", max_size=4096) as writer:
        say("ready")
        number = 0
        while number % 100 or not select.select([sys.stdin], [], [], 0)[0]:
            number += 1
            writer.publish_bytes(bytes(number * 7919 % (9000 if number % 1000 == 0 else 3000)))


def export_without_the_library(*arguments: str) -> None:
    """Run the command in a Python that has no prometheus_client."""
    sys.modules["prometheus_client"] = None  # type: ignore[assignment]  # which is how an import is made to fail
    sys.exit(main(arguments))


# What is said of one state.


def test_a_state_is_exported_with_all_that_is_known_of_it(prefix: str, exporter: Exporter) -> None:
    name = f"{prefix}-a"
    before = time.time()
    with StateWriter(name, codec="json", slots=7) as writer:
        for number in range(5):
            writer.publish({"number": number})

        seen = exporter.scrape()
        (known,) = list_states(name)

    assert seen.of(name) == EVERY_STATE | PUBLISHED
    assert seen.value("publishes_total", state=name) == 5
    assert before - 1 < seen.value("publishes_created", state=name) < time.time()
    assert seen.value("state_info", state=name, codec="json", slots="7") == 1
    assert seen.value("writer_alive", state=name) == 1
    assert seen.value("writer_pid", state=name) == os.getpid()
    assert known.age is not None
    assert 0 < seen.value("staleness_seconds", state=name) <= seen.value("age_seconds", state=name) < known.age
    assert seen.value("size_bytes", state=name) == known.nbytes == len(b'{"number":4}')
    assert seen.value("memory_bytes", state=name) == known.memory > known.nbytes
    assert (seen.value("states"), seen.value("unreadable_states")) == (1, 0)
    assert 0 < seen.value("exporter_scrape_duration_seconds") < PATIENCE


def test_publishes_are_a_counter_and_the_rest_are_gauges(name: str, exporter: Exporter) -> None:
    with StateWriter(name):
        types = exporter.scrape().types

    assert {kind for metric, kind in types.items() if metric != "shmstate_publishes"} == {"gauge"}
    assert types["shmstate_publishes"] == "counter"


def test_the_counter_is_the_version(name: str, exporter: Exporter) -> None:
    with StateWriter(name) as writer:
        for times in (1, 2, 30):
            for _ in range(times):
                version = writer.publish("x")

            assert exporter.scrape().value("publishes_total", state=name) == version


def test_a_state_that_has_published_nothing_has_no_age(name: str, exporter: Exporter) -> None:
    with StateWriter(name):
        seen = exporter.scrape()

    assert seen.of(name) == EVERY_STATE
    assert seen.value("publishes_total", state=name) == 0
    assert seen.value("writer_alive", state=name) == 1


def test_a_state_that_grows_is_seen_to_grow(name: str, exporter: Exporter) -> None:
    sizes = (10, 20_000, 3_000_000)
    seen = []
    with StateWriter(name, codec="raw", max_size=100_000) as writer:
        for size in sizes:
            writer.publish_bytes(bytes(size))
            seen.append(exporter.scrape())

    assert tuple(scrape.value("size_bytes", state=name) for scrape in seen) == sizes
    memory = [scrape.value("memory_bytes", state=name) for scrape in seen]
    assert memory[0] < memory[1] < memory[2]
    assert all(taken >= size for taken, size in zip(memory, sizes))


# Stalled, dead, gone.


def test_a_stopped_worker_is_alive_and_grows_stale(name: str, start: Start, exporter: Exporter) -> None:
    def staleness() -> float:
        return exporter.scrape().value("staleness_seconds", state=name)

    worker = start(vouch, name)
    assert worker.line() == "ready"
    until(lambda: "staleness_seconds" in exporter.scrape().of(name))
    until(lambda: exporter.scrape().value("age_seconds", state=name) > 0.3)
    until(lambda: staleness() < 0.2, name="vouched for")

    worker.signal(signal.SIGSTOP)
    until(lambda: staleness() > 0.6, name="stale")
    first, second = exporter.scrape(), exporter.scrape()
    worker.signal(signal.SIGCONT)
    until(lambda: staleness() < 0.2, name="vouched for again")

    assert first.value("writer_alive", state=name) == second.value("writer_alive", state=name) == 1
    assert 0.6 < first.value("staleness_seconds", state=name) < second.value("staleness_seconds", state=name)
    assert second.value("publishes_total", state=name) == 1


def test_a_killed_worker_is_dead_and_its_last_state_stays(name: str, start: Start, exporter: Exporter) -> None:
    worker = start(own, name)
    assert worker.line() == "ready"
    living = exporter.scrape()

    worker.kill()
    dead = exporter.scrape()

    assert living.value("writer_alive", state=name) == 1
    assert dead.value("writer_alive", state=name) == 0
    assert dead.value("writer_pid", state=name) == worker.pid
    assert dead.value("publishes_total", state=name) == 1
    assert dead.of(name) == EVERY_STATE | PUBLISHED
    assert reclaim(name) == [name]
    assert exporter.scrape().of(name) == set()


def test_the_series_of_a_state_go_with_it_and_those_of_others_stay(prefix: str, exporter: Exporter) -> None:
    goes, stays = f"{prefix}-goes", f"{prefix}-stays"
    with StateWriter(stays):
        with StateWriter(goes):
            both = exporter.scrape()
        one = exporter.scrape()

    assert both.of(goes) == both.of(stays) == one.of(stays) == EVERY_STATE
    assert one.of(goes) == set()
    assert (both.value("states"), one.value("states")) == (2, 1)


def test_a_state_that_is_made_anew_counts_from_the_start_and_says_since_when(name: str, exporter: Exporter) -> None:
    with StateWriter(name) as writer:
        for _ in range(3):
            writer.publish("x")
        first = exporter.scrape()
    between = time.time()
    with StateWriter(name) as writer:
        writer.publish("x")
        second = exporter.scrape()

    assert [scrape.value("publishes_total", state=name) for scrape in (first, second)] == [3, 1]
    assert first.value("publishes_created", state=name) < between < second.value("publishes_created", state=name)


def test_an_adopted_state_counts_on_under_another_pid(name: str, start: Start, exporter: Exporter) -> None:
    worker = start(own, name)
    assert worker.line() == "ready"
    first = exporter.scrape()
    worker.kill()
    with StateWriter(name) as writer:
        writer.publish("x")
        second = exporter.scrape()

    assert [scrape.value("publishes_total", state=name) for scrape in (first, second)] == [1, 2]
    assert [scrape.value("writer_pid", state=name) for scrape in (first, second)] == [worker.pid, os.getpid()]
    assert first.get("publishes_created", state=name) == second.get("publishes_created", state=name)


def test_only_names_that_begin_with_the_prefix_are_exported(prefix: str, serve: Callable[..., Exporter]) -> None:
    exporter = serve()
    with StateWriter(f"{prefix}-ours"), StateWriter(f"x{prefix}-others") as other:
        seen = exporter.scrape()

        assert seen.of(other.name) == set()
        assert {dict(labels).get("state") for _, labels in seen.values} == {None, f"{prefix}-ours"}
        assert once("").of(other.name) == EVERY_STATE


# The rate.


def states(**versions: int) -> List[StateInfo]:
    return [StateInfo(name, version=version, created=1.5) for name, version in versions.items()]


def test_a_rate_needs_two_scrapes_that_are_apart() -> None:
    rates = Rates(1.0)

    assert rates.measure(100.0, states(a=10)) == {}
    assert rates.measure(100.000_001, states(a=11)) == {}
    assert rates.measure(100.9, states(a=40)) == {}
    assert rates.measure(102.0, states(a=50)) == {"a": 20.0}


def test_scrapes_microseconds_apart_do_not_spoil_the_rate() -> None:
    rates = Rates(1.0)
    measured = []
    for second in range(100, 200, 15):
        measured.append(rates.measure(second, states(a=10 * second)))
        measured.append(rates.measure(second + 1e-6, states(a=10 * second + 1)))

    assert measured[:2] == [{}, {}]
    assert [round(rate["a"], 1) for rate in measured[2:3]] == [10.0]
    assert all(abs(rate["a"] - 10) < 0.1 for rate in measured[2:])


def test_scrapes_that_never_rest_have_a_rate_all_the_same() -> None:
    rates = Rates(1.0)
    measured = [rates.measure(100 + step / 64, states(a=step)) for step in range(1000)]

    assert measured[:64] == [{}] * 64
    assert measured[64:] == [{"a": 64.0}] * 936


def test_there_is_no_rate_of_a_state_that_is_new_or_was_made_anew_or_has_gone() -> None:
    rates = Rates(1.0)
    rates.measure(100.0, states(stays=1, goes=1, anew=9))

    measured = rates.measure(102.0, [*states(stays=1, new=5), StateInfo("anew", version=10, created=2.5)])

    assert measured == {"stays": 0.0}
    assert rates.measure(104.0, [StateInfo("anew", version=14, created=2.5)]) == {"anew": 2.0}


def test_the_rate_is_what_was_published_between_scrapes(name: str, exporter: Exporter) -> None:
    with StateWriter(name) as writer:
        began = time.monotonic()
        first = exporter.scrape()
        first_ended = time.monotonic()
        for _ in range(500):
            writer.publish("x")
        until(lambda: time.monotonic() > first_ended + 1)
        second_began = time.monotonic()
        second = exporter.scrape()
        ended = time.monotonic()

    assert first.get("publishes_per_second", state=name) is None
    assert (
        500 / (ended - began) <= second.value("publishes_per_second", state=name) <= 500 / (second_began - first_ended)
    )


# Names.


NAMES = [
    '"quoted"',
    "back\\slash",
    "\\n",
    "{a=\"b\",c='d'} 5",
    "größe-\N{SNOWMAN}-\N{PILE OF POO}",
    "a b",
    "#",
    "x" * 200,
]


@pytest.mark.parametrize("part", NAMES, ids=range(len(NAMES)))
def test_a_name_comes_through_whatever_is_in_it(prefix: str, exporter: Exporter, part: str) -> None:
    name = f"{prefix}-{part}"
    with StateWriter(name) as writer:
        writer.publish(1)
        plain = exporter.scrape()
        newer = Scrape(exporter.get(accept=openmetrics.exposition.CONTENT_TYPE_LATEST), openmetrics_families)

    assert plain.of(name) == newer.of(name) == EVERY_STATE | PUBLISHED


@pytest.fixture
def strangers(prefix: str) -> Iterator[Callable[[str], str]]:
    """Puts a file that is no state where that state would be."""
    made: List[Path] = []

    def strange(part: str) -> str:
        made.append(Path(SHM_DIR, f"shmstate.{prefix}-{part}"))
        made[-1].write_text("nonsense")
        return f"{prefix}-{part}"

    yield strange

    for path in made:
        path.unlink()


BAD_NAMES = [
    (os.fsdecode(b"not\xffutf8"), "not\\udcffutf8"),
    ("a\nshmstate_states 99\n", "a\\nshmstate_states 99\\n"),
    ("\x1b[2J", "\\x1b[2J"),
]


@pytest.mark.parametrize(("part", "shown"), BAD_NAMES, ids=["not utf-8", "lines", "escape"])
def test_a_name_that_no_state_can_have_is_told_and_spoils_nothing(
    prefix: str, exporter: Exporter, strangers: Callable[[str], str], part: str, shown: str
) -> None:
    strangers(part)
    with StateWriter(f"{prefix}-fine"):
        plain = exporter.scrape()
        newer = Scrape(exporter.get(accept=openmetrics.exposition.CONTENT_TYPE_LATEST), openmetrics_families)

    for seen in (plain, newer):
        assert seen.value("unreadable", state=f"{prefix}-{shown}", error="InvalidName") == 1
        assert (seen.value("states"), seen.value("unreadable_states")) == (1, 1)
        assert seen.of(f"{prefix}-fine") == EVERY_STATE


# What cannot be read.


def test_what_is_no_state_is_unreadable_by_the_class_of_its_error(
    exporter: Exporter, strangers: Callable[[str], str]
) -> None:
    name = strangers("strange")
    seen = exporter.scrape()

    assert seen.of(name) == {"unreadable"}
    assert seen.value("unreadable", state=name, error="CorruptSegment") == 1
    assert (seen.value("states"), seen.value("unreadable_states")) == (0, 1)


@needs_root
def test_a_state_of_another_user_is_unreadable_as_untrusted(name: str, exporter: Exporter) -> None:
    with StateWriter(name) as writer:
        writer.publish("secret")
        os.chown(path_of(name), 12345, -1)
        seen = exporter.scrape()

    assert seen.of(name) == {"unreadable"}
    assert seen.value("unreadable", state=name, error="UntrustedSegment") == 1


def test_an_error_that_does_not_recur_and_a_state_that_has_gone_meanwhile(
    monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    with StateWriter(f"{prefix}-well") as well, StateWriter(f"{prefix}-silent") as silent:
        well.publish(1)
        trouble = [StateInfo(name, problem="timed out") for name in (well.name, silent.name, f"{prefix}-gone")]
        monkeypatch.setattr(metrics, "list_states", lambda _: trouble)
        (unreadable,) = (
            metric for metric in metrics.StatesCollector(prefix).collect() if metric.name == "shmstate_unreadable"
        )

    assert [sample.labels for sample in unreadable.samples] == [
        {"state": silent.name, "error": "ShmStateError"},
        {"state": well.name, "error": "ShmStateError"},
    ]


# Under load, and without any.


def test_scrapes_at_the_same_time_while_a_writer_never_rests(name: str, start: Start, exporter: Exporter) -> None:
    assert start(publish_without_rest, name).line() == "ready"
    until(lambda: "age_seconds" in exporter.scrape().of(name))

    def watch(_: int) -> List[Scrape]:
        return [exporter.scrape() for _ in range(10)]

    first = exporter.scrape().value("publishes_total", state=name)
    with ThreadPoolExecutor(8) as pool:
        watched = list(pool.map(watch, range(8)))
    assert exporter.scrape().value("publishes_total", state=name) > first

    for seen in watched:
        versions = [scrape.value("publishes_total", state=name) for scrape in seen]
        assert versions == sorted(versions)
        assert all(scrape.of(name) == EVERY_STATE | PUBLISHED for scrape in seen)
        assert {scrape.value("unreadable_states") for scrape in seen} == {0}
        assert all(0 <= scrape.value("size_bytes", state=name) < 9000 for scrape in seen)
        assert all(0 <= scrape.value("age_seconds", state=name) < PATIENCE for scrape in seen)


def test_looks_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: List[int] = []
    looking: List[int] = []
    together: List[int] = []

    def look(_: str) -> List[StateInfo]:
        looking.append(1)
        together.append(len(looking))
        until(lambda: len(begun) == 4, name="all scrapes under way")
        looking.pop()
        return []

    monkeypatch.setattr(metrics, "list_states", look)
    collector = metrics.StatesCollector("")

    def collect(number: int) -> None:
        begun.append(number)
        list(collector.collect())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(collect, range(4)))

    assert together == [1, 1, 1, 1]


def test_states_are_looked_at_when_metrics_are_asked_for_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: List[str] = []

    def look(prefix: str) -> List[StateInfo]:
        looks.append(prefix)
        return []

    monkeypatch.setattr(metrics, "list_states", look)
    registry = metrics.registry_of("some")
    assert looks == []

    list(registry.collect())
    assert looks == ["some"]
    list(registry.collect())
    assert looks == ["some"] * 2


def test_a_scrape_leaves_no_descriptor_and_no_map_behind(name: str, exporter: Exporter) -> None:
    def held() -> Tuple[int, int]:
        pid = exporter.process.pid
        return len(os.listdir(f"/proc/{pid}/fd")), Path(f"/proc/{pid}/maps").read_text().count("shmstate.")

    with StateWriter(name) as writer:
        writer.publish(bytes(100_000))
        exporter.scrape()
        until(lambda: held()[1] == 0)
        fds = held()[0]
        for _ in range(20):
            exporter.scrape()

        until(lambda: held() <= (fds, 0), name="descriptors let go of")


def test_one_metric_can_be_asked_for_by_name(name: str, exporter: Exporter) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        seen = Scrape(exporter.get(query="?name[]=shmstate_age_seconds"))

    assert seen.of(name) == {"age_seconds"}
    assert len(seen.values) == 1


# The command.


@pytest.mark.parametrize(
    ("number", "status", "told"), [(signal.SIGTERM, 143, ""), (signal.SIGINT, 130, "shmstate: interrupted\n")]
)
def test_a_signal_ends_it_with_the_status_that_the_help_gives(
    exporter: Exporter, number: int, status: int, told: str
) -> None:
    exporter.scrape()

    assert exporter.end(number) == (status, "", told)
    with pytest.raises(urllib.error.URLError, match="refused"):
        exporter.scrape()
    assert str(status).encode() in command("export", "--help").stdout


def test_a_signal_ends_it_in_the_middle_of_a_request(exporter: Exporter) -> None:
    host, port = re.findall(r"//(.*):(\d+)", exporter.url)[0]
    with socket.create_connection((host, int(port))) as half:
        half.sendall(b"GET /metrics HTTP/1.1\r\n")

        assert exporter.end() == (143, "", "")


def test_nothing_of_it_runs_on_when_it_is_ended(
    prefix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = []

    def be_ended(_: Set[int]) -> SimpleNamespace:
        urls.extend(re.findall(r"http://\S+", capsys.readouterr().out))
        with CLIENT.open(urls[0], timeout=PATIENCE) as answer:
            assert answer.status == 200
        return SimpleNamespace(si_signo=signal.SIGTERM)

    monkeypatch.setattr(signal, "sigwaitinfo", be_ended)
    threads, mask = set(threading.enumerate()), signal.pthread_sigmask(signal.SIG_BLOCK, ())

    assert main(["export", "--prometheus", prefix, "--listen", "127.0.0.1:0"]) == 143

    with pytest.raises(urllib.error.URLError, match="refused"):
        CLIENT.open(urls[0], timeout=PATIENCE)
    until(lambda: set(threading.enumerate()) <= threads, name="its threads gone")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def test_it_says_where_it_listens(serve: Callable[..., Exporter]) -> None:
    people, programs = serve(), serve("--json")

    assert re.fullmatch(r"metrics are at http://127\.0\.0\.1:[1-9]\d*/metrics\n", people.line)
    told = json.loads(programs.line)
    assert told == {"url": programs.url, "host": "127.0.0.1", "port": told["port"]}
    assert told["url"] == f"http://127.0.0.1:{told['port']}/metrics"
    assert programs.scrape().value("states") == 0


def test_it_listens_on_loopback_alone_unless_told_otherwise() -> None:
    from shmstate.export.command import DEFAULT

    assert DEFAULT.host == "127.0.0.1"
    assert f"default: {DEFAULT}" in " ".join(command("export", "--help").stdout.decode().split())


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_an_ipv6_address_stands_in_brackets(serve: Callable[..., Exporter]) -> None:
    exporter = serve(listen="[::1]:0")

    assert exporter.url.startswith("http://[::1]:")
    assert exporter.scrape().value("states") == 0


def test_a_busy_port_is_an_error_that_names_it() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        done = command("export", "--prometheus", "--listen", address)

    told = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"")
    assert told.startswith(f"shmstate: cannot listen on {address}: Address already in use.")
    assert "--listen ADDRESS:PORT takes another" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no..host:0"])
def test_an_address_that_is_not_this_machines_is_an_error(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--prometheus", "--listen", address]) == 1
    assert capfd.readouterr().err.startswith(f"shmstate: cannot listen on {address}: ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "required: --prometheus"),
        (["--prometheus", "--listen", "9464"], "is no ADDRESS:PORT, as 127.0.0.1:"),
        (["--prometheus", "--listen", ":9464"], "0.0.0.0:"),
        (["--prometheus", "--listen", "127.0.0.1:x"], "is no ADDRESS:PORT"),
        (["--prometheus", "--listen", "127.0.0.1:65536"], "is no ADDRESS:PORT"),
        (["--prometheus", "--listen", "127.0.0.1:²"], "is no ADDRESS:PORT"),
        (["--prometheus", "--listen", "::1:9464"], "brackets"),
        (["--prometheus", "--once", "--listen", "127.0.0.1:0"], "not allowed with"),
        (["--prometheus", "--output", "x"], "--output: only with --once"),
        (["--prometheus", "--once", "--json"], "--json: not allowed with argument --once"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_status_2(arguments: List[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["export", *arguments])

    assert exited.value.code == 2
    assert told in capsys.readouterr().err


def test_without_the_library_it_names_the_extra_and_the_rest_works(name: str, start: Start) -> None:
    without = start(export_without_the_library, "export", "--prometheus", "--once").finish()
    rest = start(export_without_the_library, "ls", name).finish()

    assert (without.code, without.out) == (1, "")
    assert "pip install 'shmstate[prometheus]'" in without.err
    assert len(without.err.splitlines()) == 1
    assert (rest.code, rest.err) == (0, "")


# Once.


def test_once_prints_the_metrics_and_ends(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish({"a": 1})
        seen = once(name)

    assert seen.of(name) == EVERY_STATE | PUBLISHED
    assert seen.value("publishes_total", state=name) == 1


def test_once_prints_utf_8_whatever_the_terminal_has(prefix: str) -> None:
    name = f"{prefix}-\N{SNOWMAN}"
    with StateWriter(name):
        assert once(prefix, PYTHONIOENCODING="ascii").of(name) == EVERY_STATE


def test_once_writes_a_file_that_is_whole_whenever_it_is_read(name: str, tmp_path: Path) -> None:
    file = tmp_path / "shmstate.prom"
    file.write_text("the one before")
    before = file.open()
    with StateWriter(name):
        done = command("export", "--prometheus", name, "--once", "--output", str(file))

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert Scrape(file.read_text("utf-8")).of(name) == EVERY_STATE
    with before:
        assert before.read() == "the one before"
    assert os.listdir(tmp_path) == ["shmstate.prom"]


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(
    prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in (folder, tmp_path / "none" / "x.prom"):
        assert main(["export", "--prometheus", prefix, "--once", "--output", str(file)]) == 1
        assert f"cannot write --output '{file}'" in capsys.readouterr().err

    assert list(tmp_path.iterdir()) == [folder]


# What is written about it.


def exported_names() -> Set[str]:
    """All metrics, under the names that their series have."""
    suffixes = {"counter": ("_total", "_created"), "info": ("_info",)}
    described = metrics.StatesCollector("").describe()
    return {metric.name + suffix for metric in described for suffix in suffixes.get(metric.type, ("",))}


def test_the_document_has_every_metric_and_no_other() -> None:
    text = DOCUMENT.read_text("utf-8")
    rows = set(re.findall(r"^\| `(shmstate_\w+)", text, re.MULTILINE))

    assert rows == exported_names()
    assert set(re.findall(r"\bshmstate_\w+", text)) <= rows


def test_the_rules_of_the_document_are_yaml_about_metrics_there_are() -> None:
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed here")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    rules = [rule for block in blocks for group in yaml.safe_load(block).get("groups", []) for rule in group["rules"]]

    assert [rule["alert"] for rule in rules] == ["ShmstateStalled", "ShmstateDead", "ShmstateNotPublishing"]
    for rule in rules:
        used = set(re.findall(r"\bshmstate_\w+", rule["expr"]))
        assert used
        assert used <= exported_names()
        assert {"expr", "for", "labels", "annotations"} <= set(rule)
