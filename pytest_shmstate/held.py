"""What the globals of loaded modules still reach: it is in use, so it stays until the run ends.

The search begins at the globals of each module that is neither of the standard library nor of pytest, and follows
attributes, containers, classes, closures, default arguments, caches and weak references. It looks into no frames.
"""

from __future__ import annotations

import contextvars
import linecache
import os
import sys
import threading
import types
import weakref
from collections import deque
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, Tuple

from pytest_shmstate import census, reach
from pytest_shmstate.attribution import Found
from pytest_shmstate.known import COPIES, fitting_glob
from pytest_shmstate.leak import PROCESS, SYSV, Leak
from pytest_shmstate.watch import is_of_a_manager

#: Packages whose globals are the tools of the run, and none of the tested program.
TOOLS = frozenset(
    [
        "pytest",
        "_pytest",
        "pluggy",
        "xdist",
        "execnet",
        "iniconfig",
        "psutil",
        "coverage",
        "pytest_shmstate",
        "_shmstate_recorder",
    ]
)
#: Globals by which libraries of processes keep each process that they started, used or not.
BOOKKEEPING = frozenset(("_children", "_dangling", "_cleanup", "_active", "_finalizer_registry", "_afterfork_registry"))
STANDARD_LIBRARY = os.path.dirname(os.path.realpath(os.__file__)) + os.sep
INSTALLED = ("/site-packages/", "/dist-packages/")
#: Beyond this many objects the search gives up, and what it looks for counts as not held.
MOST_OBJECTS = 400_000
#: A larger container of numbers has that of a process by chance.
MOST_PIDS = 64
#: Classes whose objects stand for the entry that they have the name of.
NAMED = frozenset(("SemLock", "Semaphore", "SharedMemory", "TemporaryDirectory"))
_PLAIN = (int, float, complex, bytes, str, bool, type(None))

#: Recognises what is looked for: an object, and the file of the module that leads to it.
Recognise = Callable[[Any, str], bool]


def holders_of(due: Sequence[Found], leaks: Sequence[Leak]) -> Dict[int, str]:
    """Finds what of all that is due is in use: position in ``due`` -> the global that leads to it.

    What a process made, or started, is in use while the process is.
    """
    held = held_by([_recogniser(found, leak) for found, leak in zip(due, leaks)])
    processes = {due[index].pid: holder for index, holder in held.items() if due[index].kind == PROCESS}
    for index, found in enumerate(due):
        if index not in held and processes:
            for pid in [found.pid, *census.ancestors(found.pid)]:
                if pid in processes:
                    held[index] = processes[pid]
                    break
    return held


def _recogniser(found: Found, leak: Leak) -> Recognise:
    if found.kind == PROCESS:
        return process(found.pid)
    if found.kind == SYSV:
        return number(found.mark)
    if is_of_a_manager(found):
        return instance("SharedMemoryManager")
    return entry(found.name, fitting_glob(leak))


def held_by(wanted: Sequence[Recognise]) -> Dict[int, str]:
    """Finds the globals that lead to what is wanted: index in ``wanted`` -> ``module.name``."""
    found: Dict[int, str] = {}
    #: They are kept alive here: an object that is freed leaves its id to the next.
    known: Dict[int, Any] = {}
    finalizers = reach.finalizers()
    for module, name, file, value in _globals():
        waiting: List[Any] = [{name: value}]
        while waiting and len(known) < MOST_OBJECTS:
            one = waiting.pop()
            is_plain = issubclass(type(one), _PLAIN)  # and not isinstance: that may run code of the object's class
            if not is_plain:
                if id(one) in known:
                    continue
                known[id(one)] = one
            for index, is_it in enumerate(wanted):
                with suppress(Exception):  # out of the object's own code; such a one is not what is wanted
                    if index not in found and is_it(one, file):
                        found[index] = f"{module}.{name}"
            if len(found) == len(wanted):
                return found
            if not is_plain:
                with suppress(Exception):
                    waiting.extend(_next(one))
                waiting.extend(finalizers.get(id(one), ()))
    return found


def _globals() -> Iterator[Tuple[str, str, str, Any]]:
    """Module, name, file and value of each global that counts; those of the user's own code first."""
    modules = [(name, module, _file(module)) for name, module in list(sys.modules.items())]
    counted = [(name, module, file) for name, module, file in modules if file and not _is_tool(name, file)]
    for name, module, file in sorted(counted, key=lambda one: any(part in one[2] for part in INSTALLED)):
        for key, value in list(_vars(module).items()):
            if key not in BOOKKEEPING and not issubclass(type(value), types.ModuleType):
                yield name, key, file, value


def _file(module: Any) -> str:
    file = _vars(module).get("__file__")
    return file if isinstance(file, str) else ""


