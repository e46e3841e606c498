"""The demo's state machine: what it counts, and that its check tells a whole state from any other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Callable, Dict, List

import msgpack
import pytest

from shmstate.codecs import codec_named
from shmstate.demo.census import Census, flaw, merge, sources_under, standard_library, survey

SOURCES = {
    "a.py": b"import os\n\nclass A:\n    def f(self, x):\n        return os.path.join(x, self.y)\n",
    "b.py": b"async def g():\n    await h().k\n",
    "deep/c.py": b"pass",
    "bad/encoding.py": b"# -*- coding: no-such-codec -*-\n",
    "bad/null.py": b"x = 1\0\n",
    "bad/syntax.py": b"def (:\n",
}


@pytest.fixture
def root(tmp_path: Path) -> str:
    for path, source in SOURCES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(source)
    return str(tmp_path)


@pytest.fixture
def state(root: str) -> Dict[str, Any]:
    return census_of(root, *SOURCES).state()


def census_of(root: str, *paths: str) -> Census:
    census = Census(root)
    for path in paths:
        census.handle(path)
    return census


def test_a_survey_counts_lines_functions_classes_and_names() -> None:
    found = survey(SOURCES["a.py"])

    assert found[:3] == (5, 1, 1)
    assert found.names == {"A": 1, "f": 1, "self": 2, "x": 2, "os": 1, "os.path": 1, "join": 1, "self.y": 1}


def test_asynchronous_functions_and_lines_without_an_end_are_counted() -> None:
    assert survey(SOURCES["b.py"])[:3] == (2, 1, 0)
    assert survey(SOURCES["deep/c.py"])[:3] == (1, 0, 0)


def test_warnings_about_a_file_stay_quiet() -> None:
    assert survey(rb"x = '\d'" + b"\nassert (x, 1)\n").lines == 2  # the suite makes warnings errors


def test_totals_are_the_sums_over_the_table(state: Dict[str, Any]) -> None:
    assert state["modules"] == {"a.py": [5, 1, 1], "b.py": [2, 1, 0], "deep/c.py": [1, 0, 0]}
    assert state["totals"] == {
        "files": 6,
        "unparsed": 3,
        "lines": 8,
        "functions": 2,
        "classes": 1,
        "names": sum(state["names"].values()),
    }


def test_files_that_do_not_parse_are_counted_as_such(state: Dict[str, Any]) -> None:
    assert sorted(state["unparsed"]) == ["bad/encoding.py", "bad/null.py", "bad/syntax.py"]
    assert set(state["unparsed"].values()) <= {"SyntaxError", "ValueError"}


def test_a_file_that_is_not_there_is_counted_as_unparsed(root: str) -> None:
    assert census_of(root, "gone.py").state()["unparsed"] == {"gone.py": "FileNotFoundError"}


def test_a_file_sent_twice_is_counted_once(root: str, state: Dict[str, Any]) -> None:
    assert census_of(root, *SOURCES, *SOURCES).state() == state


def test_a_whole_state_has_no_flaw_also_after_the_codec(state: Dict[str, Any]) -> None:
    codec = codec_named("msgpack")

    assert flaw(state) is None
    assert flaw(codec.decode(bytes(codec.encode(state)))) is None
    assert flaw(Census("").state()) is None


def one_name_more(state: Dict[str, Any]) -> None:
    state["names"]["self"] += 1


def a_module_less(state: Dict[str, Any]) -> None:
    state["modules"].popitem()


def a_line_more(state: Dict[str, Any]) -> None:
    state["modules"]["a.py"][0] += 1


def totals_of_another_time(state: Dict[str, Any]) -> None:
    state["totals"]["files"] -= 1


def no_check(state: Dict[str, Any]) -> None:
    del state["check"]


def a_table_of_another_kind(state: Dict[str, Any]) -> None:
    state["modules"] = [1, 2]


@pytest.mark.parametrize(
    "spoil",
    [one_name_more, a_module_less, a_line_more, totals_of_another_time, no_check, a_table_of_another_kind],
    ids=lambda spoil: spoil.__name__,
)
def test_a_spoilt_state_has_a_flaw(state: Dict[str, Any], spoil: Callable[[Dict[str, Any]], None]) -> None:
    spoilt = copy.deepcopy(state)

    spoil(spoilt)

    assert flaw(spoilt) is not None


def test_totals_that_are_not_the_sums_are_a_flaw_even_if_the_check_fits(
    state: Dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    totals_of_another_time(state)
    monkeypatch.setattr("shmstate.demo.census._crc", lambda _: state["check"])

    assert "totals" in str(flaw(state))


def test_what_is_no_census_at_all_is_a_flaw() -> None:
    values: List[Any] = [None, 3, [], {}, {"check": 0}, {"check": 0, "modules": {}}]

    assert [value for value in values if flaw(value) is None] == []


def test_half_of_one_state_and_half_of_another_never_pass(root: str) -> None:
    older, newer = (msgpack.packb(census_of(root, *list(SOURCES)[:n]).state()) for n in (2, 3))

    passed = []
    for cut in range(1, len(older)):
        if (older[:cut] + newer[cut:]) not in (older, newer):
            try:
                torn = msgpack.unpackb(older[:cut] + newer[cut:])
            except Exception:
                continue
            if flaw(torn) is None:
                passed.append(cut)

    assert passed == []


def test_a_restored_census_goes_on_where_the_state_was_taken(root: str, state: Dict[str, Any]) -> None:
    first, rest = list(SOURCES)[:3], list(SOURCES)[3:]
    successor = Census(root)

    successor.restore(census_of(root, *first).state())
    for path in [*first[1:], *rest]:
        successor.handle(path)

    assert successor.state() == state


def test_a_census_does_not_go_on_from_a_flawed_state(root: str, state: Dict[str, Any]) -> None:
    one_name_more(state)

    with pytest.raises(ValueError, match="its check says"):
        Census(root).restore(state)


def test_what_two_workers_counted_adds_up_to_what_one_counts(root: str, state: Dict[str, Any]) -> None:
    paths = list(SOURCES)

    whole = merge([census_of(root, *paths[::2]).state(), census_of(root, *paths[1::2]).state()])

    assert {**whole, "check": 0} == {**state, "check": 0}  # the order within the tables may differ


def test_a_file_counted_by_two_workers_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match=r"1 files were counted by two workers, such as a\.py"):
        merge([census_of(root, "a.py").state(), census_of(root, "b.py", "a.py").state()])


def test_sources_are_the_first_by_name_without_what_others_installed(root: str) -> None:
    for left_out in ("site-packages", "test", "__pycache__"):
        (Path(root) / left_out).mkdir()
        (Path(root) / left_out / "x.py").write_bytes(b"")
    (Path(root) / "data.txt").write_bytes(b"")

    assert sources_under(root) == sorted(SOURCES)
    assert sources_under(root, 2) == sorted(SOURCES)[:2]


def test_the_standard_library_has_sources() -> None:
    assert {"abc.py", "asyncio/__init__.py"} <= set(sources_under(standard_library()))
