"""Mutants, and the table of which engine kills which."""

from __future__ import annotations
