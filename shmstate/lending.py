"""A publish whose payload is filled in place: W1 when it is lent, the rest of W2 and W3 when it is taken back."""

from __future__ import annotations

import zlib
from typing import Callable, Optional, Tuple

from shmstate.bound_segment import MOST_WAKES, Bound
from shmstate.errors import CorruptSegment, ReentrantPublish
from shmstate.layout import INTENT, LATEST, RETIRED, WAKE, Layout, whole_pages
from shmstate.lent import lend as borrow
from shmstate.protocol import Title

Lend = Callable[[int, object], Optional[memoryview]]
TakeBack = Callable[[Optional[int]], int]


def open_lending(
    title: Title,
    bound_now: Callable[[], Bound],
    begin: Callable[[object], None],
    end: Callable[[], None],
    is_nested: Callable[[], bool],
    fitting_for: Callable[[int], Layout],
    look_if_due: Callable[[int], None],
    reentrant: Callable[[], ReentrantPublish],
    corrupt: Callable[[], CorruptSegment],
) -> Tuple[Lend, TakeBack]:
    """Return ``lend`` and ``take_back`` of ``Publishing``, over what publishing.py has for the turn and for moves."""
    weak, fence, now = title.segment.weak, title.segment.fence, title.segment.clock

    def lend(nbytes: int, to: object) -> Optional[memoryview]:
        if is_nested():
            raise reentrant()
        try:
            begin(to)
            words, _, slots, where, _, committed, _ = bound_now()
            version: int = words[LATEST] + 1
            slot = version % slots
            if fitting_for(nbytes) != title.segment.layout or (nbytes > committed[slot] and not title.is_named()):
                end()
                return None
            if nbytes > committed[slot]:
                title.commit(where[slot].start, max(nbytes, 1))  # I7
                committed[slot] = whole_pages(nbytes)
            if version >= RETIRED:
                raise corrupt()
            if weak:
                fence()
            words[INTENT] = version  # W1
            if weak:
                fence()
            start = where[slot].start
            return borrow(title.segment.view, start, start + nbytes)
        except BaseException:
            end()
            raise

    def take_back(length: Optional[int]) -> int:
        try:
            words, data, slots, where, checked, _, ring = bound_now()
            version: int = words[LATEST]
            if length is not None:
                version += 1
                start, length_at, published_at, checksum_at = where[version % slots]
                words[length_at] = length  # W2, the rest of it
                words[published_at] = moment = now()
                if checked:
                    words[checksum_at] = zlib.crc32(data[start : start + length])
                if weak:
                    fence()
                words[LATEST] = version  # W3
                if ring is not None:
                    words[WAKE] = words[WAKE] % MOST_WAKES + 1  # W4
                    ring()
                look_if_due(moment)
            end()
            return version
        except BaseException:
            end()
            raise

    return lend, take_back
