"""Blocks in a row: whether any order of publishes explains what was read.

What was read stands, in an order that explains it, right behind its publish. So a version is a block, its publish and
its reads. Block U must come before block V when an operation of U ended before one of V began, or when U is known to
have been published first. A history is explained if and only if its blocks can be put into a row:

    U     [publish]            [read]         U's first end is before V's last beginning: U before V.
    V          [publish]  [read]              V's first end is before U's last beginning: V before U. No such row.

(Gibbons and Korach, Testing shared memories, 1997: with the clock alone, blocks that cannot be put into a row hold two
that contradict each other. With a known order of some beside it there may be three.)

The row is built from its beginning. Of the blocks that are left, one can be next if none of the others ended anything
before this one last began. That leaves three to look at: the one that last begins first, the one that ends first, and
the first of the known order. If it is none of them, it is none, and each has another that must come before it.
"""

from __future__ import annotations

from typing import Iterable, List, NamedTuple, Optional, Sequence, Tuple

from pytest_shmstate.kit.oracle.history import READ, Event
from pytest_shmstate.kit.oracle.verdict import INVERSION, ORDER, told

NEVER = float("inf")


class Fault(NamedTuple):
    """What was wrong: a rule, the sentence, and the events that it speaks of."""

    rule: str
    sentence: str
    events: Tuple[Event, ...]


def ends(event: Event) -> float:
    """When it returned, or never."""
    return NEVER if event.ended is None else event.ended


def settles(publish: Event) -> float:
    """From when on it has taken effect for certain: never, if nobody was told that it has."""
    return NEVER if publish.ended is None or publish.error else publish.ended


def by_time(event: Event) -> Tuple[int, float]:
    """A key to sort by: beginnings, then ends."""
    return event.began, NEVER if event.ended is None else event.ended


class Block:
    """A version: its publish, none for version 0, and the reads of it that matter."""

    __slots__ = ("first_read", "last_read", "publish", "version")

    def __init__(self, version: int, publish: Optional[Event]) -> None:
        self.version = version
        self.publish = publish
        #: The read that ended first, and the one that began last.
        self.first_read: Optional[Event] = None
        self.last_read: Optional[Event] = None

    def add(self, read: Event) -> None:
        """Take in a read of it."""
        if self.first_read is None or ends(read) < ends(self.first_read):
            self.first_read = read
        if self.last_read is None or read.began > self.last_read.began:
            self.last_read = read

    def first_read_ends(self) -> float:
        """When it had been seen for the first time."""
        return NEVER if self.first_read is None else ends(self.first_read)

    @property
    def is_real(self) -> bool:
        """Whether it has a place in the row: it took effect for certain, or was seen."""
        return self.first_read is not None or (self.publish is not None and settles(self.publish) < NEVER)

    def first_end(self) -> Tuple[float, Optional[Event]]:
        """When it had taken effect for certain, and by whose word. Version 0: always, by nobody's."""
        if self.publish is None:
            return -NEVER, None
        if self.first_read is not None and ends(self.first_read) < settles(self.publish):
            return ends(self.first_read), self.first_read
        return settles(self.publish), self.publish

    def last_beginning(self) -> Tuple[float, Optional[Event]]:
        """When it was still to take effect, or was still in effect, and by whose word."""
        if self.last_read is not None and (self.publish is None or self.last_read.began > self.publish.began):
            return self.last_read.began, self.last_read
        return (-NEVER, None) if self.publish is None else (self.publish.began, self.publish)


def contradiction(blocks: Iterable[Block], ordered: Sequence[Event]) -> Optional[Fault]:
    """Blocks that cannot be put into a row; None if all can. ``ordered``: publishes whose order is known, in it."""
    real = [block for block in blocks if block.is_real]
    row = _Row(real, [event.version for event in ordered])
    while row.left:
        following = next((block for block in row.candidates() if row.before(block) is None), None)
        if following is None:
            return _told_round(row)
        row.left.discard(following.version)
    return None


class _Row:
    """The blocks that are left to be put into a row."""

    def __init__(self, blocks: List[Block], ordered: Sequence[int]) -> None:
        self.left = {block.version for block in blocks}
        by_version = {block.version: block for block in blocks}
        self._is_known = set(ordered)
        free = (block for block in blocks if block.version not in self._is_known)
        # Each pile is taken from its end; what is no longer left is thrown away when it comes up.
        self._by_end = sorted(blocks, key=lambda block: block.first_end()[0], reverse=True)
        self._by_beginning = sorted(free, key=lambda block: block.last_beginning()[0], reverse=True)
        self._known = [by_version[version] for version in reversed(ordered) if version in by_version]

    def candidates(self) -> List[Block]:
        """Those that can be next, if any can."""
        piles = (self._known, self._by_beginning, self._by_end)
        return [block for block in map(self._top, piles) if block is not None]

    def before(self, block: Block) -> Optional[Block]:
        """One of the others that must come before it; None if it can be next."""
        first_known = self._top(self._known)
        if block.version in self._is_known and block is not first_known:
            return first_known
        other = self._top(self._by_end)
        if other is block:
            self._by_end.pop()
            other = self._top(self._by_end)
            self._by_end.append(block)
        return other if other is not None and other.first_end()[0] < block.last_beginning()[0] else None

    def _top(self, pile: List[Block]) -> Optional[Block]:
        while pile and pile[-1].version not in self.left:
            pile.pop()
        return pile[-1] if pile else None


def _told_round(row: _Row) -> Fault:
    """Blocks each of which must come before the next, and the last before the first."""
    path = row.candidates()[:1]
    while True:
        before = row.before(path[-1])
        if before is None:  # a block that could have been next after all: contradiction() looked at too few
            raise RuntimeError(f"version {path[-1].version} was not put into its row, though nothing must precede it")
        if before in path:
            break
        path.append(before)
    around = path[path.index(before) :][::-1]
    links = [_Link(one, other) for one, other in zip(around, [*around[1:], around[0]])]
    why = "; ".join(link.sentence for link in links)
    versions = " and ".join(str(block.version) for block in around)
    went_back = any(link.is_between_reads for link in links)
    events = dict.fromkeys(event for link in links for event in link.events)
    published = [block.publish for block in around if block.publish is not None]
    sentence = f"no order of versions {versions} explains what was read: {why}"
    return Fault(INVERSION if went_back else ORDER, sentence, tuple(dict.fromkeys([*published, *events])))


class _Link:
    """Why one block comes before another."""

    def __init__(self, one: Block, other: Block) -> None:
        self.events: Tuple[Event, ...] = ()
        self.is_between_reads = False
        (ended, first), (began, last) = one.first_end(), other.last_beginning()
        if first is not None and last is not None and ended < began:
            self.events = (first, last)
            self.is_between_reads = first.operation == last.operation == READ
            self.sentence = f"the {told(first)} had ended when the {told(last)} began"
        elif one.publish is None:
            self.sentence = f"nothing was published before version {other.version}"
            self.events = () if last is None else (last,)
        else:
            ranks = [block.publish.rank for block in (one, other) if block.publish is not None]
            self.sentence = f"version {one.version} was published first, with rank {ranks[0]} to {ranks[-1]}"
