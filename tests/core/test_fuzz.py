from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from typing import Any, Dict

import pytest

from tests.core import fuzz
from tests.core.children import ROOT

#: SHMSTATE_FUZZ_CASES=100000 SHMSTATE_FUZZ_SEED=$RANDOM for a long run over other cases.
CASES = int(os.environ.get("SHMSTATE_FUZZ_CASES", "4000"))
SEED = int(os.environ.get("SHMSTATE_FUZZ_SEED", "42"))


def run(prefix: str, seed: int, cases: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.core.fuzz", prefix, str(seed), str(cases)],
        cwd=str(ROOT),
        capture_output=True,
        text=True,
        timeout=60 + cases / 100,
        check=False,
    )


@pytest.mark.timeout(120 + CASES // 50)
def test_random_bytes_are_an_error_of_ours_or_a_published_state(prefix: str) -> None:
    ended = run(prefix, SEED, CASES)

    assert (ended.returncode, ended.stderr) == (0, ""), f"repeat with SHMSTATE_FUZZ_SEED={SEED}"
    outcomes: Dict[str, int] = json.loads(ended.stdout)
    # Otherwise it met nothing worth meeting.
    for met in ("a state", "published", "CorruptSegment", "NotPublished", "Overwritten"):
        assert outcomes.get(met, 0), outcomes


def test_a_state_that_nobody_published_would_be_noticed(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    field = fuzz.Field(prefix, checksum=True, is_alive=True)
    try:
        dice = random.Random(1)
        monkeypatch.setattr(field, "checksum", False)
        monkeypatch.setattr(field.reader, "get", lambda: b"torn")
        fuzz.spoil(field.fd, len(field.image), dice)
        field.judge(field.uses()["get"]())
        monkeypatch.setattr(field, "checksum", True)
        with pytest.raises(AssertionError, match="nobody published"):
            field.judge(field.uses()["get"]())
    finally:
        field.mend()
        field.close()


def test_the_same_seed_spoils_the_same_bytes() -> None:
    written: Any = []
    for _ in range(2):
        fd = os.memfd_create("image")
        os.ftruncate(fd, 40_000)
        dice = random.Random(7)
        for _ in range(50):
            fuzz.spoil(fd, 40_000, dice)
        written.append(os.pread(fd, 40_000, 0))
        os.close(fd)

    assert written[0] == written[1] != bytes(40_000)
