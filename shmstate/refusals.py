"""Why a publish is refused: what the errors of publishing.py say."""

from __future__ import annotations

from shmstate.errors import CorruptSegment, ReentrantPublish, StateTooLarge
from shmstate.layout import Layout, with_room_for


def reentrant_error(name: str) -> ReentrantPublish:
    """Return the error for a publish in the middle of a publish of the same thread."""
    return ReentrantPublish(
        f"state {name!r}: published in the middle of a publish, a loan or a move of the same thread, by a signal"
        f" handler or inside the loan's block"
    )


def corrupt_error(name: str, latest: int) -> CorruptSegment:
    """Return the error for a LATEST that no writer can have stored."""
    return CorruptSegment(
        f"state {name!r}: LATEST is {latest}, which no writer has published; somebody else has overwritten"
        f" it. Close this writer, remove the state (`shmstate reclaim`) and open a new one"
    )


def larger(layout: Layout, length: int, grows: bool, name: str) -> Layout:
    """Return the layout with room for ``length`` bytes. Raises StateTooLarge if there is none, or the state must not grow."""
    most = layout.stride
    if grows:
        layout = with_room_for(layout, length)
        most = layout.stride
    if length > most:
        raise StateTooLarge(
            f"state {name!r}: {length} bytes are more than its max_size of {most}; nothing was published."
            f" Make the writer with a larger max_size (unused bytes cost nothing){'' if grows else ', or grow=True'}"
        )
    return layout
