"""Where /dev/shm is crowded, shared, unwritable or missing, and where the kernel tells little, the detector goes on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List, Set, Tuple

import pytest

from tests.plugin.conftest import Judge
from tests.plugin.matrix import Judged

CROWDED = (
    f"mount -t tmpfs tmpfs /dev/shm && {sys.executable} -c \"for i in range(20000): open(f'/dev/shm/foreign-{{i}}', 'x')\""
    ' && "$@"; status=$?; test $(ls /dev/shm | wc -l) = 20000 || exit 99; exit $status'
)
UNWRITABLE = 'mount -t tmpfs -o ro tmpfs /dev/shm && exec "$@"'
MISSING = (
    'mkdir -p "$0" && mount -t tmpfs tmpfs "$0" && cp -a /dev/null /dev/zero /dev/random /dev/urandom /dev/tty "$0"'
    ' && ln -s /proc/self/fd "$0/fd" && mount --move "$0" /dev && test ! -e /dev/shm && exec "$@"'
)
KINDS = """
    import multiprocessing, os, subprocess, sys
    from multiprocessing import resource_tracker
    from multiprocessing.shared_memory import SharedMemory

    import pytest

    resource_tracker.ensure_running()

    def test_leaves():
        SharedMemory(create=True, size=5100).close()  # leaks: test_leaves, segment 5100

    def child():
        SharedMemory(create=True, size=5101)  # leaks: test_child[fork], segment 5101; test_child[spawn], segment 5101
        os._exit(0)

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_child(method):
        process = multiprocessing.get_context(method).Process(target=child)
        process.start()
        process.join()

    def test_program():  # leaks: test_program, file 4
        subprocess.run([sys.executable, "-c", "open('/dev/shm/matrix-%d', 'w').write('left')" % os.getpid()])

    @pytest.fixture(scope="module")
    def of_module():
        SharedMemory(create=True, size=5102).close()  # leaks: module fixture of_module, segment 5102

    @pytest.mark.parametrize("number", range(6))
    def test_cleans(number, of_module):
        segment = SharedMemory(create=True, size=10)
        segment.close()
        segment.unlink()
"""
LEAVING = {"test_leaves", "test_child[fork]", "test_child[spawn]", "test_program", "module fixture of_module"}
DAEMONS = """
    import os, time

    def test_forks_twice():
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.setsid()
            if os.fork():  # leaks: test_forks_twice, process
                os._exit(0)
            os.write(write, b"1")
            time.sleep(100)
            os._exit(0)
        os.waitpid(child, 0)
        os.read(read, 1)

    def test_after_it():
        pass
"""
PROCESSES = """
    import subprocess, time

    def test_leaves():
        subprocess.Popen(["sleep", "100"])  # leaks: test_leaves, process

    def test_cleans():
        subprocess.run(["sleep", "0"])
