"""What a writer uses of the segment that it owns, as one tuple."""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Tuple

from shmstate.layout import LATEST, NEVER_WRITTEN, WAKE, WITHHELD
from shmstate.protocol import Memory

#: What a slot has committed before it is known: less than any length, so that all that begins by asking comes by.
UNKNOWN = -1
#: No writer counts that far; but a word that another program has overwritten must still take one more.
MOST_WAKES = 2**62

# Words, data, the slots' number and places, whether a checksum is stored, bytes committed a slot, and what wakes readers
# (None: none are to be woken). One tuple, so that a move is one store: an exception from a signal may come between two.
Bound = Tuple[Any, Any, int, Any, bool, List[int], Optional[Callable[[], object]]]


def bind(memory: Memory) -> Bound:
    """Return what a writer uses of a segment."""
    words, layout = memory.words, memory.layout
    ring = memory.bell(words, WAKE) if words[WAKE] else None
    return words, memory.data, layout.slots, layout.where, layout.checksum, [UNKNOWN] * layout.slots, ring


def last_state(bound: Bound) -> Tuple[int, Optional[bytes], int]:
    """Return the latest version, its bytes (None if readers are to see none) and when it was published."""
    words, data, slots, where, *_ = bound
    version: int = words[LATEST]
    start, length_at, published_at, _ = where[version % slots]
    length: int = words[length_at]
    if not version or length in (NEVER_WRITTEN, WITHHELD):
        return version, None, 0
    return version, data[start : start + length], words[published_at]
