"""Sizes, times and ratios as people write them: three digits and a unit."""

from __future__ import annotations


def size(nbytes: float) -> str:
    """Bytes for people."""
    if nbytes < 1000:
        return f"{nbytes:.0f} B"
    unit = "KB" if nbytes < 999.5e3 else "MB" if nbytes < 999.5e6 else "GB"
    return f"{nbytes / {'KB': 1e3, 'MB': 1e6, 'GB': 1e9}[unit]:.3g} {unit}"


def duration(microseconds: float) -> str:
    """A time for people."""
    if microseconds < 999.5:
        return f"{microseconds:.3g} us"
    if microseconds < 999_500:
        return f"{microseconds / 1e3:.3g} ms"
    seconds = microseconds / 1e6
    for unit, length in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.3g} s"


def times(ratio: float) -> str:
    """A ratio for people."""
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.1f}x"
