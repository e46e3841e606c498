"""Where a reader is attached, and how it follows a state that moves."""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import suppress
from typing import Any, Callable, Optional

from shmstate import ownership
from shmstate.errors import StateNotFound
from shmstate.memory import Segment, attach

_LONGEST_NAP = 0.01


class Attachment:
    """The segment of state ``name``, mapped read-only. Threads may share it.

    Waits ``timeout`` seconds for the state to exist. Raises StateNotFound, UntrustedSegment, CorruptSegment,
    OutOfSharedMemory.
    """

    def __init__(self, name: str, timeout: float, trust_uid: Optional[int]) -> None:
        self._trust_uid = trust_uid
        self.segment = _attach_within(name, timeout, trust_uid)
        #: Called with a successor before it is read for the first time; if that raises, it is not attached.
        self.accept: Callable[[Segment], None] = _as_it_is
        self._stranger = 0
        self.forked()
        _attachments.add(self)

    def forked(self) -> None:
        """In a forked child: a thread that moves on here did not come along, and would never end its turn."""
        self._turn = threading.Lock()

    def successor(self, words: Any) -> Optional[Segment]:
        """Where the state has moved to from the segment of these words, R5 in protocol.py; None if it has not.

        The segment that is left is not closed: other threads may be in the middle of a read. It goes with the last use.
        """
        with self._turn:
            if self.segment.words is words:  # otherwise another thread was here before
                heir = self._heir_of(self.segment)
                if heir is None:
                    return None
                self.segment = heir
            return self.segment

    def _heir_of(self, segment: Segment) -> Optional[Segment]:
        inode = ownership.inode_at(segment.path)
        if inode in (None, segment.inode, self._stranger):
            return None
        heir = None
        with suppress(StateNotFound):  # closed meanwhile; the last state that is seen from here stands
            heir = attach(segment.name, self._trust_uid)
        if heir is None:
            return None
        if heir.identity().created_ns != segment.identity().created_ns:  # I8: another line
            self._stranger = heir.inode
            heir.close()
            return None
        try:
            self.accept(heir)
        except BaseException:
            heir.close()
            raise
        return heir


def _as_it_is(segment: Segment) -> None:
    pass


_attachments: weakref.WeakSet[Attachment] = weakref.WeakSet()


def _renew_turns() -> None:
    for attachment in list(_attachments):
        attachment.forked()


os.register_at_fork(after_in_child=_renew_turns)


def _attach_within(name: str, timeout: float, trust_uid: Optional[int]) -> Segment:
    deadline = time.monotonic() + timeout
    nap = 0.0005
    while True:
        try:
            return attach(name, trust_uid)
        except StateNotFound:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        time.sleep(min(nap, left))
        nap = min(2 * nap, _LONGEST_NAP)
