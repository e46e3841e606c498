"""Endpoints that no other test has, and the fixtures of the core's tests."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Callable, Iterator

import pytest

from tests.core.conftest import makers, name, prefix, start

__all__ = ["makers", "name", "prefix", "start"]


@pytest.fixture
def endpoint() -> Iterator[Callable[[], str]]:
    """Gives places to listen at, which nobody else can have: sockets in a folder of this test's."""
    # Not tmp_path: the name of a socket has 107 bytes at the most.
    folder = Path(tempfile.mkdtemp(prefix="fleet-"))
    numbers = iter(range(1000))

    yield lambda: f"unixsock-stream/{folder}/{next(numbers)}"

    shutil.rmtree(folder)
