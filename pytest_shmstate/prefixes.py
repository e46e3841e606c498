"""Names for states that nobody else uses: no other test, no other worker of the run, no other run."""

from __future__ import annotations

import re
import secrets

#: Of the label, in the prefix. With it 60 characters go to the prefix, and over 180 are left.
LABEL_WIDTH = 40
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_]+")


def unique_prefix(label: str = "") -> str:
    """A new beginning for names of states, legal for ``StateWriter``, ending in ``-``.

    It is ``label``, shortened and in plain ASCII so that people recognise it in ``/dev/shm``, and 64 random bits, drawn
    anew each time, in forked children too. No such prefix begins another. Nothing is made under it, nor removed.
    """
    plain = _NOT_PLAIN.sub("_", label)[:LABEL_WIDTH].strip("_") or "test"
    return f"{plain}-{secrets.token_hex(8)}-"
