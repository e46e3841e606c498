"""Reads a ledger: which processes there were, who started them, and what each made (recorder.py writes it).

The records of a process that was killed are all there: each was on disk before the call that it tells of returned.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from typing import Any, Collection, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pytest_shmstate import census, records, whereabouts
from pytest_shmstate.leak import Frame

#: Nanoseconds between the record, which comes right before the call, and the entry.
LATEST_BIRTH = 500_000_000
#: Nanoseconds by which a birth may seem to come before the record of the start: clock ticks are coarse.
LATEST_START = 20_000_000
FOLDER_PREFIX = "pytest-shmstate-"
#: The file that keeps the boot id. After a reboot pids, clocks and inodes of a ledger are those of other things.
BOOT = "boot"
#: The file that keeps the format of the records.
FORMAT_FILE = "format"
#: A ledger's file: the pid and the start time of the process that writes it. Other files in the folder are not read.
FILE = re.compile(r"(\d+)\.(\d+)")
#: How lines begin that are of use only to who asks for the name in them.
OF_NAMES = (b"('made'", b"('seen'", b"('gone'")
#: How those begin that tell whose turn it was: one a test and more, and asked for only where somebody was cut short.
OF_TURNS = (b"('test'", b"('fixture'", b"('rest'")
FOLDER = re.compile(re.escape(FOLDER_PREFIX) + r"(\d+)\.(\d+)\.(\d+)\.")


class Begun(NamedTuple):
    """A process that kept the ledger. ``parent``: the nearest above it that does; ``at``: CLOCK_MONOTONIC, ns.

    ``how``: ``fork`` or ``exec``, whichever was last. A fork has its parent's command line.
    """

    pid: int
    start: int
    parent: int
    at: int
    how: str
    command: str


class Made(NamedTuple):
    """A process made an entry. ``how``: the call that told so; ``inode`` 0: not known.

    ``device``: of /dev/shm as that process saw it. ``born_by``: the entry's birth is no later than that. 0: not known.
    """

    pid: int
    at: int
    how: str
    name: str
    inode: int
    stack: Tuple[Frame, ...]
    thread: int = 0
    device: int = 0
    born_by: int = 0


class Start(NamedTuple):
    """Where a process was started: the stack there, what a ``Process`` was to run, with its name, and when: ns."""

    stack: Tuple[Frame, ...]
    title: str = ""
    at: int = 0


class Ledger:
    """What the folder says, as of the last ``refresh``."""

    def __init__(self, folder: str, without: str = "", outer: Sequence[str] = ()) -> None:
        """``without``: a file that is not read, by a process that hears its own records directly.

        ``outer``: other ledgers that are read as well. A fork server that ran before this one began writes in those.
        """
        self.folder = folder
        self._folders = (folder, *outer)
        self._without = without
        self._offsets: Dict[str, int] = {}
        #: By pid, oldest first: a pid may come back.
        self.begun: Dict[int, List[Begun]] = {}
        #: Those that were running when they were last looked at, by pid.
        self.unended: Dict[int, Begun] = {}
        #: By name, oldest first.
        self.made: Dict[str, List[Made]] = {}
        #: (name, inode) -> pids that mapped it without having made it.
        self.seen: Dict[Tuple[str, int], List[int]] = {}
        #: Name -> when it was last removed, or given up.
        self.gone: Dict[str, int] = {}
        #: Records of other kinds, by their first word: (t, pid, rest).
        self.others: Dict[str, List[Tuple[int, int, Tuple[Any, ...]]]] = {}
        self._turns: List[bytes] = []
        #: How many records were passed over, since another version of the plugin wrote them.
        self.unread = 0

    def refresh(self, only: Optional[Collection[str]] = None, since: int = 0) -> None:
        """Read what was written since the last time, and no more.

        Of what was made, seen or gone, ``only`` these names, and nothing that was before ``since``.
        """
        wanted = None if only is None else [os.fsencode(repr(name)) for name in only]
        for path in self._files():
            for line in self._new_lines(path):
                if line.startswith(OF_NAMES):
                    if since and _told_at(line) < since:
                        continue
                    if wanted is not None and not any(name in line for name in wanted):
                        continue
                self._take(line)

    def _files(self) -> Iterator[str]:
        for folder in self._folders:
            try:
                files = sorted(os.listdir(folder))
            except OSError:
                continue
            yield from (os.path.join(folder, file) for file in files if FILE.fullmatch(file) and file != self._without)

    def add(self, record: Tuple[Any, ...]) -> None:
        """Take a record that was heard in the process itself, before it is read from disk as well."""
        word, at, pid, *rest = record
        if word == "made":
            how, name, inode, frames, *others = rest
            made = Made(pid, at, how, name, inode, tuple(Frame(*frame) for frame in frames), *others)
            known = self.made.setdefault(name, [])
            if made not in known:
                known.append(made)
        elif word == "seen":
            name, inode = rest
            pids = self.seen.setdefault((name, inode), [])
            if pid not in pids:
                pids.append(pid)
        elif word == "gone":
            self.gone[rest[0]] = max(at, self.gone.get(rest[0], 0))
        else:
            self.others.setdefault(word, []).append((at, pid, tuple(rest)))

    def process(self, pid: int, at: Optional[int] = None) -> Optional[Begun]:
        """The process that had this pid (at that time, or last)."""
        found = None
        for begun in self.begun.get(pid, ()):
            if at is None or begun.at <= at or found is None:
                found = begun
        return found

    def start_of(self, pid: int, born: int, command: str) -> Optional[Start]:
        """Finds where a process was started: of a fork it says so itself, of others their parent does.

        ``born``: CLOCK_MONOTONIC in nanoseconds, as exact as clock ticks.
        """
        begun = self.process(pid)
        if begun is not None and begun.how == "fork":
            for at, maker, (frames, title) in reversed(self.others.get("forked", [])):
                if maker == pid and at >= begun.at:
                    # A fork server's own frames say nothing.
                    server = any(frame[0].endswith("forkserver.py") for frame in frames)
                    return self._launched(pid, born) if server else Start(_frames(frames), title, at)
        return self._started(self.lineage(pid)[1:2], born, command)

    def _started(self, parents: Sequence[int], born: int, command: str) -> Optional[Start]:
        starts = [(at, rest) for at, maker, rest in self.others.get("starts", ()) if maker in parents]
        for at, (how, words, frames, title) in reversed(starts):
            if how == "exec" and words and command.startswith(words) and at <= born + LATEST_START:
                return Start(_frames(frames), title, at)
        # Of a launch by multiprocessing the record comes after the start, on a busy machine long after it.
        for at, (how, _, frames, title) in starts if "spawn_main" in command else ():
            if how == "launch" and at >= born:
                return Start(_frames(frames), title, at)
        return None

    def started_at(self, parent: int, born: int, command: str) -> int:
        """Return when ``parent`` started a process that keeps no ledger: CLOCK_MONOTONIC in nanoseconds.

        ``born``: what the kernel says, which is up to a clock tick too early. Its parent's record is exact: that of the
        command, or the last before its birth, as of a shell. Without one, the end of that tick is taken.
        """
        start = self._started([parent], born, command)
        if start is not None and born - start.at < LATEST_BIRTH:
            return start.at
        ends = born + census.TICK
        before = [at for at, maker, _ in self.others.get("starts", ()) if maker == parent and at <= ends]
        return max([at for at in before if born - at < LATEST_BIRTH], default=ends)

    def _launched(self, pid: int, born: int) -> Optional[Start]:
        """Finds the last start by a process above that had the fork server do it."""
        above, told = self.lineage(pid)[2:3], self.others.get("starts", ())
        starts = [
            rest for at, maker, rest in told if maker in above and rest[0] == "launch" and at <= born + LATEST_START
        ]
        return Start(_frames(starts[-1][2]), starts[-1][3]) if starts else None

    def maker(self, name: str, inode: int) -> Optional[Made]:
        """The last record of an entry being made that can be this one."""
        for made in reversed(self.made.get(name, ())):
            is_it = made.inode == inode or (made.inode == 0 and self._may_be(name, made.at))
            # Inodes begin from 1 again with each /dev/shm: a child may see another, and a later one may be mounted.
            if is_it and is_of_device(made) and is_born_in_time(made):
                return made
        return None

    def _may_be(self, name: str, at: int) -> bool:
        """Whether what has the name now can be what was made then: a name that was given up may be another's by now.

        By the entry's birth, where the kernel tells it.
        """
        born = census.born(name)
        return self.gone.get(name, 0) < at and (born is None or abs(born - at) < LATEST_BIRTH)

    def lineage(self, pid: int, at: Optional[int] = None) -> List[int]:
        """``pid`` and what it came from, oldest last. Living processes that keep no ledger are asked of the kernel."""
        chain = [pid]
        while True:
            begun = self.process(chain[-1], at)
            alive = census.process(chain[-1]) if begun is None or at is None else None
            if begun is not None and alive is not None and alive.start != begun.start:
                begun = None  # the pid is another's by now
            parent = begun.parent if begun else alive.parent if alive else 0
            if parent <= 1 or parent in chain:
                return chain
            chain.append(parent)

    def prune(self, most: int = 2000) -> None:
        """Forget what was made and is gone, if there is much of it."""
        if len(self.made) > most:
            self.made = {name: made for name, made in self.made.items() if census.look(name)}
        if len(self.seen) > most:
            self.seen = {(name, inode): pids for (name, inode), pids in self.seen.items() if census.look(name)}
        if len(self.gone) > most:
            self.gone = {name: at for name, at in self.gone.items() if name in self.made}

    def _new_lines(self, path: str) -> Iterator[bytes]:
        offset = self._offsets.get(path, 0)
        try:
            if os.stat(path).st_size <= offset:
                return
            with open(path, "rb") as ledger:
                ledger.seek(offset)
                data = ledger.read()
        except OSError:
            return
        whole, newline, _ = data.rpartition(b"\n")
        self._offsets[path] = offset + len(whole) + len(newline)
        yield from whole.split(b"\n")

    def turns(self) -> Iterator[Tuple[int, int, str, Tuple[Any, ...]]]:
        """Whose turn it was: (t, pid, "test", "fixture" or "rest", what was told of it), in no order."""
        lines, self._turns = self._turns, []
        for line in lines:
            self._parse(line)
        for word in ("test", "fixture", "rest"):
            for at, pid, rest in self.others.get(word, ()):
                yield at, pid, word, rest

    def _take(self, line: bytes) -> None:
        if line.startswith(OF_TURNS):
            self._turns.append(line)
        else:
            self._parse(line)

    def _parse(self, line: bytes) -> None:
        try:
            record = records.parsed(line)
        except records.NotUnderstood:
            self.unread += 1
            return
        if record is None:
            return
        if record[0] != "begin":
            self.add(record)
            return
        _, at, pid, start, parent, how, command = record
        known = self.begun.setdefault(pid, [])
        if known and known[-1].start == start:
            # It forked, and then became another program: born when it was born, but called as it is now.
            first = known.pop()
            at, parent = first.at, first.parent
        known.append(Begun(pid, start, parent, at, how, command))
        self.unended[pid] = known[-1]


def is_of_device(made: Made) -> bool:
    """Whether what has the name now, if anything, is on the device that the record tells of."""
    try:
        return made.device in (0, os.lstat(os.path.join(census.SHM_DIR, made.name)).st_dev)
    except OSError:
        return True


def is_born_in_time(made: Made) -> bool:
    """Whether what has the name now is no younger than what was made; true if that is not known."""
    birth = census.birth_of(made.name) if made.born_by else None
    return birth is None or birth <= made.born_by


def _frames(plain: Sequence[Sequence[Any]]) -> Tuple[Frame, ...]:
    return tuple(Frame(*frame) for frame in plain)


def _told_at(line: bytes) -> int:
    """When a record was written, without reading the rest of it."""
    try:
        return int(line.split(b",", 2)[1])
    except (IndexError, ValueError):  # cut short
        return 0


def new_folder() -> str:
    """A folder for a ledger, named after this process, so that others can tell when its run is over."""
    itself = census.process(os.getpid())
    start = itself.start if itself else 0
    folder = tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}.{start}.{pid_namespace()}.")
    with open(os.path.join(folder, BOOT), "w", encoding="ascii") as file:
        file.write(whereabouts.boot_id() or "")
    with open(os.path.join(folder, FORMAT_FILE), "w", encoding="ascii") as file:
        file.write(str(records.FORMAT))
    return folder


def pid_namespace() -> int:
    """In which namespace this process has its pid; 0 if that is not to be known."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def abandoned(folder: Optional[str] = None) -> List[str]:
    """Ledgers of this user whose runs were killed before they could remove them.

    Those of other pid namespaces are left alone: from here their pids say nothing. So are those of another boot, unless
    they are older than this boot: several machines may share the folder.
    """
    folder = folder or tempfile.gettempdir()
    found = []
    for name in sorted(os.listdir(folder)):
        match = FOLDER.match(name)
        path = os.path.join(folder, name)
        if match is None or not _is_mine(path):
            continue
        if is_of_another_boot(path):
            is_over = _is_older_than_this_boot(path)
        else:
            is_over = int(match[3]) == pid_namespace() and not census.runs(int(match[1]), int(match[2]))
        if is_over:
            found.append(path)
    return found