"""


def in_private_mounts(command: str, *arguments: str) -> List[str]:
    """A command that runs another where that has been mounted; skips the test where that is not allowed."""
    probe = ["unshare", "-m", "sh", "-c", command, *arguments, *["true"] * (2 - len(arguments))]
    try:
        allowed = subprocess.run(probe, capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("mounts of its own take root, and a kernel that lets it")
    return ["unshare", "-m", "sh", "-c", command, *(arguments or ["sh"])]


def test_20000_foreign_entries_are_neither_touched_nor_in_the_way(judge: Judge) -> None:
    judged = judge(KINDS, around=in_private_mounts(CROWDED))

    judged.confirm()


def test_without_dev_shm_it_says_so_and_tests_run_on(judge: Judge, tmp_path: Path) -> None:
    around = in_private_mounts(MISSING, str(tmp_path / "dev"))

    judged = judge(PROCESSES, "--shmstate-grace=0.3", around=around)

    judged.confirm()
    assert not judged.able("/dev/shm")
    assert "/dev/shm: no" in judged.output


def test_where_nobody_may_write_to_dev_shm_tests_run_on(judge: Judge) -> None:
    judged = judge(PROCESSES, "--shmstate-grace=0.3", around=in_private_mounts(UNWRITABLE))

    judged.confirm()


def test_a_process_that_cut_itself_off_is_told_in_the_error_of_its_test(judge: Judge) -> None:
    judged = judge(DAEMONS, "--shmstate-grace=0.3")

    judged.confirm()
    assert judged.not_passed() == {"test_forks_twice": "teardown failed"}
    assert [leak["evidence"] for leak in judged.ours] == ["its own ledger, and it runs"]


def test_what_a_shell_leaves_running_is_of_the_test_that_ran_the_shell(judge: Judge) -> None:
    judged = judge(
        """
    import os, subprocess

    import pytest

    LEFT = "sleep 100 > /dev/null 2>&1 &"

    def test_system():
        os.system(LEFT)

    @pytest.mark.parametrize("number", range(12))
    def test_after_system(number):
        pass

    def test_shell():
        subprocess.run(LEFT, shell=True)

    @pytest.mark.parametrize("number", range(12))
    def test_after_shell(number):
        pass
    """,
        "-p",
        "no:randomly",
    )

    assert sorted(leak["owner"]["name"] for leak in judged.ours) == [
        "test_it.py::test_shell",
        "test_it.py::test_system",
    ], judged.output


def owners(judged: Judged) -> Set[str]:
    return {blame.owner for blame in judged.blames()}


BLIND = """
    import pytest_shmstate.notices

    pytest_shmstate.notices._fanotify = lambda folder: -1
"""
BLINDER = BLIND + "    pytest_shmstate.notices._inotify = lambda folder: -1\n"


@pytest.mark.parametrize(
    ("blind", "how"),
    [(BLIND, ()), (BLIND, ("-n", "2")), (BLINDER, ())],
    ids=["inotify", "inotify-n2", "stat"],
)
def test_where_the_kernel_does_not_say_who_makes_what_the_ledger_does(
    judge: Judge, blind: str, how: Tuple[str, ...]
) -> None:
    judged = judge({"test_it.py": KINDS, "conftest.py": blind}, *how)

    assert owners(judged) == LEAVING, judged.output
    assert set(judged.not_passed().values()) == {"teardown failed"}
    assert judged.removed()
    assert not judged.able("makers in C")


STRANGER = """
import os, secrets, select, sys, time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
resource_tracker.register = resource_tracker.unregister = lambda *what: None

def make():
    return SharedMemory(f"matrix-stranger-{os.getpid()}-{secrets.token_hex(4)}", create=True, size=100)

def remove(segment):
    segment.close()
    segment.unlink()

kept = [make()]
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.002)[0]:
    with open(f"/dev/shm/matrix-stranger-{os.getpid()}-file", "x") as file:
        pass
    os.unlink(file.name)
    remove(make())
    if time.monotonic() % 0.5 < 0.01:
        kept.append(make())
for segment in kept:
    remove(segment)
print(len(kept), flush=True)
"""


@contextlib.contextmanager
def stranger() -> Iterator[subprocess.Popen[str]]:
    """A process that makes and removes segments all the time, and keeps some until it reads a line."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_SHMSTATE")}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", STRANGER], stdin=pipe, stdout=pipe, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            # There is nothing, unless the test has failed.
            for left in Path("/dev/shm").glob(f"matrix-stranger-{process.pid}-*"):
                left.unlink()


@pytest.mark.parametrize("how", [(), ("-n", "2")], ids=["plain", "n2"])
def test_what_a_stranger_makes_meanwhile_is_nobodys_and_stays(judge: Judge, how: Tuple[str, ...]) -> None:
    with stranger() as process:
        judged = judge(KINDS, *how)
        kept, _ = process.communicate("end\n")

    # That it removed each of its own without an error says that nobody else had.
    assert process.returncode == 0
    assert int(kept) > 1
    assert judged.status == 1, judged.output
    assert owners(judged) == LEAVING, judged.output
    assert set(judged.not_passed().values()) == {"teardown failed"}
    assert {leak["fate"] for leak in judged.leaks if leak not in judged.ours} <= {"not ours: left alone"}
