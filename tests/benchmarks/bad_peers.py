"""Peers that do wrong on purpose, one thing each. In a module of their own: processes are spawned that import it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from typing import Any, List

from benchmarks.peers.shared import Rename


class NotInstalled(Rename):
    title = "not installed"
    package = "no-such-package"
    module = "no_such_module_at_all"


class NoProgram(Rename):
    title = "no program"
    program = "no-such-program-at-all"


class Broken(Rename):
    """Installed, and does not work."""

    title = "broken"

    def create(self) -> None:
        raise OSError("first line\nthis kernel is too old")


class Tearing(Rename):
    """Half of a state is always the last one's."""

    title = "tearing"
    last = b""

    def publish(self, payload: bytes) -> None:
        half = len(payload) // 2
        super().publish(payload[:half] + (self.last or payload)[half:])
        self.last = payload


class GoingBack(Rename):
    """Every third read gives what the first one gave."""

    title = "going back"

    def attach(self) -> None:
        super().attach()
        self.reads: List[Any] = []

    def read(self) -> Any:
        self.reads.append(super().read())
        return self.reads[0] if len(self.reads) % 3 == 0 else self.reads[-1]


class Forgetful(Rename):
    """A state is worth nothing once its writer is dead; ``announced`` says that it may be so."""

    title = "forgetful"

    def create(self) -> None:
        super().create()
        with open(f"{self.folder}/pid", "w", encoding="ascii") as file:
            file.write(str(os.getpid()))

    def read(self) -> Any:
        with open(f"{self.folder}/pid", encoding="ascii") as file:
            os.kill(int(file.read()), 0)
        return super().read()


class Announced(Forgetful):
    title = "announced"
    refusals = ("ProcessLookupError",)


class Stuck(Forgetful):
    """Waits for a writer that will not come back."""

    title = "stuck"

    def read(self) -> Any:
        try:
            return super().read()
        except ProcessLookupError:
            signal.pause()
            raise


class Littering(Rename):
    """Leaves one of each kind, whoever closes: in /dev/shm, beside it, a System V segment and a process."""

    title = "littering"

    def create(self) -> None:
        super().create()
        ctypes.CDLL(None).shmget(0, 4096, 0o600)
        subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        for path in (f"/dev/shm/x-{self.name}-12345678", f"/dev/shm/sem.{self.name}-abcd_123", f"{self.folder}/log"):
            with open(path, "wb"):
                pass

    def close(self) -> None:
        pass