def is_of_another_boot(folder: str) -> bool:
    """Whether the ledger was begun before this machine was started, or on another machine. False if not known."""
    try:
        with open(os.path.join(folder, BOOT), encoding="ascii") as file:
            then = file.read().strip()
    except (OSError, ValueError):
        return False
    now = whereabouts.boot_id()
    return bool(then and now and then != now)


def is_of_another_format(folder: str) -> bool:
    """Whether another version of the plugin wrote the ledger, in a form that this one does not read."""
    try:
        with open(os.path.join(folder, FORMAT_FILE), encoding="ascii") as file:
            return file.read().strip() != str(records.FORMAT)
    except (OSError, ValueError):  # a run that was killed at its very start has no records either
        return any(FILE.fullmatch(name) for name in os.listdir(folder))


def _is_older_than_this_boot(folder: str) -> bool:
    """Whether nothing was written to the ledger since this machine was started."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        # Not the folder, nor its lock: a sweep that was killed may have made that.
        files = [os.path.join(folder, name) for name in os.listdir(folder) if name == BOOT or FILE.fullmatch(name)]
        return max(os.lstat(file).st_mtime for file in files) < booted
    except OSError:
        return False


def _is_mine(path: str) -> bool:
    try:
        return os.lstat(path).st_uid == os.getuid() and os.path.isdir(path)
    except OSError:
        return False


def remove_folder(folder: str) -> None:
    """Remove a ledger; a process that still runs just stops writing, also one that begins its file in the middle of it."""
    with suppress(OSError):
        os.rename(folder, f"{folder}.gone")  # a sweep finds this name too, if the removal is cut short
    for path in (f"{folder}.gone", folder):
        shutil.rmtree(path, ignore_errors=True)
