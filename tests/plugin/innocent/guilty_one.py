"""One test that leaks, for the twin of the proof: what is found among the innocent."""

from __future__ import annotations

from multiprocessing.shared_memory import SharedMemory


def test_leaves_a_segment_behind() -> None:
    SharedMemory(create=True, size=4321).close()
