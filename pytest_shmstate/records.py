"""What the lines of a ledger look like. recorder.py lists what each field means, and writes them."""

from __future__ import annotations

import ast
import os
from typing import Any, Dict, Optional, Tuple

#: It changes when a field is added to a record, goes, or gets another meaning; not when a kind of record is added.
FORMAT = 1
FRAMES = "frames"
#: What stands after the word, the time and the pid. Records of other kinds may have any fields.
FIELDS: Dict[str, Tuple[Any, ...]] = {
    "begin": (int, int, str, str),
    "forked": (FRAMES, str),
    "starts": (str, str, FRAMES, str),
    "made": (str, str, int, FRAMES, int, int, int),
    "seen": (str, int),
    "gone": (str,),
    "worker": (str,),
    "test": (str, str, int, int),
    "fixture": (str, str, str, int, str),
    "rest": (),
}
#: How many of the last fields a record may lack. Of what was made, device and birth are then not known.
OPTIONAL = {"made": 2}


class NotUnderstood(ValueError):
    """A record has other fields than this version of the plugin reads."""


def parsed(line: bytes) -> Optional[Tuple[Any, ...]]:
    """Read one line of a ledger; None if it was cut short, as by a full disk. Raises ``NotUnderstood``."""
    try:
        record = ast.literal_eval(os.fsdecode(line))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(record, tuple) or list(map(type, record[:3])) != [str, int, int]:
        raise NotUnderstood(f"no record of a ledger: {line[:80]!r}")
    word, values = record[0], record[3:]
    fields = FIELDS.get(word)
    if fields is not None:
        is_whole = len(fields) - OPTIONAL.get(word, 0) <= len(values) <= len(fields)
        if not is_whole or not all(map(_fits, values, fields)):
            raise NotUnderstood(f"a record {word!r} with other fields: {line[:80]!r}")
    return record


def _fits(value: Any, field: Any) -> bool:
    if field is FRAMES:
        return isinstance(value, tuple) and all(isinstance(frame, tuple) and len(frame) == 3 for frame in value)
    return isinstance(value, field)
