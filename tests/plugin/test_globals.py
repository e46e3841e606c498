"""What globals of loaded modules still reach is told, and stays until the run ends; what was removed is said later."""

from __future__ import annotations

from typing import Tuple

import pytest

from tests.plugin.conftest import Judge

LIBRARY = """
    import collections, contextvars, functools, multiprocessing, os, tempfile, threading, weakref
    from multiprocessing.managers import SharedMemoryManager
    from multiprocessing.shared_memory import SharedMemory

    class Base:
        kept = None

    class Shm(SharedMemory):
        pass

    class Cell:
        __slots__ = ("inner", "__weakref__")

        def __init__(self, inner):
            self.inner = inner

    GLOBAL = None
    LIST = []
    WEAK = weakref.WeakValueDictionary()
    LOCAL = threading.local()
    CONTEXT = contextvars.ContextVar("context")

    def default(kept=[]):
        return kept

    def with_attribute():
        pass

    @functools.lru_cache(maxsize=4)
    def cached():
        return new()

    def new():
        return SharedMemory(create=True, size=10)

    def closure():
        cell = []
        return lambda *more: cell.extend(more) or cell

    CLOSURE = closure()

    def directly():
        global GLOBAL
        GLOBAL = new()
        return GLOBAL.name

    def in_containers():
        LIST.append({"deep": collections.deque([Cell(new())])})
        return LIST[-1]["deep"][0].inner.name

    def in_a_class():
        Base.kept = new()
        return Base.kept.name

    def in_a_subclass():
        global GLOBAL
        GLOBAL = Shm(name="fixed-name", create=True, size=10)
        return GLOBAL.name

    def in_a_cache():
        return cached().name

    def in_a_default():
        default().append(new())
        return default()[0].name

    def in_a_closure():
        CLOSURE(new())
        return CLOSURE()[0].name

    def in_an_attribute():
        with_attribute.kept = new()
        return with_attribute.kept.name

    def in_a_weak_registry():
        WEAK["it"] = cell = Cell(new())
        threading.Thread(target=threading.Event().wait, args=(), kwargs={}, daemon=True, name="x").start()
        LOCAL.cell = cell
        return cell.inner.name

    def in_a_context():
        CONTEXT.set(new())
        return CONTEXT.get().name

    def by_its_made_up_name():
        global GLOBAL
        segment = new()
        segment.close()
        GLOBAL = segment.name
        return GLOBAL

    def a_directory():
        global GLOBAL
        GLOBAL = tempfile.mkdtemp(dir="/dev/shm")
        return os.path.basename(GLOBAL)

    def a_semaphore():
        global GLOBAL
        GLOBAL = multiprocessing.get_context("spawn").Lock()
        return "sem." + GLOBAL._semlock.name.lstrip("/")
"""
WAYS = [
    "directly",
    "in_containers",
    "in_a_class",
    "in_a_subclass",
    "in_a_cache",
    "in_a_default",
    "in_a_closure",
    "in_an_attribute",
    "in_a_weak_registry",
    "in_a_context",
    "by_its_made_up_name",
    "a_directory",
    "a_semaphore",
]


def test_what_a_global_reaches_stays_until_the_run_ends(judge: Judge) -> None:
    tests = "".join(
        f"""
    def test_{way}():
        NAMES.append(library.{way}())

    def test_after_{way}():
        assert os.path.exists("/dev/shm/" + NAMES[-1].lstrip("/"))
"""
        for way in WAYS
    )
    judged = judge({"library.py": LIBRARY, "test_it.py": f"    import os\n    import library\n    NAMES = []\n{tests}"})

    assert judged.not_passed() == {f"test_{way}": "teardown failed" for way in WAYS}, judged.output
    fates = {leak["fate"] for leak in judged.ours}
    assert all("left in place until the run ends: `" in fate and "still holds it" in fate for fate in fates), fates
    assert any("`library.GLOBAL`" in fate for fate in fates)
    assert judged.removed()


@pytest.mark.parametrize("options", [(), ("-n1",)], ids=["alone", "xdist"])
def test_what_no_global_reaches_is_removed_with_its_test(judge: Judge, options: Tuple[str, ...]) -> None:
    judged = judge(
        """
        import os, pytest
        from multiprocessing.shared_memory import SharedMemory

        NAME = "a-constant-1"
        CASES = ["a-case-1"]

        @pytest.mark.parametrize("name", [NAME, *CASES, "a-literal"])
        def test_leaks(name):
            kept = SharedMemory(name=name, create=True, size=10)
            kept.close()

        def test_after():
            for name in (NAME, *CASES, "a-literal"):
                assert not os.path.exists(f"/dev/shm/{name}")
        """,
        *options,
    )

    assert len(judged.ours) == 3, judged.output
    assert {leak["fate"] for leak in judged.ours} == {"removed"}
    assert judged.outcome("test_after")["call"] == "passed"


MANAGER = """
    import multiprocessing, os
    from multiprocessing import managers
    from multiprocessing.shared_memory import SharedMemory

    _manager = None
    _pool = None
    _pid = 0

    def manager():
        global _manager
        if _manager is None:
            _manager = managers.SharedMemoryManager()
            _manager.start()
        return _manager

    def pool():
        global _pool
        if _pool is None:
            _pool = multiprocessing.Pool(1)
        return _pool

    def child():
        global _pid
        if not _pid:
            _pid = os.fork()
            if not _pid:
                import time
                time.sleep(60)
                os._exit(0)
        return _pid
"""


