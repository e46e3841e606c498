"""Tests that leak a segment here, while a child has the name and inode in a /dev/shm of its own."""

from __future__ import annotations

import os
from typing import List

import pytest

from tests.plugin.innocent.innocent_forking import MAIN
from tests.plugin.innocent.innocent_namespaces import inode_of
from tests.plugin.innocent.namespaces import twin
from tests.plugin.innocent.parts import Pool


@pytest.mark.parametrize("words", [[], ["remove"]], ids=["holds", "removes"])
def test_leaves_what_a_child_seems_to_have(words: List[str]) -> None:
    if os.getpid() != MAIN:
        return  # what a fork leaves is of the test that forked
    segment = Pool().grow(4322)
    segment.close()
    with twin(segment.name, inode_of(segment.name), *words):
        pass
