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
    (
        "recorder",
        "leak",
        "notices",
        "reach",
        "kinship",
        "lifeline",
        "messages",
        "pipes",
        "prefixes",
        "records",
        "whereabouts",
        "worker_pipe",
    ),
    ("census", "known", "timeline", "states", "worker", "worker_body"),
    ("ledger", "report", "workers"),
    ("repeats",),
    ("attribution", "outlets", "outpost", "removals", "run"),
    ("verdict", "watch", "aftermath", "github"),
    ("check", "held", "sweep"),
    ("kit",),
    ("recheck", "__main__"),
)
#: What pytest loads.
WIRING = (
    ("settings", "canaries", "hooks"),
    ("attendant", "ending", "fixtures", "selftest"),
    ("away", "hosts"),
    ("gate",),
    ("plugin",),
    ("__init__",),
)
ROW = {module: row for row, modules in enumerate(TOOLS + WIRING) for module in modules}
#: Run in processes of other projects, under other Pythons: nothing but the standard library.
ALONE = {"recorder", "shim", "whereabouts"}
#: Libraries that a plugin may need, and no other.
OUTSIDE = {"psutil", "pytest", "shmstate"}
#: The correctness kit: its modules and sub-packages, and the modules of each of these. Imports go down each list, too.
KIT = (
    ("extra",),
    ("columns", "oracle", "seams"),
    ("exploring", "stepping", "stress"),
    ("again", "power"),
    ("checkup",),
    ("__main__",),
)
WITHIN = {
    "exploring": (
        ("models",),
        ("actors",),
        ("alone", "explorer", "stand_in"),
        ("register",),
        ("adapted", "scenarios"),
        ("explored", "others"),
    ),
    "oracle": (
        ("history", "page_style", "payload"),
        ("logs", "verdict"),
        ("row",),
        ("excerpt", "order", "vacuity"),
        ("checkers", "page"),
        ("minimise",),
    ),
    "power": (
        ("mutation",),
        ("mutants", "stepped_hunts"),
        ("lifetime_mutants",),
        ("power",),
    ),
    "seams": (
        ("adapter", "gates", "own_time"),
        ("system_calls",),
        ("buffers",),
        ("blocks",),
    ),
    "stepping": (
        ("schedules", "stepped"),
        ("encounters", "nursery", "tellings"),
        ("process",),
        ("stepper",),
        ("crashes", "machines", "shorten"),
    ),
    "stress": (
        ("crew_bodies",),
        ("crew",),
        ("stress",),
    ),
}
#: Each module's rows, of its sub-package first: a module imports from lower ones only.
KIT_ROW = {module: (row, 0) for row, modules in enumerate(KIT) for module in modules if module not in WITHIN}
KIT_ROW.update(
    (f"{package}.{module}", (row, below))
    for row, packages in enumerate(KIT)
    for package in packages
    for below, modules in enumerate(WITHIN.get(package, ()))
    for module in modules
)


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


def modules_of_the_kit(sources: Sources) -> Dict[str, str]:
    """Source by dotted name, but for what only leads to modules."""
    return {
        path[len("kit/") : -len(".py")].replace("/", "."): source
        for path, source in sources.items()
        if path.startswith("kit/") and not path.endswith("/__init__.py")
    }


def of_the_kit_without_a_place(sources: Sources) -> List[str]:
    return [
        f"{module}: give it a row in KIT or WITHIN" for module in modules_of_the_kit(sources) if module not in KIT_ROW
    ]


def in_the_kit_against_the_order(sources: Sources) -> List[str]:
    return [
        f"{module}:{line}: {target}"
        for module, source in modules_of_the_kit(sources).items()
        for target, line, _ in imports_of(source)
        if is_within(target, "pytest_shmstate.kit") and not _may_import_in_the_kit(module, target)
    ]


def _may_import_in_the_kit(module: str, target: str) -> bool:
    own = KIT_ROW.get(module, (0, 0))
    first, second, *_ = (target + "..").split(".")[2:]
    imported = KIT_ROW.get(first, KIT_ROW.get(f"{first}.{second}"))
    if imported is None:  # the kit's own names are for others
        return False
    return imported < own if module.split(".", maxsplit=1)[0] == first else imported[0] < own[0]


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
    of_the_kit_without_a_place,
    in_the_kit_against_the_order,
    tools_that_know_pytest,
    private_parts_of_pytest,
    not_alone,
]

BAD: Dict[Callable[[Sources], List[str]], Sources] = {
    without_a_place: {"novelty.py": ""},
    against_the_order: {"census.py": "from pytest_shmstate import watch"},
    of_the_kit_without_a_place: {"kit/oracle/novelty.py": ""},
    in_the_kit_against_the_order: {"kit/oracle/history.py": "from pytest_shmstate.kit.oracle import checkers"},
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


@pytest.mark.parametrize(
    ("module", "statement", "may"),
    [
        ("oracle/checkers", "from pytest_shmstate.kit.oracle.history import Event", True),
        ("oracle/logs", "from pytest_shmstate.kit.oracle import verdict", False),
        ("stepping/shorten", "from pytest_shmstate.kit.oracle import minimise", True),
        ("seams/blocks", "from pytest_shmstate.kit.oracle.history import Event", False),
        ("stress/stress", "from pytest_shmstate.kit.exploring.models import SEQUENTIAL", False),
        ("checkup", "from pytest_shmstate.kit import again", True),
        ("again", "from pytest_shmstate.kit import checkup", False),
        ("power/power", "from pytest_shmstate.kit import Stepper", False),
    ],
)
def test_imports_in_the_kit_go_down(module: str, statement: str, may: bool) -> None:
    assert (in_the_kit_against_the_order({f"kit/{module}.py": statement}) == []) == may


def test_every_place_in_the_kit_is_taken() -> None:
    assert set(KIT_ROW) == set(modules_of_the_kit(sources_of("pytest_shmstate")))


def test_every_place_is_taken() -> None:
    assert set(ROW) <= {module_of(path) for path in sources_of("pytest_shmstate")}
