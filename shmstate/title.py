"""What a writer owns: the segment of its state, and while the state moves, the one that it moves to."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Callable, Optional

from shmstate import ownership
from shmstate.errors import StateNotFound
from shmstate.layout import Content, Layout
from shmstate.memory import Segment


class Title:
    """The title to one state. ``closed`` is called when the segment goes away: the place to stop using it.

    A move may be cut short anywhere, by an exception from a signal handler too. So nothing here concludes how far one
    came: where the name leads is asked (``settle``).
    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._heir: Optional[Segment] = None
        self._draft = ""
        self._closed: Callable[[], None]

    def at_close(self, closed: Callable[[], None]) -> None:
        """Have ``closed`` run before the bytes of whatever segment is owned then go away."""
        self._closed = closed
        self.segment.at_close(closed)

    @property
    def memory(self) -> Segment:
        """The segment."""
        return self.segment

    @property
    def layout(self) -> Layout:
        """Its shape."""
        return self.segment.layout

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
        self._heir = ownership.build(self._draft, owned.name, layout, identity, content)

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

    def give_up(self, unlink: bool) -> None:
        """Own the state no more, and with ``unlink`` remove its name too. Attached readers keep the last state."""
        self.settle()
        ownership.disown(self.segment, unlink)
