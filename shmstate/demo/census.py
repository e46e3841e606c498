"""The state machine of the demo: a census of Python source files, and the check that each of its states carries.

A message is the path of a file. A state is a growing thing that can be held against itself:

    {"totals":   {"files": 2, "unparsed": 1, "lines": 930, "functions": 41, "classes": 3, "names": 2210},
     "modules":  {"abc.py": [188, 23, 2], "ast.py": [742, 18, 1]},          lines, functions, classes
     "unparsed": {"lib2to3/tests/data/bom.py": "SyntaxError"},
     "names":    {"self": 310, "self.name": 122, ...},                      how often each identifier stands there
     "check":    2870148318}                                                CRC-32 of all the above, as msgpack
"""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
import zlib
from collections import Counter
from typing import Any, Dict, Iterable, List, NamedTuple, Optional

import msgpack

#: Folders of the standard library that are left out: what others installed, and tests, which are half of all files.
LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "idle_test"}

State = Dict[str, Any]


class Survey(NamedTuple):
    """What one source file holds."""

    lines: int
    functions: int
    classes: int
    names: Dict[str, int]


class Census:
    """Counts what is in the files it is told of. A file it is told of twice is counted once: its table knows."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._modules: Dict[str, List[int]] = {}
        self._unparsed: Dict[str, str] = {}
        self._names: Counter[str] = Counter()

    def handle(self, message: str) -> None:
        """Count the file at path ``message`` under the root, unless it was counted before."""
        if message in self._modules or message in self._unparsed:
            return
        try:
            with open(os.path.join(self._root, message), "rb") as file:
                found = survey(file.read())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            self._unparsed[message] = type(error).__name__
        else:
            self._modules[message] = [found.lines, found.functions, found.classes]
            self._names.update(found.names)

    def state(self) -> State:
        """The whole census so far, with its check."""
        body = {"modules": self._modules, "unparsed": self._unparsed, "names": dict(self._names)}
        body = {"totals": _sums(body), **body}
        return {**body, "check": _crc(body)}

    def restore(self, state: State) -> None:
        """Continue from a state that this census, or one before it, has published. Raises ValueError if it is flawed."""
        found = flaw(state)
        if found:
            raise ValueError(f"cannot continue from the last published state: {found}")
        self.add(state)

    def add(self, state: State) -> None:
        """Take over what another census counted. Raises ValueError if both have counted a file."""
        twice = {**state["modules"], **state["unparsed"]}.keys() & {**self._modules, **self._unparsed}.keys()
        if twice:
            raise ValueError(f"{len(twice)} files were counted by two workers, such as {min(twice)}")
        self._modules.update(state["modules"])
        self._unparsed.update(state["unparsed"])
        self._names.update(state["names"])


def survey(source: bytes) -> Survey:
    """Parse ``source`` and count. Raises SyntaxError, ValueError, RecursionError, MemoryError."""
    with warnings.catch_warnings():  # about invalid escapes and the like: the file's affair
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    functions = classes = 0
    names: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names[node.id] += 1
        elif isinstance(node, ast.Attribute):
            owner = f"{node.value.id}." if isinstance(node.value, ast.Name) else ""
            names[owner + node.attr] += 1
        elif isinstance(node, ast.arg):
            names[node.arg] += 1
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names[node.name] += 1
            functions += 1
        elif isinstance(node, ast.ClassDef):
            names[node.name] += 1
            classes += 1
    return Survey(len(source.splitlines()), functions, classes, names)


def flaw(state: Any) -> Optional[str]:
    """What is wrong with a state, or None: a copy of one that was published has nothing wrong with it."""
    try:
        body = {part: content for part, content in state.items() if part != "check"}
        if _crc(body) != state["check"]:
            return f"its check says {state['check']}, its content {_crc(body)}"
        if _sums(body) != body["totals"]:
            return f"its totals say {body['totals']}, its tables {_sums(body)}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"it has not the shape of a census ({type(error).__name__}: {error})"
    return None


def merge(states: Iterable[State]) -> State:
    """One census out of several. Raises ValueError if a file was counted in two of them."""
    whole = Census("")
    for state in states:
        whole.add(state)
    return whole.state()


def sources_under(root: str, most: Optional[int] = None) -> List[str]:
    """Paths, relative to ``root``, of the first ``most`` Python files there, by name."""
    paths = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        paths += [os.path.relpath(os.path.join(folder, name), root) for name in files if name.endswith(".py")]
    return sorted(paths)[:most]


def standard_library() -> str:
    """Where the running Python keeps the sources of its standard library."""
    return sysconfig.get_path("stdlib")


def _sums(body: State) -> Dict[str, int]:
    rows = body["modules"].values()
    return {
        "files": len(rows) + len(body["unparsed"]),
        "unparsed": len(body["unparsed"]),
        "lines": sum(row[0] for row in rows),
        "functions": sum(row[1] for row in rows),
        "classes": sum(row[2] for row in rows),
        "names": sum(body["names"].values()),
    }


def _crc(body: State) -> int:
    # Packing is canonical for what a census is made of: dicts keep their order, through a codec and back.
    return zlib.crc32(msgpack.packb(body))
