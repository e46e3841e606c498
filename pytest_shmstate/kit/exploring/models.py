"""Memory as a machine's processors see it: three models, from the strictest to one that is weaker than any machine.

    SEQUENTIAL  a store is seen by all at once, in program order
    BUFFERED    x86-64: stores wait in a queue of their processor, which reads its own before memory; the queue drains in
                order. So a load may be done before an earlier store of the same processor is seen.
    REORDERING  ARM-like: stores that wait drain in any order but that of one cell, and a load may return whatever the
                cell held at any time since the last fence, but nothing older than this processor has seen there

    fence       an earlier store is seen before anything later is done; no later load returns what was there before

In the last, no order is kept for the sake of an address or a value that another load gave: ARM keeps some of those, so
what holds here holds there. What it leaves out: a store that is seen before an earlier load of its own processor is done
(load buffering). No process of this protocol stores what depends on loads of words that others store, but in turns,
which are system calls and fence. All three are multi-copy atomic, as x86-64 and ARMv8 are.
"""

from __future__ import annotations

from typing import Any, Dict, Hashable, List, NamedTuple, Sequence, Tuple

Cell = Hashable


class Model(NamedTuple):
    """What a processor may do with the order of its accesses."""

    title: str
    #: Stores wait before they are seen ...
    buffers: bool = False
    #: ... and overtake one another.
    overtakes: bool = False
    #: Loads return what was there a while ago.
    is_stale: bool = False


SEQUENTIAL = Model("sequential")
BUFFERED = Model("store buffers (x86-64)", buffers=True)
REORDERING = Model("reordering (ARM-like)", buffers=True, overtakes=True, is_stale=True)
MODELS = (SEQUENTIAL, BUFFERED, REORDERING)

_Waiting = List[Tuple[int, Any]]


class Cells:
    """What is stored in cells, each loaded and stored whole. Processes are numbers from 0. A cell begins with 0.

    ``numbers`` gives each cell a number; handed from run to run, it makes the keys of all runs comparable.
    """

    def __init__(self, model: Model, processes: int, numbers: Dict[Cell, int]) -> None:
        self._model = model
        self._numbers = numbers
        self._now: List[Any] = [0] * len(numbers)
        self._waiting: List[_Waiting] = [[] for _ in range(processes)]
        #: Of each process: what it may still load from a cell, oldest first, the last being what is there now. Cells
        #: that are not listed hold for it what is there now.
        self._older: List[Dict[int, List[Any]]] = [{} for _ in range(processes)]

    def number(self, cell: Cell) -> int:
        """The number of a cell, by which the others of its methods call it."""
        number = self._numbers.setdefault(cell, len(self._numbers))
        if number == len(self._now):
            self._now.append(0)
        return number

    def put(self, cell: int, value: Any) -> None:
        """What a cell holds before anybody could look."""
        self._now[cell] = value

    def loadable(self, process: int, cell: int) -> Sequence[Any]:
        """What a load may return now, oldest first."""
        for waiting, value in reversed(self._waiting[process]):
            if waiting == cell:
                return [value]
        return self._older[process].get(cell) or [self._now[cell]]

    def load(self, process: int, cell: int, which: int) -> Any:
        """Load what ``loadable`` lists under that index. Nothing older comes from that cell any more."""
        loadable, older = self.loadable(process, cell), self._older[process].get(cell)
        if older is not loadable:
            return loadable[which]
        value = older[which]
        del older[:which]
        if len(older) == 1:
            del self._older[process][cell]
        return value

    def store(self, process: int, cell: int, value: Any) -> None:
        """Store; whether it is seen at once is the model's to say."""
        if self._model.buffers:
            self._waiting[process].append((cell, value))
        else:
            self._show(process, cell, value)

    def drainable(self, process: int) -> List[int]:
        """Which of the stores that wait may be seen next."""
        waiting = self._waiting[process]
        if not self._model.overtakes:
            return [0] if waiting else []
        return [at for at, (cell, _) in enumerate(waiting) if all(cell != earlier for earlier, _ in waiting[:at])]

    def waiting(self, process: int, which: int) -> Tuple[int, Any]:
        """The cell and the value of a store that waits."""
        return self._waiting[process][which]

    def drain(self, process: int, which: int) -> None:
        """Have a store that waits be seen."""
        self._show(process, *self._waiting[process].pop(which))

    def drain_all(self, process: int) -> None:
        """Have all of them be seen, as happens to a process that dies."""
        while self._waiting[process]:
            self.drain(process, 0)

    def is_drained(self, process: int) -> bool:
        """Whether no store of this process waits, as a fence asks."""
        return not self._waiting[process]

    def forget(self, process: int) -> None:
        """The other half of a fence: load nothing that was there before."""
        self._older[process].clear()

    def _show(self, process: int, cell: int, value: Any) -> None:
        was = self._now[cell]
        self._now[cell] = value
        if not self._model.is_stale:
            return
        for other, older in enumerate(self._older):
            if other == process:  # which has its own store before its eyes
                older.pop(cell, None)
            elif cell in older:
                if older[cell][-1] != value:
                    older[cell].append(value)
            elif was != value:
                older[cell] = [was, value]

    def key(self) -> Hashable:
        """Equal for equal memories: whatever is done from here on may have the same outcomes."""
        if not self._model.buffers:
            return tuple(self._now)
        older = tuple(tuple((cell, tuple(values)) for cell, values in sorted(seen.items())) for seen in self._older)
        return tuple(self._now), tuple(map(tuple, self._waiting)), older
