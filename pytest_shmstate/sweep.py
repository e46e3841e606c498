"""What runs that were killed left behind: their ledgers outlive them, so the next run can name it and remove it.

Only what is surely theirs is removed: the very inode that a ledger tells of, which nobody has open any more. Processes
that live on are told of, and left alone: somebody may have meant them to.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Iterator, List

from pytest_shmstate import census, outpost, verdict
from pytest_shmstate.aftermath import Aftermath
from pytest_shmstate.attribution import Found
from pytest_shmstate.leak import INTERRUPTED, PROCESS, Leak
from pytest_shmstate.ledger import Ledger, abandoned, remove_folder
from pytest_shmstate.run import Run

NOTE = "left by an earlier run, which was killed"


def sweep() -> List[Leak]:
    """Remove what killed runs of this user left, and their ledgers; what was there, and what became of it.

    Safe beside other runs: those that live are not touched, and of several that sweep each ledger is one's alone.
    """
    leaks: List[Leak] = []
    for folder in abandoned():
        mine = f"{folder}.swept-by-{os.getpid()}"
        try:
            os.rename(folder, mine)
        except OSError:  # another run was faster
            continue
        leaks += _swept(mine)
        remove_folder(mine)
    for mine in outpost.deserted():
        leaks += _swept(mine)
        remove_folder(mine)
    return leaks


def _swept(folder: str) -> Iterator[Leak]:
    told = list(Run(folder, own=False).told())
    ledger = Ledger(folder)
    # Whatever is there now came after the run that is over, for all that is known; System V segments keep a pid alone.
    after = Aftermath(ledger, {}, set(census.sysv(census.sysv_table())), told)
    found = [*after.recorded([]), *after.wait_for_processes(0.0)]
    for one, leak in zip(found, verdict.leaks_of(found)):
        yield replace(leak, fate=_fate(ledger, one, leak), verdict=INTERRUPTED, notes=(*leak.notes, NOTE))


def _fate(ledger: Ledger, found: Found, leak: Leak) -> str:
    if found.kind == PROCESS:
        return "left alone (it runs)"
    if leak.holders:
        return "left in place (still open)"
    if not _is_sure(ledger, found):
        return "left in place (only its name is known: it may be another's by now)"
    return verdict.remove(found)


def _is_sure(ledger: Ledger, found: Found) -> bool:
    """A name alone may be somebody else's by now."""
    made = ledger.maker(found.name, found.mark)
    entry = census.look(found.name)
    return made is not None and made.inode == found.mark and entry is not None and entry.uid == os.getuid()
