"""Which process made a segment or owns it, and whether that process runs: a pid with its start time and namespace."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress

from shmstate.layout import NEW_PREFIX, SHM_DIR, Identity
from shmstate.oserrors import refusal

#: A draft is locked within microseconds of its birth. What another pid namespace began, and did not lock in so many
#: seconds, is given up.
DRAFT_AGE = 60.0


def draft_of(identity: Identity) -> str:
    """A path for a segment that has no name yet."""
    unique = f"{_pid_namespace()}-{secrets.token_hex(8)}"
    return os.path.join(SHM_DIR, f"{NEW_PREFIX}{identity.owner_pid}.{identity.owner_started}.{unique}")


def maker_is_alive(draft: str) -> bool:
    """Whether the process that began to build the segment file called ``draft`` still runs."""
    try:
        pid, started, unique = draft[len(NEW_PREFIX) :].split(".")
        namespace, dash, _ = unique.partition("-")
        if dash and namespace != _pid_namespace():  # its pid means nothing here
            return time.time() - os.stat(os.path.join(SHM_DIR, draft), follow_symlinks=False).st_ctime < DRAFT_AGE
        return start_time(int(pid)) == int(started)
    except ValueError:
        return False
    except OSError:
        return not os.path.exists("/proc/self")  # without a /proc, better one file too many


def _pid_namespace() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    return "0"


def own_identity() -> Identity:
    """Of a segment that this process makes now."""
    started = 0
    with suppress(OSError):  # no /proc: an identity weaker by its start time
        started = start_time(os.getpid())
    return Identity(time.time_ns(), os.getpid(), started)


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot: with the pid, an identity that is not reused."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def owner_runs(identity: Identity) -> bool:
    """Whether the process that owned a segment without a name runs, and has not given the state up (O8).

    Raises SystemRefused if that cannot be told.
    """
    if not identity.owner_pid:
        return False
    try:
        return start_time(identity.owner_pid) == identity.owner_started
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError as error:
        raise refusal(error, f"whether process {identity.owner_pid}, a state's owner, runs cannot be told") from error
