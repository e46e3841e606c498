"""What an object leads to, and what it does not."""

from __future__ import annotations

import functools
import multiprocessing
import subprocess
import sys
import weakref
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator

import pytest

from pytest_shmstate import reach

elsewhere: Any = None
here = sys.modules[__name__]


@pytest.fixture
def segment() -> Iterator[SharedMemory]:
    segment = SharedMemory(create=True, size=10)
    yield segment
    segment.close()
    segment.unlink()


def closure_over(thing: Any) -> Callable[[], Any]:
    return lambda: thing


def default_of(thing: Any) -> Callable[[], Any]:
    def function(kept: Any = thing) -> Any:
        return kept

    return function


class Slotted:
    __slots__ = ("kept",)

    def __init__(self, kept: Any) -> None:
        self.kept = kept

    def method(self) -> Any:
        return self.kept


@pytest.mark.parametrize(
    "wrap",
    [
        lambda it: it,
        lambda it: [[{"deep": (it,)}]],
        lambda it: SimpleNamespace(kept=it),
        Slotted,
        lambda it: Slotted(it).method,
        closure_over,
        default_of,
        lambda it: it.name,
        lambda it: {it.name: 1},
        lambda it: f"/dev/shm/{it.name}",
    ],
    ids=["itself", "containers", "attribute", "slot", "method", "closure", "default", "name", "key", "path"],
)
def test_a_keeper_of_a_segment_leads_to_it(wrap: Callable[[Any], Any], segment: SharedMemory) -> None:
    assert reach.leads_to(wrap(segment), reach.names_entry(segment.name))


def user_of_a_global() -> Any:
    return elsewhere


@pytest.mark.parametrize(
    "keeper",
    [[], "psm_other", SimpleNamespace(n=1), user_of_a_global, sys, Slotted],
    ids=lambda keeper: str(keeper)[:12],
)
def test_what_does_not_keep_it_does_not_lead_to_it(
    keeper: Any, segment: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "elsewhere", segment)

    assert not reach.leads_to(keeper, reach.names_entry(segment.name))


def test_a_lock_leads_to_its_semaphore() -> None:
    lock = multiprocessing.get_context("spawn").Lock()
    name = "sem." + lock._semlock.name.lstrip("/")  # type: ignore[attr-defined]

    assert reach.leads_to({"kept": lock}, reach.names_entry(name))
    assert not reach.leads_to({"kept": lock}, reach.names_entry(name + "x"))


def test_an_executor_leads_to_its_processes_and_to_no_other() -> None:
    with ProcessPoolExecutor(1) as executor:
        executor.submit(abs, -1).result()
        (pid,) = executor._processes

        assert reach.leads_to([executor], reach.is_process(pid))
        assert not reach.leads_to([executor], reach.is_process(pid + 1))


def test_a_popen_leads_to_its_process() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        assert reach.leads_to({"server": process}, reach.is_process(process.pid))
        assert not reach.leads_to({"port": process.pid}, reach.is_process(process.pid))


def test_a_number_is_found_unless_it_is_as_small_as_any_count() -> None:
    assert reach.leads_to({"shmid": 98307}, reach.is_number(98307))
    assert not reach.leads_to({"shmid": 98307}, reach.is_number(98308))
    assert not reach.leads_to({"count": 3}, reach.is_number(3))


class Keeps:
    kept: Any = ()


def test_a_class_leads_to_what_it_keeps_and_its_instances_do_not(segment: SharedMemory) -> None:
    Keeps.kept = [segment]

    assert reach.leads_to(Keeps, reach.names_entry(segment.name))
    assert not reach.leads_to([Keeps], reach.names_entry(segment.name))
    Keeps.kept = ()


def test_what_a_finalizer_will_unlink_is_its_objects() -> None:
    class Owner:
        pass

    owner = Owner()
    finalizer = weakref.finalize(owner, len, "/dev/shm/some-folder/file")

    assert reach.leads_to([owner], reach.names_entry("some-folder"))
    assert not reach.leads_to([Owner()], reach.names_entry("some-folder"))
    finalizer.detach()


