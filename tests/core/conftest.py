"""Names that no other test has, children that no test outlives, and a look afterwards at what is left of them."""

from __future__ import annotations

import gc
import os
import secrets
from typing import Any, Callable, Iterator, List, Set

import pytest

from shmstate.layout import NEW_PREFIX, PREFIX, SHM_DIR
from tests.core.children import Child


def left_in_shared_memory(prefix: str, makers: Set[int]) -> List[str]:
    """Files of states that begin with ``prefix``, and half-made ones of these processes."""
    drafts = tuple(f"{NEW_PREFIX}{pid}." for pid in makers)
    return [file for file in os.listdir(SHM_DIR) if file.startswith((PREFIX + prefix, *drafts))]


@pytest.fixture
def makers() -> Set[int]:
    """Processes that may have begun to make a segment."""
    return {os.getpid()}


@pytest.fixture
def prefix(makers: Set[int]) -> Iterator[str]:
    """How this test's states are called, and nobody else's. None of them may be left."""
    prefix = f"test-{secrets.token_hex(6)}"

    yield prefix

    if left_in_shared_memory(prefix, makers):
        gc.collect()
    left = left_in_shared_memory(prefix, makers)
    for file in left:
        os.unlink(os.path.join(SHM_DIR, file))
    assert left == []


@pytest.fixture
def name(prefix: str) -> str:
    """A name for a state."""
    return prefix + "-state"


@pytest.fixture
def start(prefix: str, makers: Set[int]) -> Iterator[Callable[..., Child]]:
    """Starts a fresh Python with one function to run; it is ended with the test."""
    children: List[Child] = []

    def start(body: Callable[..., None], *args: object, **kwargs: Any) -> Child:
        child = Child(body, *args, **kwargs)
        children.append(child)
        makers.add(child.pid)
        return child

    yield start

    for child in children:
        child.end()
