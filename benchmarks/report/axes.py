"""What stands at the ticks of an axis: 10 us, 1 MB, 2 M. Its label says what the numbers are."""

from __future__ import annotations

import math
import re
from typing import Callable, NamedTuple, Sequence, Tuple

_Units = Sequence[Tuple[str, float]]

#: Values on an axis are in the first unit's terms, or in bytes, or plain numbers.
_TIMES: _Units = (("s", 1e6), ("ms", 1e3), ("us", 1.0), ("ns", 1e-3))
_BYTES: _Units = (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10), ("B", 1.0))
_COUNTS: _Units = (("G", 1e9), ("M", 1e6), ("", 1.0))

_KINDS = (
    (re.compile(r"^(.*?)\b(?:us|microseconds?)\b(.*)$"), _TIMES, "time"),
    (re.compile(r"^(.*?)\b(?:bytes|B)\b(.*)$"), _BYTES, "size"),
)


class Scale(NamedTuple):
    """How an axis is labelled. ``base``: that of its ticks, if it is logarithmic."""

    label: str
    base: int
    units: _Units

    def one(self, value: float) -> str:
        """A value in the unit that suits it."""
        return _told(value, self.units, abs(value))

    def alike(self, values: Sequence[float]) -> Callable[[float], str]:
        """Tells values in one unit: that of the largest, so that they compare."""
        largest = max((abs(value) for value in values), default=0.0)
        return lambda value: _told(value, self.units, largest)

    def step(self, span: float) -> float:
        """From tick to tick of an axis that is not logarithmic: a round number of the unit, about six in all."""
        worth = next((worth for _, worth in self.units if span >= worth), self.units[-1][1])
        rough = span / worth / 6
        size: float = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
        return worth * size * next(nice for nice in (1, 2, 5, 10) if rough <= size * nice * 1.0001)


def scale(label: str) -> Scale:
    """Of a label that names its unit: "latency, us", "microseconds a query", "size (bytes)". The ticks say it then."""
    for pattern, units, noun in _KINDS:
        found = pattern.match(label)
        if found:
            before, after = (_trimmed(part) for part in found.groups())
            words = " ".join(part for part in (before or noun, after) if part)
            return Scale(words, 2 if units is _BYTES else 10, units)
    return Scale(label, 10, _COUNTS)


def _trimmed(part: str) -> str:
    return re.sub(r"[\s,:;(\[]+$|^[\s,:;)\]]+|\s+in$", "", part).strip()


def _told(value: float, units: _Units, size: float) -> str:
    unit, worth = next((one for one in units if size >= one[1]), units[-1])
    number = value / worth
    text = f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
    return f"{text} {unit}".rstrip()
