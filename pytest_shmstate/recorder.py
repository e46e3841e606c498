"""Keeps the ledger: what this process makes in /dev/shm, on disk before anything can crash.

The process that runs tests loads this as a module of the package; each Python that it starts loads the same file by its
path (``shim/sitecustomize.py``). So it imports the standard library alone, and little of that.

Python raises no audit event for ``shm_open``. What it does raise, on every version:

    SharedMemory(create=True)     os.truncate of an empty file, whose descriptor links to /dev/shm/NAME
    SharedMemory(name)            mmap.__new__ of a file that nobody here truncated: attached, not made
    open, mkdir, link, rename ... the path

A ledger is a folder with one file a process, ``PID.STARTTICKS``: a line a record, each the ``repr`` of a tuple,
appended in one write. No file is kept open, since test suites count descriptors.

    ("begin", t, pid, start, parent, how, command)     this process runs; ``parent`` is the nearest that keeps a ledger
    ("forked", t, pid, frames, title)                  it is a fork, made there; what a Process was to run
    ("starts", t, pid, how, command, frames, title)    it starts another program: the next child that comes
    ("made", t, pid, how, name, inode, frames, thread, device, born_by)
                                                       it made that entry; inode 0: not known yet; ``born_by``: a
                                                       later birth, in ns of the file system, is another's; 0: not known
    ("seen", t, pid, name, inode)                      it mapped an entry that it had not made
    ("gone", t, pid, name)                             it removes the name, or gives it up by renaming
"""

from __future__ import annotations

import os
import sys
import time
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:  # as in `typing`, which takes longer to import than all the rest
    import types
    from typing import Callable

#: Folders of the ledgers that this process and its children keep, joined like a PATH: a run of pytest inside a test of
#: another run keeps both.
LEDGERS = "PYTEST_SHMSTATE_LEDGER"
#: The nearest process above that keeps a ledger: parents that do not (a shell) may be gone before anyone asks.
PARENT = "PYTEST_SHMSTATE_PARENT"
SHIM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shim")

ROOTS = ("/dev/shm/", "/run/shm/")
#: Of a deeper stack, as many of the innermost frames are kept, and of the outermost: the test's own is among these.
DEEPEST_STACK = 24
#: The file of a frame that stands for those between, which were left out; its line is their count.
LEFT_OUT = "<left out>"
#: Below the test there is pytest, which made nothing. A test may use pluggy, whose frames say nothing.
BOTTOM, PASSED_OVER = "/_pytest/", "/pluggy/"
MOST_INODES = 4096

# A test may put something else in the place of these, and count how often it is called.
_open, _write_to, _close, _readlink = os.open, os.write, os.close, os.readlink
_stat, _lstat, _fstat, _getcwd, _fsdecode, _fsencode = os.stat, os.lstat, os.fstat, os.getcwd, os.fsdecode, os.fsencode
_normpath, _now = os.path.normpath, time.monotonic_ns

_folders: tuple[str, ...] = ()
_pid = 0
_file = ""
_hooked = False
#: Threads that are writing a record: what they do meanwhile is not to be recorded.
_busy: set[int] = set()
#: Names made here -> inode (0: not known yet), to tell making from attaching. Children inherit it, rightly.
_inodes: dict[str, int] = {}
_listeners: list[list[tuple[object, ...]]] = []


def keep(folders: tuple[str, ...]) -> None:
    """Keep these ledgers from now on (none: stop). Says ``begin`` in each that is new."""
    global _folders, _hooked
    folders = tuple(folder for folder in folders if _counts_as_here(folder))
    new = tuple(folder for folder in folders if folder not in _folders)
    _folders = folders
    if not _hooked and _folders:
        _hooked = True
        sys.addaudithook(_hook)
        os.register_at_fork(after_in_child=_forked)
        for module in [name for name in sys.modules if name.endswith(_SYNCHRONIZE)]:
            _patch_semaphores(module)
    if new:
        parent = os.getppid()
        if not any(os.path.exists(folder) and _has_file(folder, parent) for folder in new):
            parent = int(os.environ.get(PARENT) or parent)
        _begin(parent, "exec", new)


def kept() -> tuple[str, ...]:
    """The ledgers that this process keeps."""
    return _folders


def file() -> str:
    """The name of this process's file in each ledger."""
    return _file


