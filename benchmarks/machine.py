"""What it was measured on: without it a figure says nothing."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any, Dict, Iterable, Optional

from benchmarks.harness import clock_cost


def described(packages: Iterable[str]) -> Dict[str, Any]:
    """Processor, cores, memory, kernel, Python, and the versions of packages (None: not installed)."""
    return {
        "processor": _processor(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "clock_us": round(clock_cost(), 4),
        "packages": {name: version_of(name) for name in packages},
    }


def version_of(package: str) -> Optional[str]:
    """None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown"
