"""What a leak is: the records that the detector makes and the report prints. Plain data, the same on disk.

kind       what was left: a segment, a semaphore, a file, a directory, a System V segment, a process
verdict    how sure, and how bad
owner      the test, fixture or import that had to clean it up, and how that is known
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, Optional, Tuple, Type

#: Kinds of things that are left behind.
SEGMENT = "segment"
SEMAPHORE = "semaphore"
FILE = "file"
DIRECTORY = "directory"
SYSV = "sysv"
PROCESS = "process"
KINDS = (SEGMENT, SEMAPHORE, FILE, DIRECTORY, SYSV, PROCESS)

#: Nobody has it open: it stays until somebody removes it by name.
ORPHAN = "orphan"
#: Processes still have it open or mapped (or it is a process, and runs).
HELD = "held"
#: Its owner never got to clean up: killed, timed out, or stopped by ``-x``. Named and removed, no failure of its own.
INTERRUPTED = "interrupted"
#: Made by a process outside this run, or by another user. Never blamed, never touched.
FOREIGN = "foreign"
#: It came during the run and stayed, and nobody can be shown to have made it. Never touched.
UNATTRIBUTED = "unattributed"
VERDICTS = (ORPHAN, HELD, INTERRUPTED, FOREIGN, UNATTRIBUTED)


@dataclass(frozen=True)
class Frame:
    """A line that was running when something was made."""

    file: str
    line: int
    function: str


@dataclass(frozen=True)
class Owner:
    """Who had to clean up."""

    #: ``test``, ``fixture``, ``import`` (of a test module), ``session`` (between tests), ``block`` (a with-statement)
    #: or ``unknown``.
    what: str
    #: The test's node id, the fixture's name, the module; for ``unknown`` a short sentence on when it came.
    name: str
    #: Of a fixture: ``function``, ``class``, ``module``, ``package`` or ``session``; otherwise empty.
    scope: str = ""
    #: Where the test or fixture is defined; line 0: unknown.
    file: str = ""
    line: int = 0
    #: Test under which it was made (for a fixture: the first that asked for it). Empty outside tests.
    during: str = ""
    #: Test at whose end it was found (for wider fixtures: the last user). Empty if found at the end of the run.
    found_after: str = ""
    #: ``main``, or the name of the xdist worker: ``gw0``.
    worker: str = "main"
    #: 1, or more when the test was run again (pytest-rerunfailures).
    attempt: int = 1


@dataclass(frozen=True)
class Holder:
    """A process that still has it open."""

    pid: int
    #: Its command line, shortened.
    command: str
    #: ``maps``, ``fd`` or ``maps, fd``; System V: ``attached``.
    how: str


@dataclass(frozen=True)
class Leak:
    """One thing left behind."""

    kind: str
    #: As ``ls /dev/shm`` shows it; ``shmid 12`` for System V; the command line of a process, shortened.
    name: str
    verdict: str
    owner: Owner
    #: How the owner is known, in a few words: "ledger of pid 12", "made by pid 12, says the kernel", ...
    evidence: str
    #: Bytes of address space or length of the file; -1 where that means nothing (processes).
    size: int = -1
    #: Bytes that really take memory; -1 unknown.
    on_disk: int = -1
    #: Who made it; 0 unknown. Of a process: its own pid.
    pid: int = 0
    #: Innermost last, as in a traceback. Empty if nobody saw it made.
    stack: Tuple[Frame, ...] = ()
    #: The line to look at first: the innermost of the user's own code, or the owner's definition.
    where: Optional[Frame] = None
    holders: Tuple[Holder, ...] = ()
    #: ``error`` or ``warn``: what the settings make of it.
    mode: str = "error"
    #: What became of it: "removed", "left in place (...)", "ended (SIGTERM)", "gone by itself", "not ours: left alone".
    fate: str = ""
    #: Whether a failing test report already carries it: then the gate need not fail for it once more.
    reported: bool = False
    #: The owner's test failed anyway: told, but no second failure.
    after_failure: bool = False
    #: Anything else worth a line each.
    notes: Tuple[str, ...] = field(default=())
    #: The host where it was left; empty for the one that the run was started on.
    host: str = ""

    def as_json(self) -> Dict[str, Any]:
        """Plain dicts, lists, strings and numbers. Only a leak of another host has a ``host`` there."""
        plain = asdict(self)
        return plain if self.host else {key: value for key, value in plain.items() if key != "host"}


def leak_from_json(plain: Dict[str, Any]) -> Leak:
    """The inverse of ``as_json``, also after a round through JSON text. What another version added is left out."""
    plain = _known(Leak, plain)
    plain["owner"] = Owner(**_known(Owner, plain["owner"]))
    plain["stack"] = tuple(Frame(**_known(Frame, frame)) for frame in plain["stack"])
    plain["where"] = Frame(**_known(Frame, plain["where"])) if plain["where"] else None
    plain["holders"] = tuple(Holder(**_known(Holder, holder)) for holder in plain["holders"])
    plain["notes"] = tuple(plain["notes"])
    return Leak(**plain)


def _known(kind: Type[Any], plain: Dict[str, Any]) -> Dict[str, Any]:
    return {one.name: plain[one.name] for one in fields(kind) if one.name in plain}


@dataclass(frozen=True)
class Suppression:
    """One line of ``shmstate_ignore``, or one pattern of a marker: what is meant to stay."""

    #: A glob on the name (``psm_*``), or ``process:GLOB`` on a command line, or ``sysv:GLOB`` on a key such as ``0x51``.
    pattern: str
    reason: str
    #: ``built in``, ``ini`` or ``marker of NODEID``.
    source: str
