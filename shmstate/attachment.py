"""Where a reader is attached, and how it follows a state that moves."""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from typing import Any, Callable, Optional, Tuple

from shmstate import makers, ownership
from shmstate.compat import renew_in_forked_children
from shmstate.errors import StateNotFound
from shmstate.memory import Segment, attach
from shmstate.options import check_timeout

_LONGEST_NAP = 0.01


class Attachment:
    """The segment of state ``name``, mapped read-only. Threads may share it.

    Waits ``timeout`` seconds for the state to exist. Raises StateNotFound, UntrustedSegment, CorruptSegment,
    OutOfSharedMemory.
    """

    def __init__(self, name: str, timeout: float, trust_uid: Optional[int]) -> None:
        self._trust_uid = trust_uid
        # The segment, and what a reader has bound to it: one tuple, so that both are replaced by one store.
        self._bound: Tuple[Segment, Any] = (_attach_within(name, timeout, trust_uid), None)
        self._stranger = 0
        self._is_closed = False
        self._forked()
        renew_in_forked_children(self)

    def _forked(self) -> None:
        self._lock = threading.RLock()

    @property
    def segment(self) -> Segment:
        """The segment that was attached last."""
        return self._bound[0]

    def successor(self, words: Any, bind: Callable[[Segment], Any]) -> Any:
        """Follow the state from the segment of these words, R5 in protocol.py; None if it has not moved.

        The segment that is left is not closed: other threads may be in the middle of a read. It goes with the last use.
        """
        with self._lock:
            if self.segment.words is words:  # otherwise another thread was here before
                successor = self._successor_of(self.segment)
                if successor is None:
                    return None
                try:
                    bound = bind(successor)
                    if self._is_closed:  # by a signal handler, in the middle of this
                        successor.close()
                        return None
                except BaseException:
                    successor.close()
                    raise
                self._bound = successor, bound
            return self._bound[1]

    def _successor_of(self, segment: Segment) -> Optional[Segment]:
        inode = ownership.inode_at(segment.path)
        if inode in (None, segment.inode, self._stranger):
            return None
        successor = None
        with suppress(StateNotFound):  # closed meanwhile; the last state that is seen from here stands
            successor = attach(segment.name, self._trust_uid)
        if successor is None:
            return None
        if successor.identity().created_ns != segment.identity().created_ns:  # I8: another generation
            self._stranger = successor.inode
            successor.close()
            return None
        return successor

    def is_owned(self, follow: Callable[[], object]) -> bool:
        """Whether a living writer owns the state. ``follow()`` takes a reader to where the state is.

        Asks the kernel. A state whose name another program has removed is still owned, until its writer ends: it gives the
        name back (O8 in ownership.py).
        """
        while True:
            follow()
            segment = self.segment
            if ownership.is_owned(segment.path, segment.inode):
                return True
            is_named = ownership.leads_to(segment.path, segment.inode)
            follow()
            if self.segment is segment:
                return not is_named and makers.owner_runs(segment.identity())

    def close(self) -> None:
        """Let go of the segment, and follow the state no more. Idempotent."""
        with self._lock:
            self._is_closed = True
            self.segment.close()


def _attach_within(name: str, timeout: float, trust_uid: Optional[int]) -> Segment:
    limit = check_timeout("timeout", timeout)
    deadline = math.inf if limit is None else time.monotonic() + limit
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
