"""A leak check around any block of code, in tests and without pytest."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import Iterator, Tuple

from pytest_shmstate import recorder, report, verdict
from pytest_shmstate.leak import Leak, Owner
from pytest_shmstate.run import Run
from pytest_shmstate.watch import Watch


class LeakError(AssertionError):
    """A block left shared memory behind. ``leaks``: what; it has been removed."""

    def __init__(self, leaks: Tuple[Leak, ...]) -> None:
        super().__init__(report.failure_text(leaks))
        self.leaks = leaks


@contextmanager
def check_leaks(grace: float = 2.0) -> Iterator[None]:
    """Raise LeakError unless all that the block makes is gone at its end, also what the Pythons it starts make.

    Segments, semaphores, files and folders in ``/dev/shm``, System V segments, and processes that are children of this
    one. ``grace``: seconds that what is about to go by itself may take. What leaked is removed. If the block raises,
    that goes on, and what leaked is removed all the same.

    Costs a few milliseconds: a folder for the ledger is made and removed. Blocks may be nested, but not run at the
    same time by several threads: one would answer for what the other makes.
    """
    caller = sys._getframe(2)  # noqa: SLF001 - the frames between are contextlib's and this one
    outer = recorder.kept()
    run = Run.begin()
    try:
        watch = Watch(run.folder, Owner("session", "before the block"), grace, outer)
        try:
            owner = Owner("block", f"in {caller.f_code.co_name}", file=caller.f_code.co_filename, line=caller.f_lineno)
            span = watch.timeline.enter(owner)
            failed = True
            try:
                yield
                failed = False
            finally:
                span.due = span.complete = True
                due = watch.due()
                leaks = tuple(verdict.removed(one, leak) for one, leak in zip(due, verdict.leaks_of(due)))
                if leaks and not failed:
                    raise LeakError(leaks)
        finally:
            watch.close()
    finally:
        run.close()


class LeakChecks:
    """The value of the fixture ``shm_leaks``."""

    check = staticmethod(check_leaks)
