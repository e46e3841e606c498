"""Real processes side by side; every test here carries the marker `concurrent`."""

from __future__ import annotations
