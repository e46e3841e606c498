"""The states that are published: what a worker might keep, by size and by kind."""

from __future__ import annotations

from typing import Any, Dict, List

#: What is published where only the number of bytes matters: as the mission's small state, a larger one, a frame.
SIZES = {"500 B": 500, "20 KB": 20_000, "1 MB": 1 << 20}


def _jobs(count: int) -> List[Dict[str, Any]]:
    return [{"id": n, "name": f"job-{n}", "progress": n / 7} for n in range(count)]


def small() -> Dict[str, Any]:
    """A worker's state of about 500 bytes."""
    return {"worker": "w1", "handled": 123_456, "queue": 17, "load": 0.75, "jobs": _jobs(14), "ok": True}


def large() -> Dict[str, Any]:
    """The same kind of state, of about 24 KB."""
    return {**small(), "jobs": _jobs(640)}


def numeric() -> Dict[str, Any]:
    """Sixty readings and a count: what a control loop keeps. Flat, so that a record can hold it."""
    return {**{f"n{n}": n / 7 for n in range(60)}, "jobs": 7}


def text() -> Dict[str, Any]:
    """Two hundred lines of a log, some 20 KB."""
    return {
        "lines": [
            f"2026-11-22T10:00:{n % 60:02d} worker-1 handled message {n} in {n / 3:.3f} ms, größer" for n in range(200)
        ]
    }


def stamped(version: int, size: int) -> bytes:
    """Bytes of which every eight say ``version``: see ``is_torn``. ``size`` is rounded down to eights."""
    return version.to_bytes(8, "little") * (size // 8)


def is_torn(payload: bytes) -> bool:
    """Whether it is of more than one version."""
    return payload != payload[:8] * (len(payload) // 8)
