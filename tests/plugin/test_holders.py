"""A process holds an entry if device and inode are the entry's: each tmpfs counts its inodes from the start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

from tests.core.children import ROOT

#: Opens or maps the file with that inode of the /dev/shm that it sees; makes files until one has it.
HOLDER = """
import ctypes, mmap, os, sys
inode, how, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
paths = [os.path.join(folder, name) for name in os.listdir(folder)]
for number in range(1000):
    matches = [path for path in paths if os.stat(path).st_ino == inode]
    if matches:
        break
    paths = [os.path.join(folder, "other-%d" % number)]
    with open(paths[0], "wb") as file:
        file.write(bytes(4096))
fd = os.open(matches[0], os.O_RDWR)
if how == "maps":
    # mmap.mmap() keeps a descriptor, too.
    map_ = ctypes.CDLL(None).mmap
    map_.argtypes, map_.restype = [ctypes.c_void_p, ctypes.c_size_t, *3 * [ctypes.c_int], ctypes.c_long], ctypes.c_void_p
    assert map_(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0) != ctypes.c_void_p(-1).value
    os.close(fd)
print("holds", flush=True)
sys.stdin.read()
"""
#: Makes a segment, or has a run make one that is killed, starts the holder, and tells what is said of the segment.
SCENE = """
import json, os, subprocess, sys, tempfile
from pytest_shmstate import census, sweep

what, around, holder, how, folder = sys.argv[1:]
tempfile.tempdir = os.environ["TMPDIR"]
if what == "sweep":
    from tests.plugin.test_sweep import killed_run
    name, _ = killed_run(tempfile.tempdir)
else:
    name = "held"
    with open("/dev/shm/held", "wb") as file:
        file.write(bytes(4096))
entry = census.look(name)
words = [*json.loads(around), sys.executable, "-c", holder, str(entry.inode), how, folder]
process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
assert process.stdout.readline() == "holds\\n"
fates = [leak.fate for leak in sweep.sweep()] if what == "sweep" else []
held = census.holders([entry], census.everybody())[name]
process.communicate()
print(json.dumps({"fates": fates, "held": [one.how for one in held], "is there": os.path.exists("/dev/shm/" + name)}))
"""
OWN_SHM = ["sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
OTHER_SHM = ["unshare", "-m", *OWN_SHM]
SHM_ELSEWHERE = [
    *["unshare", "-m", "sh", "-c"],
    'mount --bind /dev/shm "$0" && mount -t tmpfs tmpfs /dev/shm && exec "$@"',
]


def scene(tmp_path: Path, what: str, around: Any, how: str, folder: str = "/dev/shm") -> Dict[str, Any]:
    """What is found in a mount namespace of its own, where /dev/shm is new."""
    may = subprocess.run(["unshare", "-m", *OWN_SHM, "true"], stderr=subprocess.PIPE, text=True)
    if may.returncode != 0:
        pytest.skip(f"no mount namespace with a /dev/shm of its own can be made here: {may.stderr.strip()}")
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    # The outer run's ledger is about another /dev/shm.
    environment.pop("PYTEST_SHMSTATE_LEDGER", None)
    command = ["unshare", "-m", *OWN_SHM, sys.executable, "-c", SCENE, what, json.dumps(around), HOLDER, how, folder]
    told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: Dict[str, Any] = json.loads(told.stdout)
    return found


@pytest.mark.parametrize("how", ["fd", "maps"])
def test_a_process_with_another_shm_holds_nothing_of_this_one(tmp_path: Path, how: str) -> None:
    assert scene(tmp_path, "holders", OTHER_SHM, how)["held"] == []


@pytest.mark.parametrize("how", ["fd", "maps"])
def test_a_process_with_this_shm_holds_it(tmp_path: Path, how: str) -> None:
    assert scene(tmp_path, "holders", [], how)["held"] == [how]


@pytest.mark.parametrize("how", ["fd", "maps"])
def test_a_process_that_sees_this_shm_in_another_place_holds_it(tmp_path: Path, how: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    found = scene(tmp_path, "holders", [*SHM_ELSEWHERE, str(elsewhere)], how, str(elsewhere))

    assert found["held"] == [how]


def test_a_sweep_removes_what_only_seems_to_be_open_in_a_process_with_another_shm(tmp_path: Path) -> None:
    found = scene(tmp_path, "sweep", OTHER_SHM, "fd")

    assert (found["fates"], found["is there"]) == (["removed"], False)


def test_a_sweep_leaves_what_is_open(tmp_path: Path) -> None:
    found = scene(tmp_path, "sweep", [], "fd")

    assert (found["fates"], found["is there"]) == (["left in place (still open)"], True)
