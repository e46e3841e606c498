"""What a writer owns: the segment of its state, and while the state moves, the one that it moves to."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from typing import Callable, Optional

from shmstate import makers, ownership, predecessors, turns
from shmstate.errors import (
    CodecMismatch,
    CorruptSegment,
    NameInUse,
    ShmStateError,
    StateNotFound,
    UntrustedSegment,
    WaitTimeout,
)
from shmstate.layout import Content, Layout
from shmstate.memory import Segment
from shmstate.oserrors import translated


class Title:
    """The title to one state. ``closed`` is called when the segment goes away: the place to stop using it.

    A move may be cut short anywhere, by an exception from a signal handler too. So nothing here concludes how far one
    came: where the name leads is asked (``settle``).
    """

    shared = False

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._heir: Optional[Segment] = None
        self._draft = ""
        self._is_restored = False
        self._is_given_up = False
        self._pid = os.getpid()
        self._closed: Callable[[], None]

    def at_close(self, closed: Callable[[], None]) -> None:
        """Have ``closed`` run before the bytes of whatever segment is owned then go away."""
        self._closed = closed
        self.segment.at_close(closed)

    def commit(self, start: int, nbytes: int) -> None:
        """Put memory behind that part of it. Raises OutOfSharedMemory, StateNotFound."""
        self.segment.commit(start, nbytes)

    def is_named(self) -> bool:
        """Whether the name leads to what is owned; False if it leads to nothing. Raises StateNotFound if to another file."""
        owned = self.segment
        inode = ownership.inode_at(owned.path)
        if inode is not None and inode != owned.inode:
            raise StateNotFound(
                f"state {owned.name!r}: {owned.path} was replaced by another program, so no reader finds what this writer"
                f" publishes; close this writer and open a new one"
            )
        return inode is not None

    def prepare(self, layout: Layout, content: Optional[Content]) -> None:
        """Build the successor, S1 in protocol.py. Raises OutOfSharedMemory, StateNotFound; then nothing has changed."""
        owned = self.segment
        self._is_restored = not self.is_named()
        identity = makers.own_identity()._replace(created_ns=owned.identity().created_ns)
        self._draft = makers.draft_of(identity)
        self._heir = ownership.build(
            self._draft, owned.name, layout, identity, content, self.shared, self._predecessor()
        )

    def _predecessor(self) -> int:
        """The inode that the successor has for its PREDECESSOR; 0: none, as no other writer is in what is left."""
        return 0

    def take_name(self) -> None:
        """Give the successor the name, S3. Raises NameInUse if the name was removed, and is another segment's by now.

        Raises AccessDenied, SystemRefused; then nothing has changed.
        """
        owned = self.segment
        try:
            with translated(
                f"state {owned.name!r}: {owned.path} cannot be replaced; nothing was published", FileExistsError
            ):
                (os.link if self._is_restored else os.rename)(self._draft, owned.path)
        except FileExistsError:
            raise NameInUse(
                f"state {owned.name!r}: {owned.path} was removed, and another program has made it again; close this"
                f" writer and open a new one"
            ) from None
        except ShmStateError:
            self.settle()
            raise

    def settle(self) -> None:
        """Own the successor if the name leads to it; throw it away otherwise.

        The segment that was left is not closed: other threads may be in the middle of a load. It goes with the last use.
        """
        heir = self._heir
        is_owned = heir is not None and ownership.leads_to(heir.path, heir.inode)
        if heir is not None and is_owned and self.segment is not heir:
            heir.at_close(self._closed)
            left, self.segment = self.segment, heir
            left.disclaim()  # O8 in ownership.py
        if self._draft and not (is_owned and not self._is_restored):  # otherwise the rename has taken it away
            ownership.remove_draft(self._draft)
        if heir is not None and not is_owned:
            heir.close()
        self._heir, self._draft = None, ""

    def take_turn(self) -> None:
        """Nobody else owns the state."""

    def end_turn(self) -> None:
        """Nobody waits."""

    def follow(self) -> bool:
        """Nobody else moves it."""
        return False

    @property
    def is_held(self) -> bool:
        """Whether there is something to give up: not yet given up, and not a forked child's copy."""
        return not self._is_given_up and os.getpid() == self._pid

    def give_up(self, unlink: bool) -> None:
        """Own the state no more, and with ``unlink`` remove its name too. Attached readers keep the last state. Idempotent.

        An exception from a signal handler may cut this short; it can be called again then. Raises AccessDenied,
        SystemRefused if the name stays; the rest is given up then.
        """
        if not self.is_held:
            return
        self._closed()  # before the locks go: an exception may come in between, and another thread would publish then
        try:
            self._release(unlink)
        except ShmStateError:
            self.segment.close()
            self._is_given_up = True
            raise
        self.segment.close()
        self._is_given_up = True

    def _release(self, unlink: bool) -> None:
        if self.segment.is_open:
            self.settle()
        if unlink:
            ownership.remove_name(self.segment)


