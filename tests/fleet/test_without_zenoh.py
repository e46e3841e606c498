"""What there is without the engine: all can be imported, and what needs it says what to install."""

from __future__ import annotations

import sys

from tests.core import children
from tests.core.children import say


def use_without_the_engine(name: str) -> None:
    """With an import of it that fails."""
    sys.modules["zenoh"] = None  # type: ignore[assignment]
    import shmstate.cli
    import shmstate.fleet

    for opened in (lambda: shmstate.fleet.Gateway("h1"), lambda: shmstate.fleet.FleetQuery("a")):
        try:
            opened()
        except shmstate.InvalidOption as error:
            say(error)
    say(shmstate.cli.main(["ls", name]))


def test_without_the_engine_all_can_be_imported_and_the_error_names_the_extra() -> None:
    finished = children.run(use_without_the_engine, "no-state-is-called-so")

    told = "what crosses machines needs eclipse-zenoh, on Python 3.9 or newer: pip install 'shmstate[fleet]'\n"
    assert finished.out.startswith(told * 2)
    assert finished.out.endswith("\n0\n")
