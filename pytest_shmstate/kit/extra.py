"""The libraries that the extra ``kit`` installs, and what is said without them."""

from __future__ import annotations

EXTRA = ("greenlet", "hypothesis", "psutil")


def missing(library: str) -> str:
    """Say which library is missing, and what installs it."""
    return f"the kit needs {library}, which is not installed: pip install 'shmstate[kit]'"
