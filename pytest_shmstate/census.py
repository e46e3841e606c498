"""What is there: entries of /dev/shm, System V segments, processes, and who holds what. Looks; changes nothing."""

from __future__ import annotations

import ctypes
import os
import stat
import struct

# By name: a test may put another clock into the module.
from time import CLOCK_BOOTTIME, CLOCK_REALTIME, clock_gettime_ns, monotonic, monotonic_ns, sleep
from typing import Collection, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

import psutil

from pytest_shmstate.leak import DIRECTORY, FILE, SEGMENT, SEMAPHORE, Holder

SHM_DIR = "/dev/shm"
SYSV_TABLE = "/proc/sysvipc/shm"
SHM_INFO = 14
#: Of the mode in that table: the segment is marked for removal, and goes with its last detachment.
SHM_DEST = 0o1000
#: States of processes that are through: zombies, and the dead.
OVER = ("Z", "X")
#: How names begin that Python's SharedMemory makes up. Of any other entry its maker has to be known: see attribution.
OF_SHARED_MEMORY = ("psm_", "wnsm_")
#: ``stat`` counts blocks of this size.
BLOCK = 512
COMMAND_WIDTH = 120
#: Of statx(2).
AT_FDCWD, AT_SYMLINK_NOFOLLOW = -100, 0x100
STATX_BTIME, STATX_SIZE, STATX_BTIME_OFFSET = 0x800, 256, 80
#: Nanoseconds: how coarse the kernel tells when a process was started.
TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
#: Seconds in which a process that was just started becomes what it is to be; it takes far less.
EXEC_PATIENCE = 0.2


class Entry(NamedTuple):
    """One entry of /dev/shm. ``inode`` tells it from another that had the name before.

    Other file systems have the same inodes: only ``device`` and ``inode`` together identify a file.
    """

    name: str
    inode: int
    kind: str
    size: int
    on_disk: int
    uid: int
    device: int
    is_regular: bool = False


class SysV(NamedTuple):
    """One System V segment; ``creator`` is a pid of our pid namespace, or 0."""

    shmid: int
    key: int
    size: int
    resident: int
    creator: int
    attached: int
    uid: int
    marked: bool


class Process(NamedTuple):
    """A running process. ``start`` (clock ticks since boot) tells it from another that had the pid before."""

    pid: int
    start: int
    parent: int
    state: str


def born(name: str) -> Optional[int]:
    """When an entry was made: CLOCK_MONOTONIC in nanoseconds. None where the kernel does not keep it, or it is gone."""
    birth = birth_of(name)
    # The smallest of three: time passes between the looks at the two clocks.
    return None if birth is None else birth + min(-clock_gettime_ns(CLOCK_REALTIME) + monotonic_ns() for _ in range(3))


def birth_of(name: str) -> Optional[int]:
    """Return when an entry was made, as its file system keeps it: nanoseconds since 1970. None: see ``born``."""
    found = ctypes.create_string_buffer(STATX_SIZE)
    path = os.fsencode(os.path.join(SHM_DIR, name))
    statx = getattr(_libc, "statx", None)
    if statx is None or statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BTIME, found) != 0:
        return None
    (mask,) = struct.unpack_from("=I", found, 0)
    seconds, nanoseconds = struct.unpack_from("=qI", found, STATX_BTIME_OFFSET)
    if not mask & STATX_BTIME:
        return None
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def look(name: str) -> Optional[Entry]:
    """What is there under this name, if anything."""
    path = os.path.join(SHM_DIR, name)
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if stat.S_ISDIR(found.st_mode):
        size, on_disk = _tree(path)
        return Entry(name, found.st_ino, DIRECTORY, size, on_disk, found.st_uid, found.st_dev)
    kind = SEMAPHORE if name.startswith("sem.") else FILE
    is_regular = stat.S_ISREG(found.st_mode)
    if is_regular and name.startswith(OF_SHARED_MEMORY):
        kind = SEGMENT
    on_disk = found.st_blocks * BLOCK
    return Entry(name, found.st_ino, kind, found.st_size, on_disk, found.st_uid, found.st_dev, is_regular)


