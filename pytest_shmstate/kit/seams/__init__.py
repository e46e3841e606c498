"""Where the engines take hold of a structure: its adapter, and each access, system call and look at the clock."""

from __future__ import annotations
