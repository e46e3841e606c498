"""Check an sdist and a wheel for what they must hold, install the wheel here, and import it from there."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import List, Set

PACKAGES = ("shmstate", "pytest_shmstate")
IN_SDIST = ("tests/__init__.py", "tox.ini", "conftest.py", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE")
WHERE = """
import pathlib, sys, shmstate, pytest_shmstate
for package in shmstate, pytest_shmstate:
    if pathlib.Path(sys.prefix) not in pathlib.Path(package.__file__).parents:
        sys.exit(f"{package.__file__} is not the installed one")
"""


def main(folder: str) -> None:
    """Stop with a sentence at the first thing amiss."""
    wheel = _only(folder, "*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    _require(shipped, [f"{package}/{file}" for package in PACKAGES for file in ("__init__.py", "py.typed")], wheel)
    strays = {
        file for file in shipped if not file.startswith(tuple(f"{p}/" for p in PACKAGES)) and ".dist-info/" not in file
    }
    if strays:
        sys.exit(f"{wheel.name} would install {sorted(strays)} beside the packages")
    if not any(file.endswith("/LICENSE") for file in shipped):
        sys.exit(f"{wheel.name} has no licence")

    sdist = _only(folder, "*.tar.gz")
    with tarfile.open(sdist) as archive_tar:
        packed = {name.partition("/")[2] for name in archive_tar.getnames()}
    _require(packed, [*IN_SDIST, *(file for file in shipped if ".dist-info/" not in file)], sdist)

    python = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*python, "install", "--quiet", "--force-reinstall", str(wheel)], check=True)
    subprocess.run([*python, "check"], check=True)
    subprocess.run([sys.executable, "-c", WHERE], check=True)
    print(f"{wheel.name}: {len(shipped)} files, {sdist.name}: {len(packed)}, both whole")


def _only(folder: str, pattern: str) -> Path:
    found = sorted(Path(folder).glob(pattern))
    if len(found) != 1:
        sys.exit(f"{folder} should hold one {pattern}: {[path.name for path in found]}")
    return found[0]


def _require(names: Set[str], wanted: List[str], where: Path) -> None:
    missing = sorted(set(wanted) - names)
    if missing:
        sys.exit(f"{where.name} lacks {missing}")


if __name__ == "__main__":
    main(sys.argv[1])
