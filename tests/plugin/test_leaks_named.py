"""What a test leaves behind is named with the test, the line that made it, and its size; its clean twin passes."""

from __future__ import annotations

import contextlib
import os
from typing import Tuple

import pytest

from tests.plugin.conftest import Judge

BOTH = """
    import ctypes, multiprocessing, os, secrets, socket, sqlite3, subprocess, sys, tempfile
    from multiprocessing import resource_tracker
    from multiprocessing.shared_memory import SharedMemory

    import pytest

    # Otherwise each fork that makes something starts one of its own, which cleans up after it.
    resource_tracker.ensure_running()

    @pytest.fixture(params=[True, False], ids=["leaves", "cleans"])
    def leaves(request):
        return request.param

    def path(name):
        return f"/dev/shm/{name}-{os.getpid()}"
"""
PLAIN_AND_DISTRIBUTED = pytest.mark.parametrize("how", [(), ("-n", "2")], ids=["plain", "n2"])


@PLAIN_AND_DISTRIBUTED
def test_what_a_test_leaves_itself_is_named_whatever_its_kind(judge: Judge, how: Tuple[str, ...]) -> None:
    judged = judge(
        BOTH
        + """
    kept = []
    libc = ctypes.CDLL(None, use_errno=True)

    def test_segment(leaves):
        segment = SharedMemory(create=True, size=70000)  # leaks: test_segment[leaves], segment 70000
        segment.close()
        if not leaves:
            segment.unlink()

    def test_segment_held(leaves):
        segment = SharedMemory(create=True, size=70001)  # leaks: test_segment_held[leaves], segment 70001
        kept.append(segment)
        if not leaves:
            segment.close()
            segment.unlink()

    def make(size):
        return SharedMemory(create=True, size=size)  # leaks: test_helper[leaves], segment 2345

    def test_helper(leaves):
        segment = make(2345)
        segment.close()
        if not leaves:
            segment.unlink()

    def test_c_library(leaves):  # leaks: test_c_library[leaves], segment 12345
        name = os.path.basename(path("by-c"))
        fd = libc.shm_open(name.encode(), os.O_CREAT | os.O_RDWR, 0o600)
        assert libc.ftruncate(fd, 12345) == 0
        os.close(fd)
        if not leaves:
            libc.shm_unlink(name.encode())

    def test_c_library_held(leaves):  # leaks: test_c_library_held[leaves], segment 777
        name = os.path.basename(path("by-c-held"))
        fd = libc.shm_open(name.encode(), os.O_CREAT | os.O_RDWR, 0o600)
        assert libc.ftruncate(fd, 777) == 0
        if not leaves:
            os.close(fd)
            libc.shm_unlink(name.encode())

    def test_os_open(leaves):
        fd = os.open(path("opened"), os.O_CREAT | os.O_RDWR)  # leaks: test_os_open[leaves], file 3
        os.write(fd, b"abc")
        os.close(fd)
        if not leaves:
            os.unlink(path("opened"))

    def test_open(leaves):
        with open(path("file"), "w") as file:  # leaks: test_open[leaves], file 5
            file.write("12345")
        if not leaves:
            os.unlink(path("file"))

    def test_rename(leaves):
        with open(path("draft"), "w") as file:
            file.write("1234567")
        os.rename(path("draft"), path("final"))  # leaks: test_rename[leaves], file 7
        if not leaves:
            os.unlink(path("final"))

    def test_socket(leaves):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path("socket"))  # leaks: test_socket[leaves], file 0
        if not leaves:
            os.unlink(path("socket"))

    def test_folder(leaves):
        folder = tempfile.TemporaryDirectory(dir="/dev/shm") if not leaves else None
        if leaves:
            os.makedirs(path("folder") + "/below")  # leaks: test_folder[leaves], directory 0

    def test_semaphore(leaves):
        semaphore = multiprocessing.get_context("spawn").Lock()  # leaks: test_semaphore[leaves], semaphore 32
        if leaves:
            kept.append(semaphore)

    def test_system_v(leaves):  # leaks: test_system_v[leaves], sysv 5000
        shmid = libc.shmget(0, 5000, 0o1600)
        if not leaves:
            libc.shmctl(shmid, 0, None)

    def test_process(leaves):
        process = subprocess.Popen(["sleep", "100"])  # leaks: test_process[leaves], process
        if not leaves:
            process.terminate()
            process.wait()

    def test_that_finds_nothing_left_of_the_others():
        left = [name for name in os.listdir("/dev/shm") if name.endswith(f"-{os.getpid()}")]
        assert left == []
    """,
        "--shmstate-grace=0.5",
        *how,
    )

    judged.confirm()


