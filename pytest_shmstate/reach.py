"""Whether an object leads to a segment or a process: then it is that object's, not the test's that used it last.

A session's pool that starts its processes, or its buffers, when the first test asks for some, keeps them. The search
follows references as the garbage collector sees them, but not into modules, classes, code or frames, from which
everything can be reached.
"""

from __future__ import annotations

import functools
import gc
import inspect
import types
import weakref
from contextlib import suppress
from typing import Any, Callable, Dict, FrozenSet, Iterable, Iterator, List, Optional, Set, Tuple

#: Beyond this many objects the search gives up, and what it looks for counts as not found.
MOST_OBJECTS = 200_000
#: The first shmids of a machine are as small as any count: an object that holds one may not mean it.
MOST_ORDINARY = 4096
OPAQUE: Tuple[type, ...] = (
    type,
    types.ModuleType,
    types.CodeType,
    types.FrameType,
    types.TracebackType,
    types.BuiltinFunctionType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    int,
    float,
    complex,
)


def leads_to(root: Any, is_it: Callable[[Any], bool]) -> bool:
    """Whether ``is_it`` is true of something that can be reached from ``root``."""
    known: Set[int] = set()
    # A fixture may be a class that keeps things; no other class is looked into.
    waiting: List[Any] = [dict(vars(root)) if issubclass(type(root), type) else root]
    calls = finalizers()
    while waiting and len(known) < MOST_OBJECTS:
        found = waiting.pop()
        if id(found) in known:
            continue
        known.add(id(found))
        with suppress(Exception):  # out of the object's own code; such a one is passed over
            if _is_of_an_event_loop(type(found)):
                continue
            if is_it(found):
                return True
            waiting.extend(following(found))
        waiting.extend(calls.get(id(found), ()))
    return False


def _is_of_an_event_loop(kind: type) -> bool:
    """Whether it leads to all that is done in an event loop, so to the things of each test that used the loop."""
    names = [base.__name__ for base in kind.__mro__ if str(base.__module__).startswith("asyncio.")]
    return any(name.endswith(("EventLoop", "EventLoopPolicy", "ChildWatcher")) for name in names)


def finalizers() -> Dict[int, List[Any]]:
    """Finds what is to be called when an object goes, with its arguments: by the object's id."""
    calls: Dict[int, List[Any]] = {}
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        alive = finalizer.peek()
        if alive is not None:
            calls.setdefault(id(alive[0]), []).append(alive[1:])
    return calls


def following(found: Any) -> Iterable[Any]:
    """Lists the objects that an object refers to."""
    kind = type(found)  # and not isinstance: that asks an object for its class, and a proxy may fail to tell
    if issubclass(kind, (*OPAQUE, str, bytes)):
        return ()
    if kind is types.FunctionType:
        # Its globals would lead to everything; what it closes over is its own.
        return [*(found.__closure__ or ()), *(found.__defaults__ or ())]
    if kind is types.GeneratorType:
        # Before 3.11 the collector shows the frame; since then, what is in it.
        return list(found.gi_frame.f_locals.values()) if found.gi_frame is not None else ()
    # The collector passes over keys that are text, and over containers of nothing but plain values.
    if kind is dict:
        return [*found.keys(), *found.values()]
    if kind in (list, tuple, set, frozenset):
        return list(found)
    return gc.get_referents(found)


def named_by(function: Any, is_followed: Callable[[str], bool]) -> Iterator[Any]:
    """What a function's code can lay hands on: what it closes over, globals that it names, and attributes of these.

    So far as their files are followed, functions among these are asked as well: a fixture may leave its work to another.
    """
    known: Set[int] = set()
    waiting = [function]
    while waiting:
        one = waiting.pop()
        with suppress(Exception):  # of a proxy, which may fail to tell what it wraps
            one = inspect.unwrap(one)
        one = one.func if issubclass(type(one), functools.partial) else one
        one = one.__func__ if type(one) is types.MethodType else one
        if type(one) is not types.FunctionType or id(one) in known:
            continue
        known.add(id(one))
        for thing in _named_by_one(one):
            yield thing
            code = attribute(attribute(thing, "__func__") or thing, "__code__")
            if type(code) is types.CodeType and is_followed(code.co_filename):
                waiting.append(thing)


def _named_by_one(function: types.FunctionType) -> Iterator[Any]:
    yield from _contents(function.__closure__)
    names = set(_names(function.__code__))
    things = [function.__globals__[name] for name in names if name in function.__globals__]
    yield from things
    for thing in things:
        if issubclass(type(thing), (types.ModuleType, type)):
            yield from (vars(thing)[name] for name in names if name in vars(thing))


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _contents(cells: Optional[Iterable[Any]]) -> Iterator[Any]:
    for cell in cells or ():
        with suppress(ValueError):  # empty: its variable is not bound yet, or not any more
            yield cell.cell_contents


def names_entry(name: str) -> Callable[[Any], bool]:
    """Recognises an object that holds the name of an entry of /dev/shm, in any of the forms that are in use."""
    texts: FrozenSet[Any] = frozenset(
        form
        for bare in (name, name[len("sem.") :] if name.startswith("sem.") else name)
        for text in (bare, "/" + bare, "/dev/shm/" + bare)
        for form in (text, text.encode("utf-8", "surrogateescape"))
    )

    folder = f"/dev/shm/{name}/"
    below: Dict[type, Any] = {str: folder, bytes: folder.encode("utf-8", "surrogateescape")}

    def is_it(found: Any) -> bool:
        if type(found) in (str, bytes):
            return found in texts or found.startswith(below[type(found)])
        # A C object keeps its name where the collector does not look.
        return type(found).__name__ in ("SemLock", "Semaphore", "SharedMemory") and attribute(found, "name") in texts

    return is_it


def is_process(pid: int) -> Callable[[Any], bool]:
    """Recognises an object that stands for a process: any kind of ``Popen`` or ``Process``, or a dict by pid."""

    def is_it(found: Any) -> bool:
        if type(found) is dict:
            return pid in found and not issubclass(type(found[pid]), (int, str))
        named = type(found).__name__
        return ("Popen" in named or "Process" in named) and attribute(found, "pid") == pid

    return is_it


def is_number(number: int) -> Callable[[Any], bool]:
    """Recognises the number, if it is not one of those that stand for anything."""
    return lambda found: type(found) is int and found == number > MOST_ORDINARY


def is_instance(name: str) -> Callable[[Any], bool]:
    """Recognises an object of a class of that name, or of one below it."""

    def is_it(found: Any) -> bool:
        return any(one.__name__ == name for one in type(found).__mro__)

    return is_it


def attribute(found: Any, name: str) -> Optional[Any]:
    """Reads an attribute of any object; None if that fails."""
    try:
        return getattr(found, name, None)
    except Exception:  # a property of a stranger's class may do anything
        return None
