"""Shared memory that is none, for structures over ``multiprocessing.shared_memory`` that are explored in one process.

    with in_place():                     SharedMemory is a stand-in here, also where a module imported it by its name
        begin(Blocks(gate, ...))         and makes blocks of these

A block is a ``bytearray`` under a name. Its ``buf`` has a gate before each access, and copies go part by part
(buffers.py). Nothing of it is ever in ``/dev/shm``; blocks go away with ``Blocks``.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import count
from multiprocessing import shared_memory
from typing import Any, Callable, Dict, Hashable, Iterator, List, Optional, Tuple

from pytest_shmstate.kit.seams.buffers import Buffer
from pytest_shmstate.kit.seams.gates import Copying, Gate
from pytest_shmstate.kit.seams.own_time import OwnTime, wherever_it_is
from pytest_shmstate.kit.seams.system_calls import label_of

Observe = Callable[[Hashable], None]
_REAL: Any = shared_memory.SharedMemory


class Blocks:
    """All blocks of one schedule. ``gate`` is called before an access, ``observe`` with what was loaded.

    ``name``: what the structure is called, which gates leave out of the names of its blocks.
    """

    def __init__(self, gate: Gate, observe: Observe, copying: Copying, name: str = "") -> None:
        self.gate = gate
        self.observe = observe
        self.copying = copying
        self.all: List[bytearray] = []
        self._name = name
        self._named: Dict[str, bytearray] = {}
        self._numbers = count(1)

    def create(self, name: Optional[str], size: int) -> Tuple[str, bytearray]:
        """A new block. Raises FileExistsError."""
        name = f"psm_{next(self._numbers)}" if name is None else name.lstrip("/")
        self.gate(f"create {self.label_of(name)}")
        if name in self._named:
            self.observe("exists")
            raise FileExistsError(17, "File exists", f"/{name}")
        block = self._named[name] = bytearray(size)
        self.all.append(block)
        return name, block

    def open(self, name: str) -> Tuple[str, bytearray]:
        """A block that is there. Raises FileNotFoundError."""
        name = name.lstrip("/")
        self.gate(f"open {self.label_of(name)}")
        block = self._named.get(name)
        self.observe(None if block is None else self._number_of(block))
        if block is None:
            raise FileNotFoundError(2, "No such file or directory", f"/{name}")
        return name, block

    def unlink(self, name: str) -> None:
        """Take a block's name away. Raises FileNotFoundError."""
        self.gate(f"unlink {self.label_of(name)}")
        found = self._named.pop(name, None)
        self.observe(found is not None)
        if found is None:
            raise FileNotFoundError(2, "No such file or directory", f"/{name}")

    def label_of(self, name: str) -> str:
        """What gates call a block."""
        label = label_of(f"/dev/shm/{name}", self._name) if self._name else None
        return name if label in (None, "draft") else str(label)

    def key(self) -> Hashable:
        """Equal for equal blocks under equal names."""
        names = tuple((name, self._number_of(block)) for name, block in sorted(self._named.items()))
        return names, tuple(map(bytes, self.all))

    def _number_of(self, block: bytearray) -> int:
        return next(number for number, one in enumerate(self.all) if one is block)


class ObservedBuffer(Buffer):
    """A buffer that tells what was loaded of it."""

    def __init__(self, view: memoryview, name: str, first: int, blocks: Blocks) -> None:
        super().__init__(view, name, first, blocks.gate, blocks.copying)
        self._blocks = blocks

    def part(self, view: memoryview, name: str, first: int) -> Buffer:
        """One that tells it too."""
        return ObservedBuffer(view, name, first, self._blocks)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if not isinstance(found, Buffer):
            self._blocks.observe(found)
        return found

    def __bytes__(self) -> bytes:
        copied = super().__bytes__()
        self._blocks.observe(copied)
        return copied


class SharedMemory:
    """A block, as ``multiprocessing.shared_memory.SharedMemory`` is one; where nothing is explored, that itself."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A module that is imported while something is explored keeps this class."""
        return super().__new__(cls) if _current else _REAL(*args, **kwargs)

    def __init__(self, name: Optional[str] = None, create: bool = False, size: int = 0, **_: Any) -> None:
        if create and size <= 0:
            raise ValueError("'size' must be a positive number different from zero")
        if not create and name is None:
            raise ValueError("'name' can only be None if create=True")
        self._blocks = _current[-1]
        self._name, block = self._blocks.create(name, size) if create else self._blocks.open(str(name))
        self._size = len(block)
        label = self._blocks.label_of(self._name)
        self._buf: Optional[Buffer] = ObservedBuffer(memoryview(block), label, 0, self._blocks)

    @property
    def name(self) -> str:
        """Without a slash."""
        return self._name

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    @property
    def buf(self) -> Any:
        """The bytes; None once closed."""
        return self._buf

    def close(self) -> None:
        """Let go of the bytes."""
        self._buf = None

    def unlink(self) -> None:
        """Take the name away."""
        self._blocks.unlink(self._name)


_current: List[Blocks] = []


def begin(blocks: Blocks) -> None:
    """Have ``SharedMemory`` make blocks of these from now on."""
    _current[:] = [blocks]


@contextmanager
def in_place(time: OwnTime) -> Iterator[None]:
    """Have the stand-in be what all modules that are loaded know as ``SharedMemory``, and ``time`` as the time."""
    try:
        with wherever_it_is({_REAL: SharedMemory, **time.stand_ins()}):
            yield
    finally:
        _current.clear()
