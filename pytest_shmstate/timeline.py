"""Who was at work when: tests, fixtures and imports as spans of time, in the process that runs them.

What is made belongs to the innermost span of that moment, and is due when that span's life ends:

    span      begins               makes things until         its things are due
    test      its setup            its teardown               the same
    fixture   its setup function   that has returned          its finalizer is through
    import    a module's import    that is through            the end of the run
    session   the run              the end of the run         the same
"""

from __future__ import annotations

from bisect import bisect_right

# By name: a test may put another clock into the module.
from time import monotonic_ns
from typing import Iterator, List, Optional

from pytest_shmstate.leak import Owner


class Span:
    """A stretch of one owner's life."""

    __slots__ = ("complete", "due", "failed", "owner", "parent")

    def __init__(self, owner: Owner, parent: Optional[Span]) -> None:
        self.owner = owner
        self.parent = parent
        #: Whether what was made in it has to be gone by now.
        self.due = False
        #: Whether its end came as it should; otherwise it was cut short.
        self.complete = False
        #: The owner's test failed anyway.
        self.failed = False

    def __repr__(self) -> str:
        return f"<Span {self.owner.what} {self.owner.name}{' due' if self.due else ''}>"


class Timeline:
    """Spans of one process, nested; times are CLOCK_MONOTONIC nanoseconds."""

    def __init__(self, owner: Owner) -> None:
        self.root = Span(owner, None)
        self.current = self.root
        self._times: List[int] = [monotonic_ns()]
        self._spans: List[Span] = [self.root]

    def enter(self, owner: Owner) -> Span:
        """Begin a span inside the current one."""
        return self.resume(Span(owner, self.current))

    def resume(self, span: Span) -> Span:
        """Go on with a span for a while: a fixture's finalizer is its own work too."""
        self._change(span)
        return span

    def leave(self, span: Span) -> None:
        """End it, and whatever is still open inside it."""
        if span in self._open():
            self._change(span.parent or self.root)

    def pause(self, span: Span, back_to: Span) -> None:
        """The span's work is over for now; ``back_to`` goes on."""
        if self.current is span:
            self._change(back_to)

    def at(self, moment: int) -> Span:
        """Who was at work then. Before the first span: the root."""
        return self._spans[max(0, bisect_right(self._times, moment) - 1)]

    def _open(self) -> Iterator[Span]:
        span: Optional[Span] = self.current
        while span is not None:
            yield span
            span = span.parent

    def _change(self, span: Span) -> None:
        self.current = span
        self._times.append(monotonic_ns())
        self._spans.append(span)
