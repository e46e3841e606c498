"""One module for each of shmstate's, in this process."""

from __future__ import annotations
