"""Peers of multiprocessing: a dict that a process of its own keeps, and workers that are asked."""

from __future__ import annotations

import copy
import multiprocessing
import threading
from abc import abstractmethod
from contextlib import suppress
from typing import Any

from benchmarks.peers.peer import Peer


class ManagerDict(Peer):
    title = "multiprocessing Manager"
    how = "a dict of a Manager; each side has a proxy, sets one key, gets one key"
    leaves_out = (
        "Takes many writers, any picklable value and many keys, and reaches other machines. "
        "The state lives in the manager's process, and goes with it."
    )
    cleared_by = "nothing to clear: the manager has it"

    def __init__(self, name: str, size: int, folder: str) -> None:
        super().__init__(name, size, folder)
        self.manager: Any = None
        self.shared: Any = None

    def begin(self) -> None:
        self.manager = multiprocessing.get_context("spawn").Manager()
        self.shared = self.manager.dict()

    def for_writer(self) -> Peer:
        return self._without_manager()

    def for_reader(self) -> Peer:
        return self._without_manager()

    def _without_manager(self) -> Peer:
        other = copy.copy(self)
        other.manager = None
        return other

    def end(self) -> None:
        if self.manager is not None:
            self.manager.shutdown()

    def create(self) -> None:
        pass

    def publish(self, payload: bytes) -> None:
        self.shared["state"] = payload

    def attach(self) -> None:
        pass

    def read(self) -> Any:
        return self.shared["state"]

    def close(self) -> None:
        pass


class _Asked(Peer):
    """A worker whose second thread answers with what the first has last put into a variable."""

    leaves_out = (
        "The state is made only when somebody asks, and asking carries any message. The worker is idle here; one that "
        "computes answers when it gets to it."
    )
    cleared_by = "nothing to clear: it was the worker's"
    answers_itself = True
    handed_at_start = True

    def __init__(self, name: str, size: int, folder: str) -> None:
        super().__init__(name, size, folder)
        self.state = b""

    def create(self) -> None:
        threading.Thread(target=self.serve, daemon=True).start()

    @abstractmethod
    def serve(self) -> None:
        """Answer whoever asks, until nobody can."""

    def publish(self, payload: bytes) -> None:
        self.state = payload

    def attach(self) -> None:
        pass

    def close(self) -> None:
        pass


class Pipe(_Asked):
    title = "Pipe"
    how = "a worker is asked through a Pipe, and answers; publishing sets a variable of its own"
    refusals = ("BrokenPipeError", "EOFError")

    def __init__(self, name: str, size: int, folder: str) -> None:
        super().__init__(name, size, folder)
        self.asking: Any = None
        self.answering: Any = None

    def begin(self) -> None:
        self.asking, self.answering = multiprocessing.get_context("spawn").Pipe()

    # Each side gets its own end alone: only then does one see that the other is gone.
    def for_writer(self) -> Peer:
        other = copy.copy(self)
        other.asking = None
        return other

    def for_reader(self) -> Peer:
        other = copy.copy(self)
        other.answering = None
        return other

    def handed_over(self) -> None:
        self.asking.close()
        self.answering.close()

    def end(self) -> None:
        if self.asking is not None:
            self.handed_over()

    def serve(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self.answering.recv_bytes()
                self.answering.send_bytes(self.state)

    def read(self) -> Any:
        self.asking.send_bytes(b"?")
        return self.asking.recv_bytes()


class Queue(_Asked):
    title = "Queue"
    how = (
        "a worker is asked through one Queue, and answers through another; publishing sets a variable of its own, and who "
        "asks gives up after half a second"
    )
    refusals = ("Empty",)

    def __init__(self, name: str, size: int, folder: str) -> None:
        super().__init__(name, size, folder)
        self.questions: Any = None
        self.answers: Any = None

    def begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.questions, self.answers = context.Queue(), context.Queue()

    def end(self) -> None:
        if self.questions is not None:
            self.questions.close()
            self.answers.close()

    def serve(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self.questions.get()
                self.answers.put(self.state)

    def read(self) -> Any:
        self.questions.put(None)
        return self.answers.get(timeout=0.5)

    def close(self) -> None:
        for one in (self.questions, self.answers):
            one.cancel_join_thread()
            one.close()
