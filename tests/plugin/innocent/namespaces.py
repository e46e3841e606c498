"""Programs that see another /dev/shm than this one: a mount namespace of their own, as each container has."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import Iterator, List

import pytest

from tests.plugin.innocent.parts import PYTHON

#: Runs a command where /dev/shm is new. The words after it are the command.
OTHER_SHM = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
#: A new file system counts its inodes from the start: more files than this are too many to make.
HIGHEST_INODE = 50_000
#: Makes files until one has the inode number, then a file with the name, and holds both open until its input ends.
TWIN = """
import os, sys
name, inode = sys.argv[1], int(sys.argv[2])
files = []
for number in range(2 * inode):
    files.append(open("/dev/shm/other-%d" % number, "wb"))
    if os.fstat(files[-1].fileno()).st_ino == inode:
        break
    files.pop().close()
else:
    sys.exit("no file got inode %d" % inode)
os.rename(files[-1].name, "/dev/shm/" + name)
assert os.stat("/dev/shm/" + name).st_ino == inode
print("holds", flush=True)
if sys.stdin.readline().strip() == "remove":
    os.unlink("/dev/shm/" + name)
    print("removed", flush=True)
    sys.stdin.read()
"""


@contextmanager
def twin(name: str, inode: int, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Have a program hold a file of its own /dev/shm that has the same name and inode number. ``words``: to send it."""
    if inode > HIGHEST_INODE:
        pytest.skip(f"inode {inode} is too high for a new file system: this needs a /dev/shm that is new, too")
    may = subprocess.run([*OTHER_SHM, "true"], stderr=subprocess.PIPE, text=True)
    if may.returncode != 0:
        pytest.skip(f"no mount namespace with a /dev/shm of its own can be made here: {may.stderr.strip()}")
    command: List[str] = [*OTHER_SHM, *PYTHON, TWIN, name, str(inode)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "holds\n"
        for word in words:
            program.stdin.write(word + "\n")
            program.stdin.flush()
            assert program.stdout.readline() == "removed\n"
        yield program
        program.stdin.close()
    assert program.returncode == 0