def test_a_path_below_a_folder_leads_to_the_folder() -> None:
    assert reach.leads_to(["/dev/shm/folder/x/y"], reach.names_entry("folder"))
    assert not reach.leads_to(["/dev/shm/folder-2/x", "folder/x"], reach.names_entry("folder"))


def test_cycles_end() -> None:
    cycle: Any = []
    cycle.append(cycle)

    assert not reach.leads_to(cycle, reach.names_entry("psm_x"))


def test_a_search_that_grows_too_large_finds_nothing(monkeypatch: pytest.MonkeyPatch, segment: SharedMemory) -> None:
    monkeypatch.setattr(reach, "MOST_OBJECTS", 50)

    assert not reach.leads_to([segment, *map(str, range(100))], reach.names_entry(segment.name))


cache: Dict[str, Any] = {}


class Registry:
    kept: Any = None

    @classmethod
    def empty(cls) -> None:
        empty_the_cache()


def empty_the_cache() -> None:
    cache.clear()


def names_it() -> None:
    cache.clear()


def names_it_in_what_it_defines() -> Callable[[], None]:
    def defined() -> None:
        cache.clear()

    return defined


def leaves_it_to_another() -> None:
    empty_the_cache()


def leaves_it_to_a_method() -> None:
    Registry.empty()


def names_it_through_a_module() -> None:
    here.cache.clear()


def names_it_in_a_class() -> None:
    Registry.kept = None


def closes_over(function: Callable[[], object]) -> Callable[[], object]:
    @functools.wraps(function)
    def wrapper() -> object:
        return function()

    return wrapper


def defines_its_own() -> Dict[str, Any]:
    return {"cache": "cache"}


def is_followed(file: str) -> bool:
    return file == __file__


@pytest.mark.parametrize(
    "function",
    [
        names_it,
        names_it_in_what_it_defines,
        leaves_it_to_another,
        leaves_it_to_a_method,
        names_it_through_a_module,
        names_it_in_a_class,
        closes_over(names_it),
        closes_over(leaves_it_to_another),
        functools.partial(names_it),
        Registry().empty,
    ],
)
def test_what_a_functions_code_can_lay_hands_on_is_named_by_it(
    function: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = SimpleNamespace(name="psm_1")
    monkeypatch.setitem(cache, "1", kept)
    monkeypatch.setattr(Registry, "kept", kept)

    named = list(reach.named_by(function, is_followed))

    assert any(reach.leads_to(thing, reach.names_entry("psm_1")) for thing in named)


@pytest.mark.parametrize("function", [defines_its_own, closure_over(1), len, functools.partial(len), Registry, 1])
def test_what_it_cannot_is_not(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cache, "1", SimpleNamespace(name="psm_1"))

    named = list(reach.named_by(function, is_followed))

    assert not any(reach.leads_to(thing, reach.names_entry("psm_1")) for thing in named)


def test_code_of_others_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cache, "1", SimpleNamespace(name="psm_1"))

    named = list(reach.named_by(leaves_it_to_another, lambda _: False))

    assert named == [empty_the_cache]


def test_functions_that_name_each_other_end() -> None:
    assert names_itself in list(reach.named_by(names_itself, is_followed))


def names_itself() -> None:
    names_itself()


def test_an_empty_cell_is_passed_over() -> None:
    def function() -> object:
        return later

    named = list(reach.named_by(function, is_followed))

    later = 1
    assert function() == later
    assert named == []


class Proxy:
    """Stands for an object that is not there now."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("working outside of request context")


def test_a_proxy_that_has_nothing_behind_it_is_passed_over(segment: SharedMemory) -> None:
    proxy = Proxy()

    def function() -> object:
        return proxy

    assert reach.leads_to([segment, proxy], reach.names_entry(segment.name))
    assert list(reach.named_by(function, is_followed)) == [proxy]
    assert not list(reach.named_by(proxy, is_followed))
