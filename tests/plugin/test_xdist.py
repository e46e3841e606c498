"""Under xdist a test answers for its own worker's doings alone, and the controller's exit status for all of them."""

from __future__ import annotations

from typing import Dict, List

import pytest

from tests.plugin.conftest import Judge
from tests.plugin.matrix import bare

#: ``tell("x")`` and ``wait_for("x")`` between tests of two workers; a folder of the run holds what was told.
BARRIER = """
    import os, pathlib, signal
    from multiprocessing.shared_memory import SharedMemory

    import pytest
    from tests.core.children import until

    HERE = pathlib.Path(__file__).parent

    def tell(word):
        (HERE / word).touch()

    def wait_for(word):
        until((HERE / word).exists, name=word)

    def drop(segment):
        segment.close()
        segment.unlink()
"""


def test_a_neighbour_on_another_worker_is_not_blamed_for_what_comes_during_it(judge: Judge) -> None:
    leaky = """
    from barrier import *

    def test_leaves():
        wait_for("neighbour has begun")
        SharedMemory(create=True, size=7001).close()  # leaks: test_leaves, segment 7001

    def test_after_that():
        tell("it was judged")
        wait_for("neighbour is through")
    """
    neighbour = """
    from barrier import *

    @pytest.fixture(scope="module")
    def of_module():
        segment = SharedMemory(create=True, size=10)
        yield
        drop(segment)

    def test_neighbour(of_module):
        before = SharedMemory(create=True, size=10)
        tell("neighbour has begun")
        wait_for("it was judged")
        meanwhile = SharedMemory(create=True, size=10)
        drop(before)
        drop(meanwhile)

    def test_that_has_nothing(of_module): tell("neighbour is through")
    """
    sources = {"barrier.py": BARRIER, "test_leaky.py": leaky, "test_neighbour.py": neighbour}

    judged = judge(sources, "-n", "2", "--dist", "loadfile")

    judged.confirm()
    assert judged.workers("test_leaves") != judged.workers("test_neighbour")


def test_the_same_name_on_two_workers_one_after_the_other_is_each_ones_own(judge: Judge) -> None:
    first = """
    from barrier import *

    def test_makes_and_removes():
        drop(SharedMemory("matrix-fixed-name", create=True, size=10))
        tell("removed")

    def test_waits(): wait_for("left and judged")

    def test_makes_it_anew_and_removes_it():
        drop(SharedMemory("matrix-fixed-name", create=True, size=10))
        tell("removed again")
    """
    second = """
    from barrier import *

    def test_leaves():
        wait_for("removed")
        SharedMemory("matrix-fixed-name", create=True, size=7002).close()  # leaks: test_leaves, segment 7002

    def test_after_that():
        tell("left and judged")
        wait_for("removed again")
    """
    sources = {"barrier.py": BARRIER, "test_first.py": first, "test_second.py": second}

    judged = judge(sources, "-n", "2", "--dist", "loadscope")

    judged.confirm()
    assert len(judged.workers()) == 2


SCOPES = """
    import pytest
    from multiprocessing.shared_memory import SharedMemory

    @pytest.fixture(scope="session")
    def of_session():
        SharedMemory(create=True, size=7003).close()
        yield

    @pytest.fixture(scope="module")
    def of_module():
        segment = SharedMemory(create=True, size=10)
        yield
        segment.close()
        segment.unlink()

    @pytest.mark.parametrize("number", range(8))
    def test_uses(of_session, of_module, number):
        pass

    def test_leaves(of_module):
        SharedMemory(create=True, size=7004).close()
"""


@pytest.mark.parametrize("dist", ["load", "worksteal", "loadscope"])
def test_a_session_fixture_leaks_once_a_worker_whatever_the_distribution(judge: Judge, dist: str) -> None:
    judged = judge({"test_1.py": SCOPES, "test_2.py": "def test_else(): pass"}, "-n", "2", "--dist", dist)

    users = judged.workers(*(f"test_uses[{number}]" for number in range(8)))
    assert sorted((blame.owner, blame.thing) for blame in judged.blames()) == [
        *[("session fixture of_session", "segment 7003")] * len(users),
        ("test_leaves", "segment 7004"),
    ]
    assert sorted(leak["owner"]["worker"] for leak in judged.ours if leak["owner"]["what"] == "fixture") == users
    assert set(judged.not_passed().values()) == {"teardown failed"}
    assert judged.status == 1
    assert judged.report["tests_checked"] == 10


@pytest.mark.parametrize("options", [["-x"], ["--maxfail=1"]], ids="".join)
def test_a_run_that_stops_at_the_first_leak_names_it_and_leaves_nothing(judge: Judge, options: List[str]) -> None:
    source = """
    from barrier import *

    @pytest.fixture(scope="module", autouse=True)
    def of_module():
        segment = SharedMemory(create=True, size=10)
        yield
        drop(segment)

    @pytest.mark.parametrize("number", range(20))
    def test_any(number):
        segment = SharedMemory(create=True, size=10)
        if number == 3:
            segment.close()
            return
        drop(segment)
    """

    judged = judge({"barrier.py": BARRIER, "test_it.py": source}, "-n", "2", *options)

    assert [blame.owner for blame in judged.blames()] == ["test_any[3]"]
    assert judged.not_passed() == {"test_any[3]": "teardown failed"}
    assert judged.status in (1, 2), judged.output
    assert not judged.left_running