def _tree(path: str) -> Tuple[int, int]:
    """Bytes of all files below a folder, and what they take."""
    size = on_disk = 0
    for folder, _, files in os.walk(path):
        for file in files:
            try:
                found = os.lstat(os.path.join(folder, file))
            except OSError:
                continue
            size += found.st_size
            on_disk += found.st_blocks * BLOCK
    return size, on_disk


def listing() -> Dict[str, int]:
    """Name -> inode of all that is in /dev/shm; empty if that is missing."""
    try:
        with os.scandir(SHM_DIR) as entries:
            return {entry.name: entry.inode() for entry in entries}
    except OSError:
        return {}


class _ShmInfo(ctypes.Structure):
    """What shmctl(SHM_INFO) fills in: see shmctl(2)."""

    _fields_ = (
        ("used_ids", ctypes.c_int),
        ("shm_tot", ctypes.c_ulong),
        ("shm_rss", ctypes.c_ulong),
        ("shm_swp", ctypes.c_ulong),
        ("swap_attempts", ctypes.c_ulong),
        ("swap_successes", ctypes.c_ulong),
    )


# A test may put something else in the place of these, and count how often it is called.
_open_file, _read_part, _close_file = os.open, os.read, os.close
#: Bytes to ask the kernel for at once; it gives a page or so.
TABLE_PART = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)
_info = _ShmInfo()
_shmctl = _libc.shmctl
_shmctl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_info_address = ctypes.addressof(_info)


def has_sysv() -> bool:
    """Whether there is any System V segment. One system call, where the table takes ten times as long."""
    return bool(_shmctl(0, SHM_INFO, _info_address) < 0 or _info.used_ids > 0)


