"""Inner runs of pytest, each in a folder of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from tests.plugin import matrix
from tests.plugin.matrix import Judged

Judge = Callable[..., Judged]


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[Judge]:
    """Runs pytest under the plugin over some files (one alone is called test_it.py), and tells what came of it."""
    runs: List[Path] = []

    def judge(source: Any, *options: str, **more: Any) -> Judged:
        sources: Dict[str, str] = source if isinstance(source, dict) else {"test_it.py": source}
        folder = tmp_path / f"run{len(runs)}"
        runs.append(folder)
        return matrix.run(folder, Path(temporary), sources, *options, **more)

    with tempfile.TemporaryDirectory(prefix="mx-") as temporary:
        yield judge
