"""The parts measure what they say: run for real, in as few rounds as there can be. Nothing here is about speed."""

from __future__ import annotations

import json
import multiprocessing
import secrets
from types import ModuleType
from typing import Any, Dict, List, Mapping

import pytest

import shmstate
from benchmarks import states
from benchmarks.document import Section
from benchmarks.harness import Effort, Take, Tell, interleaved
from benchmarks.parts import formats, interference, latency, numbers, scaling
from benchmarks.remote import Remote
from benchmarks.sections import formats as told_formats
from benchmarks.sections import interference as told_interference
from benchmarks.sections import numbers as told_numbers
from benchmarks.sections import scaling as told_scaling


class Least(Effort):
    """Hardly any effort: it only has to run."""

    def of(self, full: Any, quick: Any) -> Any:
        if isinstance(quick, int):
            return max(1, quick // 20)
        return quick / 10 if isinstance(quick, float) else quick


LEAST = Least(quick=True)


@pytest.fixture(autouse=True)
def _one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(variants: Mapping[str, Take], rounds: int) -> Dict[str, List[List[float]]]:
        return interleaved(variants, 1, warm_up=0)

    for module in (formats, latency, numbers, scaling):
        monkeypatch.setattr(module, "interleaved", one)


@pytest.fixture
def prefix() -> str:
    """How this test's states are called, and nobody else's."""
    return f"test-{secrets.token_hex(6)}"


def no_more_than_told(part: ModuleType) -> Dict[str, Any]:
    """What it measured, through JSON; ``tell`` was called as often as ``steps`` says."""
    told: List[str] = []
    tell: Tell = told.append
    found = part.measure(LEAST, tell)
    assert len(told) == part.steps(LEAST)
    data: Dict[str, Any] = json.loads(json.dumps(found))
    return data


def is_whole(section: Section) -> None:
    """Every row has as many cells as its table's head, every line as many points each way."""
    for table in section.tables:
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.head)}
        assert all(isinstance(cell, str) for row in table.rows for cell in row)
    for plot in section.plots:
        assert all(len(series.x) == len(series.y) for series in plot.series)


def test_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(formats.FORMATS, "forgetful", lambda _: formats.Format(lambda _: b"", lambda _: None))

    data = no_more_than_told(formats)

    for kind, state in data["states"].items():
        found = state["formats"]
        assert found["msgpack"]["encode_ratio"]["ratio"] == 1
        assert found["forgetful"] == {"missing": "ValueError: it gives back another value"}
        assert ("missing" in found["struct record"]) == (kind != "numeric")
    assert "no lists" in data["states"]["text"]["formats"]["struct record"]["missing"]
    numeric = data["states"]["numeric"]["formats"]
    assert numeric["struct record"]["bytes"] == 60 * 8 + 8 < numeric["msgpack"]["bytes"]
    is_whole(told_formats.section(data))


@pytest.mark.concurrent
def test_a_worker_answers_by_pipe_and_queue_between_its_messages_and_publishes_after_each(prefix: str) -> None:
    context = multiprocessing.get_context("spawn")
    questions, answers = context.Queue(), context.Queue()
    ours, theirs = context.Pipe()
    with Remote(latency.Asked, f"{prefix}.w1", states.small, theirs, questions, answers) as worker:
        with shmstate.QueryService(prefix) as service:
            worker.start("work", 0.001)
            before = service.query("w1")
            seen = []
            for _ in range(3):
                ours.send(None)
                seen.append(ours.recv()["handled"])
                questions.put(None)
                seen.append(answers.get(timeout=30)["handled"])
            after = service.query("w1")
            handled = worker.finish()

    assert seen == sorted(seen)
    assert seen[-1] > seen[0] > states.small()["handled"]
    assert before.version < after.version <= handled + 1
    assert after.value["handled"] >= seen[-1]
    questions.close()
    answers.close()


@pytest.mark.concurrent
def test_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "LOADS", {"idle": 0.0, "1 ms": 0.0002, "10 ms": 0.0004})
    monkeypatch.setattr(latency, "STATES", {"500 B": states.small})

    data = no_more_than_told(latency)

    found = data["sizes"]["500 B"]
    assert found["bytes"] == 535
    parts = found["breakdown"]
    assert sum(parts[what] for what in ("copy", "validate", "decode", "answer")) == pytest.approx(
        parts["query"], abs=0.001
    )
    for load in found["loads"].values():
        assert load["shmstate"]["n"] == 25
        assert load["pipe"]["n"] == load["queue"]["n"] == 5


class Torn:
    """A reader whose every other copy is of two versions."""

    retries = 7

    def __init__(self) -> None:
        self.reads = 0

    def read_bytes(self) -> bytes:
        self.reads += 1
        if self.reads % 3 == 0:
            raise shmstate.ReadTimeout("spoilt again and again")
        return states.stamped(1, 64) + states.stamped(2, 64) if self.reads % 3 == 1 else states.stamped(1, 128)


def test_torn_reads_and_reads_that_gave_up_are_counted() -> None:
    reader: Any = Torn()
    told = interference._read(reader, 0.0, 0.05)

    assert told["torn"] in (told["reads"] // 2, told["reads"] // 2 + 1)
    assert told["timeouts"] in (told["reads"] // 2 - 1, told["reads"] // 2)
    assert told["retries"] == 0


@pytest.mark.concurrent
def test_interference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interference, "_cells", lambda _: [("500 B", 2), ("500 B", 4)])
    monkeypatch.setattr(interference, "_RATES", {"500 B": 504})

    data = no_more_than_told(interference)

    assert {(cell["slots"], cell["writer"], cell["reader"]) for cell in data["cells"]} == {
        (slots, writer, reader)
        for slots in (2, 4)
        for writer in ("1 ms", "flat out")
        for reader in ("1,000/s", "flat out")
    }
    assert all(cell["reads"] and not cell["torn"] and cell["published_per_second"] for cell in data["cells"])
    assert [(row["reader"], row["readers"]) for row in data["writers"]] == [
        (how, count) for how in ("1,000/s", "flat out") for count in (1, 2)
    ]
    is_whole(told_interference.section(data))


@pytest.mark.concurrent
def test_numbers() -> None:
    data = no_more_than_told(numbers)

    assert [row["engine"] for row in data["publish"]] == numbers.engines()
    assert [row["bytes"] for row in data["read_bytes"]] == [64, 256 << 10]
    is_whole(told_numbers.section(data))


@pytest.mark.concurrent
def test_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_counts", lambda _: (1, 3))
    monkeypatch.setattr(scaling, "_sizes", lambda _: (64, 4096))
    monkeypatch.setattr(scaling, "_JOBS", (0, 700))

    data = no_more_than_told(scaling)

    assert [row["bytes"] for row in data["sizes"]] == [64, 4096]
    assert data["values"][1]["bytes"] > 700 * 20 > data["values"][0]["bytes"]
    assert [row["states"] for row in data["states"]] == [1, 3]
    is_whole(told_scaling.section(data))
