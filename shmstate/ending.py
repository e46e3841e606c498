"""What has still to be done for an object when it is garbage, at the latest when its process exits."""

from __future__ import annotations

import weakref
from multiprocessing import util
from typing import Any, Callable


class Ending:
    """Calls ``last_act(*args)`` once: when ``owner`` is garbage, or as the process exits. Not in forked children.

    ``args`` must not lead to ``owner``. ``priority``: as for ``multiprocessing.util.Finalize``, which also runs in the
    children of multiprocessing, where atexit is skipped; 0 and above come before it waits for children.

    Two of the standard library's finalizers, since each has what the other lacks. util.Finalize alone has a weak
    reference call it before it is complete, if an exception (a Ctrl-C) cuts its making short: "Exception ignored in".
    """

    def __init__(self, owner: object, last_act: Callable[..., object], *args: Any, priority: int) -> None:
        self._at_exit = util.Finalize(None, last_act, args=args, exitpriority=priority)
        self._as_garbage = weakref.finalize(owner, self._at_exit)
        self._as_garbage.atexit = False  # the other sees to that, and in the right order

    def cancel(self) -> None:
        """Nothing has to be done any more. Idempotent."""
        self._as_garbage.detach()
        self._at_exit.cancel()
