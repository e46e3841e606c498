"""What is meant to stay: suppressions, what others leave by design, and what serves a whole interpreter.

    GLOB  # reason             a name, as `ls /dev/shm` shows it
    process:GLOB  # reason     a process, by its command line
    sysv:GLOB  # reason        a System V segment, by its key (0x51000001) or as `shmid 12`

Knows no pytest.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from glob import escape
from itertools import chain
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from pytest_shmstate.leak import KINDS, PROCESS, SYSV, Leak, Suppression

#: The ``source`` of the suppressions that come with the plugin.
BUILT_IN_SOURCE = "built in"

#: A suppression, how often it was used, and the bytes it covered.
Use = Tuple[Suppression, int, int]

_FORMS = "`GLOB`, `process:GLOB` or `sysv:GLOB`"
_PREFIXED = (PROCESS, SYSV)
#: Words that people put before a colon, though a bare glob means all of these.
_NO_PREFIXES = {*KINDS, "shm", "sem", "name"} - {*_PREFIXED}

#: Where what is random begins, in names that others make up.
_RANDOM_TAIL = re.compile(r"(psm_|wnsm_|sem\.mp-|sem\.loky-|pym-|torch_|tmp(?=\w{8}$)).+", re.DOTALL)
_UUID = re.compile(r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}")
_HAS_DIGIT = re.compile(r"[^\W_]*\d[^\W_]*")
#: A blank before the mark, as in most such files: a name may hold a # of its own.
_REASON = re.compile(r"(^|\s)#")


def parse_suppression(line: str, source: str) -> Suppression:
    """Read one line of ``shmstate_ignore``. What is wrong with it is said in a ``ValueError``."""
    pattern, mark, reason = _split_at_reason(line)
    if not mark:
        raise ValueError(f"{source}: {line!r} has no reason: write `{pattern or 'GLOB'}  # why it may stay`")
    return make_suppression(pattern, reason, source)


def _split_at_reason(line: str) -> Tuple[str, str, str]:
    found = _REASON.search(line)
    if found is None:
        return line.strip(), "", ""
    return line[: found.start()].strip(), "#", line[found.end() :].strip()


def make_suppression(pattern: str, reason: str, source: str) -> Suppression:
    """Check the two halves of a suppression. What is wrong with them is said in a ``ValueError``."""
    pattern, reason = pattern.strip(), reason.strip()
    word, colon, glob = pattern.partition(":")
    kind = word.lower() if colon else ""
    if not pattern or (kind in _PREFIXED and not glob.strip()):
        raise ValueError(f"{source}: {pattern!r} names nothing: write {_FORMS}")
    if not reason:
        raise ValueError(f"{source}: {pattern!r} has no reason: say why it may stay, for those who read this later")
    if _REASON.search(pattern):
        raise ValueError(f"{source}: {pattern!r} holds a reason: write the glob alone, and the reason as reason=")
    if kind in _NO_PREFIXES or (kind in _PREFIXED and word != kind):
        right = f"`{kind}:{glob}`" if kind in _PREFIXED else f"`{glob.strip()}`, which fits things of every kind"
        raise ValueError(f"{source}: {pattern!r} begins with {word!r}: write {right}")
    if kind not in _PREFIXED and "/" in pattern:
        right = pattern.rsplit("/", 1)[1] or "GLOB"
        raise ValueError(f"{source}: {pattern!r} is a path: write the name as `ls /dev/shm` shows it, `{right}`")
    return Suppression(f"{kind}:{glob.strip()}" if kind in _PREFIXED else pattern, reason, source)


def _own_command() -> List[str]:
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return [file.read().rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")]
    except OSError:
        return []


#: Command lines that a proposed pattern must not fit: forks of a run have them too.
RUNS = tuple(
    f"{python} {arguments}"
    for python in ("python", "python3", "/usr/bin/python3.11", "/opt/venv/bin/python3", "/usr/local/bin/python")
    for arguments in (
        "-m pytest",
        "-m pytest tests",
        "-m pytest -n 2 tests/test_it.py",
        "/opt/venv/bin/pytest tests",
        "-u -c import sys;exec(eval(sys.stdin.readline()))",
        "-c from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7) --multiprocessing-fork",
        "app.py",
        "-c pass",
    )
)
_OWN_COMMAND = _own_command()


class Suppressions:
    """Those in force, and a tally of what each was used for. The first that fits is the one used."""

    def __init__(self, suppressions: Iterable[Suppression]) -> None:
        self.suppressions: Tuple[Suppression, ...] = tuple(suppressions)
        self._uses: Dict[Suppression, int] = {}
        self._bytes: Dict[Suppression, int] = {}

    def match(
        self, kind: str, name: str, also: Sequence[str] = (), *, size: int = -1, first: Sequence[Suppression] = ()
    ) -> Optional[Suppression]:
        """Find the suppression for a thing, and count it as used.

        ``also`` are other texts that may fit: the whole command line, the System V key. ``first`` are a test's own.
        """
        for suppression in chain(first, self.suppressions):
            if any(_fits(suppression.pattern, kind, text) for text in (name, *also)):
                self.merge([(suppression, 1, max(size, 0))])
                return suppression
        return None

    def merge(self, uses: Iterable[Use]) -> None:
        """Add what another process found used."""
        for suppression, count, size in uses:
            self._uses[suppression] = self._uses.get(suppression, 0) + count
            self._bytes[suppression] = self._bytes.get(suppression, 0) + size

    def used(self) -> List[Use]:
        """Each that fitted something, in the order of first use."""
        return [(suppression, count, self._bytes[suppression]) for suppression, count in self._uses.items()]

    def unused(self) -> List[Suppression]:
        """Each that fitted nothing, and so may be out of date. Never one that is built in."""
        return [
            suppression
            for suppression in self.suppressions
            if suppression not in self._uses and suppression.source != BUILT_IN_SOURCE
        ]


def _fits(pattern: str, kind: str, text: str) -> bool:
    word, colon, glob = pattern.partition(":")
    if not colon or word not in _PREFIXED:
        return kind not in _PREFIXED and fnmatchcase(text, pattern)
    if word == SYSV:
        # Hexadecimal digits come in both cases.
        text, glob = text.lower(), glob.lower()
    return kind == word and fnmatchcase(text, glob)


def fitting_glob(leak: Leak) -> str:
    """Finds a pattern for ``allow`` and ``shmstate_ignore`` that fits this leak, and the next one like it."""
    if leak.kind == SYSV:
        # An id is another in the next run, a key is the same; 0 is the key of all that are private.
        keys = re.findall(r"\b0x(?=0*[1-9a-f])[0-9a-f]+", " ".join(leak.notes), re.IGNORECASE)
        return f"sysv:{keys[0] if keys else _writable(escape(leak.name))}"
    if leak.kind == PROCESS:
        shown = re.sub(r"(\.\.\.|…)$", "", leak.name)
        glob = re.sub(r"\S*\d\S*", "*", escape(shown)) + "*" * (shown != leak.name)
        glob = re.sub(r"\*( ?\*)+", "*", _writable(glob))
        if not is_safe(f"process:{glob}", PROCESS):  # of `python3 app2.py` nothing would be left
            glob = _writable(re.sub(r"\d+", "*", escape(shown)) + "*" * (shown != leak.name))
        return f"process:{glob}"
    random = _RANDOM_TAIL.fullmatch(leak.name)
    if random:
        return f"{random[1]}*"
    glob = _HAS_DIGIT.sub("*", _UUID.sub("*", escape(leak.name)))
    # Something must be left: `*` would fit everybody's, and `sem.*` every semaphore.
    return _writable(glob if re.search(r"[^\W_]{3}", re.sub(r"^sem\.", "", glob)) else escape(leak.name))


def is_safe(pattern: str, kind: str, name: str = "") -> bool:
    """Tells whether a pattern says what it is meant for: it fits no run of pytest, no plain Python, no random name.

    ``name``: what it was made from.
    """
    glob = pattern.partition(":")[2] if kind == PROCESS else pattern
    if kind == PROCESS:
        commands = [*RUNS, *_OWN_COMMAND]
        return not any(fnmatchcase(command, glob) for command in commands)
    if kind == SYSV:
        return "0x" in pattern
    if glob != escape(name):
        return True
    bare = re.sub(r"^sem\.", "", name)
    return not (_UUID.search(bare) or (re.search(r"\d", bare) and not re.search(r"[^\W\d_]{3}", bare)))


def _writable(glob: str) -> str:
    """With ``?`` for what cannot stand in a line of ``shmstate_ignore``, or would mean something there."""
    ends = re.sub(r"^\s|\s$|\s(?=#)|[:#]", "?", glob)
    return "".join(c if c.isprintable() else "?" for c in ends)


#: Left by others, by design. Few, and each sure: what stands here hides real leaks too. Not here, though often seen:
#: `sem.??????`, which glibc's sem_open makes for an instant (what goes by itself needs no suppression, and a semaphore
#: of anybody's with a name of six letters looks the same), and what a program removes itself unless it is killed
#: (PostgreSQL.*, torch_*, nccl-*).
BUILT_IN: Tuple[Suppression, ...] = tuple(
    Suppression(pattern, reason, BUILT_IN_SOURCE)
    for pattern, reason in (
        ("pulse-shm-*", "PulseAudio keeps one for each client, and removes those of dead clients when the next starts"),
        (".org.chromium.Chromium.*", "Chromium (also inside Electron and Playwright) removes its own"),
        (".com.google.Chrome.*", "Chrome removes its own"),
        ("pytest-of-*", "pytest's temporary directories, where pytest-shm or TMPDIR puts them"),
        ("lttng-ust-wait-*", "LTTng keeps one for each user of the machine, and never removes it"),
        ("__KMP_REGISTERED_LIB_*", "LLVM's and Intel's OpenMP (MKL, PyTorch): 1 KiB for as long as the process lives"),
    )
)

#: Packages copied from multiprocessing: each has bookkeeping, finalizers and a resource tracker of its own.
COPIES = ("multiprocess", "billiard")

#: How the command lines look of processes that outlive a test by design, and what they are.
SERVICES: Tuple[Tuple[str, str], ...] = (
    ("*from multiprocessing.resource_tracker import main*", "the resource tracker of multiprocessing"),
    ("*from multiprocessing.forkserver import main*", "the fork server of multiprocessing"),
    ("*from multiprocess.resource_tracker import main*", "the resource tracker of multiprocess"),
    ("*from multiprocess.forkserver import main*", "the fork server of multiprocess"),
    ("*from billiard.semaphore_tracker import main*", "the semaphore tracker of billiard"),
    ("*from billiard.forkserver import main*", "the fork server of billiard"),
    ("*from *loky.backend.resource_tracker import main*", "the resource tracker of loky"),
    ("* -m *loky.backend.popen_loky_posix *", "a worker of loky, which keeps its executor for the next caller"),
)

#: Names that such services keep until the interpreter ends: due at the end of the run, not of the test.
PROCESS_WIDE: Tuple[Tuple[str, str], ...] = (
    ("sem.loky-*", "loky's executor is shared by the whole process"),
    ("joblib_memmapping_folder_*", "joblib keeps its folders for the executor that the whole process shares"),
)


def is_service(command_line: str, parent: str = "") -> Optional[str]:
    """What the process is, if it serves a whole interpreter; its arguments are joined by blanks.

    Give the command line of its ``parent`` too: what a fork server forks has the same one, and is somebody's worker.
    """
    if command_line == parent:
        return None
    return next((what for glob, what in SERVICES if fnmatchcase(command_line, glob)), None)


def is_process_wide(name: str) -> Optional[str]:
    """Why the name is due only when the interpreter ends, if it is."""
    return next((why for glob, why in PROCESS_WIDE if fnmatchcase(name, glob)), None)
