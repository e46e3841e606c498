"""Parts of a map that are handed out, of which it can be told what still refers to them."""

from __future__ import annotations

import gc
import sys


def lend(view: memoryview, start: int, stop: int) -> memoryview:
    """A part of the bytes behind ``view``, of which it can be told who else holds it (``is_held``)."""
    whole = memoryview(view.obj)
    part = whole[start:stop]
    whole.release()
    return part


def is_held(lent: memoryview) -> bool:
    """Whether a slice, an array, or whatever else was made of what was lent is still there."""
    # NumPy's arrays, and slices, do not keep a memoryview from being released: they hold what it was made of.
    return _holders(lent) > _HOLDERS_OF_ITS_OWN


def _holders(lent: memoryview) -> int:
    return sys.getrefcount(*gc.get_referents(lent))


_any = lend(memoryview(b"."), 0, 1)
_HOLDERS_OF_ITS_OWN = _holders(_any)
