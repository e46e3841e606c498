"""The parts, one after the other; whatever one of them does, the others are measured."""

from __future__ import annotations

import time
import traceback
from importlib import import_module
from typing import Any, Callable, Dict, Iterable

from benchmarks.harness import Effort
from benchmarks.progress import Show
from benchmarks.remains import Before
from benchmarks.results import Results, saved

#: What a part failed of that somebody stopped.
INTERRUPTED = "interrupted"

Part = Dict[str, Any]


def run(names: Iterable[str], results: Results, keep: Callable[[str, Part], None], show: Show) -> bool:
    """Measure the parts into ``results``, and ``keep`` after each. False: it was interrupted, and ended there."""
    began = time.perf_counter()
    for name in names:
        part: Part = {"seconds": 0.0}
        interrupted = False
        try:
            measure(name, part, Effort(results["quick"]), show)
        except KeyboardInterrupt:
            interrupted = True
            if "data" not in part:
                part["failed"] = INTERRUPTED
        results["parts"][name] = part
        results["seconds"] = round(time.perf_counter() - began, 1)
        keep(name, part)
        if interrupted:
            return False
    return True


def measure(name: str, part: Part, effort: Effort, show: Show) -> None:
    """Fill in what is kept of one part: its data, or its traceback; and what it left, if anything."""
    before, began = Before.now(), time.perf_counter()
    try:
        module = import_module(f"benchmarks.parts.{name}")
        with show(name, module.steps(effort)) as tell:
            data = module.measure(effort, tell)
        saved(data)  # what JSON does not have is a failure of this part, not of the whole file
        part["data"] = data
    except Exception:
        part["failed"] = traceback.format_exc()
    finally:
        part["seconds"] = round(time.perf_counter() - began, 1)
        left = before.left()
        if left:
            part["left"] = left


def trouble(part: Part) -> str:
    """In a line, what went wrong with a part; empty if nothing did."""
    told = []
    if "failed" in part:
        told.append(f"failed: {part['failed'].strip().splitlines()[-1]}")
    if "left" in part:
        told.append(f"left behind: {'; '.join(part['left'])}")
    return "; ".join(told)
