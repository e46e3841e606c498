"""Real processes that stop before every shared access and go on when they are told."""

from __future__ import annotations
