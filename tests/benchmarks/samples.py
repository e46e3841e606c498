"""Results as a run might keep them, and sections of every shape that there is."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from benchmarks.document import Answer, Plot, Section, Series, Table

ODD = "<script>alert(1)</script> & \"quoted\" 'text' *stars* | bar"


def results(**parts: Any) -> Dict[str, Any]:
    """What is kept of a run with these parts."""
    machine = {
        "processor": "Imagined CPU 3000",
        "machine": "x86_64",
        "cores": 2,
        "memory_bytes": 8 << 30,
        "kernel": "6.1.0",
        "libc": "glibc 2.36",
        "python": "3.13.0",
        "implementation": "cpython",
        "clock_us": 0.04,
        "packages": {"shmstate": "0.1.0", "msgpack": "1.2.4", "lmdb": None},
    }
    found = {name: {"seconds": 12.3, "data": {}, **part} for name, part in parts.items()}
    return {
        "schema": 1,
        "quick": False,
        "began": "2026-11-22T10:00:00Z",
        "seconds": 1234.5,
        "machine": machine,
        "parts": found,
    }


_SIZES = [64, 500, 4096, 20_000, 262_144, 1 << 20]
PLOTS = [
    Plot(
        "latency-by-size",
        "Latency of a query, by the size of the state",
        "size, bytes",
        "latency, us",
        [
            Series("shmstate, p50", _SIZES, [1.1, 1.2, 1.6, 3, 20, 90]),
            Series("shmstate, p99", _SIZES, [2, 2.3, 3, 7, 40, 200], [1, 2, 2, 5, 30, 100], [3, 4, 5, 9, 80, 400]),
            Series("a pipe to a busy worker, p99", _SIZES, [9e3, 9e3, 9.5e3, 1e4, 1.2e4, 2e4]),
        ],
        log_x=True,
        log_y=True,
        note="Shared memory is a hundred times as fast, until copying takes over.",
        lines=((100.0, "the mission's bar"), (90.0, "ours")),
    ),
    Plot(
        "rate",
        "Messages a second, by the interval of syncing",
        "interval, us",
        "messages a second",
        [Series("with syncing", [1e3, 1e4, 1e5, 1e6], [91e3, 99e3, 100e3, 100e3], [8e4] * 4, [11e4] * 4)],
        log_x=True,
        lines=((100_500.0, "without"),),
    ),
    Plot(
        "retries",
        "A line over a linear axis",
        "readers",
        "retries a read",
        [Series("", [0, 1, 2, 4], [0, 0, 0.02, 0.05])],
    ),
    Plot(
        "formats",
        "Time to encode and to decode, by format",
        "",
        "microseconds a state",
        [
            Series("encode", ["pickle", "msgpack", "json", "record"], [3.1, 2.2, 9.4, 1.2]),
            Series("decode", ["pickle", "msgpack", "json", "record"], [4.1, 3.2, 8.4, 0.9]),
        ],
    ),
    Plot(
        "peers",
        "A read of 500 B, by library",
        "",
        "p99, us",
        [
            Series(
                "alone",
                [f"multiprocessing.{n} with a long name" for n in "abcdefghij"],
                [float(4**n) for n in range(10)],
            ),
            Series(
                "with a writer that never rests",
                [f"multiprocessing.{n} with a long name" for n in "abcdefgh"],
                [4.0**n + 3 for n in range(8)],
                [4.0**n for n in range(8)],
                [4.0**n * 2 + 8 for n in range(8)],
            ),
        ],
        log_y=True,
        lines=((100.0, "the mission's bar"),),
    ),
    Plot(
        "memory",
        "Memory a worker",
        "number of workers",
        "memory a worker, bytes",
        [
            Series(f"way number {n}", [1, 10, 100, 1000], [20e3 + n * 4e3, 20e3 + n * 3e3, 21e3, 20.5e3 + 9e3 * n])
            for n in range(10)
        ],
        log_x=True,
    ),
]


def every_shape(data: Mapping[str, Any]) -> Section:
    """A section with one of everything; without pictures, unless the data asks for them: each takes a second."""
    return Section(
        "every-shape",
        data.get("title", "One of everything"),
        "A worker publishes with `publish`, and another process reads with `get`.\n\nThat was done in turns.",
        [
            Answer("Is it faster?", f"Yes: {data.get('ratio', 4.2)}x at the median, `get()` against a pipe."),
            Answer("> What of odd text?", ODD),
        ],
        [
            Table(
                "What was reached",
                ("what", "figure", "bar", "verdict"),
                (
                    ("`read_bytes` against `bytes(view)`, 64 B", "2.31x", "<= 2.5x", "passes"),
                    ("the writer's rate with readers", "0.84", "> 0.9", "missed by 0.06"),
                    ("memory a worker", "-", "<= 24 KB", "not measured: one core"),
                    ("another library", "", "", "missing: not installed"),
                ),
                "A note below it, with `code`.",
            ),
            Table(
                "Many columns",
                ["size", *[f"column {n}" for n in range(12)]],
                [[f"{n} KB", *[f"{n * m:.1f} us" for m in range(12)]] for n in (1, 20, 300)],
            ),
        ],
        PLOTS if data.get("pictures") else [],
    )
