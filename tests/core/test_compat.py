from __future__ import annotations

import os
import platform
import subprocess
import sys
from multiprocessing import resource_tracker, shared_memory
from typing import Callable, List

import pytest

from shmstate import (
    QueryService,
    StateReader,
    StateWriter,
    UnsupportedPlatform,
    WorkerPool,
    compat,
    list_states,
    ownership,
    reclaim,
)
from shmstate.memory import path_of
from tests.core import children
from tests.core.children import Child, run

Start = Callable[..., Child]


def test_all_that_shmstate_does_neither_starts_nor_tells_the_resource_tracker(name: str) -> None:
    done = run(children.use_without_a_tracker, name)

    assert done == (0, "refused\ntoo large\nNone None\n", "")


def test_the_tracker_that_others_have_started_is_told_nothing(name: str) -> None:
    assert run(children.use_beside_a_tracker, name) == (0, "[]\n", "")


def test_a_creator_that_is_killed_says_nothing_and_keeps_its_segment(start: Start, name: str) -> None:
    child = start(children.own, name)
    child.line()

    child.kill()

    assert child.finish() == (-9, "", "")
    assert ownership.remove_if_dead(path_of(name), name)


def test_shared_memory_is_of_the_standard_librarys_class(name: str) -> None:
    made = compat.create_shared_memory(f"shmstate-new.{os.getpid()}.{name}", 4096)
    try:
        assert isinstance(made, shared_memory.SharedMemory)
        assert os.path.getsize(f"/dev/shm/{made.name}") == 4096
    finally:
        made.close()
        made.unlink()


def test_the_standard_librarys_own_class_still_tells_the_tracker(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    told = []
    monkeypatch.setattr(resource_tracker, "register", lambda *what: told.append(what))
    monkeypatch.setattr(resource_tracker, "unregister", lambda *what: told.append(what))
    if hasattr(shared_memory, "resource_tracker"):
        monkeypatch.setattr(shared_memory, "resource_tracker", resource_tracker)

    with StateWriter(name):
        assert told == []
    theirs = shared_memory.SharedMemory(name, create=True, size=1)
    theirs.close()
    theirs.unlink()

    assert [kind for _, kind in told] == ["shared_memory", "shared_memory"]


def test_a_creation_that_fails_says_nothing_to_the_tracker(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    told = []
    monkeypatch.setattr(resource_tracker, "register", lambda *what: told.append(what))
    monkeypatch.setattr(resource_tracker, "unregister", lambda *what: told.append(what))
    draft = f"shmstate-new.{os.getpid()}.{name}"

    made = compat.create_shared_memory(draft, 4096)
    try:
        with pytest.raises(FileExistsError):
            compat.create_shared_memory(draft, 4096)
        with pytest.raises(OSError, match=r"File too large|Invalid argument|Cannot allocate memory"):
            compat.create_shared_memory(draft + ".large", 2**63 - 1)
    finally:
        made.close()
        made.unlink()

    assert told == []


@pytest.mark.parametrize("size", [1, 4096, 1 << 30])
def test_a_map_keeps_a_descriptor_before_python_3_13_and_none_after(tmp_path: object, size: int) -> None:
    with open(f"{tmp_path}/file", "w+b") as file:
        file.truncate(size)
        before = children.descriptors_before()

        with compat.map_shared(file.fileno(), size, writable=False) as mapped:
            kept = children.open_descriptors() - before
            assert len(mapped) == size

    assert kept == (0 if sys.version_info >= (3, 13) else 1)


def test_a_map_not_asked_to_be_writable_is_not(tmp_path: object) -> None:
    with open(f"{tmp_path}/file", "w+b") as file:
        file.truncate(4096)

        with compat.map_shared(file.fileno(), 4096, writable=False) as mapped, pytest.raises(TypeError):
            mapped[0:1] = b"x"


USES: List[Callable[[], object]] = [
    lambda: StateWriter("x"),
    lambda: StateReader("x"),
    list_states,
    reclaim,
    lambda: WorkerPool("x", {"w": dict}),  # type: ignore[dict-item]
    lambda: QueryService("x").query_all(),
]


@pytest.mark.parametrize("use", USES, ids=["writer", "reader", "list_states", "reclaim", "pool", "query"])
@pytest.mark.parametrize(
    ("where", "what", "value"),
    [(sys, "platform", "darwin"), (sys, "platform", "win32"), (sys, "maxsize", 2**31 - 1)],
    ids=["macOS", "Windows", "32 bits"],
)
def test_another_platform_is_refused(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[], object], where: object, what: str, value: object
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(where, what, value)

        with pytest.raises(
            UnsupportedPlatform, match=f"needs 64-bit Linux; this is {sys.platform} on {platform.machine()}"
        ):
            use()


@pytest.mark.parametrize("use", USES, ids=["writer", "reader", "list_states", "reclaim", "pool", "query"])
def test_a_machine_without_shared_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[], object], tmp_path: object
) -> None:
    monkeypatch.setattr(compat, "SHM_DIR", f"{tmp_path}/none")

    with pytest.raises(UnsupportedPlatform, match=f"{tmp_path}/none is missing"):
        use()


def test_this_platform_is_supported() -> None:
    compat.require_platform()


WITHOUT = """
import asyncio, concurrent.futures.thread, logging, mmap, multiprocessing.connection, multiprocessing.resource_tracker, os, random, secrets, sys, tempfile, types
sys.modules["multiprocessing.shared_memory"] = types.ModuleType("multiprocessing.shared_memory")
class SharedMemory:
    def __init__(self, name=None, create=False, size=0):
        raise AssertionError("used")
    def unlink(self):
        raise AssertionError("used")
sys.modules["multiprocessing.shared_memory"].SharedMemory = SharedMemory
multiprocessing.shared_memory = sys.modules["multiprocessing.shared_memory"]
for module in ("fcntl", "_posixshmem", "resource", "termios", "pwd", "grp"):
    sys.modules[module] = None
for holder, names in (
    (os, ("register_at_fork", "posix_fallocate", "sched_yield", "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "geteuid",
          "pread", "pwrite", "statvfs", "getuid")),
    (mmap, ("PROT_READ", "PROT_WRITE", "MAP_SHARED")),
):
    for name in names:
        delattr(holder, name)
sys.platform = sys.argv[1]
import shmstate
for use in (
    lambda: shmstate.StateWriter("x"),
    lambda: shmstate.StateWriter("x", shared=True),
    lambda: shmstate.StateReader("x"),
    shmstate.list_states,
    shmstate.reclaim,
    lambda: shmstate.QueryService("x").query_all(),
):
    try:
        use()
    except shmstate.UnsupportedPlatform as error:
        assert "64-bit Linux" in str(error)
    else:
        raise SystemExit("no error")
print("refused")
"""


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_elsewhere_the_import_succeeds_and_the_first_use_is_refused(system: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, system], stdout=-1, stderr=-1, text=True, check=False, timeout=60
    )

    assert (done.stdout, done.returncode) == ("refused\n", 0), done.stderr
