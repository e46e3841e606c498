"""A command that serves until somebody ends it."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_held() -> Iterator[Callable[[], int]]:
    """In this block the signals that end a program wait until they are waited for; yields what does that.

    It returns the exit status for the signal that came: 128 and its number; for Ctrl-C it raises KeyboardInterrupt. Threads
    that are started in the block leave the signals alone. What is ignored, as under nohup, stays so.
    """
    endings = {number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}

    def wait() -> int:
        # Not sigwait(), during which Python's handlers of other signals would not run.
        ended_by = signal.sigwaitinfo(endings).si_signo
        if ended_by == signal.SIGINT:
            raise KeyboardInterrupt
        return 128 + ended_by

    before = signal.pthread_sigmask(signal.SIG_BLOCK, endings)
    try:
        yield wait
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
