"""What a process leaves when it ends, or forks, in the middle of something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from shmstate import InvalidOption, StateReader, StateWriter, WaitTimeout, list_states, reclaim
from shmstate.layout import OLD_PREFIX, SHM_DIR
from tests.core import children

WAYS_OUT = {
    "end": "",
    "sys.exit": "import sys; sys.exit(0)",
    "uncaught exception": "raise LookupError",
    "ctrl-c": "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(60)",
    "a handler that exits": "import os, signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));"
    " os.kill(os.getpid(), signal.SIGTERM); import time; time.sleep(60)",
    "exit in a loan": "import sys\nwith w.loan(4): sys.exit(0)",
    "a thread that is not joined": "import threading; threading.Thread(target=w.publish, args=(2,)).start()",
    "two writers": "other = shmstate.StateWriter(w.name, **options); other.publish(2); other.trim()"
    " if options else None",
    "a cycle": "cycle = [w]; cycle.append(cycle); del w",
}


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"shared": True, "notify": True}], ids=str)
@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_process_that_ends_in_any_way_that_runs_pythons_exit_leaves_nothing(
    name: str, way: str, options: Any
) -> None:
    if way == "two writers" and not options:
        pytest.skip("a state has one exclusive writer")
    program = (
        f"import shmstate; options = {options!r}; w = shmstate.StateWriter({name!r}, **options); w.publish(1);"
        f" w.trim()\n{WAYS_OUT[way]}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)

    assert [file for file in os.listdir(SHM_DIR) if name in file] == []
    assert b"shmstate/" not in done.stderr or b"in <module>" in done.stderr
    assert b"Exception ignored" not in done.stderr


def is_dead_once_killed(parent: Any, child: int, reader: StateReader) -> bool:
    """Kill the writer's process. Whether the writer lived until then, and is dead though a child of it lives on."""
    was_alive = reader.writer_alive
    parent.kill()
    os.kill(child, 0)
    return was_alive and not reader.writer_alive


@pytest.mark.parametrize("options", [{}, {"shared": True}], ids=str)
@pytest.mark.parametrize("by", ["this thread", "another thread"])
def test_a_child_that_was_forked_in_a_loan_keeps_no_lock_of_its_parent(
    name: str, by: str, options: Any, start: Any
) -> None:
    parent = start(children.fork_in_a_loan, name, by, "shared" if options else "alone")
    child = int(parent.line())
    try:
        with StateReader(name) as reader:
            assert is_dead_once_killed(parent, child, reader)
            assert [state.alive for state in list_states(name)] == [False]
            with StateWriter(name) as heir:
                assert heir.publish("next") == 2
                assert reader.get() == "next"
    finally:
        os.kill(child, signal.SIGKILL)
    assert reclaim(name) == []


@pytest.mark.parametrize("kind", ["alone", "shared"])
@pytest.mark.parametrize("is_new", ["new", ""], ids=["created", "moved"])
@pytest.mark.parametrize("place", ["memory.pack_header", "memory.Segment", "turns.appear", "memory.map_shared"])
def test_a_child_that_was_forked_while_a_segment_is_made_keeps_no_lock_of_its_parent(
    name: str, place: str, is_new: str, kind: str, start: Any
) -> None:
    parent = start(children.fork_where, name, place, kind, is_new)
    child = int(parent.line())
    try:
        with StateReader(name) as reader:
            assert is_dead_once_killed(parent, child, reader)
        assert reclaim(name=name) == [name]
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_that_was_forked_while_a_state_is_looked_at_keeps_no_lock(name: str, start: Any) -> None:
    StateWriter(name).close(unlink=False)
    looker = start(children.fork_while_reclaiming, name)
    child = int(looker.line())
    try:
        with StateWriter(name) as writer:
            assert writer.publish(1) == 1
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_writer_waits_no_longer_than_it_was_given_for_one_that_is_stopped_in_its_turn(name: str, start: Any) -> None:
    with StateWriter(name, shared=True, codec="raw", max_size=4096, lock_timeout=0.05) as writer:
        child = start(children.share_and_stop_in_the_turn, name, "in place")
        assert child.line() == "in place"
        child.signal(signal.SIGSTOP)
        for act in (lambda: writer.publish(b"next"), writer.trim, lambda: writer.loan(3).__enter__()):
            with pytest.raises(
                WaitTimeout, match=f"'{name}': another writer that shares it has been publishing for 0.05"
            ):
                act()
        assert writer.version == 1
        child.signal(signal.SIGCONT)
        child.kill()
        assert writer.publish(b"next") == 2


@pytest.mark.parametrize("limit", [float("nan"), -1, "1", True])
def test_a_limit_that_is_none_is_refused(name: str, limit: Any) -> None:
    with pytest.raises(InvalidOption, match="lock_timeout"):
        StateWriter(name, shared=True, lock_timeout=limit)
    assert not os.path.exists(f"{SHM_DIR}/shmstate.{name}")


def test_closing_waits_for_a_loan_of_another_thread(name: str) -> None:
    writer = StateWriter(name, codec="raw")
    reader = None
    in_loan, go_on = threading.Event(), threading.Event()

    def lend() -> None:
        with writer.loan(4) as view:
            in_loan.set()
            go_on.wait(20)
            view[:] = b"loan"

    writer.publish(b"1")
    reader = StateReader(name)
    thread = threading.Thread(target=lend)
    thread.start()
    assert in_loan.wait(20)
    closing = threading.Thread(target=writer.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    go_on.set()
    thread.join(20)
    closing.join(20)
    assert reader.get() == b"loan"
    assert not os.path.exists(f"{SHM_DIR}/shmstate.{name}")
    assert not [file for file in os.listdir(SHM_DIR) if file.startswith(f"{OLD_PREFIX}{name}")]
