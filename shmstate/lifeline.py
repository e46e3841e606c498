"""Whether the process that made a pool still runs, seen from its workers.

The end of a pipe is not enough: a child that the pool's process forked holds the other end too. The parent's pid is not
either: with forkserver the parent is the fork server. So a worker looks at the pool's process itself, by pid and start
time, which together are never reused.

Both are only compared where they mean the same: in the same pid and time namespaces, with a ``/proc`` of that pid
namespace. Elsewhere, and where a look fails, the process counts as running; then the pipes alone tell of its end.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import List, NamedTuple, Optional, Tuple

_NAMESPACES = ("pid", "time")


class Lifeline(NamedTuple):
    """A process, as its workers look for it."""

    pid: int
    started: int
    namespaces: Tuple[Optional[str], ...]

    @classmethod
    def of_this_process(cls) -> Lifeline:
        """Describe the calling process. Without a ``/proc`` it is one that nothing can be said about."""
        with suppress(OSError, ValueError):
            if _proc_is_ours():
                return cls(os.getpid(), _look(os.getpid())[0], _namespaces())
        return cls(os.getpid(), -1, ())

    def has_ended(self) -> bool:
        """Return whether the process has certainly ended."""
        try:
            if self.namespaces != _namespaces() or not _proc_is_ours():
                return False
            started, is_running = _look(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return _is_unknown_to_the_kernel(self.pid)  # /proc may hide it
        except (OSError, ValueError):
            return False
        return started != self.started or not is_running


def _look(pid: int) -> Tuple[int, bool]:
    """Return when the process started, in clock ticks since boot, and whether any thread of it still runs."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[19]), fields[0] not in (b"Z", b"X") or int(fields[17]) > 1


def _is_unknown_to_the_kernel(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _proc_is_ours() -> bool:
    return os.readlink("/proc/self") == str(os.getpid())


def _namespaces() -> Tuple[Optional[str], ...]:
    found: List[Optional[str]] = []
    for kind in _NAMESPACES:
        try:
            found.append(os.readlink(f"/proc/self/ns/{kind}"))
        except FileNotFoundError:  # a kernel without time namespaces
            found.append(None)
    return tuple(found)
