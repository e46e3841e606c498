"""Gates before what a structure does to its ``multiprocessing.shared_memory.SharedMemory``, and before lines of source.

``shm.buf`` becomes a ``Buffer``, which takes ``buf[i]``, slices, ``bytes(buf[a:b])``, ``cast`` and ``release`` as a
memoryview does. It is none for C: ``struct.pack_into(..., shm.buf)`` and NumPy refuse it with a TypeError. A structure
that does so is gated by the line instead, and its copies are each one access: ``by_line``.
"""

from __future__ import annotations

import importlib
import os
import sys
from multiprocessing import resource_tracker, shared_memory
from typing import Any, Callable, Iterable, Iterator, Optional, Set

from pytest_shmstate.kit.seams.gates import Copying, Gate, Gates
from pytest_shmstate.kit.seams.system_calls import label_of

_OWN = "multiprocessing.shared_memory"


class Buffer:
    """A part of a shared block, ``view``, that begins at the item ``first`` of what is called ``name``."""

    def __init__(self, view: memoryview, name: str, first: int, gate: Gate, copying: Copying) -> None:
        self._view = view
        self._name = name
        self._first = first
        self._gate = gate
        self._copying = copying

    def part(self, view: memoryview, name: str, first: int) -> Buffer:
        """One like this, of a part of what this is of. Who derives a class makes one of that class."""
        return Buffer(view, name, first, self._gate, self._copying)

    def __len__(self) -> int:
        return len(self._view)

    def __iter__(self) -> Iterator[int]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return bytes(self) == (bytes(other) if isinstance(other, Buffer) else other)

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            start = key.indices(len(self._view))[0]
            return self.part(self._view[key], self._name, self._first + start)
        self._gate(f"load {self._name}[{self._first + range(len(self._view))[key]}]")
        return self._view[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, slice):
            self._gate(f"store {self._name}[{self._first + range(len(self._view))[key]}]")
            self._view[key] = value
            return
        payload, target = bytes(value), self._view[key]
        if len(payload) != target.nbytes:
            raise ValueError(f"{len(payload)} bytes do not fit a slice of {target.nbytes}")
        start = self._first + key.indices(len(self._view))[0]
        raw = target.cast("B")
        for first, last in self._copying.parts_of(0, target.nbytes):
            self._gate(f"fill {self._name}[{start + first}:{start + last}]")
            raw[first:last] = payload[first:last]

    def __bytes__(self) -> bytes:
        raw, copied = self._view.cast("B"), bytearray(self._view.nbytes)
        for first, last in self._copying.parts_of(0, len(raw)):
            self._gate(f"copy {self._name}[{self._first + first}:{self._first + last}]")
            copied[first:last] = raw[first:last]
        return bytes(copied)

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def tobytes(self) -> bytes:
        """A copy."""
        return bytes(self)

    def cast(self, kind: str) -> Buffer:
        """The same bytes as items of another kind, whose numbers count from the first of them."""
        return self.part(self._view.cast(kind), f"{self._name}.{kind}", 0)  # type: ignore[call-overload]

    def release(self) -> None:
        """As a memoryview's."""
        self._view.release()

    @property
    def nbytes(self) -> int:
        """As a memoryview's."""
        return self._view.nbytes


def gate_shared_memory(gates: Gates, copying: Copying, *, leave_buffers: bool = False) -> None:
    """Put gates before what is done to ``SharedMemory``, from now on and for good, in this process.

    Also where modules have imported the class by its name. The resource tracker hears of no block any more: it is one
    more process, which removes blocks when it pleases. With ``leave_buffers`` ``buf`` is what it was.
    """
    made: Any = shared_memory.SharedMemory
    ours = _gated(made, gates, copying, leave_buffers)
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != "shmstate" and getattr(module, "SharedMemory", None) is made:
            module.SharedMemory = ours  # type: ignore[attr-defined]
    _silence(resource_tracker)


def _gated(shared: Any, gates: Gates, copying: Copying, leave_buffers: bool) -> Any:
    class SharedMemory(shared):  # type: ignore[misc]
        """A block whose ``buf`` has gates, as have its creation and its removal."""

        _gated: Optional[Buffer] = None

        def __init__(self, name: Optional[str] = None, create: bool = False, *args: Any, **kwargs: Any) -> None:
            label = label_of(f"/dev/shm/{name}", gates.name)
            if label != "draft":  # shmstate's own, whose next step has a gate
                gates(f"{'create' if create else 'open'} {label}")
            super().__init__(name, create, *args, **kwargs)

        @property
        def buf(self) -> Any:
            real = super().buf
            if leave_buffers or real is None:
                return real
            if self._gated is None:
                label = label_of(f"/dev/shm/{self.name}", gates.name)
                self._gated = Buffer(real, label or "", 0, gates, copying)
            return self._gated

        def unlink(self) -> None:
            gates(f"unlink {label_of(f'/dev/shm/{self.name}', gates.name)}")
            with gates.resting():
                super().unlink()

    SharedMemory.__module__, SharedMemory.__qualname__ = _OWN, "SharedMemory"  # as which it is pickled
    return SharedMemory


def _silence(tracker: Any) -> None:
    for what in ("register", "unregister"):
        setattr(tracker, what, _all_but_shared_memory(getattr(tracker, what)))


def _all_but_shared_memory(tell: Callable[[str, str], None]) -> Callable[[str, str], None]:
    def tell_unless_shared_memory(name: str, kind: str) -> None:
        if kind != "shared_memory":
            tell(name, kind)

    return tell_unless_shared_memory


def line_tracer(gate: Gate, modules: Iterable[str]) -> Callable[..., Any]:
    """For ``sys.settrace``: a gate before each line of these modules, which it imports. Frames entered from then on."""
    files: Set[Optional[str]] = {importlib.import_module(module).__file__ for module in modules}

    def at_call(frame: Any, event: str, argument: object) -> Any:  # noqa: ARG001
        return at_line if frame.f_code.co_filename in files else None

    def at_line(frame: Any, event: str, argument: object) -> Any:  # noqa: ARG001
        if event == "line":
            # One object for all that are equal: a pickle of thousands of them stays short.
            gate(sys.intern(f"line {os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"))
        return at_line

    return at_call
