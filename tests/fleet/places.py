"""What runs in the hosts of a test: one that does what it is told, and gateways."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Dict, List, Optional, Sequence, Type

import psutil

from tests.core.children import PATIENCE, ROOT
from tests.hosts import Host

PORT = 7447


def endpoint_of(host: Host) -> str:
    """Where its gateway listens."""
    return f"tcp/{host.address}:{PORT}"


class Running:
    """A Python in a host, from which lines are read."""

    def __init__(self, host: Host, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._entered = host.start(
            *("env", f"PYTHONPATH={ROOT}", sys.executable, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=str(ROOT),
            env=environment,
        )

    def line(self) -> Any:
        """The next line that it prints, which is JSON."""
        out = self._entered.stdout
        assert out is not None
        readable, _, _ = select.select([out], [], [], PATIENCE)
        assert readable, "it says nothing"
        said = out.readline()
        assert said, f"it has ended, with {self._entered.wait(PATIENCE)}"
        return json.loads(said)

    def say(self, content: Any) -> None:
        """A line of JSON for it."""
        assert self._entered.stdin is not None
        self._entered.stdin.write(json.dumps(content).encode() + b"\n")
        self._entered.stdin.flush()

    def send(self, number: int) -> None:
        """Send it a signal."""
        entered = psutil.Process(self._entered.pid)
        for process in entered.children():
            process.send_signal(number)
        if number in (signal.SIGCONT, signal.SIGKILL):  # what entered stops with what it has started
            entered.send_signal(signal.SIGCONT)

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, and wait until it has ended."""
        if self._entered.poll() is None:
            self.send(number)
        self._entered.communicate(timeout=PATIENCE)


class Place:
    """One host, for a with-block: what is told to it with ``do``, and gateways that are started there."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._stack = ExitStack()

    def __enter__(self) -> Place:
        self._told = Running(self.host, "-m", "tests.fleet.inside")
        self._stack.callback(self._told.end)
        assert self._told.line() == "ready"
        return self

    def do(self, verb: str, *arguments: Any) -> Any:
        """Have it do something (tests/fleet/inside.py); what came of it."""
        self._told.say([verb, arguments])
        result, error = self._told.line()
        assert error is None, error
        return result

    def gateway(self, *options: str, program: Sequence[str] = ("-m", "shmstate")) -> Running:
        """Start one there, and wait until it answers."""
        named = () if "--host" in options else ("--host", self.host.name)
        listen = ("--listen", endpoint_of(self.host))
        running = Running(self.host, *program, "gateway", "--json", *named, *listen, *options)
        self._stack.callback(running.end)
        assert running.line()["listen"] == [endpoint_of(self.host)]
        return running

    def ask(self, deadline: float = 10.0) -> Dict[str, Any]:
        """Of a place that has opened a query: what came, the answers by (host, state)."""
        replies: Dict[str, Any] = self.do("ask", deadline)
        replies["answers"] = {(answer["host"], answer["state"]): answer for answer in replies["answers"]}
        return replies

    def values(self, deadline: float = 10.0) -> List[Any]:
        """[host, value] of each answer."""
        return [[host, answer["value"]] for (host, _), answer in sorted(self.ask(deadline)["answers"].items())]

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._stack.close()
