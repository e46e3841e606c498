"""``python -m pytest_shmstate sweep``: remove what killed test runs left; for a step of CI that always runs."""

from __future__ import annotations

import argparse
import sys
from typing import List, Optional

from pytest_shmstate import outlets, report
from pytest_shmstate.sweep import sweep


def main(arguments: Optional[List[str]] = None) -> int:
    """Sweep and tell; 0 if there was nothing, 1 if there was."""
    parser = argparse.ArgumentParser("python -m pytest_shmstate", description=__doc__)
    parser.add_argument("command", choices=["sweep"], help="name and remove what runs that were killed left behind")
    parser.add_argument("--report", metavar="FILE", help="write it to FILE, as JSON")
    given = parser.parse_args(arguments)
    leaks = sweep()
    if given.report:
        summary = outlets.Summary("sweep", "command line", leaks=tuple(leaks))
        outlets.write_json(given.report, outlets.as_document(summary))
    if not leaks:
        print("nothing left behind by runs that were killed")  # noqa: T201
        return 0
    print("\n".join([report.headline(leaks), "", *report.blocks(leaks, len(leaks))]))  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