@PLAIN_AND_DISTRIBUTED
def test_what_children_leave_is_named_as_their_tests(judge: Judge, how: Tuple[str, ...]) -> None:
    judged = judge(
        BOTH
        + """
    def child(size):
        segment = SharedMemory(create=True, size=size)  # leaks: test_child[leaves-fork], segment 4001; \
test_child[leaves-spawn], segment 4002; test_child[leaves-forkserver], segment 4003
        os._exit(0)

    def clean_child(size):
        segment = SharedMemory(create=True, size=size)
        segment.close()
        segment.unlink()
        os._exit(0)

    @pytest.mark.parametrize(("method", "size"), [("fork", 4001), ("spawn", 4002), ("forkserver", 4003)],
                             ids=["fork", "spawn", "forkserver"])
    def test_child(leaves, method, size):
        context = multiprocessing.get_context(method)
        process = context.Process(target=child if leaves else clean_child, args=(size,))
        process.start()
        process.join()

    def test_fork_of_a_spawned_child(leaves):
        process = multiprocessing.get_context("spawn").Process(target=forking, args=(leaves,))
        process.start()
        process.join()

    def forking(leaves):
        if os.fork() == 0:
            grandchild(leaves)
        os.wait()
        os._exit(0)

    def grandchild(leaves):
        fd = os.open(path("grandchild"), os.O_CREAT | os.O_WRONLY)  # leaks: test_fork_of_a_spawned_child[leaves], file 4
        os.write(fd, b"1234")
        if not leaves:
            os.unlink(path("grandchild"))
        os._exit(0)

    PROGRAM = '''if True:
        import sys
        from multiprocessing import resource_tracker
        from multiprocessing.shared_memory import SharedMemory
        resource_tracker.register = lambda *what: None
        resource_tracker.unregister = lambda *what: None
        segment = SharedMemory(create=True, size=5005)
        segment.close()
        if sys.argv[1] == "False":
            segment.unlink()
    '''

    def test_program(leaves):  # leaks: test_program[leaves], segment 5005
        subprocess.run([sys.executable, "-c", PROGRAM, str(leaves)], check=True)

    def test_program_whose_own_tracker_cleans_up():
        leaving = "from multiprocessing.shared_memory import SharedMemory as S; S(create=True, size=10)"
        subprocess.run([sys.executable, "-W", "ignore", "-c", leaving], stderr=subprocess.DEVNULL, check=True)

    SHELL = '''%s -c "open('%s', 'w').write('hello')" & wait'''

    def test_program_behind_a_shell(leaves):  # leaks: test_program_behind_a_shell[leaves], file 5
        subprocess.run(SHELL % (sys.executable, path("shell")), shell=True, check=True)
        if not leaves:
            os.unlink(path("shell"))

    def test_a_child_that_ends_a_moment_later():
        subprocess.Popen(["sleep", "0.3"])

    def stubborn(at_work):
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        at_work.send(1)
        signal.pause()

    def test_process(leaves):
        ready, at_work = multiprocessing.Pipe(False)
        process = multiprocessing.Process(target=stubborn, args=(at_work,), daemon=True)
        process.start()  # leaks: test_process[leaves], process
        ready.recv()
        if not leaves:
            process.kill()
            process.join()
    """,
        "--shmstate-grace=1",
        *how,
    )

    judged.confirm()


def test_what_is_kept_by_pytest_alone_is_no_leak(judge: Judge) -> None:
    judged = judge(
        BOTH
        + """
    import unittest

    @pytest.fixture
    def lock():
        return multiprocessing.get_context("spawn").Lock()

    @pytest.fixture
    def queue():
        return {"deep": [multiprocessing.get_context("spawn").Queue()]}

    def test_fixture_value(lock, queue):
        pass

    class TestPlain:
        def test_attribute(self):
            self.lock = multiprocessing.get_context("spawn").Lock()

        def test_again(self):
            assert not hasattr(self, "lock")

    class TestUnit(unittest.TestCase):
        def setUp(self):
            self.lock = multiprocessing.get_context("spawn").Lock()

        def test_attribute(self):
            self.other = multiprocessing.get_context("spawn").Lock()

        def test_again(self):
            pass

    def test_cycle():
        knot = [multiprocessing.get_context("spawn").Lock()]
        knot.append(knot)
    """
    )

    judged.confirm(status=0)


def test_what_an_expected_failure_or_a_skip_keeps_is_let_go(judge: Judge) -> None:
    judged = judge(
        BOTH
        + """
    import unittest

    @pytest.mark.xfail
    def test_expected_failure():
        lock = multiprocessing.get_context("spawn").Lock()
        assert not lock

    class TestUnit(unittest.TestCase):
        def test_that_skips(self):
            self.lock = multiprocessing.get_context("spawn").Lock()
            self.skipTest("pytest keeps it until the end")

    @pytest.mark.skip(reason="what runs next looks at what the failure kept")
    def test_skipped():
        pass

    def test_z():
        pass
    """
    )

    assert judged.status == 0, judged.output
    assert judged.ours == []


