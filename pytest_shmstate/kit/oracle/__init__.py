"""Histories of publishes and reads, and the verdicts on them."""

from __future__ import annotations