def listen() -> list[tuple[object, ...]]:
    """A list to which the records of this process are added from now on. The caller empties it."""
    records: list[tuple[object, ...]] = []
    _listeners.append(records)
    return records


def unlisten(records: list[tuple[object, ...]]) -> None:
    """Add no more to a list that ``listen`` gave."""
    _listeners[:] = [other for other in _listeners if other is not records]


def write(folder: str, *record: object) -> None:
    """Append a record to one ledger; ``t`` and ``pid`` are put after its first word. Never raises OSError."""
    me = get_ident()
    outermost = me not in _busy
    _busy.add(me)
    try:
        _write((record[0], _now(), _pid, *record[1:]), (folder,))
    finally:
        if outermost:
            _busy.discard(me)


def _counts_as_here(folder: str) -> bool:
    """Whether a pid means in that ledger what it means here: a container may see the folder, and count its own."""
    words = os.path.basename(folder).split(".")
    if len(words) < 4 or not words[0].rpartition("-")[2].isdigit():
        return True
    try:
        return words[2] in ("0", str(_stat("/proc/self/ns/pid").st_ino))
    except OSError:
        return True


def _has_file(folder: str, pid: int) -> bool:
    return any(name.startswith(str(pid) + ".") for name in os.listdir(folder))


def _begin(parent: int, how: str, folders: tuple[str, ...]) -> None:
    global _pid, _file
    _pid = os.getpid()
    try:
        with open("/proc/self/stat", "rb") as stat:
            start = stat.read().rpartition(b")")[2].split()[19].decode()
        with open("/proc/self/cmdline", "rb") as cmdline:
            command = _fsdecode(cmdline.read(4096).replace(b"\0", b" ").strip())[:300]
    except OSError:
        start, command = "0", ""
    _file = str(_pid) + "." + start
    _write(("begin", _now(), _pid, int(start), parent, how, command), folders)


def _forked() -> None:
    # The thread that forked may have been inside the hook of another thread's record: only this one lives on.
    global _folders
    _busy.clear()
    _listeners.clear()
    _folders = tuple(folder for folder in _folders if _counts_as_here(folder))  # it may be in another pid namespace
    if _folders:
        me = get_ident()
        _busy.add(me)
        try:
            _begin(_pid, "fork", _folders)
            # The frames are those of the parent, at the line that forked.
            _write(("forked", _now(), _pid, _stack(), _title()), _folders)
        finally:
            _busy.discard(me)


