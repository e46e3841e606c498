"""What C makes, and what lies elsewhere than in /dev/shm.

a c library makes and removes
a system v segment comes and goes
a fixture has a system v segment
a fixture removes the tests system v segment
"""

from __future__ import annotations

import ctypes
import os
from typing import Iterator, List

import pytest

from tests.plugin.innocent.parts import is_there, new_path


def test_a_c_library_makes_and_removes() -> None:
    libc = ctypes.CDLL(None)
    librt = libc if hasattr(libc, "shm_open") else ctypes.CDLL("librt.so.1")
    name = os.path.basename(new_path("c")).encode()
    fd = librt.shm_open(b"/" + name, os.O_CREAT | os.O_RDWR, 0o600)
    assert fd >= 0
    assert is_there(name.decode())
    os.close(fd)
    assert librt.shm_unlink(b"/" + name) == 0


def test_a_system_v_segment_comes_and_goes() -> None:
    libc = ctypes.CDLL(None)
    for _ in range(20):
        shmid = libc.shmget(0, 4096, 0o1600)
        assert shmid >= 0
        assert libc.shmctl(shmid, 0, None) == 0


@pytest.fixture(scope="session")
def system_v_segments() -> Iterator[List[int]]:
    shmids: List[int] = []
    yield shmids
    for shmid in shmids:
        ctypes.CDLL(None).shmctl(shmid, 0, None)


@pytest.fixture(scope="session")
def system_v_segment(system_v_segments: List[int]) -> int:
    system_v_segments.append(ctypes.CDLL(None).shmget(0, 4096, 0o1600))
    return system_v_segments[-1]


def test_a_fixture_has_a_system_v_segment(system_v_segment: int) -> None:
    assert system_v_segment >= 0


def test_a_fixture_removes_the_tests_system_v_segment(system_v_segments: List[int]) -> None:
    system_v_segments.append(ctypes.CDLL(None).shmget(0, 4096, 0o1600))
