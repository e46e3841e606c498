"""Clocks of processes that are explored: each has one of its own, and nothing but its sleep moves it on.

How often something is tried must not depend on how fast the explorer is, nor what is published on when it ran.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from threading import get_ident
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

#: Nobody sleeps less: to sleep longer than asked is always allowed.
_SHORTEST_SLEEP = 0.01
#: A time that may well be.
_BEGINNING = 1_700_000_000.0
_READS = ("time", "monotonic", "perf_counter")


class OwnTime:
    """Stands in for ``time`` in this thread. ``who`` says whose clock is asked, ``gate`` is called before a sleep."""

    def __init__(self, who: Callable[[], object], gate: Callable[[str], None]) -> None:
        self._who = who
        self._gate = gate
        self._thread = get_ident()
        self._clocks: Dict[object, float] = {}
        self._is_over = False

    def begin(self) -> None:
        """All clocks stand where they stood at first."""
        self._clocks.clear()

    def end(self) -> None:
        """What somebody has kept of this tells the real time from now on."""
        self._is_over = True

    def stand_ins(self) -> Dict[Any, Any]:
        """What stands in for what."""
        found: Dict[Any, Any] = {time.sleep: self._instead_of(time.sleep, self._sleep)}
        for name in _READS:
            found[getattr(time, name)] = self._instead_of(getattr(time, name), self._now)
            in_ns = getattr(time, f"{name}_ns")
            found[in_ns] = self._instead_of(in_ns, lambda: int(self._now() * 1e9))
        return found

    def _instead_of(self, real: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
        def tell(*args: Any) -> Any:
            is_ours = get_ident() == self._thread and not self._is_over
            return (own if is_ours else real)(*args)

        return tell

    def _now(self) -> float:
        return self._clocks.get(self._who(), _BEGINNING)

    def _sleep(self, seconds: float) -> None:
        self._gate("sleep")
        self._clocks[self._who()] = self._now() + max(seconds, _SHORTEST_SLEEP)


@contextmanager
def wherever_it_is(stand_ins: Mapping[Any, Any]) -> Iterator[None]:
    """Have these objects be others in all modules that are loaded, by whatever name they know them; not in the kit."""
    by_identity = {id(real): stand_in for real, stand_in in stand_ins.items()}
    put_back: List[Tuple[Dict[str, Any], str, Any]] = []
    try:
        for called, module in list(sys.modules.items()):
            if called.startswith(("pytest_shmstate.kit.", "hypothesis.")):
                continue
            known = getattr(module, "__dict__", {})
            for name, value in list(known.items()):
                if id(value) in by_identity:
                    put_back.append((known, name, value))
                    known[name] = by_identity[id(value)]
        yield
    finally:
        for known, name, value in put_back:
            known[name] = value
