"""Ctrl-C and SIGTERM, taken where they can be dealt with.

An exception thrown into the middle of anything is lost in a finalizer, or leaves half a shutdown. So a signal is noted,
and ``check()`` raises it between two steps; what takes long asks ``seen`` whether it still should.
"""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Dict, Optional, Type

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

    def _note(self, signum: int, _frame: Optional[FrameType]) -> None:
        if os.getpid() != self._pid:  # a forked worker that has not set its own handlers yet
            os._exit(128 + signum)
        if self.seen is None:
            self.seen = signum
