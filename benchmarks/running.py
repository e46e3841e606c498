"""The parts, one after the other; whatever one of them does, the others are measured."""

from __future__ import annotations

import gc
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
        try:
            measure(name, part, Effort(results["quick"]), show)
            interrupted = part.get("failed") == INTERRUPTED
        except KeyboardInterrupt:  # while it was looked what is left
            interrupted = True
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
    except KeyboardInterrupt:
        part["failed"] = INTERRUPTED
    except Exception:
        part["failed"] = traceback.format_exc()
    part["seconds"] = round(time.perf_counter() - began, 1)
    gc.collect()  # a queue's semaphores go with the queue
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
