"""The shape of shmstate: which module may import which, and how large one may grow.

Each rule is a function from sources to complaints. It is run twice: over the real tree, where it must have none, and
over a tree that breaks it, where it must name the offender.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: A module imports only from rows above its own. ``__init__`` is where the library ends and its programs begin.
ORDER = (
    ("errors", "ending"),
    ("options",),
    ("layout",),
    ("oserrors",),
    ("compat",),
    ("futex", "turns", "makers"),
    ("lent", "forked"),
    ("memory",),
    ("predecessors",),
    ("ownership",),
    ("title", "attachment"),
    ("protocol", "refusals"),
    ("bound_segment",),
    ("lending",),
    ("publishing", "reading"),
    ("arrays",),
    ("codecs",),
    ("records",),
    ("handle",),
    ("view", "loan", "waiting"),
    ("writer", "reader"),
    ("registry",),
    ("looks",),
    ("query", "sync", "instant"),
    ("wire", "lifeline"),
    ("worker",),
    ("runs",),
    ("member",),
    ("pool",),
    ("__init__",),
    ("plain", "serving"),
    ("demo", "export"),
    ("fleet",),
    ("cli",),
    ("__main__",),
)
ROW = {module: row for row, modules in enumerate(ORDER) for module in modules}

MOST_LINES = 400
#: It is loaded by path in processes of other projects, so it is one file.
MOST_OF = {"recorder.py": 460}
VAGUE_WORDS = {"helper", "helpers", "manager", "managers", "misc", "util", "utils"}

#: Packages that shmstate does without, wherever the import stands.
FORBIDDEN = {"greenlet", "hypothesis", "matplotlib", "psutil", "pytest", "pytest_shmstate"}
#: Extras, and the modules that may import them, inside functions: without the extra the module still loads.
EXTRAS = {"rich": {"cli", "demo", "plain"}, "numpy": {"arrays"}, "prometheus_client": {"export"}, "zenoh": {"fleet"}}
#: ... but for those that are nothing without it, and are themselves imported inside functions.
WHOLLY = {"arrays", "export"}
#: What one module keeps for all.
KEPT = {
    "_posixshmem": {"compat", "memory"},
    "mmap": {"compat", "forked", "memory"},
    "msgspec": {"codecs"},
    "multiprocessing.shared_memory": {"compat", "memory"},
}


class Import(NamedTuple):
    """One imported thing: ``from a.b import c`` is ``a.b.c``."""

    target: str
    line: int
    at_load: bool


Sources = Dict[str, str]


def sources_of(package: str) -> Sources:
    """Path relative to the package, with slashes -> text."""
    folder = ROOT / package
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}


def module_of(path: str) -> str:
    """The name in ORDER: that of the file, or of the sub-package that it is in."""
    return path.split("/", maxsplit=1)[0].replace(".py", "")


def imports_of(source: str) -> Iterator[Import]:
    return _imports(ast.parse(source), at_load=True)


def _imports(parent: ast.AST, at_load: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_load)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(f"{'.' * node.level}{node.module or ''}.{alias.name}", node.lineno, at_load)
        else:
            yield from _imports(node, at_load and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def is_within(target: str, package: str) -> bool:
    return target == package or target.startswith(package + ".")


def modules_without_a_place(sources: Sources) -> List[str]:
    return [f"{path}: give it a row in ORDER" for path in sources if module_of(path) not in ROW]


def imports_against_the_order(sources: Sources) -> List[str]:
    return [
        f"{path}:{line}: {target}"
        for path, source in sources.items()
        for target, line, _ in imports_of(source)
        if target.startswith(".") or (is_within(target, "shmstate") and not _may_import(module_of(path), target))
    ]


def _may_import(module: str, target: str) -> bool:
    # `from shmstate import memory` means a module, `from shmstate import StateReader` the package's own names.
    second = (target + ".").split(".")[1]
    imported = second if second in ROW else "__init__"
    in_one_sub_package = imported == module and module in ("demo", "export", "fleet")
    return in_one_sub_package or ROW[imported] < ROW.get(module, 0)


def imports_of_what_must_stay_outside(sources: Sources) -> List[str]:
    return [
        f"{path}:{line}: {target}"
        for path, source in sources.items()
        for target, line, _ in imports_of(source)
        if any(is_within(target, package) for package in FORBIDDEN)
    ]


def extras_that_loading_needs(sources: Sources) -> List[str]:
    return [
        f"{path}:{line}: {target}"
        for path, source in sources.items()
        for target, line, at_load in imports_of(source)
        for extra, modules in EXTRAS.items()
        if is_within(target, extra) and (module_of(path) not in modules or (at_load and module_of(path) not in WHOLLY))
    ]


def imports_of_what_another_module_keeps(sources: Sources) -> List[str]:
    return [
        f"{path}:{line}: {target}"
        for path, source in sources.items()
        for target, line, _ in imports_of(source)
        for kept, modules in KEPT.items()
        if is_within(target, kept) and module_of(path) not in modules
    ]


def modules_too_long(sources: Sources) -> List[str]:
    lengths = {path: len(source.splitlines()) for path, source in sources.items()}
    return [f"{path}: {length} lines" for path, length in lengths.items() if length > MOST_OF.get(path, MOST_LINES)]


def vague_names(sources: Sources) -> List[str]:
    return [path for path in sources if VAGUE_WORDS & set(path.replace(".py", "").replace("/", "_").split("_"))]


def modules_that_evaluate_annotations(sources: Sources) -> List[str]:
    # 3.8 to 3.13 read the same annotations only where nobody evaluates them.
    # What starts in every Python of a test run, old ones too, has no annotations.
    ours = {path: source for path, source in sources.items() if not path.startswith("shim/")}
    return [path for path, source in ours.items() if not _begins_with_future(source)]


def _begins_with_future(source: str) -> bool:
    tree = ast.parse(source)
    first = tree.body[0 if ast.get_docstring(tree) is None else 1]
    return isinstance(first, ast.ImportFrom) and first.module == "__future__" and first.names[0].name == "annotations"


def asserts(sources: Sources) -> List[str]:
    return [
        f"{path}:{node.lineno}"
        for path, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assert)
    ]


RULES: List[Callable[[Sources], List[str]]] = [
    modules_without_a_place,
    imports_against_the_order,
    imports_of_what_must_stay_outside,
    extras_that_loading_needs,
    imports_of_what_another_module_keeps,
    modules_too_long,
    vague_names,
    modules_that_evaluate_annotations,
    asserts,
]
#: Those that ask nothing about shmstate's own modules.
RULES_FOR_BOTH = RULES[-4:]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_shmstate_keeps_the_rule(rule: Callable[[Sources], List[str]]) -> None:
    assert rule(sources_of("shmstate")) == []


@pytest.mark.parametrize("rule", RULES_FOR_BOTH, ids=lambda rule: rule.__name__)
def test_pytest_shmstate_keeps_the_rule(rule: Callable[[Sources], List[str]]) -> None:
    assert rule(sources_of("pytest_shmstate")) == []


def test_the_tree_under_test_is_the_whole_package() -> None:
    sources = sources_of("shmstate")

    assert {"__init__.py", "protocol.py", "memory.py"} <= set(sources)
    assert any(target == "shmstate.memory" for target, _, _ in imports_of(sources["ownership.py"]))


def broken(rule: Callable[[Sources], List[str]]) -> Dict[str, List[str]]:
    """What the rule says of each bad tree, by what is bad about it."""
    return {title: rule(sources) for title, sources in BAD[rule].items()}


BAD: Dict[Callable[[Sources], List[str]], Dict[str, Sources]] = {
    modules_without_a_place: {
        "a new module": {"novelty.py": ""},
        "a new sub-package": {"novelty/__init__.py": ""},
    },
    imports_against_the_order: {
        "to the right": {"memory.py": "import shmstate.protocol"},
        "from the right": {"memory.py": "from shmstate.protocol import Reading"},
        "a module, by way of the package": {"memory.py": "from shmstate import protocol"},
        "the package's own names": {"memory.py": "from shmstate import StateReader"},
        "the package itself": {"memory.py": "import shmstate"},
        "in the same row": {"writer.py": "from shmstate import reader"},
        "itself": {"memory.py": "from shmstate.memory import Segment"},
        "in a function": {"memory.py": "def f():\n    from shmstate import protocol"},
        "in a method, in a try": {
            "memory.py": "class C:\n  def f():\n    try: from shmstate import cli\n    finally: 0"
        },
        "for types only": {"memory.py": "if TYPE_CHECKING:\n    from shmstate.reader import StateReader"},
        "relatively": {"memory.py": "from . import errors"},
        "out of a sub-package": {"demo/table.py": "from shmstate.cli import main"},
        "a program into the library": {"__init__.py": "from shmstate.demo.table import Table"},
    },
    imports_of_what_must_stay_outside: {
        "the plugin": {"pool.py": "import pytest_shmstate.workers"},
        "pytest, in a function": {"cli.py": "def main():\n    from pytest import fixture"},
        "hypothesis": {"pool.py": "try:\n    import hypothesis\nexcept ImportError: pass"},
    },
    extras_that_loading_needs: {
        "rich, at load": {"cli.py": "from rich.table import Table"},
        "rich, in a class body": {"cli.py": "class C:\n    import rich"},
        "rich, where nobody prints": {"reader.py": "def f():\n    import rich"},
        "prometheus_client, where nobody exports": {"cli.py": "def f():\n    import prometheus_client"},
    },
    imports_of_what_another_module_keeps: {
        "mmap": {"reader.py": "from mmap import mmap"},
        "shared memory": {"writer.py": "from multiprocessing import shared_memory"},
        "shared memory's class": {"writer.py": "from multiprocessing.shared_memory import SharedMemory"},
        "msgspec": {"reader.py": "def f():\n    import msgspec.msgpack"},
    },
    modules_too_long: {"a line too many": {"memory.py": "0\n" * (MOST_LINES + 1)}},
    vague_names: {
        "utils": {"utils.py": ""},
        "a vague part": {"path_helpers.py": ""},
        "a folder": {"manager/pool.py": ""},
    },
    modules_that_evaluate_annotations: {
        "none": {"memory.py": "x = 1"},
        "late": {"memory.py": "import os\nfrom __future__ import annotations"},
        "another": {"memory.py": "from __future__ import division"},
    },
    asserts: {"one": {"memory.py": "def f(x):\n    if x:\n        assert x > 1"}},
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_finds_each_way_to_break_it(rule: Callable[[Sources], List[str]]) -> None:
    silent = [title for title, complaints in broken(rule).items() if len(complaints) != 1]

    assert silent == []


def test_the_rules_let_through_what_they_are_not_about() -> None:
    fine = {
        "__init__.py": "from shmstate.reader import StateReader",
        "cli.py": "from shmstate import StateReader, demo\ndef main():\n    import rich",
        "demo/__init__.py": "from shmstate.demo.table import Table\nfrom shmstate.pool import WorkerPool",
        "demo/table.py": "import mmapping\nfrom pytestable import x",
        "memory.py": '"""Text."""\nimport mmap\nfrom multiprocessing import shared_memory\nfrom shmstate import errors',
        "manage.py": "0\n" * MOST_LINES,
    }
    future = "from __future__ import annotations"

    assert {rule.__name__: rule(fine) for rule in RULES[1:-2] if rule(fine)} == {}
    assert modules_without_a_place(fine) == ["manage.py: give it a row in ORDER"]
    assert modules_that_evaluate_annotations({"a.py": future, "b.py": f'"""Text."""\n# why\n{future}, division'}) == []
