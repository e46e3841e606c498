"""The track record: each entry's command still shows what it says."""

from __future__ import annotations

import re
import shlex
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
    named = [shlex.split(command)[1:] for command in commands() if command.startswith("pytest")]

    assert len(named) >= 5
    for words in named:
        files = [word for word in words if word.endswith(".py")]
        assert files, words
        text = "\n".join((ROOT / file).read_text("utf-8") for file in files)
        for part in words[words.index("-k") + 1].split(" or ") if "-k" in words else []:
            # A part of a test's name, or of what it is called with.
            assert re.search(rf'^def test_\w*{part}\w*\(|"[^"\n]*{part}[^"\n]*"', text, re.MULTILINE), (files, part)
