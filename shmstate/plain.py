"""Values and names as what reads them can take: JSON, and a terminal."""

from __future__ import annotations

import base64
import math
import pprint
import sys
from typing import Any


def jsonable(value: Any) -> Any:
    """What JSON has for ``value``: bytes become ``{"base64": ...}``, what it lacks altogether its ``repr``."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        names = [key if isinstance(key, str) else repr(key) for key in value]
        if len(set(names)) < len(names):  # {1: ..., "1": ...}
            return [[jsonable(key), jsonable(item)] for key, item in value.items()]
        return {name: jsonable(item) for name, item in zip(names, value.values())}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return repr(value)


def print_value(value: Any) -> None:
    """Print it, in colours where there is a terminal, and rich."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.pretty import Pretty
        except ImportError:
            pass
        else:
            Console().print(Pretty(value))
            return
    print(pprint.pformat(value, width=120, sort_dicts=False))


def printable(text: str) -> str:
    """``text`` without what would act upon a terminal: anybody can give a file in /dev/shm any name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
