"""Numbers that users pass, in every public function that takes one."""

from __future__ import annotations

import asyncio
import fractions
import inspect
import math
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

import shmstate
from shmstate import InvalidOption, QueryService, StateReader, StateSync, StateWriter, WaitTimeout, WorkerPool, options

Both = Tuple[StateWriter, StateReader]


@pytest.fixture
def both(name: str) -> Iterator[Both]:
    with StateWriter(name) as writer:
        writer.publish(1)
        with StateReader(name) as reader:
            yield writer, reader


async def first_change(reader: StateReader, after: Any) -> Any:
    async for snapshot in reader.changes(after=after):
        return snapshot
    return None


def pool(both: Both, **numbers: Any) -> WorkerPool:
    return WorkerPool(both[0].name, {"a": object}, **numbers)  # type: ignore[dict-item]


SECONDS: Dict[str, Callable[[Both, Any], Any]] = {
    "StateSync interval": lambda both, value: StateSync(both[0], dict, interval=value),
    "StateSync min_interval": lambda both, value: StateSync(both[0], dict, min_interval=value),
    "StateSync heartbeat": lambda both, value: StateSync(both[0], dict, heartbeat=value),
    "WorkerPool interval": lambda both, value: pool(both, interval=value),
    "WorkerPool start_timeout": lambda both, value: pool(both, start_timeout=value),
}
TIMEOUTS: Dict[str, Callable[[Both, Any], Any]] = {
    "StateWriter lock_timeout": lambda both, value: StateWriter(
        both[0].name + "-2", shared=True, lock_timeout=value
    ).close(),
    "StateReader timeout": lambda both, value: StateReader(both[0].name, timeout=value).close(),
    "wait timeout": lambda both, value: both[1].wait(after=0, timeout=value),
    "attach timeout": lambda _both, value: QueryService("no-fleet").attach("a", timeout=value),
    "recheck recheck": lambda _both, value: QueryService("no-fleet", recheck=value),
}
COUNTS: Dict[str, Callable[[Both, Any], Any]] = {
    "StateReader tries": lambda both, value: StateReader(both[0].name, tries=value),
    "StateReader trust_uid": lambda both, value: StateReader(both[0].name, trust_uid=value),
    "wait after": lambda both, value: both[1].wait(after=value, timeout=0),
    "changes after": lambda both, value: asyncio.run(first_change(both[1], value)),
    "read_version version": lambda both, value: both[1].read_version(value),
    "read_since version": lambda both, value: both[1].read_since(value),
    "QueryService keep_last": lambda _both, value: QueryService("no-fleet", keep_last=value),
    "snapshot sweeps": lambda both, value: shmstate.snapshot([both[1]], sweeps=value),
    "WorkerPool restarts": lambda both, value: pool(both, restarts=value),
    "StateWriter slots": lambda both, value: StateWriter(both[0].name + "-2", slots=value),
    "StateWriter max_size": lambda both, value: StateWriter(both[0].name + "-2", max_size=value),
}
NO_NUMBERS = [
    "1",
    b"1",
    [],
    True,
    1j,
    math.nan,
    float("-inf"),
    -1,
    -0.5,
    -(2**70),
    -(10**400),
    fractions.Fraction(-1, 3),
]
NO_COUNTS = [*NO_NUMBERS, 1.0, 2.5, math.inf, 2**70, 10**400]


def assert_named(call: Callable[[Both, Any], Any], title: str, both: Both, value: Any) -> None:
    with pytest.raises(InvalidOption, match=rf"^(state '.*': )?{title.split()[1]}") as caught:
        call(both, value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("title", [*SECONDS, *TIMEOUTS])
def test_what_is_no_number_of_seconds_is_refused_by_its_name(both: Both, title: str, value: Any) -> None:
    assert_named({**SECONDS, **TIMEOUTS}[title], title, both, value)


@pytest.mark.parametrize("value", [math.inf, 2**70, 1e300, 10**400], ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("title", SECONDS)
def test_what_is_too_long_for_a_clock_is_refused_by_its_name(both: Both, title: str, value: Any) -> None:
    assert_named(SECONDS[title], title, both, value)


@pytest.mark.parametrize("value", NO_COUNTS, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("title", COUNTS)
def test_what_is_no_whole_number_is_refused_by_its_name(both: Both, title: str, value: Any) -> None:
    assert_named(COUNTS[title], title, both, value)


@pytest.mark.parametrize("value", [None, math.inf, 2**70, 1e300, 10**400, 5, 0.5], ids=lambda value: repr(value)[:20])
def test_a_wait_can_be_without_a_limit(both: Both, value: Any) -> None:
    assert both[1].wait(after=0, timeout=value).value == 1
    if value is not None:
        StateReader(both[0].name, timeout=value).close()


@pytest.mark.parametrize("value", [0, 0.0, 1e-300, fractions.Fraction(1, 10**6)], ids=repr)
def test_a_wait_of_no_time_ends_at_once(both: Both, value: Any) -> None:
    with pytest.raises(WaitTimeout, match="nothing newer than version 1"):
        both[1].wait(timeout=value)


@pytest.mark.parametrize("value", ["1", None, math.nan, -1, 1.5, True], ids=repr)
def test_a_version_that_is_none_is_not_compared(both: Both, value: Any) -> None:
    if value == -1:
        assert both[1].get_if_newer(value) is not None
        return
    with pytest.raises(InvalidOption, match=r": version="):
        both[1].get_if_newer(value)


def test_each_option_that_takes_seconds_or_a_count_is_in_a_table() -> None:
    kept = {title.split()[1] for title in (*SECONDS, *TIMEOUTS, *COUNTS)}
    public: List[Any] = [
        StateReader,
        StateWriter,
        StateSync,
        QueryService,
        WorkerPool,
        shmstate.snapshot,
        StateReader.wait,
    ]
    numbers = {
        parameter.name
        for function in public
        for parameter in inspect.signature(function).parameters.values()
        if any(kind in str(parameter.annotation) for kind in ("int", "float"))
    }

    assert numbers <= kept


def test_a_huge_integer_is_not_printed() -> None:
    with pytest.raises(InvalidOption, match="x=an integer of 33220 bits"):
        options.check_whole("x", 10**10_000, 0)
