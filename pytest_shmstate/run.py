"""One run's folder: the ledger, and the verdicts of each process that ran tests. And the environment that carries it.

Facts go to disk when they are known: a worker that is killed has told all it knew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import astuple
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from pytest_shmstate import recorder
from pytest_shmstate.known import Use
from pytest_shmstate.leak import Leak, Suppression, leak_from_json
from pytest_shmstate.ledger import Ledger, new_folder, remove_folder

VERDICTS = "verdicts."
PYTHONPATH = "PYTHONPATH"
#: For a Python to start and end, in seconds; far more than it takes.
PATIENCE = 60.0


class Run:
    """The folder and the environment, from ``open`` to ``close``."""

    def __init__(self, folder: str, own: bool, alone: bool = False) -> None:
        """``own``: this process made the folder, and removes it. ``alone``: no other ledger is kept beside it."""
        self.folder = folder
        self._own = own
        self._pid = os.getpid()
        self._alone = alone
        self._before: Dict[str, Optional[str]] = {}
        self._kept_before: Tuple[str, ...] = ()

    @classmethod
    def begin(cls) -> Run:
        """Make a folder, and have this process and all Pythons that it starts keep a ledger there."""
        return cls(new_folder(), own=True).open()

    @classmethod
    def join(cls, folder: str) -> Run:
        """Take part in a run that another process began."""
        return cls(folder, own=False).open()

    @classmethod
    def join_elsewhere(cls, folder: str) -> Run:
        """The same on another host than the run's: ledgers that the environment names are not of this one."""
        return cls(folder, own=False, alone=True).open()

    def open(self) -> Run:
        """Keep the ledger from now on."""
        self._before = {name: os.environ.get(name) for name in (recorder.LEDGERS, recorder.PARENT, PYTHONPATH)}
        self._kept_before = recorder.kept()
        outer = [folder for folder in _split(os.environ.get(recorder.LEDGERS)) if folder != self.folder]
        ledgers = [self.folder] if self._alone else [self.folder, *outer]
        recorder.keep(tuple(ledgers))
        path = [entry for entry in _entries(os.environ.get(PYTHONPATH)) if entry != recorder.SHIM]
        os.environ[recorder.LEDGERS] = os.pathsep.join(ledgers)
        os.environ[recorder.PARENT] = str(os.getpid())
        os.environ[PYTHONPATH] = os.pathsep.join([recorder.SHIM, *path])
        return self

    def close(self, keep_folder: bool = False) -> None:
        """Put the environment back, stop recording, and remove the folder if this process made it, and no fork."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        recorder.keep(self._kept_before)
        if self._own and os.getpid() == self._pid and not keep_folder:
            remove_folder(self.folder)

    def reaches_children(self) -> bool:
        """Whether a Python that is started here keeps the ledger. Starts one to see."""
        quiet = subprocess.DEVNULL
        try:
            subprocess.run(
                [sys.executable, "-c", ""], timeout=PATIENCE, check=False, stdin=quiet, stdout=quiet, stderr=quiet
            )
        except (OSError, subprocess.SubprocessError):
            return False
        ledger = Ledger(self.folder)
        ledger.refresh()
        return any(begun[-1].parent == os.getpid() for begun in ledger.begun.values())

    # Facts of what was found.

    def tell(self, worker: str, word: str, content: Any) -> None:
        """Append a fact to what this worker has found."""
        path = os.path.join(self.folder, VERDICTS + worker)
        line = json.dumps([word, content]).encode() + b"\n"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the controller is gone, and has taken the folder along
            return
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

    def told(self) -> Iterator[Tuple[str, str, Any]]:
        """What all have found: (worker, word, content)."""
        names = sorted(os.listdir(self.folder)) if os.path.isdir(self.folder) else []
        for name in names:
            if name.startswith(VERDICTS):
                with open(os.path.join(self.folder, name), encoding="utf-8", errors="replace") as lines:
                    for line in lines:
                        fact = _fact(line)
                        if fact is not None:
                            yield (name[len(VERDICTS) :], *fact)

    def tell_leaks(self, worker: str, leaks: Iterable[Leak]) -> None:
        """Append leaks."""
        for leak in leaks:
            self.tell(worker, "leak", leak.as_json())


def _fact(line: str) -> Optional[Tuple[str, Any]]:
    """Read a line of what was found; None if it was cut short, or is something else."""
    try:
        word, content = json.loads(line) if line.endswith("\n") else (None, None)
    except (ValueError, TypeError):
        return None
    return (word, content) if isinstance(word, str) else None


def _split(path: Optional[str]) -> List[str]:
    return [entry for entry in (path or "").split(os.pathsep) if entry]


def _entries(path: Optional[str]) -> List[str]:
    """Split a PYTHONPATH. An empty entry is the current directory; an empty PYTHONPATH is as good as none."""
    return path.split(os.pathsep) if path else []


def uses_as_json(uses: Iterable[Use]) -> List[Any]:
    """Suppressions used, as plain lists."""
    return [[*astuple(suppression), count, size] for suppression, count, size in uses]


def uses_from_json(plain: Iterable[Any]) -> List[Use]:
    """The inverse."""
    return [(Suppression(*words[:3]), words[3], words[4]) for words in plain]


__all__ = ["Run", "leak_from_json", "uses_as_json", "uses_from_json"]