class SharedTitle(Title):
    """The title to one state that others have too, each publishing in its turn."""

    shared = True

    #: Seconds to wait for the turn; None: as long as it takes.
    lock_timeout: Optional[float] = None
    #: A segment that the state may have moved from, whose locks this writer may still have; None: it has none.
    _leaving: Optional[Segment] = None
    #: Whether what is owned may have a second name.
    _is_linked = False
    _second_name = ""

    def take_turn(self) -> None:
        """Wait until no other writer publishes, or has died at it. Raises WaitTimeout after ``lock_timeout`` seconds."""
        if self.lock_timeout is None:
            turns.take(self.segment.fd)
        elif not turns.take_within(self.segment.fd, self.lock_timeout):
            raise WaitTimeout(
                f"state {self.segment.name!r}: another writer that shares it has been publishing for {self.lock_timeout}"
                f" seconds, so nothing was published; a stopped process (SIGSTOP, a debugger) holds its turn. Continue or"
                f" end it, or give a longer lock_timeout"
            )

    def end_turn(self) -> None:
        """Let the next one publish, also at a segment that was left."""
        if not self._draft:
            self._leave()
        elif self._leaving is not None and self._leaving.fd >= 0:  # the next settle() finds out whether it was left
            turns.end(self._leaving.fd)
        try:
            if self.segment.is_open:
                turns.end(self.segment.fd)
        except (OSError, ValueError, ShmStateError):
            if self.segment.is_open:  # otherwise a signal handler has closed it, and the turn is over
                raise

    def prepare(self, layout: Layout, content: Optional[Content]) -> None:
        """Build the successor, S1, and give what is left its second name, P1 in predecessors.py. Raises as any title."""
        super().prepare(layout, content)
        owned = self.segment
        try:
            if self._predecessor():
                self._is_linked = True
                predecessors.give(owned.path, predecessors.second_name(owned.identity().created_ns, owned.inode))
        except BaseException:
            self.settle()
            raise

    def _predecessor(self) -> int:
        # Others may be present in what is left, or come to be until S3. A segment without a name gets no second one.
        return 0 if self._is_restored else self.segment.inode

    def follow(self) -> bool:
        """Own the segment that another has moved the state to, without the turn. False if it is where it was.

        Raises CodecMismatch if it is written with another codec now; NameInUse if it is another's alone; StateNotFound
        if it was removed.
        """
        left = self.segment
        inode = ownership.inode_at(left.path)
        if inode == left.inode:
            return False
        if inode is None:
            raise StateNotFound(
                f"state {left.name!r} has moved to another segment, and {left.path} was removed by another program since;"
                f" close this writer and open a new one"
            )
        joined = ownership.join(left.name, True, math.inf if self.lock_timeout is None else self.lock_timeout)
        if joined is None:  # it has moved again
            return True
        try:
            if joined.identity().created_ns != left.identity().created_ns:  # I8 in protocol.py
                raise NameInUse(
                    f"state {left.name!r} was closed, and made anew by another writer; close this one and open a new one"
                )
            require_same_codec(joined.layout.codec, left.layout.codec, left.name)
        except BaseException:
            joined.close()
            raise
        joined.at_close(self._closed)
        self._leaving = left
        self.segment = joined
        self._leave()
        return True

    def settle(self) -> None:
        """As of any title; the turn at the segment that was left is over then."""
        if self._leaving is None:  # otherwise an exception has cut this short
            self._leaving = self.segment
        super().settle()
        self._leave()

    def _leave(self) -> None:
        left = self._leaving
        if left is None:
            return
        if left is self.segment:
            # Otherwise another writer has moved the state since, and writers that have not followed need the second name.
            if self._is_linked and ownership.leads_to(left.path, left.inode):
                predecessors.forget(left.fd)
        else:
            if left.fd >= 0:
                turns.end(left.fd)
                ownership.let_go(left)
                left.drop()
            predecessors.prune(self.segment.fd)
        self._is_linked, self._leaving = False, None

    def _release(self, unlink: bool) -> None:
        """Remove the name too if this was the last of those who owned it, with ``unlink``."""
        left = self.segment
        if left.is_open:
            self._second_name = predecessors.second_name(left.identity().created_ns, left.inode)
            try:
                # P4. Not waited for: a stopped process may have the turn.
                self._is_linked = self._is_linked and turns.take_within(left.fd, 0)
                try:
                    self.settle()
                finally:
                    if left.fd >= 0:
                        turns.end(left.fd)
                left = self.segment
                predecessors.prune(left.fd)
                ownership.let_go(left)
            except ShmStateError:  # the locks go with the map
                left.close()
        if unlink:
            with suppress(FileNotFoundError, CorruptSegment, UntrustedSegment):  # gone, or something else by now
                ownership.remove_if_dead(left.path, left.name)
        with suppress(FileNotFoundError):  # as a rule it has none
            predecessors.remove_if_left(self._second_name)


def require_same_codec(theirs: str, ours: str, name: str) -> None:
    """Raise CodecMismatch unless those who share the state write it alike."""
    if theirs != ours:
        raise CodecMismatch(
            f"state {name!r} is shared with writers that use codec {theirs!r}, this one uses {ours!r}; all must use one"
        )
