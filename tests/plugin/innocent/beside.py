"""Talks to the stranger beside the run (tests/plugin/stranger.py), if there is one."""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any, Dict

import pytest

#: Where the stranger listens.
SOCKET = "INNOCENT_STRANGER"


def ask(do: str, **more: str) -> Dict[str, Any]:
    """Have it do something, and wait for it."""
    with _connect() as connection, connection.makefile("rwb") as stream:
        return _ask(stream, do, more)


def receive(name: str) -> int:
    """Have it open a file and send the descriptor."""
    with _connect() as connection, connection.makefile("rwb", buffering=0) as stream:
        _ask(stream, "send", {"name": name})
        _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(4))
        return int.from_bytes(ancillary[0][2][:4], sys.byteorder)


def _connect() -> socket.socket:
    path = os.environ.get(SOCKET)
    if not path:
        pytest.skip("no stranger beside this run")
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def _ask(stream: Any, do: str, more: Dict[str, str]) -> Dict[str, Any]:
    stream.write(json.dumps({"do": do, **more}).encode() + b"\n")
    stream.flush()
    answer = b""
    while not answer.endswith(b"\n"):
        answer += stream.read(1)
    told: Dict[str, Any] = json.loads(answer)
    return told
