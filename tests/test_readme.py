"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str, text: str) -> List[str]:
    """The code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program from a file, as a newcomer would, children and all."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-W", "error", "program.py"]
    return subprocess.run(command, cwd=str(folder), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("block", blocks("python", README.read_text(encoding="utf-8")), ids=lambda code: code[7:40])
def test_each_program_of_the_readme_runs_and_prints_something_and_nothing_else(block: str, tmp_path: Path) -> None:
    ended = run(block, tmp_path)

    assert ended.stderr == ""
    assert ended.returncode == 0
    assert ended.stdout


def test_there_are_programs_in_the_readme() -> None:
    assert len(blocks("python", README.read_text(encoding="utf-8"))) >= 2


def test_a_program_that_fails_would_be_noticed(tmp_path: Path) -> None:
    ended = run("import shmstate\nshmstate.StateReader('not-there')\n", tmp_path)

    assert ended.returncode == 1
    assert "StateNotFound" in ended.stderr


def test_the_first_screen_has_the_two_commands_that_do_all_the_setting_up() -> None:
    first_screen = README.read_text(encoding="utf-8").splitlines()[:40]

    commands = [line.split("   ")[0].strip() for line in first_screen if line.startswith("python -m pip install tox")]
    assert commands == ["python -m pip install tox && tox -e demo", "python -m pip install tox && tox"]