IMPORTED = {
    "test_leaves.py": """
    import os

    with open(f"/dev/shm/matrix-import-{os.getpid()}", "w") as file:
        file.write("import")

    def test_a():
        pass
    """,
    "test_cleans.py": """
    import pytest
    from multiprocessing.shared_memory import SharedMemory

    segment = SharedMemory(create=True, size=10)

    @pytest.fixture(scope="module", autouse=True)
    def cleaned():
        yield
        segment.close()
        segment.unlink()

    @pytest.mark.parametrize("number", range(4))
    def test_b(number):
        pass
    """,
}


def test_what_an_import_leaves_fails_the_controller_though_every_test_passes(judge: Judge) -> None:
    judged = judge(IMPORTED, "-n", "2", "--dist", "each")

    assert judged.status == 1, judged.output
    assert judged.not_passed() == {}
    assert [(blame.owner, blame.thing, blame.line) for blame in judged.blames()] == [("import", "file 6", 3)] * 2
    assert judged.report["exit_status_changed"]
    assert "the tests passed, but this run fails for what was left behind" in judged.output


def test_without_xdist_it_is_told_but_the_process_may_yet_remove_it(judge: Judge) -> None:
    cleaned = IMPORTED["test_leaves.py"] + "\n    import atexit\n    atexit.register(os.unlink, file.name)\n"

    judged = judge({**IMPORTED, "test_leaves.py": cleaned})

    assert judged.status == 0, judged.output
    assert judged.not_passed() == {}
    assert [(blame.owner, blame.thing, blame.line) for blame in judged.blames()] == [("import", "file 6", 3)]
    assert judged.ours[0]["fate"] == "left in place: this process still runs, and may remove it at its exit"


def test_what_serves_the_whole_process_is_not_even_told(judge: Judge) -> None:
    judged = judge(
        """
    import atexit, os

    def test_a():
        folder = f"/dev/shm/joblib_memmapping_folder_{os.getpid()}_1_2"
        os.mkdir(folder)
        atexit.register(os.rmdir, folder)
    """
    )

    judged.confirm(status=0)


def test_what_serves_a_worker_is_due_when_that_ends(judge: Judge) -> None:
    judged = judge(
        """
    import atexit, os, pytest

    @pytest.mark.parametrize("cleans", [True, False])
    def test_a(cleans):
        folder = f"/dev/shm/joblib_memmapping_folder_{os.getpid()}_1_{cleans}"
        os.mkdir(folder)
        if cleans:
            atexit.register(os.rmdir, folder)
    """,
        "-n1",
    )

    assert judged.status == 1, judged.output
    assert [leak["name"].rpartition("_")[2] for leak in judged.ours] == ["False"]


def test_a_clean_run_stays_green_on_the_controller(judge: Judge) -> None:
    judged = judge({"test_cleans.py": IMPORTED["test_cleans.py"]}, "-n", "2", "--dist", "loadscope")

    judged.confirm(status=0)
    assert (judged.report["tests_checked"], judged.ours) == (4, [])


@pytest.mark.parametrize("restarts", [{}, {"max_worker_restart": "0"}], ids=["replaced", "not-replaced"])
def test_what_a_killed_worker_had_is_named_and_removed_and_no_neighbour_is_blamed(
    judge: Judge, restarts: Dict[str, str]
) -> None:
    killed = """
    from barrier import *
    import subprocess, sys

    from multiprocessing import resource_tracker

    def drop_from_tracker(segment):
        resource_tracker.unregister(segment._name, "shared_memory")

    @pytest.fixture(scope="module")
    def of_module():
        segment = SharedMemory(create=True, size=7006)
        drop_from_tracker(segment)
        yield segment

    def test_killed(of_module):
        segment = SharedMemory(create=True, size=7007)
        drop_from_tracker(segment)
        process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        wait_for("neighbour has begun")
        os.kill(os.getpid(), signal.SIGKILL)

    def test_after():
        drop(SharedMemory(create=True, size=10))
    """
    neighbour = """
    from barrier import *

    def test_neighbour():
        tell("neighbour has begun")

    @pytest.mark.parametrize("number", range(5))
    def test_more(number):
        drop(SharedMemory(create=True, size=10))
    """
    options = [f"--{name.replace('_', '-')}={value}" for name, value in restarts.items()]
    sources = {"barrier.py": BARRIER, "test_killed.py": killed, "test_neighbour.py": neighbour}

    judged = judge(sources, "-n", "2", "--dist", "loadfile", *options)

    assert judged.status in (1, 2), judged.output
    assert {test for test in judged.not_passed() if "test_more" not in test} <= {"test_killed", "test_after"}
    assert judged.outcome("test_neighbour")["call"] == "passed"
    assert judged.blames() == []
    told = {(bare(leak["owner"]["name"]), leak["kind"]) for leak in judged.ours}
    assert told == {("of_module", "segment"), ("test_killed", "segment"), ("test_killed", "process")}
    assert {leak["verdict"] for leak in judged.ours} == {"interrupted"}
    assert not judged.left_running


def test_programs_in_other_languages_that_a_killed_worker_started_are_ended_too(judge: Judge) -> None:
    source = """
    import os, signal, subprocess

    def test_killed():
        process = subprocess.Popen(["sleep", "100"])
        os.kill(os.getpid(), signal.SIGKILL)

    def test_other():
        pass
    """

    judged = judge(source, "-n", "2")

    assert judged.not_passed() == {"test_killed": "??? failed"}
    assert [(leak["kind"], leak["verdict"]) for leak in judged.ours] == [("process", "interrupted")]
    assert not judged.left_running
