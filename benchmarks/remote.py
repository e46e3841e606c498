"""Processes that take part in a measurement: an object each, made and used there, whose methods are called from here."""

from __future__ import annotations

import multiprocessing
import traceback
from contextlib import suppress
from types import TracebackType
from typing import Any, Callable, Optional, Type

#: Seconds to start, and to answer, before something is wrong.
PATIENCE = 300.0

#: Given to a method that goes on until it is told to stop: True, once that is so. A system call: ask now and then.
Stopped = Callable[[], bool]


class RemoteFailed(Exception):
    """A method raised in its process, or the process is gone; its traceback is in the text."""


class Remote:
    """A process that makes ``factory(*args)`` and does what it is told. Use it as a with-block.

    ``call`` waits for a method's result. ``start`` does not: the method gets ``stopped`` as its first argument, and its
    result is what ``finish`` returns. If the object has ``close``, that is called at the end of the block; not after
    ``kill``. Raises RemoteFailed.
    """

    def __init__(self, factory: Callable[..., Any], *args: Any, method: str = "spawn") -> None:
        context = multiprocessing.get_context(method)
        self._line, theirs = context.Pipe()
        self._process: Any = context.Process(target=_serve, args=(theirs, factory, args), daemon=True)  # type: ignore[attr-defined]
        self._process.start()
        theirs.close()
        try:
            self._receive()
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        pid: int = self._process.pid
        return pid

    def call(self, name: str, *args: Any) -> Any:
        """The result of one method."""
        self._send((name, False, args))
        return self._receive()

    def start(self, name: str, *args: Any) -> None:
        """Begin one that goes on until ``finish``."""
        self._send((name, True, args))

    def finish(self) -> Any:
        """Tell it to stop, and return what it returns."""
        self._send(None)
        return self._receive()

    def kill(self) -> None:
        """SIGKILL, wherever it is; waits for the end."""
        self._process.kill()
        self._process.join()
        self._line.close()

    def close(self) -> None:
        """Have it close its object and end. Idempotent."""
        if not self._line.closed:
            with suppress(OSError):
                self._line.send(("", False, ()))
            self._process.join(10)
            self.kill()

    def _send(self, message: Any) -> None:
        try:
            self._line.send(message)
        except OSError as error:
            self._process.join(10)
            raise RemoteFailed(f"process {self.pid} is gone, {self._process.exitcode}") from error

    def _receive(self) -> Any:
        if not self._line.poll(PATIENCE):
            raise RemoteFailed(f"process {self.pid} said nothing for {PATIENCE:g} s")
        try:
            succeeded, told = self._line.recv()
        except (EOFError, OSError):
            self._process.join(10)
            raise RemoteFailed(f"process {self.pid} ended by itself, {self._process.exitcode}") from None
        if not succeeded:
            raise RemoteFailed(told)
        return told

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


def _serve(line: Any, factory: Callable[..., Any], args: Any) -> None:
    try:
        made = factory(*args)
    except Exception:
        line.send((False, traceback.format_exc()))
        return
    line.send((True, None))
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            name, goes_on, given = line.recv()
            if not name:
                break
            try:
                told = getattr(made, name)(*((line.poll,) if goes_on else ()), *given)
                outcome = (True, told)
            except Exception:
                outcome = (False, traceback.format_exc())
            if goes_on and line.recv() is not None:  # not that it was to stop: that this is the end
                break
            line.send(outcome)
    if hasattr(made, "close"):
        made.close()
