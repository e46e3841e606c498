"""The track record: each entry's command still shows what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import List

from pytest_shmstate.kit.power import power

ROOT = Path(__file__).parents[2]


def commands() -> List[str]:
    page = (ROOT / "docs/track-record.md").read_text("utf-8")
    return re.findall(r"\| `((?:mutants|pytest) [^`]+)` \|$", page, re.MULTILINE)


def test_mutants_that_bring_faults_back_are_in_the_catalogue() -> None:
    named = [command.split()[1] for command in commands() if command.startswith("mutants")]

    assert len(named) >= 3
    assert set(named) <= set(power.NAMES)


def test_tests_that_are_named_are_there() -> None:
    named = [command.split() for command in commands() if command.startswith("pytest")]

    assert len(named) >= 5
    for _, file, _, part in named:
        assert re.search(rf"^def test_\w*{part}\w*\(", (ROOT / file).read_text("utf-8"), re.MULTILINE), (file, part)
