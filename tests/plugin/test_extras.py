"""Each extra is enough for what it is named after: the plugin without the kit's libraries, the kit without pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Sequence

import pytest

from tests.plugin.matrix import ROOT

PLUGIN = ("pluggy", "psutil", "pytest")
KIT = ("greenlet", "hypothesis", "psutil")
#: All that either extra installs, or that the plugin works with.
ALL = {*PLUGIN, *KIT, "_pytest", "xdist", "pytest_timeout"}
BLOCKS = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Blocked())
sys.argv[1:] = {arguments!r}
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
ADAPTER = "pytest_shmstate.kit:ShmstateAdapter"
TESTS = """
from multiprocessing.shared_memory import SharedMemory

def test_leaves():
    SharedMemory(create=True, size=6100).close()

def body():
    return 6

def test_uses_fixtures(shm_state, shm_workers, shm_prefix, shm_leaks):
    with shm_leaks.check():
        assert shm_workers.spawn(body).result() == 6
"""


def run_without(missing: Sequence[str], folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module in a Python in which these packages cannot be imported."""
    program = BLOCKS.format(missing=sorted(missing), arguments=list(arguments), module=module)
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=str(folder), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
    )  # fmt: skip


def test_the_plugin_works_with_its_extra_alone(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    missing = ALL - {*PLUGIN, "_pytest"}

    done = run_without(sorted(missing), tmp_path, "pytest", "-p", "pytest_shmstate", "--shmstate-leaks=error")

    assert "2 passed, 1 error" in done.stdout, done.stdout
    assert "test_leaves" in done.stdout
    assert done.returncode == 1


def test_the_kit_works_with_its_extra_alone(tmp_path: Path) -> None:
    missing = sorted(ALL - set(KIT))

    # Among fewer examples there may be none in which a read meets a publish: then the stepper has shown nothing.
    done = run_without(
        missing, tmp_path, "pytest_shmstate.kit", "check", ADAPTER, "--examples", "40", "--seconds", "0.2"
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("library", ["greenlet", "hypothesis"])
def test_the_kit_names_the_extra_that_is_missing(library: str, tmp_path: Path) -> None:
    done = run_without([library], tmp_path, "pytest_shmstate.kit", "check", ADAPTER)

    assert done.stdout == f"the kit needs {library}, which is not installed: pip install 'shmstate[kit]'\n"
    assert done.returncode == 3
