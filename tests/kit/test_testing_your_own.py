"""What docs/testing-your-own.md shows is what happens: its files are run with the commands that it gives.

In what it shows ``...`` stands for anything, and numbers that differ from run to run for others.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, List, NamedTuple

import pytest

from pytest_shmstate.kit.checkup import check
from pytest_shmstate.kit.oracle.verdict import UNKNOWN, VIOLATED

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "testing-your-own.md"
#: Lines that count or measure what no two runs have alike, or name a process.
VOLATILE = re.compile(
    r"^----|^met:|^VIOLATED \(|^OK: |^seed |^of: | examples; met:|^ *\d+ |^\d+ >|No such file or directory"
)


class Shown(NamedTuple):
    """A command and what it prints."""

    command: str
    output: str


def blocks(language: str) -> List[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def files() -> Dict[str, str]:
    """The programs, by the name that their first line gives them."""
    return {block.partition("\n")[0][2:]: block for block in blocks("python")}


def shown() -> List[List[Shown]]:
    """The commands of each block, which belong together."""
    return [
        [Shown(*part.partition("\n")[::2]) for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
        for block in blocks("console")
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in files().items():
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def run(command: str, folder: Path) -> str:
    """Its standard output. On the other Python's resource tracker has its say."""
    program, *arguments = shlex.split(command)
    assert program == "python"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=str(folder), env=environment, capture_output=True, text=True, timeout=100
    )
    assert ended.returncode in (0, 1, 2), ended.stderr
    return ended.stdout


def steady(text: str) -> List[str]:
    """The lines, without what differs each time."""
    lines = [re.sub(r"\d+(\.\d+)?( +|\b)", "N ", line) if VOLATILE.search(line) else line for line in text.splitlines()]
    return [re.sub(r" +", " ", line).strip() for line in lines]


def matches(expected: str, printed: str) -> bool:
    """Whether that was printed; ``...`` is anything, lines too if it stands alone."""
    pattern = "\n".join(re.escape(line) for line in steady(expected.strip()))
    pattern = re.sub(r"^\\\.\\\.\\\.$", r"(?:.*\\n)*?.*", pattern, flags=re.MULTILINE)
    return re.fullmatch(pattern.replace(r"\.\.\.", ".*"), "\n".join(steady(printed.strip()))) is not None


@pytest.mark.concurrent
@pytest.mark.parametrize("commands", shown(), ids=lambda commands: " ".join(commands[0].command.split()[2:5]))
def test_each_command_prints_what_the_page_says(commands: List[Shown], folder: Path) -> None:
    for command, expected in commands:
        printed = run(command, folder)

        assert matches(expected, printed), f"$ {command}\n{printed}"


@pytest.mark.thorough
@pytest.mark.concurrent
def test_the_test_that_it_recommends_passes(folder: Path) -> None:
    assert "1 passed" in run("python -m pytest -q -p no:cacheprovider test_ring.py", folder)


@pytest.mark.concurrent
def test_the_test_of_what_was_found_fails_as_long_as_it_is_not_mended(folder: Path) -> None:
    printed = run("python -m pytest -q -p no:cacheprovider test_found.py", folder)

    assert "1 failed" in printed
    assert "a read returned a torn state" in printed


def test_the_page_has_what_is_looked_for() -> None:
    assert set(files()) == {"two_buffers.py", "ring.py", "with_struct.py", "test_ring.py", "test_found.py"}
    assert sum(map(len, shown())) >= 9


def test_links_lead_somewhere() -> None:
    text = PAGE.read_text("utf-8")
    headings = [
        re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^## (.*)$", text, re.MULTILINE)
    ]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        assert (PAGE.parent / path).exists(), target
        assert not anchor or anchor in headings, target


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a\n...\nb", "a\n1\n2\nb", True),
        ("a\n...\nb", "a\n1\n2\nc", False),
        ("replay: 'x:...')", "replay: 'x:abc')", True),
        ("seed 1", "seed 2", True),
        ("store 1", "store 2", False),
        ("---- stress: OK, 1.5 s", "---- stress: OK, 12.0 s", True),
        ("---- stress: OK, 1.5 s", "---- stress: UNKNOWN, 1.5 s", False),
        ("a", "a\nb", False),
    ],
)
def test_what_differs_each_time_is_passed_over_and_nothing_else(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) == same


# ---- libraries of others, where they are installed


@pytest.mark.parametrize(
    ("name", "module", "outcome"),
    [("SharedDict", "shared_memory_dict", VIOLATED), ("EasyGlobal", "EasyGlobals", UNKNOWN)],
)
def test_the_explorer_says_of_others_what_the_page_says(
    name: str, module: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed: it is no dependency, see benchmarks/third_party.py")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # as the page has it

    report = check(getattr(import_module("third_party"), name)(), engines=["explorer"])

    assert report.outcome == outcome, report
    if outcome == VIOLATED:
        (told,) = (block for block in blocks("text") if "explorer" in block)
        assert matches(told.partition("\n")[2], f"{report}")
