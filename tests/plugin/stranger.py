"""A process that has nothing to do with a test run beside it, and notices whether it is touched.

    python stranger.py SOCKET

From its start to its end it makes and removes segments, semaphores, files, folders and System V segments of its own,
keeps some of each for the whole time, and has a child. It looks at each before it removes it: is it still the same, is
what was written there still in it? At SOCKET it does what tests ask for (``innocent/beside.py``): a request a
connection, one line of JSON, and one for the answer. At the end of its input it removes all, and prints what it saw:

    {"rounds": 1200, "made": 7000, "names": [...], "wrong": ["file x: gone", ...]}
"""

from __future__ import annotations

import _multiprocessing  # type: ignore[import-not-found]
import _posixshmem  # type: ignore[import-not-found]
import ctypes
import json
import os
import random
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Optional

SHM = "/dev/shm"
CONTENT = b"a stranger's, not to be touched"
#: Seconds between two rounds; longest life of what it makes, in rounds; rounds between things that stay.
PAUSE, LONGEST_LIFE, ROUNDS_TO_STAY = 0.01, 30, 40
MOST_THAT_STAY = 40
IPC_CREAT, IPC_RMID = 0o1000, 0
SEMAPHORE_SIZE = 32
#: Who may write there says which pid comes next.
LAST_PID = "/proc/sys/kernel/ns_last_pid"

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p


class Thing:
    """Something of its own, in /dev/shm."""

    def __init__(self, how: str, name: str) -> None:
        self.how = how
        self.name = name
        self.path = os.path.join(SHM, name)
        MAKERS[how](self)
        self.inode = os.lstat(self.path).st_ino
        self.content = self._read()

    def _read(self) -> bytes:
        path = os.path.join(self.path, "content") if self.how == "folder" else self.path
        with open(path, "rb") as file:
            return file.read(SEMAPHORE_SIZE)

    def wrong(self) -> Optional[str]:
        """What somebody else did to it, if anything."""
        try:
            if os.lstat(self.path).st_ino != self.inode:
                return f"{self.how} {self.name}: replaced"
            if self._read() != self.content:
                return f"{self.how} {self.name}: changed"
        except FileNotFoundError:
            return f"{self.how} {self.name}: gone"
        return None

    def remove(self) -> None:
        try:
            shutil.rmtree(self.path) if self.how == "folder" else os.unlink(self.path)
        except FileNotFoundError:
            pass


class SysV:
    """A System V segment of its own."""

    def __init__(self) -> None:
        self.name = f"key 0x{secrets.randbits(30) + 1:08x}"
        self.shmid = libc.shmget(int(self.name[4:], 16), 4096, IPC_CREAT | 0o600)
        self.address = libc.shmat(self.shmid, None, 0)
        ctypes.memmove(self.address, CONTENT, len(CONTENT))

    def wrong(self) -> Optional[str]:
        if libc.shmget(int(self.name[4:], 16), 0, 0) != self.shmid:
            return f"System V segment, {self.name}: gone"
        if ctypes.string_at(self.address, len(CONTENT)) != CONTENT:
            return f"System V segment, {self.name}: changed"
        return None

    def remove(self) -> None:
        libc.shmdt(ctypes.c_void_p(self.address))
        libc.shmctl(self.shmid, IPC_RMID, None)


