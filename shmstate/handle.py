"""What a writer and a reader have in common: a name, a segment, a with-statement, and pickling by name."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Callable, Dict, Optional, Protocol, Type, TypeVar

from shmstate import memory

_Self = TypeVar("_Self", bound="Handle")


class Holder(Protocol):
    """What knows which segment the state is in now: a title, or an attachment."""

    @property
    def segment(self) -> memory.Segment:
        """That segment."""


class Handle:
    """One process's use of one state."""

    name: str
    _options: Dict[str, Any]
    _latest: Callable[[], int]
    _holder: Holder

    @property
    def _segment(self) -> memory.Segment:
        return self._holder.segment

    @property
    def max_size(self) -> int:
        """Bytes that are reserved for a state now."""
        return self._segment.layout.stride

    @property
    def slots(self) -> int:
        """How many versions the segment holds."""
        return self._segment.layout.slots

    @property
    def codec(self) -> str:
        """The name of the codec that the state is written with."""
        return self._segment.layout.codec

    @property
    def version(self) -> int:
        """The version published last; 0: none yet."""
        return self._latest()

    def close(self) -> None:
        """Let go of the segment. Idempotent."""
        self._segment.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        return _reopen, (type(self), self.name, self._options)

    def __repr__(self) -> str:
        state = f"version {self.version}" if self._segment.is_open else "closed"
        return f"<{type(self).__name__} {self.name!r} {state}>"


def _reopen(kind: Any, name: str, options: Dict[str, Any]) -> Any:
    return kind(name, **options)
