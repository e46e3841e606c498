"""Leaks reach the hook of other projects, each once."""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import pytest

from tests.plugin.conftest import Judge

CONFTEST = """
    import os, pytest
    def pytest_shmstate_leak(leak, item):
        line = f"{leak.owner.what} {leak.owner.name.rpartition(':')[2]} {item.name if item else None}\\n"
        with open(LOG, "a") as log:
            log.write(line)

    class Broken:
        def pytest_shmstate_leak(self, leak):
            raise ValueError("broken implementation")

    class Exits:
        def pytest_shmstate_leak(self, leak):
            raise SystemExit("no server")

    def pytest_configure(config):
        config.pluginmanager.register(Broken())
        config.pluginmanager.register(Exits())
"""
TESTS = """
    import pytest
    from multiprocessing.shared_memory import SharedMemory
    SharedMemory(create=True, size=10, name=NAME)

    @pytest.fixture(scope="module")
    def wide():
        SharedMemory(create=True, size=10)

    def test_leaks(wide):
        SharedMemory(create=True, size=10)

    def test_cleans_up():
        one = SharedMemory(create=True, size=10)
        one.close()
        one.unlink()

    @pytest.mark.shmstate(allow=["psm_*"], reason="stays")
    def test_allowed():
        SharedMemory(create=True, size=10)
"""
TESTS = TESTS.replace("    SharedMemory(create=True, size=10, name=NAME)\n", "")
WIDE, OWN = "fixture wide None", "test test_leaks test_leaks"


@pytest.mark.parametrize("how", [(), ("-n1",)], ids=["one process", "xdist"])
@pytest.mark.parametrize(("mode", "sent"), [("error", [WIDE, OWN]), ("warn", [WIDE, OWN]), ("off", [])])
def test_each_leak_is_sent_once(judge: Judge, tmp_path: Path, mode: str, sent: object, how: Tuple[str, ...]) -> None:
    log = tmp_path / "log"
    log.touch()

    judged = judge(
        {"conftest.py": f"    LOG = {str(log)!r}\n{CONFTEST}", "test_it.py": TESTS}, f"--shmstate-leaks={mode}", *how
    )

    # Other tests make things meanwhile, which are sent as unattributed.
    ours = [line for line in log.read_text().splitlines() if not line.startswith("unknown came during the run")]
    assert sorted(ours) == sent
    for error in ("ValueError: broken implementation", "SystemExit: no server"):
        assert any(" failed for " in line and error in line for line in judged.output.splitlines()) == bool(ours)
