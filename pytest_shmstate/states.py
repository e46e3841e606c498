"""States: writers and readers under names that nobody else uses, closed when it is left."""

from __future__ import annotations

import itertools
import os
from types import TracebackType
from typing import Any, Callable, List, NoReturn, Optional, Tuple, Type, TypeVar, Union

import shmstate
from pytest_shmstate.prefixes import unique_prefix
from shmstate.handle import Handle

_Handle = TypeVar("_Handle", bound=Handle)


class States:
    """Makes writers and readers of states under ``prefix``, or a new one.

    Leaving closes them in the reverse order of their making, all of them, also if closing one fails: that error is
    raised then, chained to what else went wrong. Then what dead writers left under the prefix is removed: a state whose
    process the test killed. States of living processes are left alone, so end those first.

    A forked child that leaves its copy closes what it opened itself; its parent's handles and states stay.

    Raises ValueError for an empty prefix, under which the states of all others would be.
    """

    def __init__(self, prefix: Optional[str] = None) -> None:
        if prefix is not None and not prefix:
            raise ValueError("prefix='' is the prefix of all states of this machine; leave it out to get a new one")
        #: What the names of all states made here begin with.
        self.prefix = unique_prefix() if prefix is None else prefix
        self._owner = os.getpid()
        self._numbers = itertools.count(1)
        self._closing: List[Callable[[], None]] = [self._reclaim]

    def name(self, name: str) -> str:
        """The full name of state ``name``, to give to other processes. A full name stays as it is."""
        return name if name.startswith(self.prefix) else self.prefix + name

    def writer(self, name: Optional[str] = None, **options: Any) -> shmstate.StateWriter:
        """A writer of state ``name``, or of a new one; options and errors are StateWriter's."""
        if name is None:
            # A forked child goes on counting where its parent does.
            child = "" if self._owner == os.getpid() else f"{os.getpid()}-"
            name = f"state-{child}{next(self._numbers)}"
        return self._opened(shmstate.StateWriter(self.name(name), **options))

    def reader(self, of: Union[str, shmstate.StateWriter], **options: Any) -> shmstate.StateReader:
        """A reader of a writer's state, or of the one of that name; options and errors are StateReader's."""
        name = self.name(of) if isinstance(of, str) else of.name
        return self._opened(shmstate.StateReader(name, **options))

    def pair(self, **options: Any) -> Tuple[shmstate.StateWriter, shmstate.StateReader]:
        """A writer with these options, and a reader of it, with its codec."""
        writer = self.writer(**options)
        return writer, self.reader(writer, codec=options.get("codec"))

    def _opened(self, handle: _Handle) -> _Handle:
        self._closing.append(handle.close)
        return handle

    def _reclaim(self) -> None:
        if os.getpid() == self._owner:
            shmstate.reclaim(self.prefix)

    def close(self) -> None:
        """Close all that was made here and remove what the dead left, as leaving does. Idempotent."""
        while self._closing:
            try:
                self._closing.pop()()
            except BaseException:
                self.close()  # the others; if one more fails, that error is chained to this one
                raise

    def __reduce__(self) -> NoReturn:
        raise TypeError("States stay in their process; give others the full name of a state: states.name('...')")

    def __enter__(self) -> States:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
