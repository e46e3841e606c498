"""A package, so that children started with `spawn` can import what they run by name."""

from __future__ import annotations