def test_a_pool_that_leaks_is_ended_whole_and_does_not_keep_the_run_from_ending(judge: Judge) -> None:
    judged = judge(
        BOTH
        + """

    def test_pool(leaves):
        pool = multiprocessing.get_context("fork").Pool(1)  # leaks: test_pool[leaves], process
        assert pool.apply(abs, (-1,)) == 1
        sys.kept = pool  # no global of a module that is searched leads to it
        if not leaves:
            pool.terminate()
            pool.join()
    """,
        "--shmstate-grace=0.5",
    )

    judged.confirm()
    assert [leak["fate"] for leak in judged.ours] == ["ended (with its multiprocessing.Pool)"]


@pytest.mark.parametrize("depth", [2, 24, 60, 700])
@pytest.mark.parametrize("by", ["test", "fixture"])
def test_the_frame_of_the_test_is_in_the_report_however_deep_the_stack(judge: Judge, depth: int, by: str) -> None:
    judged = judge(
        f"""
        import pluggy, pytest
        from multiprocessing.shared_memory import SharedMemory

        spec, impl = pluggy.HookspecMarker("own"), pluggy.HookimplMarker("own")

        class Spec:
            @spec
            def make(self):
                pass

        class Plugin:
            @impl
            def make(self):
                SharedMemory(create=True, size=10).close()

        def deep(left):
            if left:
                return deep(left - 1)
            manager = pluggy.PluginManager("own")
            manager.add_hookspecs(Spec)
            manager.register(Plugin())
            manager.hook.make()

        @pytest.fixture
        def fixture():
            if {by == "fixture"}:
                deep({depth})

        def test_it(fixture):
            if {by == "test"}:
                deep({depth})
        """
    )

    line = next(line for line in judged.output.splitlines() if line.strip().startswith("called from"))
    assert line.endswith(f" in {'fixture' if by == 'fixture' else 'test_it'}"), line
    assert (" between" in line) == (depth > 2)


OPENS = "import sys; open(sys.argv[1], 'w').close()"
FILES_AND_SEGMENTS = {
    "touch": ("subprocess.run(['touch', PATH], check=True)", "file"),
    "shell": ("subprocess.run(['sh', '-c', 'echo > ' + PATH], check=True)", "file"),
    "no-site": (f'subprocess.run([sys.executable, "-S", "-c", "{OPENS}", PATH], check=True)', "file"),
    "isolated": (f'subprocess.run([sys.executable, "-I", "-c", "{OPENS}", PATH], check=True)', "file"),
    "fork-and-exec": ("os.fork() or os.execvp('touch', ['touch', PATH]); os.wait()", "file"),
    "link": ("open(PATH + '-', 'w').close(); os.link(PATH + '-', PATH); os.unlink(PATH + '-')", "file"),
    "rename": ("open(PATH + '-', 'w').close(); os.rename(PATH + '-', PATH)", "file"),
    "open": ("open(PATH, 'w').close()", "file"),
    "fifo": ("os.mkfifo(PATH)", "file"),
    "segment": ("SharedMemory(name=NAME, create=True, size=10).close()", "segment"),
    "C-code": ("ctypes.CDLL(None).shm_open(NAME.encode(), os.O_CREAT | os.O_RDWR, 0o600)", "segment"),
    "renamed-segment": (
        "SharedMemory(name=NAME + '-', create=True, size=10).close(); os.rename(PATH + '-', PATH)",
        "segment",
    ),
}


@pytest.mark.parametrize("way", FILES_AND_SEGMENTS)
def test_a_file_is_called_a_file_and_a_segment_a_segment(judge: Judge, way: str) -> None:
    code, kind = FILES_AND_SEGMENTS[way]
    name = f"kind-{os.getpid()}-{way}"
    judged = judge(
        f"""
        import ctypes, os, subprocess, sys
        from multiprocessing.shared_memory import SharedMemory

        NAME = "{name}"
        PATH = "/dev/shm/{name}"

        def test_it():
            {code}
        """
    )

    found = [leak["kind"] for leak in judged.leaks if leak["name"] == name]
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"/dev/shm/{name}")
    assert found == [kind], judged.output


@pytest.mark.parametrize("mode", ["error", "warn"])
def test_forks_of_one_clock_tick_are_all_named_and_all_ended(judge: Judge, mode: str) -> None:
    """They have the command line and the start time of one another."""
    judged = judge(
        """
        import os, signal

        def test_forks():
            for _ in range(12):
                if os.fork() == 0:
                    signal.pause()

        def test_after():
            pass
        """,
        f"--shmstate-leaks={mode}",
    )

    assert [leak["kind"] for leak in judged.ours] == ["process"] * 12
    assert len({leak["pid"] for leak in judged.ours}) == 12
    assert {leak["owner"]["name"] for leak in judged.ours} == {"test_it.py::test_forks"}
    assert judged.removed()