class Child:
    """A process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        self.name = f"process {self.process.pid}"

    def wrong(self) -> Optional[str]:
        return f"{self.name}: ended, {self.process.returncode}" if self.process.poll() is not None else None

    def remove(self) -> None:
        self.process.kill()
        self.process.wait()


def _make_segment(thing: Thing) -> None:
    fd = _posixshmem.shm_open("/" + thing.name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    os.ftruncate(fd, 4096)
    os.pwrite(fd, CONTENT, 0)
    os.close(fd)


def _make_semaphore(thing: Thing) -> None:
    _multiprocessing.SemLock(1, 1, 1, "/" + thing.name[len("sem.") :], False)


def _make_file(thing: Thing) -> None:
    with open(thing.path, "xb") as file:
        file.write(CONTENT)


def _make_renamed(thing: Thing) -> None:
    beside = thing.path + ".part"
    with open(beside, "xb") as file:
        file.write(CONTENT)
    os.rename(beside, thing.path)


def _make_folder(thing: Thing) -> None:
    os.mkdir(thing.path)
    with open(os.path.join(thing.path, "content"), "xb") as file:
        file.write(CONTENT)


MAKERS: Dict[str, Callable[[Thing], None]] = {
    "segment": _make_segment,
    "semaphore": _make_semaphore,
    "file": _make_file,
    "renamed": _make_renamed,
    "folder": _make_folder,
}


def new_name(how: str) -> str:
    """One like those that Python and others make up. With whose pid? In another container, numbers mean others."""
    pid = random.choice([entry for entry in os.listdir("/proc") if entry.isdigit()])
    tail = secrets.token_hex(4)
    if how == "semaphore":
        return random.choice([f"sem.mp-{tail}", f"sem.loky-{pid}-{tail}", f"sem.stranger-{tail}"])
    return random.choice([f"psm_{tail}", f"tmp{tail}", f"torch_{pid}_{tail}", f"pym-{pid}-{tail}", f"stranger-{tail}"])


class Namesake:
    """A process of its own that has a pid of somebody's that has ended, and makes a file."""

    def __init__(self, pid: int, name: str) -> None:
        self.name = name
        self.pid = 0
        self._path = os.path.join(SHM, name)
        made, self._make_known = os.pipe()
        while self.pid != pid:
            if self.pid:
                os.waitpid(self.pid, 0)
            with open(LAST_PID, "w", encoding="ascii") as last:
                last.write(str(pid - 1))
            self.pid = os.fork()
            if not self.pid:
                self._live(pid)
        os.close(self._make_known)
        os.read(made, 1)  # or nothing, if it has ended
        os.close(made)

    def _live(self, pid: int) -> None:
        try:
            if os.getpid() == pid:
                with open(self._path, "xb"):
                    os.write(self._make_known, b"1")
                    signal.pause()
        finally:
            os._exit(0)

    def wrong(self) -> Optional[str]:
        # Not yet asked how it ended, which would make its pid free again.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return f"process {self.pid}: ended"
        return None if os.path.exists(self._path) else f"file {self.name}: gone"

    def remove(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        if os.path.exists(self._path):
            os.unlink(self._path)


class Stranger:
    """The whole of it."""

    def __init__(self) -> None:
        self.rounds = 0
        self.names: List[str] = []
        self.wrong: List[str] = []
        self.kept: List[Any] = [self.make(how) for how in MAKERS for _ in range(2)]
        self.kept += [SysV(), Child()]
        self.by_name: Dict[str, Any] = {}
        self._passing: Dict[Any, int] = {}
        #: Objects that hold what tests asked it to hold.
        self._held: List[Any] = []

    def make(self, how: str, name: Optional[str] = None) -> Thing:
        thing = Thing(how, name or new_name(how))
        self.names.append(thing.name)
        return thing

    def one_round(self) -> None:
        """Make some, remove some."""
        self.rounds += 1
        for how in random.sample(sorted(MAKERS), 2):
            self._passing[self.make(how)] = self.rounds + random.randrange(LONGEST_LIFE)
        if self.rounds % 5 == 0:
            self._passing[SysV()] = self.rounds + random.randrange(LONGEST_LIFE)
        if self.rounds % ROUNDS_TO_STAY == 0 and len(self.kept) < MOST_THAT_STAY:
            self.kept.append(self.make(random.choice(sorted(MAKERS))))
        for thing in [thing for thing, last in self._passing.items() if last <= self.rounds]:
            del self._passing[thing]
            self.end(thing)
        for thing in self.kept:
            self.look_at(thing)

    def look_at(self, thing: Any) -> None:
        wrong = thing.wrong()
        if wrong is not None and wrong not in self.wrong:
            self.wrong.append(wrong)

    def end(self, thing: Any) -> None:
        self.look_at(thing)
        thing.remove()

    def answer(self, asked: Dict[str, str]) -> Dict[str, Any]:
        """Do what a test asks for."""
        if asked["do"] == "make":
            thing = self.make(asked["how"], asked.get("name"))
            self.by_name[thing.name] = thing
            self.kept.append(thing)
            return {"name": thing.name, "inode": thing.inode}
        if asked["do"] == "be":
            self.names.append(asked["name"])
            self.kept.append(Namesake(int(asked["pid"]), asked["name"]))
        if asked["do"] == "remove":
            thing = self.by_name.pop(asked["name"])
            self.kept.remove(thing)
            self.end(thing)
        if asked["do"] == "unlink":
            os.unlink(os.path.join(SHM, asked["name"]))
        if asked["do"] == "hold":
            self._held.append(open(os.path.join(SHM, asked["name"]), "rb"))  # noqa: SIM115 - held to the end
        return {"content": CONTENT.decode()}

    def serve(self, listener: socket.socket) -> None:
        """Until the end of the input."""
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [], PAUSE)
            if sys.stdin in ready:
                return
            if listener in ready:
                connection, _ = listener.accept()
                with connection, connection.makefile("rwb") as stream:
                    asked = json.loads(stream.readline())
                    stream.write(json.dumps(self.answer(asked)).encode() + b"\n")
                    if asked["do"] == "send":
                        stream.flush()
                        self._send(connection, asked["name"])
            else:
                self.one_round()

    def _send(self, connection: socket.socket, name: str) -> None:
        fd = os.open(os.path.join(SHM, name), os.O_RDWR)
        connection.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))])
        os.close(fd)

    def close(self) -> Dict[str, Any]:
        """Look at all, remove all."""
        for thing in [*self._passing, *self.kept]:
            self.end(thing)
        return {"rounds": self.rounds, "made": len(self.names), "names": self.names, "wrong": self.wrong}


def main(path: str) -> None:
    stranger = Stranger()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(16)
        began = time.monotonic()
        print(json.dumps({"pid": os.getpid()}), flush=True)
        try:
            stranger.serve(listener)
        finally:
            found = {**stranger.close(), "seconds": time.monotonic() - began}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
