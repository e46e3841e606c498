"""Numbers that users pass: what is none, or is out of range, raises InvalidOption with the option's name."""

from __future__ import annotations

import math
import numbers
from typing import Any, Optional

from shmstate.errors import InvalidOption

#: A year has fewer seconds. No wait of the operating system takes much more.
MOST_SECONDS = 1e9


def check_seconds(option: str, value: Any, *, above: bool = False, most: float = MOST_SECONDS) -> float:
    """Return a number of seconds from 0 (``above``: more than 0) to ``most`` as a float. Raises InvalidOption."""
    seconds = _as_float(value)
    if seconds is None or not (seconds > 0 if above else seconds >= 0) or seconds > most:
        low = "above 0" if above else "0 or more"
        raise InvalidOption(f"{option}={shown(value)}: seconds, {low}, {most:.0f} at most")
    return seconds


def check_timeout(option: str, value: Any) -> Optional[float]:
    """Return a time limit in seconds, None if there is none: for None, inf, and more than ``MOST_SECONDS``.

    Raises InvalidOption.
    """
    if value is None:
        return None
    seconds = _as_float(value)
    if seconds is None or not seconds >= 0:
        raise InvalidOption(f"{option}={shown(value)}: seconds, 0 or more, or None to wait without a limit")
    return None if seconds > MOST_SECONDS else seconds


def check_whole(option: str, value: Any, least: int, most: int = 2**63 - 1) -> int:
    """Return a whole number from ``least`` to ``most``. Raises InvalidOption."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= int(value) <= most:
        raise InvalidOption(f"{option}={shown(value)}: a whole number, {least} to {most}")
    return int(value)


def _as_float(value: Any) -> Optional[float]:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        seconds = float(value)
    except OverflowError:  # an int or a fraction of more digits than a float has
        return math.inf if value > 0 else -math.inf
    return None if math.isnan(seconds) else seconds


def shown(value: Any) -> str:
    """Return ``repr(value)``, or what it is if that is long."""
    # To print a huge integer takes long, and is refused by newer Pythons.
    if isinstance(value, int) and abs(value) >> 128:
        return f"an integer of {value.bit_length()} bits"
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
