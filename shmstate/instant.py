"""Several states as they were at one instant.

Each state is read, then each is asked whether anything newer was published. Versions never decrease (I1 in protocol.py),
so a state that has the same latest version before its read and after all reads had it all the time in between: if all of
them did, then at the moment between the last read and the first question all of them were as read, together.
"""

from __future__ import annotations

from typing import Iterable, NamedTuple, Tuple

from shmstate.options import check_whole
from shmstate.reader import Snapshot, StateReader

DEFAULT_SWEEPS = 100


class Instant(NamedTuple):
    """Snapshots in the order of the readers. ``sweeps``: how often they were gone through."""

    snapshots: Tuple[Snapshot, ...]
    #: Whether there was a moment at which all of these were the latest. If not, each is whole and was so at its own.
    together: bool
    sweeps: int


def snapshot(readers: Iterable[StateReader], *, sweeps: int = DEFAULT_SWEEPS) -> Instant:
    """The states of all readers at one instant, if their writers leave one within that many sweeps.

    Waits for nobody: states that move are read again, at once, and ``together`` says whether that came to an end. It
    takes writers that rest for longer than one sweep, about a microsecond a state and the time to copy what moved;
    decoding comes after. Raises as ``read()`` of each, and InvalidOption. All or nothing: one state that cannot be read
    makes it raise, and the error names that state. The readers stay as they were; leave that one out and call again.
    """
    check_whole("sweeps", sweeps, 1)
    asked = list(readers)
    found = [reader.read_encoded() for reader in asked]
    sweep = 1
    while True:
        moved = [place for place, reader in enumerate(asked) if reader.version != found[place].version]
        if not moved or sweep == sweeps:
            break
        for place in moved:
            found[place] = asked[place].read_encoded()
        sweep += 1
    decoded = tuple(reader.decode(encoded) for reader, encoded in zip(asked, found))
    return Instant(decoded, not moved, sweep)
