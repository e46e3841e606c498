"""Ctrl-C and SIGTERM, taken where they can be dealt with.

An exception thrown into the middle of anything is lost in a finalizer, or leaves half a shutdown. So a signal is noted,
and ``check()`` raises it between two steps. Only ``at_once()``, around something long that cleans up after itself,
lets it through at any moment.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Dict, Iterator, Optional, Type

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The program was asked to end, by ``signum``."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Interruptions:
    """Takes the signals over for the length of a with-block. For the main thread. ``seen``: the first that came."""

    def __init__(self) -> None:
        self.seen: Optional[int] = None
        self._at_once = False
        self._pid = os.getpid()
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> Interruptions:
        for signum in SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:  # as under nohup
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.seen is not None:
            raise Interrupted(self.seen)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal raise Interrupted in the middle of what the block does."""
        self.check()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
        self.check()

    def _note(self, signum: int, _frame: Optional[FrameType]) -> None:
        if os.getpid() != self._pid:  # a forked worker that has not set its own handlers yet
            os._exit(128 + signum)
        first = self.seen is None
        if first:
            self.seen = signum
        if self._at_once and signum == signal.SIGINT:
            self._at_once = False
            raise Interrupted(self.seen or signum)
        if self._at_once and first:
            # A pool blocks SIGINT while it starts a process, which must not be cut short. SIGTERM takes the same road.
            signal.raise_signal(signal.SIGINT)
