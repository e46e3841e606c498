"""What runs that were killed left behind: their ledgers outlive them, so the next run can name it and remove it.

Only what is surely theirs is removed: the very file that a ledger tells of, which no process has open any more.
Processes that live on are told of, and left alone: they may be meant to. A ledger is kept until all that it tells of is
gone: those who run on may yet end, and what they have open then has no other record.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from time import monotonic, sleep  # by name: a test may put another clock into the module
from typing import Any, Iterator, List, Optional, Tuple

from pytest_shmstate import census, outpost, verdict
from pytest_shmstate.aftermath import Aftermath
from pytest_shmstate.attribution import Found
from pytest_shmstate.leak import DIRECTORY, INTERRUPTED, PROCESS, Leak, Owner
from pytest_shmstate.ledger import (
    FOLDER_PREFIX,
    Ledger,
    abandoned,
    is_of_another_boot,
    is_of_another_format,
    pid_namespace,
    remove_folder,
)
from pytest_shmstate.outpost import LOCK, Turn
from pytest_shmstate.run import Run

NOTE = "left by an earlier run, which was killed"
#: Seconds to wait for another sweep that is at work on the same ledger, and between two looks.
PATIENCE, PAUSE = 10.0, 0.02


def sweep() -> List[Leak]:
    """Remove what killed runs of this user left; return what was there, and what became of it.

    Ledgers are removed once nothing is left of what they tell. Safe beside other runs: those that live are not touched,
    and sweeps at the same time look at each ledger one after the other.
    """
    leaks: List[Leak] = []
    for folder in abandoned():
        turn = _take_turn(folder)
        if turn is None:  # another sweep removed it, or is still at work
            continue
        with turn:
            found, is_left = _swept(folder)
            leaks += found
            if not is_left:
                remove_folder(folder)
    for mine in outpost.deserted():
        found, is_left = _swept(mine)
        leaks += found
        if is_left:
            _give_up(mine)
        else:
            remove_folder(mine)
    return leaks


def _take_turn(folder: str) -> Optional[Turn]:
    """Lock the ledger; None if it is gone, or another sweep holds it all the time."""
    try:
        fd = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    deadline = monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() < deadline:
                sleep(PAUSE)
                continue
        except OSError:  # this file system has no locks
            pass
        else:
            if os.path.isdir(folder):
                return Turn(fd)
        os.close(fd)
        return None


def _give_up(folder: str) -> None:
    """Rename a ledger so that any later sweep finds it, also while this process runs: no process has pid 0."""
    words = os.path.basename(folder)[len(FOLDER_PREFIX) :].split(".", 3)
    owned_by_none = f"{FOLDER_PREFIX}0.{words[1]}.{pid_namespace()}.{words[0]}-{words[3]}"
    os.rename(folder, os.path.join(os.path.dirname(folder), owned_by_none))


def _swept(folder: str) -> Tuple[List[Leak], bool]:
    """Remove what the ledger tells of; return what was there, and whether any of it is left."""
    if is_of_another_boot(folder):  # nothing in /dev/shm and no process outlives a reboot
        return [], False
    if is_of_another_format(folder):
        return [_unread(folder)], True
    ledger = Ledger(folder)
    # Whatever is there now came after the run that is over, for all that is known; System V segments keep a pid alone.
    after = Aftermath(ledger, {}, set(census.sysv(census.sysv_table())), list(_told(folder)))
    found = [*after.recorded([]), *after.wait_for_processes(0.0)]
    leaks = []
    for one, leak in zip(found, verdict.leaks_of(found)):
        fate = _fate(ledger, one, leak)
        leaks.append(replace(leak, fate=fate, verdict=INTERRUPTED, notes=(*leak.notes, NOTE)))
    leaks += [_unread(folder)] if ledger.unread else []
    return leaks, bool(ledger.unread) or any(one.there() and _is_known(ledger, one) for one in found)


def _told(folder: str) -> Iterator[Tuple[str, str, Any]]:
    """What the workers of the run had found, as far as a sweep asks for it.

    In mode warn things are left until the run ends, and this one did not come to that: "left" does not count.
    """
    for worker, word, content in Run(folder, own=False).told():
        is_entry = isinstance(content, list) and list(map(type, content)) == [str, str, int, int]
        if word == "end" or (word == "allowed" and is_entry):
            yield worker, word, content


def _unread(folder: str) -> Leak:
    """Name a ledger that another version of the plugin wrote, in full or in part."""
    return Leak(
        kind=DIRECTORY,
        name=folder,
        verdict=INTERRUPTED,
        owner=Owner("unknown", "a run with another version of pytest_shmstate"),
        evidence="its records, which this version does not read",
        fate="left in place (what it tells of is not known)",
        notes=(NOTE, "sweep with the version that wrote it, or remove the directory"),
    )


def _fate(ledger: Ledger, found: Found, leak: Leak) -> str:
    if found.kind == PROCESS:
        return "left alone (it runs)"
    if leak.holders:
        return "left in place (still open)"
    if not _is_sure(ledger, found):
        return "left in place (only its name is known: it may be another's by now)"
    return verdict.remove(found)


def _is_sure(ledger: Ledger, found: Found) -> bool:
    """Whether it is the very file that was made: device and inode are the same, and it is no younger."""
    made = ledger.maker(found.name, found.mark)
    entry = census.look(found.name)
    return (
        made is not None
        and entry is not None
        and (made.device, made.inode) == (entry.device, found.mark)
        and entry.uid == os.getuid()
    )


def _is_known(ledger: Ledger, found: Found) -> bool:
    """Whether it is worth a record: a name alone, without a birth, may be another's for ever."""
    return found.kind == PROCESS or _is_sure(ledger, found) or census.birth_of(found.name) is not None
