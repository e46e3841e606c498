"""Every schedule of a small scenario, in one process, under three memory models."""

from __future__ import annotations
