"""A peer: some way to hand the latest state of one process to others, with the same verbs as all the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, Dict, List, Optional, Tuple


class Peer(ABC):
    """One state, called ``name``, of ``size`` bytes. Made in the benchmark's process, and pickled into those that use it.

    ``begin`` and ``end`` are the benchmark's: a server, a pipe, what both sides need and neither owns. A writer calls
    ``create`` and ``publish``; a reader ``attach`` and ``read``; both ``close``, which ends as the library's documentation
    says that one should. What ``read`` returns is the reader's own, and does not change any more.
    """

    title = ""
    #: What to install, and what it is imported as; or the program that must be there.
    package: Optional[str] = None
    module: Optional[str] = None
    program: Optional[str] = None
    #: How it is used here, and what a comparison of only this job does not show of it.
    how = ""
    leaves_out = ""
    #: How what a killed writer left is got rid of, by its documentation.
    cleared_by = ""
    #: Why something stays after everybody closed, where that is meant.
    stays = ""
    #: Names of the exceptions that its documentation announces for a read in the wrong moment.
    refusals: Tuple[str, ...] = ()
    #: multiprocessing chooses names for some of what it makes.
    random_names = False
    #: Its processes get what they need when they are started, and only then.
    handed_at_start = False
    #: Publishing sets a variable of the writer's; the work is done when somebody asks.
    answers_itself = False
    #: Another way to use what is compared with the others: it is told, and not ranked with them.
    variant = False

    def __init__(self, name: str, size: int, folder: str) -> None:
        self.name = name
        self.size = size
        self.folder = folder
        self.handle: Any = None

    @classmethod
    def missing(cls) -> str:
        """Why it cannot take part; empty if it can. Does not import it: some change the process that they are imported in."""
        # Here, since the processes of a trial have no use for them, and would wait.
        from importlib.util import find_spec
        from shutil import which

        if cls.program is not None and which(cls.program) is None:
            return f"missing: no program {cls.program}"
        if cls.module is not None and find_spec(cls.module) is None:
            return f"missing: not installed (pip install {cls.package})"
        return ""

    @classmethod
    def version(cls) -> str:
        """Of the library, as it is installed."""
        from benchmarks.machine import version_of

        return (cls.package and version_of(cls.package)) or ""

    @property
    def marks(self) -> List[str]:
        """What names in /dev/shm contain if they are of this state."""
        return [self.name]

    def begin(self) -> None:  # noqa: B027 - most have nothing to do
        """In the benchmark's process, before any other."""

    def for_writer(self) -> Peer:
        """What is pickled for the writer."""
        return self

    def for_reader(self) -> Peer:
        """What is pickled for a reader."""
        return self

    def handed_over(self) -> None:  # noqa: B027 - most have nothing to do
        """In the benchmark's process, once all others have what is theirs."""

    def end(self) -> None:  # noqa: B027 - most have nothing to do
        """In the benchmark's process, after all others."""

    @abstractmethod
    def create(self) -> None:
        """The writer's beginning."""

    @abstractmethod
    def publish(self, payload: bytes) -> None:
        """Make it the latest state."""

    @abstractmethod
    def attach(self) -> None:
        """A reader's beginning."""

    @abstractmethod
    def read(self) -> Any:
        """The latest state: bytes, or what is as good as bytes and need not be copied once more."""

    def close(self) -> None:
        """A side's end."""
        self.handle.close()

    @classmethod
    def library(cls) -> Any:
        """Its module, imported here and now."""
        return import_module(str(cls.module))

    def __getstate__(self) -> Dict[str, Any]:
        return {**vars(self), "handle": None}  # each process opens its own