def _vars(module: Any) -> Dict[str, Any]:
    """Reads a module's globals, and runs no code of a module that loads itself when it is asked for something."""
    return object.__getattribute__(module, "__dict__") or {} if issubclass(type(module), types.ModuleType) else {}


def _is_tool(module: str, file: str) -> bool:
    file = os.path.realpath(file)
    in_library = file.startswith(STANDARD_LIBRARY) and not any(part in file for part in INSTALLED)
    return in_library or module.split(".", maxsplit=1)[0] in (*TOOLS, *COPIES)


def _next(one: Any) -> Iterable[Any]:
    if issubclass(type(one), type):
        return list(vars(one).values()) if _counts(one) else ()
    if not _counts(type(one)) and str(type(one).__module__).split(".", maxsplit=1)[0] in TOOLS:
        return ()
    if isinstance(one, types.FunctionType):
        return [*reach.following(one), *(one.__kwdefaults__ or {}).values(), one.__dict__]
    if isinstance(one, weakref.ref):
        return [one()]
    if isinstance(one, threading.local):
        return [dict(vars(one))]
    if isinstance(one, contextvars.ContextVar):
        return [one.get(None)]
    if isinstance(one, dict):
        return [*reach.following(one), *dict.keys(one), *dict.values(one)]
    return reach.following(one)


def _counts(kind: type) -> bool:
    """Whether a class is of the tested program: those of the standard library keep nothing of it."""
    module = str(getattr(kind, "__module__", ""))
    file = _file(sys.modules.get(module))
    return bool(file) and not _is_tool(module, file)


def entry(name: str, glob: str) -> Recognise:
    """Recognises what holds an entry of /dev/shm; ``glob``: the pattern that the next one like it would have.

    A name alone counts only if a program made it up, since a constant in the source holds nothing.
    """
    object_of = reach.names_entry(name)
    made_up = glob != name and fnmatchcase(name, glob)

    def is_it(one: Any, file: str) -> bool:
        if type(one) in (str, bytes):
            return made_up and object_of(one) and not _is_in_source(name, file)
        if not any(base.__name__ in NAMED for base in type(one).__mro__):
            return False
        text = reach.attribute(one, "name")
        return isinstance(text, (str, bytes)) and object_of(text)

    return is_it


def _is_in_source(name: str, file: str) -> bool:
    bare = name[len("sem.") :] if name.startswith("sem.") else name
    return any(bare in line for line in linecache.getlines(file))


def process(pid: int) -> Recognise:
    """Recognises an object that stands for a process, or a variable or attribute named as one that holds the pid."""

    def is_it(one: Any, _file: str) -> bool:
        if any(_has(value, pid) for name, value in _named_in(one) if _is_for_pids(name)):
            return True
        kinds = [base.__name__ for base in type(one).__mro__]
        stands_for_one = any("Popen" in kind or "Process" in kind or kind == "spawn" for kind in kinds)
        return stands_for_one and reach.attribute(one, "pid") == pid

    return is_it


def _named_in(one: Any) -> Iterator[Tuple[Any, Any]]:
    """Lists names and values of variables or attributes: in a dict, a class, or an object of the tested program."""
    kind = type(one)
    if kind is dict:
        yield from list(one.items())
    elif issubclass(kind, type):
        yield from list(vars(one).items()) if _counts(one) else ()
    elif _counts(kind):
        yield from list((reach.attribute(one, "__dict__") or {}).items())
        for base in kind.__mro__:
            names = vars(base).get("__slots__") or vars(base).get("_fields") or ()
            yield from ((name, reach.attribute(one, name)) for name in ([names] if type(names) is str else names))


def _is_for_pids(name: Any) -> bool:
    return type(name) is str and any(word in name.lower() for word in ("pid", "child", "proc"))


def _has(value: Any, pid: int) -> bool:
    if type(value) is int:
        return value == pid > 1
    if not issubclass(type(value), (dict, list, tuple, set, frozenset, deque)) or len(value) > MOST_PIDS:
        return False
    inner = [*value.keys(), *value.values()] if issubclass(type(value), dict) else list(value)
    return any(type(number) is int and number == pid > 1 for number in inner)


def number(shmid: int) -> Recognise:
    """Recognises a System V segment's id, or an object that has it."""
    is_number = reach.is_number(shmid)

    def is_it(one: Any, _file: str) -> bool:
        return is_number(one) or (type(one).__name__ == "SharedMemory" and reach.attribute(one, "id") == shmid)

    return is_it


def instance(name: str) -> Recognise:
    """Recognises an object of a class of that name, or of one below it."""
    is_instance = reach.is_instance(name)
    return lambda one, _file: is_instance(one)


__all__ = ["entry", "held_by", "instance", "number", "process"]
