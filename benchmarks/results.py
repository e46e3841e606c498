"""What a run keeps: one JSON file, written again after every part, from which all else is rendered.

{"schema": 1, "quick": ..., "began": "2026-11-22T10:00:00Z", "seconds": ..., "machine": {...}, "parts": {NAME: PART}}
PART: {"seconds": ..., "data": {...}}  or  {"seconds": ..., "failed": "Traceback ..."};  "left": [...] if it left things
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, Mapping

Results = Dict[str, Any]

SCHEMA = 1

#: The parts, in the order that they are measured and told in, and what each is about.
PARTS = {
    "numbers": "What a call costs",
    "latency": "1. Query latency",
    "interference": "2. Readers and writers",
    "interval": "3. The interval of syncing",
    "many": "4. Many workers",
    "formats": "5. Formats",
    "peers": "Other ways to share a state",
    "scaling": "Scaling",
    "plugin": "What the leak detector costs a test",
}


class Unreadable(Exception):
    """A file that is no results of ours; the text says which, what it is, and what to do."""


def begun(quick: bool, machine: Mapping[str, Any]) -> Results:
    """Results with no parts yet."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"schema": SCHEMA, "quick": quick, "began": now, "seconds": 0.0, "machine": machine, "parts": {}}


def measured(results: Mapping[str, Any]) -> Dict[str, Dict[str, Any]]:
    """The data of each part that has some: of one that could not measure for want of something there is none."""
    found = {name: part["data"] for name, part in results["parts"].items() if "data" in part}
    return {name: data for name, data in found.items() if not data.get("missing")}


def saved(results: Results) -> str:
    """As text. Raises ValueError or TypeError for what JSON does not have: NaN, bytes."""
    return json.dumps(results, indent=1, allow_nan=False) + "\n"


def save(results: Results, path: Path) -> None:
    """Replace the file, whole: whoever reads it meanwhile, or is left with it, has what was there or what is there now."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        beside.write_text(saved(results), encoding="utf-8")
        os.replace(str(beside), str(path))
    finally:
        if beside.exists():
            beside.unlink()


def load(path: Path) -> Results:
    """What was kept there. Raises Unreadable."""
    again = "give --render a results.json that `python -m benchmarks` wrote"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read, {error.strerror}: {again}") from error
    except ValueError as error:
        raise Unreadable(f"{path}: is no JSON, {error}: {again}") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema is None:
        raise Unreadable(f"{path}: is JSON, and has no schema: {again}")
    if schema != SCHEMA:
        raise Unreadable(
            f"{path}: its schema is {schema!r}, this program reads {SCHEMA}: render it with the shmstate that wrote it"
        )
    missing = sorted({"quick", "began", "seconds", "machine", "parts"} - set(found))
    if missing:
        raise Unreadable(f"{path}: has no {', '.join(missing)}: {again}")
    return dict(found)
