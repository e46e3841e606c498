"""The shim is harmless for each Python that finds it on its path, also for one that is too old to keep a ledger."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, Tuple

import pytest

from pytest_shmstate import recorder

VERSIONS = ("2.7", "3.6", "3.7", "3.8", "3.13")
#: Prints whether the path shows the shim, and which module was imported in its place.
LOOK = (
    "import os, sys; print([os.path.basename(e) for e in sys.path if os.path.basename(e) in ('shim', 'own')]);"
    "print(getattr(sys.modules.get('sitecustomize'), 'OWN', None))"
)


def python(version: str) -> str:
    """The path of that Python: on PATH, or installed beside this one."""
    beside = sorted(Path(sys.base_prefix).parent.glob(f"{version}.*/bin/python"))
    found = str(beside[-1]) if beside else shutil.which(f"python{version}")
    if found is None:
        pytest.skip(f"Python {version} is not installed here")
    return found


def run(version: str, *path: str, ledger: str) -> Tuple[int, str, str]:
    env: Dict[str, str] = {**os.environ, recorder.LEDGERS: ledger, "PYTHONDONTWRITEBYTECODE": "1"}
    env["PYTHONPATH"] = os.pathsep.join(path)
    done = subprocess.run([python(version), "-c", LOOK], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_a_python_runs_as_it_would_without_the_shim(version: str, tmp_path: Path) -> None:
    alone, shimmed = run(version, ledger=""), run(version, recorder.SHIM, ledger=str(tmp_path))

    assert shimmed == alone
    assert alone[0] == 0


@pytest.mark.parametrize(
    "source",
    ["OWN = 1\n", "import nowhere_at_all\n", "raise ValueError('own')\n", "print('hi')\nimport os.nowhere\n"],
    ids=["fine", "import error", "other error", "import error of a part"],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_projects_own_sitecustomize_does_what_it_did(version: str, source: str, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text(source)

    alone = run(version, str(own), ledger="")
    shimmed = run(version, recorder.SHIM, str(own), ledger=str(tmp_path))

    assert shimmed == alone
    assert ("1" in alone[1]) == (source == "OWN = 1\n")
