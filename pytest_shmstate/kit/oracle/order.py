"""The order of publishes, as far as it is known, and the reads and publishes that contradict it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple, TypeVar

from pytest_shmstate.kit.oracle.history import Event
from pytest_shmstate.kit.oracle.row import NEVER, Block, Fault, contradiction, ends, settles
from pytest_shmstate.kit.oracle.verdict import INVERSION, ORDER, STALE, span, told

_One = TypeVar("_One")


class Publishes:
    """What was published, given by time. ``several``: writers at a time; their order is that of ranks, if there are."""

    def __init__(self, publishes: Sequence[Event], several: bool) -> None:
        self.by_version: Dict[int, Event] = {event.version: event for event in publishes}
        self._ranked = sorted((event for event in publishes if event.rank and settles(event) < NEVER), key=_rank)
        #: Those whose order is known, in that order, and where each stands in it: version 0 before all.
        self._ordered: Sequence[Event] = self._ranked if several else publishes
        self._place = {event.version: place for place, event in enumerate(self._ordered)}
        self._place[0] = -1
        self._is_order_known = not several or bool(self._ranked)
        self._publishes = publishes
        self._several = several

    def without_overlap(self, reads: Iterable[Event]) -> List[Event]:
        """Those reads that met no publish."""
        began = [event.began for event in self._publishes]
        over = [ends(event) for event in self._publishes]
        if not self._several:  # what never returned has taken effect, or never will, when the next one has returned
            over = list(accumulate(reversed(over), min))[::-1]
        latest = list(accumulate([-NEVER, *over], max))
        return [read for read in reads if latest[bisect_right(began, ends(read))] < read.began]

    def against_the_clock(self) -> Optional[Fault]:
        """Ranks that contradict the clock, or each other."""
        for event, sooner in zip(self._ranked, _first_from(self._ranked, settles)[1:]):
            if sooner is not None and settles(sooner) < event.began:
                why = f"the {told(sooner)} has rank {sooner.rank}, and the {told(event)}, begun after it had ended,"
                return Fault(ORDER, f"{why} has rank {event.rank}", (sooner, event))
        for one, other in zip(self._ranked, self._ranked[1:]):
            if one.rank == other.rank:
                return Fault(ORDER, f"the {told(one)} and the {told(other)} both have rank {one.rank}", (one, other))
        return None

    def stale(self, reads: Iterable[Event]) -> Optional[Fault]:
        """A read that began when a later version than it returned had been published."""
        newer_than = self._newer_by_order() if self._is_order_known else self._newer_by_clock()
        for read in reads:
            newer = newer_than(read)
            if newer is not None and settles(newer) < read.began:
                what = f"of version {read.version}" if read.version else "of nothing published yet"
                why = (
                    f"the read {what} by {read.process} ({span(read)}) began after version {newer.version} had been"
                    f" published, by {newer.process} ({span(newer)}): it is stale"
                )
                return Fault(STALE, why, (*self._published(read), newer, read))
        return None

    def too_soon(self, reads: Iterable[Event]) -> Optional[Fault]:
        """A read that had ended when a publish began that comes before what was read, by its rank."""
        if self._ordered is not self._ranked:
            return None  # the order of beginnings
        row = self._in_a_row(self._blocks(reads))
        for block, sooner in zip(row, _first_from(row, Block.first_read_ends)[1:]):
            if sooner is None or sooner.first_read is None or block.publish is None:
                continue
            if ends(sooner.first_read) < block.publish.began:
                publish = self.by_version[sooner.version]
                why = f"the {told(sooner.first_read)} had ended when the {told(block.publish)} began, which has"
                why = f"{why} the lower rank, {block.publish.rank} to {publish.rank}"
                return Fault(ORDER, why, (publish, sooner.first_read, block.publish))
        return None

    def contradicted(self, reads: Iterable[Event]) -> Optional[Fault]:
        """Reads that no order explains, given that each by itself fits one."""
        blocks = self._blocks(reads)
        if self._is_order_known:
            fault = self._went_back(self._in_a_row(blocks))
            if fault or all(block.version in self._place for block in blocks.values() if block.is_real):
                return fault
        return contradiction(blocks.values(), self._ordered if self._is_order_known else ())

    def _went_back(self, row: Sequence[Block]) -> Optional[Fault]:
        for block, sooner in zip(row, _first_from(row, Block.first_read_ends)[1:]):
            newer, older = sooner.first_read if sooner else None, block.last_read
            if newer is not None and older is not None and ends(newer) < older.began:
                why = f"the {told(older)} began after the {told(newer)} had ended: the state went back"
                published = (*self._published(older), *self._published(newer))
                return Fault(INVERSION, why, (*published, newer, older))
        return None

    def _blocks(self, reads: Iterable[Event]) -> Dict[int, Block]:
        blocks = {0: Block(0, None)}
        for event in self._publishes:
            blocks[event.version] = Block(event.version, event)
        for read in reads:
            blocks[read.version].add(read)
        return blocks

    def _in_a_row(self, blocks: Dict[int, Block]) -> List[Block]:
        return [blocks[0], *(blocks[event.version] for event in self._ordered)]

    def _published(self, read: Event) -> Tuple[Event, ...]:
        publish = self.by_version.get(read.version)
        return () if publish is None else (publish,)

    def _newer_by_order(self) -> Callable[[Event], Optional[Event]]:
        """For a read: of the publishes that come after what it returned, the first to have ended."""
        first = _first_from(self._ordered, settles)

        def newer_than(read: Event) -> Optional[Event]:
            # What never returned has no place among ranks; it may have taken effect at any time.
            place = self._place.get(read.version)
            return None if place is None else first[place + 1]

        return newer_than

    def _newer_by_clock(self) -> Callable[[Event], Optional[Event]]:
        """For a read: of the publishes that had ended before it began, the last to begin, if it can only be newer."""
        in_order_of_ends = sorted((event for event in self._publishes if settles(event) < NEVER), key=settles)
        ended = [settles(event) for event in in_order_of_ends]
        last_begun = list(accumulate(in_order_of_ends, _last_to_begin))

        def newer_than(read: Event) -> Optional[Event]:
            before = bisect_left(ended, read.began)
            if not before:
                return None
            newer = last_begun[before - 1]
            return newer if not read.version or settles(self.by_version[read.version]) < newer.began else None

        return newer_than


def _first_from(row: Sequence[_One], ending: Callable[[_One], float]) -> List[Optional[_One]]:
    """From each place in a row on, and from behind it, the one that ends first."""
    found: List[Optional[_One]] = [None]
    for one in reversed(row):
        best = found[-1]
        found.append(one if best is None or ending(one) < ending(best) else best)
    return found[::-1]


def _last_to_begin(one: Event, other: Event) -> Event:
    return one if one.began >= other.began else other


def _rank(event: Event) -> int:
    return event.rank
