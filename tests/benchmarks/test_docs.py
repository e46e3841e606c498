"""The page of the experiments, and the README's table, are what the kept results say; nobody has improved them by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict

import pytest

from benchmarks import bars, results
from benchmarks.report import chapters, markdown

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
AGAIN = "run `python -m benchmarks --render docs/experiments.json --docs docs`"


@pytest.fixture(scope="module")
def kept() -> Dict[str, Any]:
    return results.load(DOCS / "experiments.json")


def test_the_kept_run_was_a_full_one_and_whole(kept: Dict[str, Any]) -> None:
    assert not kept["quick"]
    assert list(kept["parts"]) == list(results.PARTS)
    assert [name for name, part in kept["parts"].items() if "data" not in part or "left" in part] == []
    assert [row for row in chapters.bars(kept) if row.verdict not in (bars.PASSES, bars.MISSED)] == []


def test_the_page_is_what_the_results_say(kept: Dict[str, Any]) -> None:
    page = (DOCS / "experiments.md").read_text(encoding="utf-8")

    assert page == markdown.text(kept, chapters.chapters(kept)), AGAIN


def test_the_readme_shows_what_the_results_say(kept: Dict[str, Any]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert markdown.readme_block(kept) in readme, AGAIN
    assert markdown.with_block(readme, kept) == readme, AGAIN


@pytest.mark.parametrize("page", ["README.md", "docs/experiments.md"])
def test_every_picture_is_there(page: str) -> None:
    path = ROOT / page
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+\.svg)\)", path.read_text(encoding="utf-8"))

    assert pictures
    assert [picture for picture in pictures if not (path.parent / picture).is_file()] == []


@pytest.mark.parametrize(
    "question",
    [
        "latency by 100x",
        "under 100 us",
        "torn reads",
        "read latency change with write frequency",
        "write throughput decrease with concurrent readers",
        "optimal sync interval",
        "balance freshness vs overhead",
        "How much memory per worker",
        "compare to the queue-based approach",
        "memory efficiency",
        "Which format is fastest",
        "smallest output",
        "Tradeoffs",
    ],
)
def test_each_question_of_the_experiments_is_asked_and_answered(question: str) -> None:
    page = (DOCS / "experiments.md").read_text(encoding="utf-8")

    found = re.search(rf"^### .*{re.escape(question)}.*\n\n(.+)$", page, re.MULTILINE | re.IGNORECASE)
    assert found
    assert re.search(r"\d|:", found[1])