def sysv_table() -> str:
    """The kernel's table of System V segments as it prints it; empty if there is none."""
    if not has_sysv():
        return ""
    try:
        # Each test asks for it, and a file object takes longer.
        fd = _open_file(SYSV_TABLE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return b"".join(iter(lambda: _read_part(fd, TABLE_PART), b"")).decode("ascii")
        finally:
            _close_file(fd)
    except OSError:
        return ""


def sysv(table: str) -> Dict[int, SysV]:
    """Return its rows by shmid, without segments that are marked for removal: those go with their last process."""
    return {segment.shmid: segment for segment in _rows(table) if not segment.marked}


def marked(shmid: int) -> Optional[SysV]:
    """Return a segment that is marked for removal and still attached, if that is one."""
    return next((segment for segment in _rows(sysv_table()) if segment.shmid == shmid and segment.marked), None)


def _rows(table: str) -> List[SysV]:
    lines = table.splitlines()
    if not lines:
        return []
    columns = lines[0].split()
    rows = (dict(zip(columns, line.split())) for line in lines[1:])
    return [
        SysV(
            shmid=int(row["shmid"]),
            key=int(row["key"]) & 0xFFFFFFFF,
            size=int(row["size"]),
            resident=int(row.get("rss", 0)),
            creator=int(row["cpid"]),
            attached=int(row["nattch"]),
            uid=int(row["uid"]),
            marked=bool(int(row["perms"], 8) & SHM_DEST),
        )
        for row in rows
    ]


def process(pid: int) -> Optional[Process]:
    """That process, if it runs or is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Process(pid, int(words[19]), int(words[1]), words[0].decode())


def born_at(found: Process) -> int:
    """When it was started: CLOCK_MONOTONIC in nanoseconds, as exact as the clock ticks that the kernel counts."""
    since_boot = found.start * TICK
    asleep = clock_gettime_ns(CLOCK_BOOTTIME) - monotonic_ns()
    return since_boot - asleep


def runs(pid: int, start: int) -> bool:
    """Whether that very process is still at work; a zombie is not."""
    found = process(pid)
    return found is not None and found.start == start and found.state not in OVER


def at_work(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    found = process(pid)
    return found is not None and found.state not in OVER


def has_children() -> bool:
    """Whether this process has any, zombies too. One system call."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def children(pid: int) -> List[int]:
    """Pids of its children, zombies too."""
    found: List[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
    except FileNotFoundError:
        # It is gone, or so is the thread; or a kernel without CONFIG_PROC_CHILDREN, where all processes are asked.
        if not os.path.exists("/proc/self/task/" + str(os.getpid()) + "/children"):
            return _children_by_search(pid)
    except OSError:
        pass
    return found


def _children_by_search(pid: int) -> List[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def descendants(pid: int) -> Iterator[int]:
    """Pids of all that came from it and can still be reached through living parents."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def ancestors(pid: int) -> List[int]:
    """Lists the living processes that this one came from."""
    found: List[int] = []
    itself = process(pid)
    while itself is not None and itself.parent > 0 and itself.parent not in found:
        found.append(itself.parent)
        itself = process(itself.parent)
    return found


def command_of(pid: int) -> str:
    """Its whole command line, or its name in brackets; empty if it is gone."""
    try:
        found = psutil.Process(pid)
        return " ".join(found.cmdline()) or f"[{found.name()}]"
    except psutil.Error:
        return ""


def command_once_known(pid: int) -> str:
    """The same, once it has one: for an instant after its start a process has none, and then one cannot tell what it is."""
    deadline = monotonic() + EXEC_PATIENCE
    command = command_of(pid)
    while command.startswith("[") and at_work(pid) and monotonic() < deadline:
        sleep(0.001)
        command = command_of(pid)
    return command


def shortened(command: str) -> str:
    """A command line that fits a line of a report."""
    command = " ".join(command.split())
    return command if len(command) <= COMMAND_WIDTH else command[: COMMAND_WIDTH - 3] + "..."


def holders(entries: Iterable[Entry], pids: Iterable[int]) -> Dict[str, List[Holder]]:
    """Which of these processes have which of these entries mapped or open: name -> holders."""
    wanted = {(entry.device, entry.inode): entry.name for entry in entries}
    found: Dict[str, List[Holder]] = {name: [] for name in wanted.values()}
    names = frozenset(map(os.fsencode, found))
    for pid in pids if wanted else ():
        ways: Dict[Tuple[int, int], Set[str]] = {}
        for file in _mapped(pid):
            ways.setdefault(file, set()).add("maps")
        for file in _open(pid, names):
            ways.setdefault(file, set()).add("fd")
        for file in set(ways) & set(wanted):
            holder = Holder(pid, shortened(command_of(pid)), ", ".join(sorted(ways[file], reverse=True)))
            found[wanted[file]].append(holder)
    return found


def uses_shm(pid: int) -> bool:
    """Whether the process has any file of this /dev/shm open or mapped, removed ones included."""
    try:
        device = os.stat(SHM_DIR).st_dev
    except OSError:
        return False
    return any(file[0] == device for way in (_mapped(pid), _open(pid)) for file in way)


# By device and inode, not by name: a semaphore, or a segment that got its name last, shows the name that it was made
# under; another mount namespace may have /dev/shm elsewhere, or another one in that place.


def _mapped(pid: int) -> Iterator[Tuple[int, int]]:
    """Yield device and inode of each file that the process has mapped."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as maps:
            for line in maps:
                words = line.split(None, 5)
                if len(words) == 6 and words[4] != b"0":
                    major, _, minor = words[3].partition(b":")
                    yield os.makedev(int(major, 16), int(minor, 16)), int(words[4])
    except OSError:
        return


def _open(pid: int, names: Collection[bytes] = ()) -> Iterator[Tuple[int, int]]:
    """Yield device and inode of files that the process has open: those below /dev/shm, and those with these names.

    Others are not looked at: a file of a network file system may take for ever to answer.
    """
    folder = f"/proc/{pid}/fd"
    below = os.fsencode(SHM_DIR) + b"/"
    try:
        fds = os.listdir(folder)
    except OSError:
        return
    for fd in fds:
        try:
            path = os.readlink(os.fsencode(f"{folder}/{fd}"))
            if path.startswith(below) or path.rpartition(b"/")[2] in names:
                found = os.stat(f"{folder}/{fd}")
                yield found.st_dev, found.st_ino
        except OSError:
            continue


def environment(pid: int, name: str) -> Optional[str]:
    """A variable of the environment that the process was started with."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None
    start = os.fsencode(name) + b"="
    return next((os.fsdecode(one[len(start) :]) for one in variables if one.startswith(start)), None)


def everybody() -> List[int]:
    """All pids."""
    return psutil.pids()


def can_read_proc() -> bool:
    """Whether /proc shows the processes of others: hidepid and some containers hide them."""
    return os.access("/proc/1/stat", os.R_OK) and os.access("/proc/self/maps", os.R_OK)
