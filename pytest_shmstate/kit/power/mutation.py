"""Mutants: the production code with a line changed, in this process or in the ones that a test starts.

A mutant is told by its edits to the text of modules. A switch in the code would have to be there in production too, and
would leave the code that is tested another than the code that runs. An edit that fits no more fails, saying so.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
import types
from typing import Any, NamedTuple, Optional, Sequence

_PACKAGE = "shmstate"


class Edit(NamedTuple):
    """``old`` stands in the module so many times, and becomes ``new``."""

    module: str
    old: str
    new: str
    times: int = 1


class OutOfDate(Exception):
    """The text that a mutant changes is not there any more, or there more often. Change the mutant with the code."""


def edited(module: str, source: str, edits: Sequence[Edit]) -> str:
    """The text of a module with those of the edits that are its own. Raises OutOfDate."""
    for edit in edits:
        if edit.module != module:
            continue
        found = source.count(edit.old)
        if found != edit.times:
            raise OutOfDate(f"{_PACKAGE}.{module} has {edit.old!r} {found} times, not {edit.times}: change the mutant")
        source = source.replace(edit.old, edit.new)
    return source


def mutated(module: types.ModuleType, edits: Sequence[Edit]) -> types.ModuleType:
    """A copy of a module, with the edits. Whoever imported the module keeps the original."""
    name = module.__name__.rpartition(".")[2]
    copy = types.ModuleType(f"{module.__name__} (mutant)")
    copy.__file__ = module.__file__
    sys.modules[copy.__name__] = copy  # where classes look for their module while they are made
    try:
        exec(compile(edited(name, inspect.getsource(module), edits), str(copy.__file__), "exec"), vars(copy))  # noqa: S102
    finally:
        del sys.modules[copy.__name__]
    return copy


class Install:
    """Called in a process that has not imported shmstate yet: has it import the mutant. Can be pickled."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits = tuple(edits)

    def __call__(self) -> None:
        """Raises RuntimeError if it is too late."""
        modules = {f"{_PACKAGE}.{edit.module}" for edit in self.edits}
        late = modules & set(sys.modules)
        if late:
            raise RuntimeError(f"{', '.join(sorted(late))}: imported already, so it cannot be mutated any more")
        sys.meta_path.insert(0, _Finder(self.edits))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, edits: Sequence[Edit]) -> None:
        self._edits = edits
        self._modules = {f"{_PACKAGE}.{edit.module}" for edit in edits}

    def find_spec(self, name: str, path: Any, target: Any = None) -> Optional[importlib.machinery.ModuleSpec]:
        if name not in self._modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin is None:
            return None
        spec.loader = _Loader(name, spec.origin, self._edits)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname: str) -> types.CodeType:
        """Compiled from the edited text; what is cached of the original is left alone."""
        source = edited(fullname.rpartition(".")[2], self.get_source(fullname) or "", self._edits)
        code: types.CodeType = compile(source, self.path, "exec", dont_inherit=True)
        return code
