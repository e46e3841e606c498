"""What was removed after a test, for the failures of later tests that miss it.

A later test may need what an earlier one left behind: a name in a cache, a server of which only the address is kept.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import Deque, Iterator, List, Set

from pytest_shmstate.leak import DIRECTORY, PROCESS, SEMAPHORE, SYSV, Leak
from pytest_shmstate.report import named, printable

#: As many removals are remembered, and as many of them are said.
MOST, MOST_LINES = 1000, 5
#: Errors that come of a process that is gone, by their class.
OF_PROCESSES = (ConnectionError, EOFError, ProcessLookupError, ChildProcessError)


class Removals:
    """Remembers what was removed in this process."""

    def __init__(self) -> None:
        self._leaks: Deque[Leak] = deque(maxlen=MOST)

    def add(self, leak: Leak) -> None:
        """Remembers a leak, if it was removed or ended."""
        if leak.fate.startswith(("removed", "ended")):
            self._leaks.append(leak)

    def behind(self, error: BaseException) -> List[str]:
        """Says what was removed that may be the cause of this error, a line each."""
        if not self._leaks:
            return []
        errors = list(_chain(error))
        suspects = [leak for leak in reversed(self._leaks) if any(_may_come_of(one, leak) for one in errors)]
        lines = [_line(leak) for leak in suspects[:MOST_LINES]]
        return [*lines, f"and {len(suspects) - MOST_LINES} more"] if suspects[MOST_LINES:] else lines


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Lists an error, those that it came of, and those that it groups."""
    waiting: List[BaseException] = [error]
    known: Set[int] = set()
    while waiting:
        one = waiting.pop()
        if id(one) in known:
            continue
        known.add(id(one))
        yield one
        waiting.extend(filter(None, (one.__cause__, one.__context__)))
        waiting.extend(part for part in getattr(one, "exceptions", ()) if isinstance(part, BaseException))


def _may_come_of(error: BaseException, leak: Leak) -> bool:
    if leak.kind == PROCESS:
        # A socket that went with its process is missing without a name.
        nameless = isinstance(error, FileNotFoundError) and error.filename is None
        return nameless or isinstance(error, OF_PROCESSES)
    if leak.kind == SEMAPHORE and isinstance(error, FileNotFoundError) and error.filename is None:
        return True
    if type(error).__name__ == "ExistentialError":  # of posix_ipc and sysv_ipc, which name nothing
        return True
    if leak.kind == SYSV:
        return isinstance(error, OSError) and error.errno in (errno.EINVAL, errno.EIDRM)
    return _is_named(leak, error)


def _is_named(leak: Leak, error: BaseException) -> bool:
    bare = leak.name[len("sem.") :] if leak.name.startswith("sem.") else leak.name
    texts = [str(getattr(error, "filename", None) or ""), str(getattr(error, "filename2", None) or "")]
    try:
        texts.append(str(error))
    except Exception:  # an error of a stranger's class may fail to say anything
        pass
    return any(_is_word(bare, text) for text in texts)


def _is_word(name: str, text: str) -> bool:
    """Whether the text has the name, not as a part of a longer one."""
    start = text.find(name)
    while start >= 0:
        before, after = text[start - 1 : start], text[start + len(name) : start + len(name) + 1]
        if not (before.isalnum() or before in ("_", "-")) and not (after.isalnum() or after in ("_", "-")):
            return True
        start = text.find(name, start + 1)
    return False


def _line(leak: Leak) -> str:
    what = f"/dev/shm/{printable(leak.name)}" if leak.kind not in (PROCESS, SYSV) else named(leak)
    what += "/" if leak.kind == DIRECTORY else f" (pid {leak.pid})" if leak.kind == PROCESS else ""
    verb = "ended" if leak.kind == PROCESS else "removed"
    maker = leak.owner
    whose = f"test {maker.name}" if maker.what == "test" else f"{maker.scope} {maker.what} `{maker.name}`".strip()
    return f"shmstate {verb} {what}, made by {printable(whose)}, before this test"


__all__ = ["Removals"]
