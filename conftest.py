"""Hypothesis profiles (``HYPOTHESIS_PROFILE=thorough pytest`` looks longer), and signals as tests expect them."""

from __future__ import annotations

import os
import signal
from typing import List

import pytest
from hypothesis import settings

pytest_plugins = ["pytester"]

# Explicit, because Hypothesis has a profile of its own for CI machines, which repeats the same examples every time.
# No deadline: an example that starts a process takes as long as the machine needs.
settings.register_profile("quick", deadline=None, derandomize=False, print_blob=True, max_examples=100)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=2000, stateful_step_count=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# A shell that runs something in the background has it ignore SIGINT, and its children inherit that. Tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """Those first that take minutes, or at the end one core has them and the other nothing."""
    items.sort(key=lambda item: item.get_closest_marker("thorough") is None)
