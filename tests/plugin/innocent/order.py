"""A plugin of this project: tests in random order, by a seed that is printed; and eyes that see less.

INNOCENT_SEED   an even one shuffles modules, and tests in them; an odd one all tests
INNOCENT_EYES   how the plugin under test gets its notices: ``best``, as it finds; ``user``, fanotify as it is for
                others than root; ``inotify``, as in most containers; ``stat``
"""

from __future__ import annotations

import os
import random
from typing import Any, Dict, Iterator, List

import pytest

from pytest_shmstate import notices

SEED, EYES = "INNOCENT_SEED", "INNOCENT_EYES"


def pytest_configure() -> None:
    eyes = os.environ.get(EYES, "best")
    if eyes in ("inotify", "stat"):
        notices.Notices.__init__.__defaults__ = ((eyes,),)
    if eyes == "user":
        seen = notices._fanotify_events

        def as_others_than_root(data: bytes) -> Iterator[notices.Notice]:
            for name, pid in seen(data):
                yield notices.Notice(name, pid if pid == os.getpid() else notices.SOMEBODY_ELSE)

        notices._fanotify_events = as_others_than_root


def pytest_report_header() -> str:
    return f"innocent: {SEED}={os.environ.get(SEED, '')} {EYES}={os.environ.get(EYES, 'best')}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    seed = os.environ.get(SEED)
    if not seed:
        return
    dice = random.Random(int(seed))
    dice.shuffle(items)
    if int(seed) % 2 == 0:
        modules: Dict[Any, int] = {}
        for item in items:
            modules.setdefault(item.path, len(modules))
        items.sort(key=lambda item: modules[item.path])
