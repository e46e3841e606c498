"""Two /dev/shm beside each other: a child has one of its own, where other files have the names and inodes of these.

a child holds the same inode of another shm: while this test removes its segment
a child makes the name of a strangers file in another shm
a child removes the name of a strangers file in another shm
a child leaves files in another shm: they go with the namespace
a fixtures segment has the inode of another shm
"""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from typing import Iterator

import pytest

from tests.plugin.innocent import beside
from tests.plugin.innocent.namespaces import twin
from tests.plugin.innocent.parts import SHM, Pool, is_there, new_name


def inode_of(name: str) -> int:
    return os.stat(os.path.join(SHM, name)).st_ino


def test_a_child_holds_the_same_inode_of_another_shm() -> None:
    with closing(Pool()) as pool:
        segment = pool.grow()
        with twin(new_name("other"), inode_of(segment.name)):
            pool.close()


@pytest.mark.parametrize("how", ["file", "segment"])
def test_a_child_makes_the_name_of_a_strangers_file_in_another_shm(how: str) -> None:
    name = beside.ask("make", how=how)["name"]
    with twin(name, inode_of(name)):
        assert is_there(name)


def test_a_child_removes_the_name_of_a_strangers_file_in_another_shm() -> None:
    name = beside.ask("make", how="file")["name"]
    with twin(name, inode_of(name), "remove"):
        assert is_there(name)


def test_a_child_leaves_files_in_another_shm() -> None:
    name = new_name("left")
    with twin(name, 50):
        assert not is_there(name)


@pytest.fixture(scope="module")
def program() -> Iterator[subprocess.Popen[str]]:
    with closing(Pool()) as pool:
        segment = pool.grow()
        with twin(segment.name, inode_of(segment.name)) as program:
            pool.close()
            yield program


@pytest.mark.parametrize("number", range(2))
def test_a_fixtures_segment_has_the_inode_of_another_shm(program: subprocess.Popen[str], number: int) -> None:
    pool = Pool()
    pool.grow()
    assert program.poll() is None
    pool.close()
