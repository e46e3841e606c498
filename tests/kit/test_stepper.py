"""The stepper: real processes, one step at a time, and the same every time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Iterator, List, Optional, Set

import psutil
import pytest

from pytest_shmstate.kit.seams.adapter import Adapter, ShmstateAdapter
from pytest_shmstate.kit.stepping.nursery import StepperFailed
from pytest_shmstate.kit.stepping.process import At, Blocked, Done, Process, Raised, StillRunning
from pytest_shmstate.kit.stepping.schedules import Diverged, Turn, load, to_text
from pytest_shmstate.kit.stepping.stepper import LEFT, Stepper, Violated
from tests.core.children import has_ended, until
from tests.kit import preparations
from tests.kit.broken_structures import Block, Refused, Ring, Seqlock
from tests.kit.lines import Packed

# A publish of shmstate, in steps: load LATEST, commit, load LATEST, store INTENT, fill, fill, store LENGTH ...
BEFORE_LATEST = "store LATEST"


@pytest.fixture
def stepper(shmstate_stepper: Stepper) -> Iterator[Stepper]:
    shmstate_stepper.reset(ShmstateAdapter(slots=2))
    yield shmstate_stepper
    assert shmstate_stepper.reset() == []


def do(stepper: Stepper, name: str, operation: str, size: int = 0) -> Process:
    process = stepper.process(name)
    process.do(operation, size)
    return process


def pair(stepper: Stepper, size: int = 4096) -> List[Process]:
    return [do(stepper, "writer", "create", size), do(stepper, "reader", "attach")]


def read(reader: Process, limit: int = 50) -> object:
    outcome = reader.do("read", limit=limit)
    return outcome.result if isinstance(outcome, Done) else outcome


# ---- steps


def test_a_process_stops_before_its_first_access_and_goes_on_step_by_step(stepper: Stepper) -> None:
    writer, _ = pair(stepper)

    came = [writer.begin("publish", 24)]
    while writer.operation:
        came.append(writer.step())

    gates = [outcome.gate for outcome in came[:-1] if isinstance(outcome, At)]
    assert gates[:1] + gates[-1:] == ["load LATEST", BEFORE_LATEST]
    assert (came[-1], writer.steps) == (Done(1), len(gates))


def test_nothing_is_published_before_the_last_store_and_all_after(stepper: Stepper) -> None:
    writer, reader = pair(stepper)

    writer.begin("publish", 24)
    assert writer.run(until=BEFORE_LATEST) == At(BEFORE_LATEST)
    before = read(reader)
    writer.step()

    assert (before, read(reader)) == ((0, ""), (1, ""))


def test_a_read_ends_in_few_steps_whatever_gate_the_writer_stands_at(stepper: Stepper) -> None:
    writer, reader = pair(stepper)
    do(stepper, "writer", "publish", 24)
    gates = 0

    for size in (24, 9000):
        writer.begin("publish", size)
        while writer.operation:
            read(reader, limit=40)
            writer.step()
            gates += 1

    assert gates > 25
    assert stepper.judge()


def test_what_does_not_end_in_its_steps_is_said_so(stepper: Stepper) -> None:
    stepper.reset(Seqlock())
    writer, reader = pair(stepper, 64)
    writer.begin("publish", 24)
    writer.run(until="fill name[128:144]")

    with pytest.raises(StillRunning, match=r"reader: 'read' had not ended after 30 steps of its own"):
        read(reader, limit=30)


def test_thousands_of_steps_at_once_are_told(stepper: Stepper) -> None:
    stepper.reset(Seqlock())
    writer, reader = pair(stepper, 64)
    writer.begin("publish", 24)
    writer.run(until="fill name[128:144]")

    reader.begin("read", steps=20_000)

    assert reader.steps == 20_000


def test_a_payload_that_shrinks_or_grows_is_judged_where_it_is_read(stepper: Stepper) -> None:
    pair(stepper)
    for version, size in enumerate((24, 16, 9000), 1):
        do(stepper, "writer", "publish", size)
        assert read(stepper.process("reader")) == (version, "")


@pytest.mark.parametrize("wrong", ["begin", "run", "step", "throw", "cont", "publish"])
def test_what_cannot_be_is_refused(stepper: Stepper, wrong: str) -> None:
    writer, _ = pair(stepper)
    if wrong in ("begin", "publish"):
        writer.begin("publish", 24)
    with pytest.raises(StepperFailed, match=r"writer|reader"):
        if wrong == "publish":
            stepper.process("reader").begin("publish", 24)
        else:
            getattr(writer, wrong)(*(["publish"] if wrong == "begin" else []))


# ---- kills, stops, exceptions


def test_a_killed_writer_s_last_state_stands_and_another_goes_on(stepper: Stepper) -> None:
    writer, reader = pair(stepper)
    do(stepper, "writer", "publish", 24)
    writer.begin("publish", 24)
    writer.run(until=BEFORE_LATEST)

    assert writer.kill() == At(BEFORE_LATEST)
    assert not psutil.pid_exists(writer.child.pid)
    assert read(reader) == (1, "")
    assert reader.do("alive") == Done(False)
    heir = do(stepper, "writer", "create", 4096)
    do(stepper, "writer", "publish", 24)

    assert (heir.incarnation, heir.label, read(reader)) == (2, "writer (2)", (3, ""))
    assert stepper.judge()


def test_a_stopped_process_is_stopped_for_the_kernel_too(stepper: Stepper) -> None:
    writer, reader = pair(stepper)
    writer.begin("publish", 24)
    writer.stop()
    seen = psutil.Process(writer.child.pid).status()

    with pytest.raises(StepperFailed, match=r"writer is stopped: cont\(\) it first"):
        writer.step()
    reader.begin("alive")
    alive = reader.run()
    writer.cont()
    writer.run()

    assert (seen, alive) == (psutil.STATUS_STOPPED, Done(True))
    assert read(reader) == (1, "")


def test_an_exception_comes_in_place_of_the_access(stepper: Stepper) -> None:
    writer, reader = pair(stepper)
    do(stepper, "writer", "publish", 24)
    writer.begin("publish", 24)
    writer.run(until=BEFORE_LATEST)

    assert writer.throw() == Raised("Thrown: store LATEST", is_refusal=False)
    assert read(reader) == (1, "")
    do(stepper, "writer", "publish", 24)
    assert read(reader) == (3, "")
    assert stepper.judge()


def test_a_process_that_crashes_is_judged(stepper: Stepper) -> None:
    pair(stepper)
    os.truncate(f"/dev/shm/shmstate.{stepper.name}", 0)

    with pytest.raises(Violated, match=r"'publish' behind 'load LATEST': .*killed by signal 7"):
        do(stepper, "writer", "publish", 24)
    assert "DIES behind this" in stepper.report("")
    assert stepper.reset() != []  # nobody removes what is no segment any more


class Faulty(Ring):
    def read(self, reader: Block) -> Optional[bytes]:
        raise LookupError("nothing here")


def test_an_error_that_nobody_documented_is_judged(stepper: Stepper) -> None:
    stepper.reset(Faulty())
    pair(stepper, 64)
    do(stepper, "reader", "read")

    with pytest.raises(Violated, match="'read' by reader raised LookupError: nothing here"):
        stepper.judge()


class KeepsCalls(Ring):
    """Functions in C are no methods where they are kept in a class; what stands for them must be none either."""

    look: Any = os.stat
    clock: Any = time.monotonic
    fine_clock: Any = time.monotonic_ns
    wait: Any = time.sleep

    def read(self, reader: Block) -> Optional[bytes]:
        self.look("/dev/shm", follow_symlinks=False)
        self.wait(self.clock() * 0 + self.fine_clock() * 0)
        return super().read(reader)


def test_calls_that_a_class_keeps_are_no_methods(stepper: Stepper) -> None:
    stepper.reset(KeepsCalls())
    pair(stepper, 64)
    do(stepper, "reader", "read")

    assert stepper.judge()


class Gives(Seqlock):
    """Gives up, as it says it may."""

    def read(self, reader: Block) -> Optional[bytes]:
        raise Refused("not now")


def test_an_error_that_is_documented_is_no_fault(stepper: Stepper) -> None:
    stepper.reset(Gives())
    pair(stepper, 64)
    reader = stepper.process("reader")

    assert reader.begin("read") == Raised("Refused: not now", is_refusal=True)
    assert stepper.judge()


# ---- locks


def test_who_would_wait_for_a_turn_is_blocked_until_it_is_given_back(stepper: Stepper) -> None:
    stepper.reset(ShmstateAdapter(slots=2, shared=True))
    first, second = do(stepper, "first", "create", 64), do(stepper, "second", "create", 64)
    first.begin("publish", 24)
    first.run(until=BEFORE_LATEST)

    second.begin("publish", 24)
    assert second.run() == Blocked("take turn")
    assert second.step() == Blocked("take turn")
    first.run(until="end turn")
    assert second.run() == Blocked("take turn")
    first.step()
    assert second.run() == Done(2)
    assert stepper.judge()


def test_a_killed_writer_s_turn_is_over(stepper: Stepper) -> None:
    stepper.reset(ShmstateAdapter(slots=2, shared=True))
    first, second = do(stepper, "first", "create", 64), do(stepper, "second", "create", 64)
    first.begin("publish", 24)
    first.run(until=BEFORE_LATEST)
    second.begin("publish", 24)

    assert second.run() == Blocked("take turn")
    first.kill()
    assert second.run() == Done(1)


# ---- hangs


class Spins(Ring):
    """Goes on without end and without an access."""

    def read(self, reader: Block) -> Optional[bytes]:
        while True:
            pass


def test_what_comes_to_no_gate_is_a_hang_and_the_stack_says_where() -> None:
    with Stepper(Spins(), patience=0.5) as stepper:
        do(stepper, "writer", "create", 64)
        reader = do(stepper, "reader", "attach")

        with pytest.raises(Violated) as caught:
            reader.begin("read")

        assert "came to no gate within 0.5 s" in str(caught.value)
        assert "test_stepper.py" in str(caught.value)
        assert "in read" in str(caught.value)
        assert "HANGS" in str(caught.value)
        assert not reader.is_alive


# ---- judgement, and what is told of it


def torn_read(stepper: Stepper) -> None:
    stepper.reset(Ring(checks=False))
    _, reader = pair(stepper, 64)
    do(stepper, "writer", "publish", 24)
    reader.begin("read")
    reader.run(until="copy name[400:408]")
    do(stepper, "writer", "publish", 24)
    do(stepper, "writer", "publish", 40)
    reader.run()


def test_a_torn_read_is_found_and_told_with_all_that_led_to_it(stepper: Stepper) -> None:
    torn_read(stepper)

    with pytest.raises(Violated) as caught:
        stepper.judge()

    told = str(caught.value)
    assert told.startswith("ring: VIOLATED (integrity)")
    for part in ("writer   ", "reader\n", "  switch", "copy name[400:408]", "byte 16 of version 1: ", "replay: "):
        assert part in told


def test_a_schedule_goes_the_same_way_twenty_times(stepper: Stepper) -> None:
    torn_read(stepper)
    with pytest.raises(Violated) as found:
        stepper.judge()

    for _ in range(20):
        with pytest.raises(Violated) as again:
            stepper.replay(found.value.turns)
        assert (again.value.turns, str(again.value)) == (found.value.turns, str(found.value))


def test_the_line_that_a_report_ends_with_replays_it(stepper: Stepper) -> None:
    torn_read(stepper)
    line = stepper.replay_line()
    before = stepper.turns

    with pytest.raises(Violated, match="byte 16 of version 1"):
        eval(line.partition("replay: ")[2], {"Stepper": lambda _: stepper, "adapter": None})

    assert stepper.turns == before


def test_a_schedule_is_kept_in_a_file(stepper: Stepper, tmp_path: Path) -> None:
    pair(stepper)
    do(stepper, "writer", "publish", 24)
    do(stepper, "reader", "read")
    stepper.save(tmp_path / "schedule.json")

    assert load(tmp_path / "schedule.json") == stepper.turns == load(to_text(stepper.turns))
    assert stepper.replay(tmp_path / "schedule.json")


def test_what_no_history_shows_is_replayed_too(stepper: Stepper) -> None:
    stepper.reset(Leaves())
    pair(stepper, 64)
    error = stepper.violated(f"{LEFT}it")
    line, told = stepper.replay_line(), str(error)
    schedule = line.partition("replay(")[2].rstrip(")").strip("'")

    with pytest.raises(Violated) as again:
        stepper.replay(schedule)
    assert str(again.value) == told
    stepper.reset(Ring())
    with pytest.raises(Diverged, match="came nothing"):
        stepper.replay(schedule)


def test_a_schedule_of_other_code_says_where_it_goes_another_way(stepper: Stepper) -> None:
    torn_read(stepper)
    turns = stepper.turns
    stepper.reset(Ring(checks=True))

    with pytest.raises(Diverged, match=r"turn 8 \(reader, go\), step 2: expected done \(1, .*, came load name.Q\[1\]"):
        stepper.replay(turns)


def test_a_gate_that_is_another_one_is_named(stepper: Stepper) -> None:
    pair(stepper)
    turns: List[Turn] = list(stepper.turns)
    turns[0] = turns[0]._replace(passed=("open draft", *turns[0].passed[1:]))

    with pytest.raises(Diverged, match=r"turn 1 \(writer, begin\), step 1: expected open draft, came open name"):
        stepper.replay(turns)


# ---- how processes are made


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_processes_are_prepared_before_anything_of_shmstate_is_there(method: str) -> None:
    with Stepper(ShmstateAdapter(), prepare=preparations.nothing_of_shmstate_is_there, start_method=method) as stepper:
        _, reader = pair(stepper)
        do(stepper, "writer", "publish", 24)
        assert read(reader) == (1, "")
        stepper.process("writer").kill()
        do(stepper, "writer", "create", 24)


def test_what_is_prepared_is_what_is_tested() -> None:
    with Stepper(ShmstateAdapter(slots=2), prepare=preparations.two_slots_are_never_whole) as stepper:
        assert isinstance(stepper.process("writer").begin("create", 64), Raised)


def test_a_preparation_that_fails_is_told() -> None:
    with pytest.raises(StepperFailed, match="LookupError: no such mutation"):
        Stepper(ShmstateAdapter(), prepare=preparations.fail)


class SaysItsHash(Ring):
    def attach(self, name: str) -> Block:
        raise LookupError(f"{hash('shmstate')}")


def test_all_processes_of_all_steppers_hash_alike() -> None:
    told = []
    for _ in range(2):
        with Stepper(SaysItsHash()) as stepper:
            told.append(stepper.process("reader").do("attach"))

    assert told[0] == told[1]


def test_an_unknown_start_method_is_refused() -> None:
    with pytest.raises(StepperFailed, match="start_method='fork': choose one of forkserver, spawn"):
        Stepper(ShmstateAdapter(), start_method="fork")


def test_copies_that_run_downward_fill_the_far_end_first() -> None:
    with Stepper(Ring(), downward=True, parts=3) as stepper:
        pair(stepper, 64)
        do(stepper, "writer", "publish", 24)
        fills = [gate for turn in stepper.turns for gate in turn.passed if gate.startswith("fill")]

    assert fills == ["fill name[400:408]", "fill name[392:400]", "fill name[384:392]"]


@pytest.mark.parametrize("early", [True, False])
def test_a_structure_that_hands_its_bytes_to_c_is_stepped_by_the_line(early: bool) -> None:
    with Stepper(Packed(early), by_line=["tests.kit.lines"]) as stepper:
        writer, reader = pair(stepper, 64)
        do(stepper, "writer", "publish", 24)
        writer.begin("publish", 24)
        problems: Set[str] = set()
        while writer.operation:
            outcome = read(reader)
            assert isinstance(outcome, tuple)
            problems.add(outcome[1])
            writer.step()

    assert (len(problems) > 1) == early


# ---- nothing is left


def test_processes_are_used_again_in_the_next_run(stepper: Stepper) -> None:
    first = {process.child.pid for process in pair(stepper)}
    stepper.reset()
    second = {process.child.pid for process in pair(stepper)}

    assert first == second


def test_a_run_ends_in_the_middle_of_whatever_it_was_at(stepper: Stepper) -> None:
    pair(stepper)
    stepper.process("writer").begin("publish", 9000)
    stepper.process("writer").run(until="rename name")
    stepper.process("writer").stop()
    stepper.process("other").begin("create", 64)
    children = [process.child for process in stepper.processes.values()]

    assert stepper.reset() == []
    assert all(child.is_running for child in children)
    assert read(pair(stepper)[1]) == (0, "")


@pytest.mark.parametrize("gate", ["link name", "truncate draft", "unlink draft"])
def test_what_is_tidied_up_at_the_end_of_a_run_stops_at_no_gate(stepper: Stepper, gate: str) -> None:
    stepper.process("writer").do("create", 64, until=gate)

    assert stepper.reset() == []
    assert read(pair(stepper)[1]) == (0, "")


class Tidies(Ring):
    def publish(self, writer: Block, payload: bytes) -> Optional[int]:
        try:
            return super().publish(writer, payload)
        finally:
            writer.words[7] = 0


def test_who_is_cut_short_lets_go_of_all_it_holds(stepper: Stepper) -> None:
    stepper.reset(Tidies())
    writer, _ = pair(stepper, 64)
    writer.begin("publish", 24)
    name, maps = stepper.name, Path(f"/proc/{writer.child.pid}/maps")
    before = name in maps.read_text()
    stepper.reset()

    assert (before, name in maps.read_text()) == (True, False)


class Leaves(Ring):
    """Forgets its file."""

    def remove(self, name: str) -> None:
        pass


def test_what_is_left_behind_is_told_and_removed(stepper: Stepper) -> None:
    stepper.reset(Leaves())
    pair(stepper, 64)
    name = stepper.name

    assert stepper.reset() == [name]
    assert not os.path.exists(f"/dev/shm/{name}")


class LeavesDrafts(Ring):
    def create(self, name: str, size: int) -> Block:
        with open(f"/dev/shm/shmstate-new.{os.getpid()}.0.left", "w"):
            return super().create(name, size)


def test_a_draft_is_left_behind_by_who_could_have_removed_it(stepper: Stepper) -> None:
    stepper.reset(LeavesDrafts())
    writer = stepper.process("writer")
    writer.do("create", 64)

    assert stepper.reset() == [f"shmstate-new.{writer.child.pid}.0.left"]


def test_no_process_outlives_its_stepper() -> None:
    stepper = Stepper(ShmstateAdapter())
    children = [process.child.pid for process in pair(stepper)]
    stepper.process("writer").stop()
    stepper.process("third").kill()
    root = psutil.Process(psutil.Process(children[0]).ppid())

    stepper.close()
    stepper.close()

    assert all(has_ended(pid) for pid in [*children, root.pid])


def test_no_process_outlives_a_driver_that_is_killed(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = (
        "import os, signal, psutil\n"
        "from pytest_shmstate.kit.stepping.stepper import Stepper\n"
        "from tests.kit.broken_structures import Ring\n"
        "stepper = Stepper(Ring())\n"
        "pid = stepper.process('a').child.pid\n"
        "stepper.process('b').stop()\n"
        "print(pid, stepper.process('b').child.pid, psutil.Process(pid).ppid(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    told = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=60, check=False).stdout
    pids = [int(word) for word in told.split()]

    assert len(pids) == 3
    until(lambda: all(has_ended(pid) for pid in pids))


def adapters() -> List[Adapter]:
    return [ShmstateAdapter(), Ring()]


def test_one_pool_serves_one_structure_after_the_other(stepper: Stepper) -> None:
    for adapter in adapters() * 2:
        stepper.reset(adapter)
        _, reader = pair(stepper, 64)
        do(stepper, "writer", "publish", 24)
        assert read(reader) == (1, "")
