"""What the leak detector costs is measured, and told as the figures have it. Nothing here is about speed."""

from __future__ import annotations

import copy
import json
import os
from typing import Any, Dict, List

import pytest

from benchmarks.harness import Effort
from benchmarks.parts import plugin
from benchmarks.sections.plugin import section


class Least(Effort):
    """Two blocks of tests, one run, few entries."""

    def of(self, full: Any, quick: Any) -> Any:
        return {2000: 100, 20_000: 30, 7: 1}[full]


LEAST = Least(quick=True)


def cost(added: float, low: float, high: float) -> Dict[str, Any]:
    times = {"n": 100, "mean": 900.0, "p50": 900.0, "max": 1000.0}
    return {"without": times, "with": times, "added": {"median": added, "low": low, "high": high}}


def data(nothing: float, nothing_many: float) -> Dict[str, Any]:
    def kinds(added: float) -> Dict[str, Any]:
        return {"nothing": cost(added, added - 20, added + 20), "segment": cost(400.0, 300.0, 500.0)}

    bar = {
        "added_us_nothing": nothing,
        "added_us_nothing_many_entries": nothing_many,
        "entries": 20_000,
        "bar_us": 100.0,
    }
    places = {"as_is": kinds(nothing), "many": kinds(nothing_many)}
    return {"tests": 2000, "runs": 7, "entries": 20_000, "places": places, "bar": bar}


def test_it_measures_what_it_says_and_tells_what_it_does() -> None:
    before, told = set(os.listdir("/dev/shm")), []  # type: ignore[var-annotated]

    found = json.loads(json.dumps(plugin.measure(LEAST, told.append)))

    assert len(told) == plugin.steps(LEAST) == 2
    assert {found["bar"]["added_us_nothing"], found["bar"]["added_us_nothing_many_entries"]} == {
        found["places"][place]["nothing"]["added"]["median"] for place in ("as_is", "many")
    }
    for place in found["places"].values():
        assert place["nothing"]["without"]["n"] == place["segment"]["with"]["n"] == 40
    assert not [name for name in set(os.listdir("/dev/shm")) - before if name.startswith(f"benchmark-{os.getpid()}-")]
    section(found)


def test_a_run_that_fails_says_what_pytest_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_TEST_FILE", "def test_it(): assert {tests} is None")

    with pytest.raises(RuntimeError, match=r"(?s)pytest ended with 1:.*assert 100 is None"):
        plugin.measure(LEAST, lambda _: None)


def test_without_pytest_it_is_missing_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "find_spec", lambda name: None if name == "pytest" else True)

    found = plugin.measure(LEAST, lambda _: None)

    assert found == {"missing": "pytest: not installed"}
    assert "pytest: not installed" in section(found).lead


def test_entries_are_removed_whatever_happens_in_between() -> None:
    made: List[str] = []

    with pytest.raises(KeyboardInterrupt), plugin._more_entries(5):
        made = [name for name in os.listdir("/dev/shm") if name.startswith(f"benchmark-{os.getpid()}-")]
        raise KeyboardInterrupt

    assert len(made) == 5
    assert not set(made) & set(os.listdir("/dev/shm"))


@pytest.mark.parametrize(
    ("added", "says", "verdict"), [(99.0, "within the bar", "passes"), (101.0, "misses the bar", "missed")]
)
def test_the_bar_is_told_as_the_figures_have_it(added: float, says: str, verdict: str) -> None:
    told = section(data(added, added))

    assert says in told.answers[0].answer
    assert told.tables[0].rows[0][-1] == verdict
    assert told.tables[0].rows[1][-1] == ""


@pytest.mark.parametrize(
    ("many", "says"),
    [(100.0, "did not grow"), (239.0, "did not grow"), (50.0, "did not grow"), (400.0, "grew: 10.00 ns an entry")],
)
def test_growth_is_told_as_the_figures_have_it(many: float, says: str) -> None:
    assert says in section(data(200.0, many)).answers[1].answer


def test_the_p99_is_told_where_it_is_known() -> None:
    known = copy.deepcopy(data(90.0, 90.0))
    known["places"]["as_is"]["nothing"]["without"]["p99"] = 1000.0
    known["places"]["as_is"]["nothing"]["with"] = {"p50": 900.0, "p99": 1250.0}

    rows = section(known).tables[0].rows

    assert [row[5] for row in rows] == ["250 us", "", "", ""]
