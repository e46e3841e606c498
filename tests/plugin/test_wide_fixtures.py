"""The error of a wider fixture names the fixture; that of a test does not."""

from __future__ import annotations

from typing import Tuple

import pytest

from tests.plugin.conftest import Judge

TESTS = """
    import pytest
    from multiprocessing.shared_memory import SharedMemory

    @pytest.fixture(scope=SCOPE)
    def pool():
        SharedMemory(create=True, size=10)

    class TestIt:
        def test_uses(self, pool):
            pass

        def test_last(self):
            pass
"""
NAMED = "left behind by {} fixture `pool`, not by this test: 1 segment, 10 B"


@pytest.mark.parametrize("how", [(), ("-n1",)], ids=["one process", "xdist"])
@pytest.mark.parametrize("scope", ["function", "class", "module", "package", "session"])
def test_the_headline_names_a_wider_fixture(judge: Judge, scope: str, how: Tuple[str, ...]) -> None:
    judged = judge(TESTS.replace("SCOPE", repr(scope)), "--junitxml=junit.xml", *how, env={"GITHUB_ACTIONS": "1"})

    is_wider = scope != "function"
    assert (NAMED.format(scope) in judged.output) == is_wider
    junit = next(judged.folder.rglob("junit.xml")).read_text()
    assert (f'name="shmstate_leak" value="{NAMED.format(scope)}"' in junit) == is_wider
    title = f"left behind by {scope} fixture `pool`%2C not by one test::"
    assert (title in judged.output) == is_wider
    assert "left behind" in judged.output
