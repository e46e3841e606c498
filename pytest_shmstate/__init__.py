"""The pytest plugin of shmstate. This release only holds its place: there is nothing here to load yet."""

from __future__ import annotations
