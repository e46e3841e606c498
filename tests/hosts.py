"""Several hosts on one machine: namespaces, each with a network, a /dev/shm, a host name and processes of its own.

``Hosts`` makes them, joined by a bridge that is in a namespace too, so that the machine's own network sees none of it.
A host lives as long as one process, its init: when that dies, and it does when the one that made it dies, the kernel ends
everything in it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from types import TracebackType
from typing import Any, Dict, List, Optional, Sequence, Type

import psutil

NETWORK = "10.77.0"
#: Seconds that the kernel may take for a namespace.
PATIENCE = 30.0
TOOLS = ("setpriv", "unshare", "nsenter", "ip")

_MAKE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--fork", "--kill-child=KILL", "--net")
_BECOME = """
set -e
hostname "$1"
mount -t tmpfs -o size=256m tmpfs /dev/shm
mount -t tmpfs -o size=64m tmpfs /mnt
ip link set lo up
shift
for hidden; do mount -t tmpfs tmpfs "$hidden"; done
echo ready
exec sleep infinity
"""
#: Where a host has its temporary files: /tmp itself may hold this Python.
TEMPORARY = "/mnt"


class Host:
    """One of them. ``address`` is its address on the network that joins them; None on a host that is on none."""

    def __init__(self, name: str, address: Optional[str], init: psutil.Process) -> None:
        self.name = name
        self.address = address
        self.init = init

    def prefix(self) -> List[str]:
        """What to put before a command that is to run there, in the folder where it is started."""
        enter = ["nsenter", "--target", str(self.init.pid), "--mount", "--net", "--uts", "--pid"]
        return [*enter, f"--wd={os.getcwd()}", "env", f"TMPDIR={TEMPORARY}"]

    def start(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command there. Its pid is that of what entered; the command is its child."""
        return subprocess.Popen([*self.prefix(), *command], **options)

    def run(self, *command: str) -> str:
        """Run a command there to its end; what it printed. Raises CalledProcessError."""
        done = subprocess.run(
            [*self.prefix(), *command], stdout=subprocess.PIPE, check=True, timeout=PATIENCE, encoding="utf-8"
        )
        return done.stdout

    def python(self) -> str:
        """This Python, there: a command line for a shell, as ``--tx popen//python=`` takes it."""
        return shlex.join([*self.prefix(), sys.executable])

    def entries(self) -> List[str]:
        """What lies in its /dev/shm, and cannot be seen from here otherwise."""
        return sorted(os.listdir(f"/proc/{self.init.pid}/root/dev/shm"))


class Hosts:
    """Hosts by name, for a with-block; at its end none of their processes is left.

    ``hidden``: folders of this machine that are empty there.
    """

    def __init__(self, *names: str, hidden: Sequence[str] = ()) -> None:
        self._hidden = hidden
        self._started: List[subprocess.Popen[bytes]] = []
        self._hosts: Dict[str, Host] = {}
        self._names = names

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __enter__(self) -> Hosts:
        try:
            switch = self._begin(["sh", "-c", "echo ready; exec sleep infinity"])
            self._in_switch = ["nsenter", "--target", str(switch.pid), "--net", "ip", "link"]
            self._link("add", "bridge", "type", "bridge")
            self._link("set", "bridge", "up")
            for number, name in enumerate(self._names, start=1):
                self._hosts[name] = self._join(name, number)
        except BaseException:
            self.close()
            raise
        return self

    def _begin(self, command: Sequence[str], *namespaces: str) -> psutil.Process:
        made = subprocess.Popen([*_MAKE, *namespaces, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._started.append(made)
        if made.stdout is None or made.stdout.readline() != b"ready\n":
            _, said = made.communicate(timeout=PATIENCE)
            raise OSError(f"no namespace: {said.decode(errors='replace').strip()}")
        return psutil.Process(made.pid).children()[0]

    def _join(self, name: str, number: int) -> Host:
        init = self._begin(
            ["sh", "-c", _BECOME, "sh", name, *self._hidden], "--mount", "--uts", "--pid", "--mount-proc"
        )
        host = Host(name, f"{NETWORK}.{number}", init)
        self._link("add", name, "type", "veth", "peer", "name", "eth0", "netns", str(init.pid))
        self.mend(name)
        self._link("set", name, "up")
        host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        return host

    def _link(self, *words: str) -> None:
        subprocess.run([*self._in_switch, *words], check=True, timeout=PATIENCE, stderr=subprocess.PIPE)

    def cut(self, name: str) -> None:
        """From now on nothing that it sends arrives, nor anything that is sent to it; nobody is told."""
        self._link("set", name, "nomaster")

    def mend(self, name: str) -> None:
        """Join it to the others again."""
        self._link("set", name, "master", "bridge")

    def close(self) -> None:
        """End all that runs in them, and them."""
        for made in reversed(self._started):
            # Its child first: what dies before its child leaves it to somebody who may never wait for it.
            for child in psutil.Process(made.pid).children() if made.poll() is None else ():
                child.kill()
            made.communicate(timeout=PATIENCE)
        self._started.clear()
        self._hosts.clear()

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


def why_not() -> str:
    """Why there can be no hosts here; empty if there can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: iproute2, util-linux)"
    if os.geteuid():
        return "needs root, for namespaces"
    try:
        with Hosts("probe"):
            return ""
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        return f"needs network namespaces: {detail!r}"
