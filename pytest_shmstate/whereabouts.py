"""Where a process is: on which kernel, with which /dev/shm, among which processes. Told by facts, never by names.

Two hosts may have one name, and one machine may hold many: containers. Of two processes it can be said whether they

    share memory        one kernel, one /dev/shm: each sees what the other makes there
    are in one place    and see each other's processes, and are one user's: one can look after what both leave
    are at home         and one of them can write into the other's ledger

This file is also sent, as it stands, to a Python that is about to run tests, and answers from there: it needs nothing
but the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any, Dict, List, Optional

Facts = Dict[str, Any]
SHM_DIR = "/dev/shm"
PIDS = "/proc/self/ns/pid"
BOOT = "/proc/sys/kernel/random/boot_id"
#: What two processes must have in common to be in one place.
OF_A_PLACE = ("boot", "shm", "pids", "user")
#: How execnet calls a module that it runs on the other side.
SENT = "__channelexec__"


def facts(ledger: str) -> Facts:
    """All of it, as plain data. ``ledger``: the controller's folder, which may be nowhere to be seen from here."""
    return {
        "name": os.uname().nodename,
        "boot": boot_id(),
        "shm": _identity(SHM_DIR),
        "pids": _identity(PIDS),
        "user": os.getuid(),
        # Another user may see the folder, and not write there.
        "ledger": _identity(ledger) if os.access(ledger, os.W_OK | os.X_OK) else None,
    }


def boot_id() -> Optional[str]:
    """Return the kernel's name for the time since it was started; containers have their host's."""
    try:
        with open(BOOT, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return None


def _identity(path: str) -> Optional[List[int]]:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_dev, found.st_ino]


def share_memory(one: Facts, other: Facts) -> bool:
    """Whether they see the same /dev/shm. Where there is none, there is nothing to share."""
    return one["shm"] is not None and (one["boot"], one["shm"]) == (other["boot"], other["shm"])


def in_one_place(one: Facts, other: Facts) -> bool:
    """Whether one can look after what both leave."""
    return all(one[fact] == other[fact] for fact in OF_A_PLACE)


def at_home(controller: Facts, worker: Facts) -> bool:
    """Whether the worker can take part in the controller's run as its child would."""
    return (
        in_one_place(controller, worker) and worker["ledger"] is not None and controller["ledger"] == worker["ledger"]
    )


def place(found: Facts) -> str:
    """A short name of the place, the same for all who are there; fit for a file's name."""
    told = json.dumps([found[fact] for fact in OF_A_PLACE])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


if __name__ == SENT:
    _channel: Any = globals()["channel"]
    _channel.send(json.dumps(facts(_channel.receive())))