PIDS = """
    import collections, os
    from typing import NamedTuple

    class Server:
        pid = 0

    class Slotted:
        __slots__ = ("pid",)

    class Pair(NamedTuple):
        pid: int
        name: str

    server, slotted, pair = Server(), Slotted(), None
    pids, children, by_pid, processes = set(), collections.deque(), {}, {}
    numbers, processed = [], []

    def in_a_class(pid):
        Server.pid = pid

    def in_an_attribute(pid):
        server.child_pid = pid

    def in_a_slot(pid):
        slotted.pid = pid

    def in_a_field(pid):
        global pair
        pair = Pair(pid, "it")

    def in_a_set(pid):
        pids.add(pid)

    def in_a_queue(pid):
        children.append(pid)

    def as_a_key(pid):
        by_pid[pid] = "it"

    def as_a_value(pid):
        processes["it"] = pid

    def in_a_list_of_another_name(pid):
        numbers.append(pid)

    def among_many_numbers(pid):
        processed.extend(range(pid - 50, pid + 50))
"""
HOLDING = [
    "in_a_class",
    "in_an_attribute",
    "in_a_slot",
    "in_a_field",
    "in_a_set",
    "in_a_queue",
    "as_a_key",
    "as_a_value",
]
NOT_HOLDING = ["in_a_list_of_another_name", "among_many_numbers"]


def test_a_bare_pid_holds_its_process_by_the_name_that_it_has(judge: Judge) -> None:
    tests = "".join(
        f"""
    def test_{way}():
        library.{way}(os.posix_spawn("/bin/sleep", ["sleep", "{number + 100}"], os.environ))
"""
        for number, way in enumerate([*HOLDING, *NOT_HOLDING])
    )
    files = {"library.py": PIDS, "test_it.py": f"    import os\n    import library\n{tests}"}
    judged = judge(files, "-oshmstate_grace=0")

    assert [leak["owner"]["name"].rpartition("::test_")[2] for leak in judged.ours] == [*HOLDING, *NOT_HOLDING]
    for leak in judged.ours[: len(HOLDING)]:
        assert "still holds it" in leak["fate"], leak
    assert {leak["fate"] for leak in judged.ours[len(HOLDING) :]} == {"ended (SIGTERM)"}
    assert judged.removed()


@pytest.mark.parametrize("options", [(), ("-n1",)], ids=["alone", "xdist"])
def test_processes_of_a_global_serve_later_tests(judge: Judge, options: Tuple[str, ...]) -> None:
    judged = judge(
        {
            "library.py": MANAGER,
            "test_it.py": """
                import os
                import library

                def test_first():
                    library.manager().SharedMemory(10)
                    library.pool().apply(abs, (-1,))
                    library.child()

                def test_second():
                    library.manager().SharedMemory(10).close()
                    assert library.pool().apply(abs, (-2,)) == 2
                    os.kill(library.child(), 0)
            """,
        },
        *options,
    )

    assert judged.outcome("test_first")["teardown"] == "failed", judged.output
    assert judged.outcome("test_second")["call"] == "passed", judged.output
    held = {leak["fate"].split("`")[1] for leak in judged.ours if "still holds it" in leak["fate"]}
    assert held == {"library._manager", "library._pool", "library._pid"}, "\n".join(
        f"{leak['name']}: {leak['fate']}" for leak in judged.ours
    )
    assert judged.removed()


def test_an_object_that_cannot_be_looked_at_holds_nothing_and_harms_nothing(judge: Judge) -> None:
    judged = judge(
        {
            "library.py": """
                class Odd:
                    pass

                Odd.__module__ = property()

                class Meta(type):
                    def __getattribute__(self, name):
                        raise RuntimeError(name)

                class Worse(metaclass=Meta):
                    pass

                kept = [Odd(), Worse]
            """,
            "test_it.py": """
                import library
                from multiprocessing.shared_memory import SharedMemory

                def test_first():
                    SharedMemory(create=True, size=10).close()
            """,
        },
    )

    assert judged.outcome("test_first").get("teardown") == "failed", judged.output
    assert "left behind: 1 segment" in judged.output
    assert judged.removed()


LATER = """
    import socket
    import subprocess
    import sys
    from multiprocessing.shared_memory import SharedMemory

    SERVER = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); time.sleep(60)"
    PORTS = []

    def test_made():
        server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE)
        PORTS.append(int(server.stdout.readline()))
        SharedMemory(name="made-by-one", create=True, size=10).close()

    def test_connects():
        socket.create_connection(("127.0.0.1", PORTS[0]))

    def test_opens():
        SharedMemory(name="made-by-one")

    def test_says():
        assert not "no segment made-by-one"

    def test_wraps():
        try:
            SharedMemory(name="made-by-one")
        except FileNotFoundError as error:
            raise RuntimeError("no cache") from error

    def test_another_file():
        open("/nowhere/at-all")

    def test_another_name():
        assert not "no segment made-by-one-more"
"""


def test_a_later_failure_says_what_was_removed_before(judge: Judge) -> None:
    judged = judge(LATER, "-rN")

    def told(test: str) -> str:
        start = judged.output.index(f" {test} ")
        end = judged.output.find("\n____", start)
        return judged.output[start : end if end > 0 else judged.output.index("= shared memory", start)]

    removed = "shmstate removed /dev/shm/made-by-one, made by test test_it.py::test_made, before this test"
    for test in ("test_opens", "test_says", "test_wraps"):
        assert told(test).count(removed) == 1, told(test)
    assert "shmstate ended process" in told("test_connects")
    assert removed not in told("test_connects")
    for test in ("test_another_file", "test_another_name"):
        assert "before this test" not in told(test)
