"""Real processes at full speed, which write down what they saw."""

from __future__ import annotations