def _write(record: tuple[object, ...], folders: tuple[str, ...]) -> None:
    line = _fsencode(repr(record)) + b"\n"
    for folder in folders:
        try:
            fd = _open(folder + "/" + _file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # its run is over, or this process may no longer write there
            continue
        try:
            _write_to(fd, line)
        except OSError:  # the disk is full: what cannot be known is reported as unattributed
            pass
        finally:
            _close(fd)


def _hook(event: str, args: tuple[object, ...]) -> None:
    handler = _HANDLERS.get(event)
    if handler is None or not _folders:
        return
    me = get_ident()
    if me in _busy:
        return
    _busy.add(me)
    try:
        handler(*args)
    except (OSError, ValueError, TypeError) as error:
        # Ours, then: what was asked for goes on, and complains itself. But a signal handler (a test's own time limit)
        # may have raised it in the middle of this, and that must get through.
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is None or trace.tb_frame.f_code.co_filename != _here:
            raise
    finally:
        _busy.discard(me)


def _entry(path: str | bytes | os.PathLike[str]) -> str | None:
    """The name in /dev/shm that this path is, if it is one there."""
    path = _fsdecode(path)
    if not path.startswith("/"):
        path = _normpath(_getcwd() + "/" + path)
    for root in ROOTS:
        if path.startswith(root):
            name = path[len(root) :].rstrip("/")
            return name if name and "/" not in name and name not in (".", "..") else None
    return None


def _exists(path: str | bytes | os.PathLike[str]) -> bool:
    try:
        _lstat(path)
    except OSError:
        return False
    return True


def _linked(fd: int) -> tuple[str | None, os.stat_result]:
    """The name in /dev/shm behind a descriptor, and what ``fstat`` says of it."""
    path = _readlink("/proc/self/fd/" + str(fd))
    name = None if path.endswith(" (deleted)") or not path.startswith(ROOTS) else _entry(path)
    return name, _fstat(fd)


def _made(how: str, name: str | None, file: os.stat_result | None = None) -> None:
    inode, born_by = (0, 0) if file is None else (file.st_ino, file.st_ctime_ns)
    if name is None or (inode and _inodes.get(name) == inode):
        return
    if len(_inodes) >= MOST_INODES:
        _inodes.clear()
    _inodes[name] = inode
    device = _stat(ROOTS[0]).st_dev if file is None else file.st_dev
    _tell(("made", _now(), _pid, how, name, inode, _stack(), get_ident(), device, born_by))


def _stack() -> tuple[tuple[str, int, str], ...]:
    """File, line and function of each frame above this module, innermost last."""
    frame = sys._getframe(1)
    inner: list[tuple[str, int, str]] = []
    outer: list[tuple[str, int, str]] = []
    left_out = 0
    while frame is not None:
        file = frame.f_code.co_filename
        if BOTTOM in file:
            break
        if file != _here and PASSED_OVER not in file:
            (inner if len(inner) < DEEPEST_STACK else outer).append((file, frame.f_lineno, frame.f_code.co_name))
            if len(outer) > 2 * DEEPEST_STACK:
                left_out += DEEPEST_STACK
                del outer[:DEEPEST_STACK]
        frame = frame.f_back  # type: ignore[assignment]
    if len(outer) > DEEPEST_STACK:
        left_out += len(outer) - DEEPEST_STACK
        del outer[:-DEEPEST_STACK]
    if left_out:
        inner.append((LEFT_OUT, left_out, ""))
    return tuple(reversed(inner + outer))


def _title() -> str:
    """What the nearest ``Process`` on the stack is to run, and its name; empty if there is none."""
    frame: types.FrameType | None = sys._getframe(1)
    # A fork has the frames of its parent below: those that started itself.
    while frame is not None and frame.f_code.co_name != "_bootstrap":
        if frame.f_code.co_name in ("start", "_launch"):
            process = frame.f_locals.get("process_obj") or frame.f_locals.get("self")
            name = getattr(process, "_name", None)
            if isinstance(name, str) and hasattr(process, "_target"):
                return _called(process, name)
        frame = frame.f_back
    return ""


def _called(process: object, name: str) -> str:
    target = getattr(process, "_target", None) or getattr(process, "run", None)
    target = getattr(target, "func", target)
    module, function = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    what = str(module) + "." + str(function) if module and function else type(target).__qualname__
    return what + " (" + name + ")"


def _tell(record: tuple[object, ...]) -> None:
    for records in _listeners:
        records.append(record)
    _write(record, _folders)


def _on_start(how: str, command: str) -> None:
    _tell(("starts", _now(), _pid, how, command, _stack(), _title()))


def _on_popen(_executable: object, args: object, *_rest: object) -> None:
    words = args if isinstance(args, (list, tuple)) else [args]
    _on_start("exec", " ".join(_fsdecode(word) for word in words)[:300])


def _on_posix_spawn(_path: object, args: object, *_rest: object) -> None:
    _on_popen(_path, args)


def _on_launch() -> None:
    """Multiprocessing raises no event for a start; but it opens the pipe to the child by its descriptor."""
    caller = sys._getframe(3)
    if caller.f_code.co_name == "_launch" and "process_obj" in caller.f_locals:
        _on_start("launch", "")


def _on_open(path: str | int, _mode: object, flags: object) -> None:
    if type(path) is int:
        _on_launch()
        return
    if isinstance(flags, int) and flags & os.O_CREAT and not isinstance(path, int):
        name = _entry(path)
        if name is not None and not _exists(path):
            _made("open", name)


def _on_truncate(path: str | int, _length: object) -> None:
    if isinstance(path, int):
        name, stat = _linked(path)
        # Whoever attaches finds it with its size; only its maker gives it one.
        if name is not None and stat.st_size == 0:
            # Who removes it later has to know whether the resource tracker was told of it: `track=` is 3.13's.
            maker = sys._getframe(2).f_locals
            _made("truncate" if maker.get("track", True) else "untracked", name, stat)


def _on_mmap(fd: int, *_rest: object) -> None:
    if fd >= 0:
        name, stat = _linked(fd)
        if name is None or _inodes.get(name) == stat.st_ino:
            return
        if _inodes.get(name) == 0:  # opened here a moment ago; now its inode is known
            _inodes[name] = stat.st_ino
            return
        _tell(("seen", _now(), _pid, name, stat.st_ino))


def _is_segment(path: str, inode: int) -> bool:
    """Whether this process gave the entry its size or mapped it, as one does with shared memory."""
    name = _entry(path)
    return name is not None and inode != 0 and _inodes.get(name) == inode


def _on_link(source: str, target: str, *_rest: object) -> None:
    name = _entry(target)
    if name is not None:
        file = _stat(source)
        _made("link" if _is_segment(source, file.st_ino) else "link-file", name, file)


def _on_remove(path: str, *_rest: object) -> None:
    name = _entry(path)
    if name is not None:
        _inodes.pop(name, None)
        _tell(("gone", _now(), _pid, name))


def _on_rename(source: str, target: str, *_rest: object) -> None:
    name = _entry(target)
    file = None if name is None else _lstat(source)
    how = "rename" if file is not None and _is_segment(source, file.st_ino) else "rename-file"
    _on_remove(source)
    if name is not None:
        _made(how, name, file)


def _on_mkdir(path: str, *_rest: object) -> None:
    name = _entry(path)
    if name is not None and not _exists(path):
        _made("mkdir", name)


def _on_symlink(_source: str, target: str, *_rest: object) -> None:
    name = _entry(target)
    if name is not None and not _exists(target):
        _made("symlink", name)


def _on_bind(_socket: object, address: object) -> None:
    if isinstance(address, (str, bytes)) and address:
        name = _entry(address)
        if name is not None and not _exists(address):
            _made("bind", name)


def _on_sqlite(database: object) -> None:
    if isinstance(database, (str, bytes, os.PathLike)):
        name = _entry(database)
        if name is not None and not _exists(database):
            _made("sqlite3", name)


def _on_import(module: str, *_rest: object) -> None:
    # There is no event for sem_open either. The module that calls it is imported right before its first use: import
    # it here and now, and have it tell its names.
    if module.endswith(_SYNCHRONIZE) and module not in sys.modules:
        try:
            __import__(module)
        except ImportError:  # no semaphores on this machine; whoever asked for them hears it
            return
        _patch_semaphores(module)


def _patch_semaphores(module: str) -> None:
    semlock = getattr(sys.modules.get(module), "SemLock", None)
    if semlock is None or not hasattr(semlock, "_make_name") or getattr(semlock._make_name, "records", False):
        return
    make_name = semlock._make_name

    def recorded() -> str:
        name: str = make_name()
        me = get_ident()
        if _folders and me not in _busy:
            _busy.add(me)
            try:
                _made("semaphore", "sem." + name.lstrip("/"))
            finally:
                _busy.discard(me)
        return name

    recorded.records = True  # type: ignore[attr-defined]
    semlock._make_name = staticmethod(recorded)


_here = _hook.__code__.co_filename
#: How the modules are called that make named semaphores: of the standard library, and of those that follow it closely.
_SYNCHRONIZE = tuple(
    f"{package}.synchronize" for package in ("multiprocessing", "multiprocess", "billiard", "loky.backend")
)
_HANDLERS: dict[str, Callable[..., None]] = {
    "open": _on_open,
    "os.truncate": _on_truncate,
    "mmap.__new__": _on_mmap,
    "os.link": _on_link,
    "os.rename": _on_rename,
    "os.remove": _on_remove,
    "os.rmdir": _on_remove,
    "os.mkdir": _on_mkdir,
    "os.symlink": _on_symlink,
    "socket.bind": _on_bind,
    "sqlite3.connect": _on_sqlite,
    "import": _on_import,
    "subprocess.Popen": _on_popen,
    "os.posix_spawn": _on_posix_spawn,
    "os.system": lambda command: _on_popen(None, command),
}

# A process that the shim has made keep the ledger has this module already, under a name that is not the package's: who
# imports the package there gets that one, which records.
SHIM_NAME = "_shmstate_recorder"
if __name__ != SHIM_NAME and SHIM_NAME in sys.modules:
    sys.modules[__name__] = sys.modules[SHIM_NAME]
