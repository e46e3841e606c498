"""What is called in processes under test before shmstate is imported there. Imports nothing of it, as its users must not."""

from __future__ import annotations

import sys


def nothing_of_shmstate_is_there() -> None:
    loaded = [name for name in sys.modules if name.split(".")[0] == "shmstate"]
    if loaded:
        raise RuntimeError(f"already imported: {loaded}")


def two_slots_are_never_whole() -> None:
    """As a mutation would: the modules that are imported later are others."""
    from shmstate import layout

    layout.MIN_SLOTS = 3


def fail() -> None:
    raise LookupError("no such mutation")
