"""``python -m shmstate``: the command."""

from __future__ import annotations

import sys

from shmstate.cli import main

if __name__ == "__main__":  # and not when a spawned worker imports it to find its way
    sys.exit(main())
