"""What a writer owns: the segment of its state, and while the state moves, the one that it moves to."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Callable, Optional

from shmstate import ownership, turns
from shmstate.errors import CodecMismatch, NameInUse, ShmStateError, StateNotFound
from shmstate.layout import Content, Layout
from shmstate.memory import Segment


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
        self._closed: Callable[[], None]

    def at_close(self, closed: Callable[[], None]) -> None:
        """Have ``closed`` run before the bytes of whatever segment is owned then go away."""
        self._closed = closed
        self.segment.at_close(closed)

    def commit(self, start: int, nbytes: int) -> None:
        """Put memory behind that part of it. Raises OutOfSharedMemory, StateNotFound."""
        self.segment.commit(start, nbytes)

    def prepare(self, layout: Layout, content: Content) -> None:
        """Build the successor, S1 in protocol.py. Raises OutOfSharedMemory, StateNotFound; then nothing has changed."""
        owned = self.segment
        if not ownership.leads_to(owned.path, owned.inode):
            raise StateNotFound(
                f"state {owned.name!r}: {owned.path} was removed or replaced by somebody else, so it cannot move to"
                f" another segment; close this writer and open a new one"
            )
        identity = ownership.own_identity()._replace(created_ns=owned.identity().created_ns)
        self._draft = ownership.draft_of(identity)
        self._heir = ownership.build(self._draft, owned.name, layout, identity, content, self.shared)

    def take_name(self) -> None:
        """Give the successor the name, S3."""
        os.rename(self._draft, self.segment.path)

    def settle(self) -> None:
        """Own the successor if the name leads to it; throw it away otherwise.

        The segment that was left is not closed: other threads may be in the middle of a load. It goes with the last use.
        """
        heir = self._heir
        if heir is not None and ownership.leads_to(heir.path, heir.inode):
            if self.segment is not heir:
                heir.at_close(self._closed)
                self.segment = heir
        elif self._draft:
            with suppress(FileNotFoundError):
                os.unlink(self._draft)
            if heir is not None:
                heir.close()
        self._heir, self._draft = None, ""

    def take_turn(self) -> None:
        """Nobody else owns the state."""

    def end_turn(self) -> None:
        """Nobody waits."""

    def follow(self) -> bool:
        """Nobody else moves it."""
        return False

    def give_up(self, unlink: bool) -> None:
        """Own the state no more, and with ``unlink`` remove its name too. Attached readers keep the last state."""
        self.settle()
        ownership.disown(self.segment, unlink)


class SharedTitle(Title):
    """The title to one state that others have too, each publishing in its turn."""

    shared = True

    def take_turn(self) -> None:
        """Wait until nobody else publishes, or has died at it."""
        turns.take(self.segment.fd)

    def end_turn(self) -> None:
        """Let the next one publish."""
        if self.segment.is_open:
            turns.end(self.segment.fd)

    def follow(self) -> bool:
        """Own the segment that another has moved the state to, without the turn. False if it is where it was.

        Raises CodecMismatch if it is written with another codec now; NameInUse if it is another's alone.
        """
        left = self.segment
        if not ownership.leads_elsewhere(left.path, left.inode):
            return False
        joined = ownership.join(left.name, shared=True)
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
        self.segment = joined
        self._leave(left)
        return True

    def settle(self) -> None:
        """As of any title; the turn at the segment that was left is over then."""
        left = self.segment
        super().settle()
        if self.segment is not left:
            self._leave(left)

    @staticmethod
    def _leave(left: Segment) -> None:
        turns.end(left.fd)
        left.drop()

    def give_up(self, unlink: bool) -> None:
        """Own the state no more; the last of those who owned it removes its name, with ``unlink``."""
        self.settle()
        path, name = self.segment.path, self.segment.name
        self.segment.close()
        if unlink:
            with suppress(OSError, ShmStateError):  # gone, or something else by now
                ownership.remove_if_dead(path, name)


def require_same_codec(theirs: str, ours: str, name: str) -> None:
    """Raise CodecMismatch unless those who share the state write it alike."""
    if theirs != ours:
        raise CodecMismatch(
            f"state {name!r} is shared with writers that use codec {theirs!r}, this one uses {ours!r}; all must use one"
        )
