"""A peer that is a server: Redis, started for the occasion, on a socket of this machine."""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Dict, Optional

from benchmarks.peers.peer import Peer

#: Seconds that a server may take to start, or to stop.
PATIENCE = 20.0


class Redis(Peer):
    title = "Redis"
    package = "redis"
    module = "redis"
    program = "redis-server"
    how = "GET and SET of one key through a unix socket, a client with one connection, persistence off"
    leaves_out = (
        "Serves many machines, many writers and many kinds of data, tells of changes, and can persist and replicate. "
        "The state lives in the server, and goes with it if nothing persists it."
    )
    cleared_by = "nothing to clear: the server has it"

    def __init__(self, name: str, size: int, folder: str) -> None:
        super().__init__(name, size, folder)
        self.address = f"{folder}/redis.sock"
        self.server: Optional[subprocess.Popen[bytes]] = None

    @classmethod
    def version(cls) -> str:
        said = subprocess.run(["redis-server", "--version"], stdout=subprocess.PIPE, check=False).stdout.decode()
        server = next((word[2:] for word in said.split() if word.startswith("v=")), "?")
        parser = "with hiredis" if find_spec("hiredis") else "without hiredis"
        return f"{super().version()} {parser}, server {server}"

    def begin(self) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", self.address, "--unixsocketperm", "700"]
        command += ["--save", "", "--appendonly", "no", "--dir", self.folder, "--daemonize", "no"]
        self.server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise OSError(f"redis-server did not start, exit status {self.server.returncode}")
            time.sleep(0.005)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as line, suppress(OSError):  # there is none yet
            line.connect(self.address)
            line.sendall(b"PING\r\n")
            return line.recv(16) == b"+PONG\r\n"
        return False

    def end(self) -> None:
        if self.server is None:
            return
        self.server.terminate()
        try:
            self.server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()

    def create(self) -> None:
        self.handle = self.library().Redis(unix_socket_path=self.address, single_connection_client=True)

    def publish(self, payload: bytes) -> None:
        self.handle.set(self.name, payload)

    def attach(self) -> None:
        self.create()

    def read(self) -> Any:
        return self.handle.get(self.name)

    def __getstate__(self) -> Dict[str, Any]:
        return {**super().__getstate__(), "server": None}
