"""What fixtures of the innocent have, and have it made by tests."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import threading
import weakref
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Dict, Iterator, Optional

from tests.plugin.innocent import bodies
from tests.plugin.innocent.parts import PYTHON, SPAWN, Pool, new_path


class Replacing:
    """Has one segment; a bigger one takes its place."""

    def __init__(self) -> None:
        self.segment = SharedMemory(create=True, size=8)

    def replace(self) -> None:
        old = self.segment
        self.segment = SharedMemory(create=True, size=old.size + 8)
        old.close()
        old.unlink()


class Lazily:
    """Starts a manager when it is first asked for one."""

    def __init__(self) -> None:
        self._manager: Any = None

    def get(self) -> Any:
        if self._manager is None:
            self._manager = SPAWN.Manager()
        return self._manager

    def close(self) -> None:
        if self._manager is not None:
            self._manager.shutdown()


class Server:
    """A program that is started with the first request, and keeps what it made until it ends."""

    def __init__(self) -> None:
        self._process: Optional[subprocess.Popen[str]] = None

    def ask(self) -> str:
        if self._process is None:
            self._process = subprocess.Popen(
                [*PYTHON, bodies.SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("more\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate("\n")


class Service(threading.Thread):
    """A thread that makes segments when asked, and keeps them where nobody but itself sees them."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.requests: queue.Queue[Any] = queue.Queue()
        self.start()

    def run(self) -> None:
        pool = Pool()
        while True:
            answers = self.requests.get()
            if answers is None:
                break
            answers.put(pool.grow().name)
            del answers
        pool.close()

    def ask(self) -> str:
        answers: queue.Queue[str] = queue.Queue()
        self.requests.put(answers)
        return answers.get()

    def stop(self) -> None:
        self.requests.put(None)
        self.join()


class Rolling(threading.Thread):
    """A thread that has a new segment every few milliseconds, before it lets go of the last."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.turns = 0
        self._segment = SharedMemory(create=True, size=8)
        self._end = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._end.wait(0.01):
            old, self._segment = self._segment, SharedMemory(create=True, size=8)
            old.close()
            old.unlink()
            self.turns += 1

    def stop(self) -> None:
        self._end.set()
        self.join()
        self._segment.close()
        self._segment.unlink()


def allocate() -> Iterator[str]:
    pool = Pool()
    try:
        while True:
            yield pool.grow().name
    finally:
        pool.close()


class Finalized:
    """Knows nothing of its files but that they go when it does."""

    def add(self) -> str:
        path = new_path("finalized")
        with open(path, "wb"):
            pass
        weakref.finalize(self, os.unlink, path)
        return path


class Cache:
    """Files below a folder that it makes when there is a first one."""

    def __init__(self) -> None:
        self.files: Dict[str, str] = {}

    def put(self, key: str) -> str:
        if not self.files:
            folder = new_path("cache")
            os.mkdir(folder)
        else:
            folder = os.path.dirname(next(iter(self.files.values())))
        self.files[key] = os.path.join(folder, f"{key}.bin")
        with open(self.files[key], "wb") as file:
            file.write(b"cached")
        return folder

    def close(self) -> None:
        for file in self.files.values():
            shutil.rmtree(os.path.dirname(file))
            break
