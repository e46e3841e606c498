"""The shape of pytest_shmstate: tools that know no pytest, then the wiring; imports go down that list only.

Told by functions from sources to complaints, which test_architecture.py has for shmstate; each is run over the real
tree, and over one that breaks it.
"""

from __future__ import annotations

from typing import Callable, Dict, List

import pytest

from tests.test_architecture import Sources, imports_of, is_within, module_of, sources_of

#: Tools: a module imports only from rows above its own. No pytest in any of them.
TOOLS = (
    ("recorder", "leak", "notices", "reach", "kinship", "lifeline", "prefixes", "worker_pipe"),
    ("census", "known", "timeline", "states", "worker", "worker_body"),
    ("ledger", "report", "workers"),
    ("attribution", "outlets", "run"),
    ("verdict", "watch", "aftermath"),
    ("check", "sweep"),
    ("kit",),
    ("recheck", "__main__"),
)
#: What pytest loads.
WIRING = (
    ("settings", "canaries"),
    ("attendant", "gate", "fixtures", "selftest"),
    ("plugin",),
    ("__init__",),
)
ROW = {module: row for row, modules in enumerate(TOOLS + WIRING) for module in modules}
#: Run in processes of other projects, under other Pythons: nothing but the standard library.
ALONE = {"recorder", "shim"}
#: Libraries that a plugin may need, and no other.
OUTSIDE = {"psutil", "pytest", "shmstate"}
#: The correctness kit, a package of its own, whose modules import from rows above their own too.
KIT = (
    (
        "adapter",
        "columns",
        "gates",
        "history",
        "models",
        "mutation",
        "own_time",
        "page_style",
        "payload",
        "schedules",
    ),
    (
        "actors",
        "encounters",
        "logs",
        "mutants",
        "system_calls",
        "tellings",
        "verdict",
    ),
    (
        "alone",
        "buffers",
        "crew_bodies",
        "explorer",
        "lifetime_mutants",
        "row",
        "stand_in",
    ),
    (
        "blocks",
        "crew",
        "excerpt",
        "order",
        "register",
        "stepped",
        "vacuity",
    ),
    (
        "adapted",
        "checkers",
        "nursery",
        "page",
        "scenarios",
    ),
    (
        "explored",
        "minimise",
        "others",
        "process",
        "stress",
    ),
    ("stepper",),
    (
        "crashes",
        "machines",
        "shorten",
    ),
    (
        "again",
        "stepped_hunts",
    ),
    (
        "checkup",
        "power",
    ),
    ("__main__",),
)
KIT_ROW = {module: row for row, modules in enumerate(KIT) for module in modules}


def without_a_place(sources: Sources) -> List[str]:
    return [path for path in sources if module_of(path) not in ROW and module_of(path) != "shim"]


def against_the_order(sources: Sources) -> List[str]:
    return [
        f"{path}:{line}: {target}"
        for path, source in sources.items()
        for target, line, _ in imports_of(source)
        if is_within(target, "pytest_shmstate") and not _may_import(module_of(path), target)
    ]


def _may_import(module: str, target: str) -> bool:
    second = (target + ".").split(".")[1]
    if second == module == "kit":
        return True  # in_the_kit_against_the_order() looks at those
    return ROW.get(second, ROW["__init__"]) < ROW.get(module, 0)


def in_the_kit_against_the_order(sources: Sources) -> List[str]:
    kit = {path.split("/")[1][: -len(".py")]: source for path, source in sources.items() if path.startswith("kit/")}
    kit.pop("__init__", None)
    return [f"kit/{module}.py: give it a row in KIT" for module in kit if module not in KIT_ROW] + [
        f"kit/{module}.py:{line}: {target}"
        for module, source in kit.items()
        for target, line, _ in imports_of(source)
        if is_within(target, "pytest_shmstate.kit")
        and KIT_ROW.get((target + "..").split(".")[2], -1) >= KIT_ROW.get(module, 0)
    ]


def tools_that_know_pytest(sources: Sources) -> List[str]:
    wiring = {module for modules in WIRING for module in modules}
    return [
        f"{path}:{line}: {target}"
        for path, source in sources.items()
        for target, line, _ in imports_of(source)
        if module_of(path) not in wiring and (is_within(target, "pytest") or is_within(target, "_pytest"))
    ]


def private_parts_of_pytest(sources: Sources) -> List[str]:
    return [
        f"{path}:{line}: {target}"
        for path, source in sources.items()
        for target, line, _ in imports_of(source)
        if is_within(target, "_pytest")
    ]


def not_alone(sources: Sources) -> List[str]:
    return [
        f"{path}:{line}: {target}"
        for path, source in sources.items()
        for target, line, _ in imports_of(source)
        if module_of(path) in ALONE and any(is_within(target, outside) for outside in {*OUTSIDE, "pytest_shmstate"})
    ]


RULES: List[Callable[[Sources], List[str]]] = [
    without_a_place,
    against_the_order,
    in_the_kit_against_the_order,
    tools_that_know_pytest,
    private_parts_of_pytest,
    not_alone,
]

BAD: Dict[Callable[[Sources], List[str]], Sources] = {
    without_a_place: {"novelty.py": ""},
    against_the_order: {"census.py": "from pytest_shmstate import watch"},
    in_the_kit_against_the_order: {"kit/history.py": "from pytest_shmstate.kit import checkers"},
    tools_that_know_pytest: {"watch.py": "def f():\n    import pytest"},
    private_parts_of_pytest: {"plugin.py": "from _pytest.config import Config"},
    not_alone: {"shim/sitecustomize.py": "import pytest_shmstate.recorder"},
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_plugin_keeps_the_rule(rule: Callable[[Sources], List[str]]) -> None:
    assert rule(sources_of("pytest_shmstate")) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_finds_what_breaks_it(rule: Callable[[Sources], List[str]]) -> None:
    assert len(rule(BAD[rule])) == 1


def test_every_place_in_the_kit_is_taken() -> None:
    assert set(KIT_ROW) <= {
        path.split("/")[1][: -len(".py")] for path in sources_of("pytest_shmstate") if "kit/" in path
    }


def test_every_place_is_taken() -> None:
    assert set(ROW) <= {module_of(path) for path in sources_of("pytest_shmstate")}
