"""The check of anybody's structure: what it refuses, what it asks for, what it makes of odd ones, and its command."""

from __future__ import annotations

import sys
import threading
import time
from multiprocessing import shared_memory
from pathlib import Path
from types import ModuleType
from typing import Any, List

import pytest

from pytest_shmstate.kit import __main__ as command
from pytest_shmstate.kit import checkup
from pytest_shmstate.kit.checkup import Broken, Finding, Report, check
from pytest_shmstate.kit.exploring import explored as explored_stages
from pytest_shmstate.kit.exploring.others import explored, scenarios
from pytest_shmstate.kit.oracle.verdict import OK, UNKNOWN, VIOLATED
from pytest_shmstate.kit.seams.adapter import Adapter, ShmstateAdapter
from pytest_shmstate.kit.seams.blocks import Blocks, begin, in_place
from pytest_shmstate.kit.seams.gates import Copying
from pytest_shmstate.kit.seams.own_time import OwnTime
from tests.kit import oddities
from tests.kit.broken_structures import Seqlock
from tests.kit.mended import Ring
from tests.kit.mission import Double


def explore(adapter: Adapter, scenario: str = "one read", waits: bool = False) -> Any:
    outcome, told, _ = explored(scenario, scenarios(adapter, waits)[scenario])
    return outcome, told


# ---- odd structures, explored


ODD = {
    # adapter, scenario, waits: outcome, what is said
    "right": (Ring(), "one read", OK, "every schedule;"),
    "C": (oddities.HandsOn(), "one read", UNKNOWN, "it hands shm.buf to C"),
    "C, hidden": (oddities.HidesIt(), "one read", UNKNOWN, "by_line=[...]"),
    "create": (oddities.CannotBeCreated(), "one read", UNKNOWN, "it could not be set up: it raised PermissionError"),
    "publish": (oddities.CannotBePublished(), "one read", VIOLATED, "writer 1: publish raised ZeroDivisionError"),
    "publish, documented": (oddities.Refuses(), "one read", OK, "every schedule;"),
    "mmap": (oddities.MapsByItself(), "one read", UNKNOWN, "it made nothing with multiprocessing.shared_memory"),
    "derived": (oddities.UsesADerivedClass(), "one read", UNKNOWN, "derived from that one"),
    "count": (oddities.Keeps(), "one read", UNKNOWN, "do not lead to the same twice"),
    "blind": (oddities.Blind(), "one read", VIOLATED, "reader 1 read 0, though 1 was there before it began"),
    "writers": (oddities.HasSeveralWriters(), "writers", VIOLATED, "writer"),
    "time": (oddities.Impatient(), "one read", OK, "reads that gave up"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_the_explorer_makes_of_odd_structures(name: str) -> None:
    adapter, scenario, expected, said = ODD[name]

    outcome, told = explore(adapter, scenario)

    assert outcome == expected, told
    assert said in told


def test_a_reader_that_waits_for_a_writer_is_said_to() -> None:
    outcome, told = explore(Seqlock())

    assert outcome == VIOLATED
    assert "liveness: reader 1: read had not ended after 200 accesses of its own, though nobody else moved" in told


def test_unless_it_may() -> None:
    outcome, told = explore(Seqlock(), waits=True)

    assert outcome == OK, told


def test_but_not_for_the_dead() -> None:
    outcome, told = explore(Seqlock(), "heir", waits=True)

    assert outcome == VIOLATED, told
    assert "liveness" in told or "nobody can go on" in told


def test_nobody_really_sleeps_and_the_time_of_a_schedule_is_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError(f"slept {seconds} seconds")

    monkeypatch.setattr(time, "sleep", sleep)
    assert explore(oddities.Impatient())[0] == OK

    adapter = oddities.StampsTime()
    assert explore(adapter)[0] == OK
    assert adapter.at == int(1_700_000_000 * 1e9)


# ---- odd structures, in all engines


def outcomes(report: Report) -> List[str]:
    return [finding.outcome for finding in report.findings]


def test_what_hands_its_buffer_to_c_is_broken_line_by_line() -> None:
    report = check(oddities.HandsOn(), engines=["explorer", "stepper"], examples=60, by_line=["tests.kit.oddities"])

    assert outcomes(report) == [UNKNOWN, VIOLATED], report
    assert "line oddities.py:" in str(report)
    assert "by_line=['tests.kit.oddities'])" in str(report)


def test_what_maps_by_itself_leaves_nothing_behind_and_is_left_to_the_others() -> None:
    report = check(oddities.MapsByItself(), engines=["explorer"])

    assert outcomes(report) == [UNKNOWN]  # and the leak detector looks on


def test_a_create_that_raises_is_told_by_the_stepper() -> None:
    report = check(oddities.CannotBeCreated(), engines=["stepper"])

    assert report.outcome == VIOLATED
    assert "writer 1 raised PermissionError: [Errno 13] not here" in str(report)


def test_of_several_things_that_are_wrong_the_stepper_tells_one() -> None:
    report = check(oddities.Forgets(), engines=["stepper"], examples=20)

    assert outcomes(report) == [VIOLATED]


@pytest.mark.concurrent
def test_a_writer_is_not_replaced_in_what_does_not_say_that_it_can_be(tmp_path: Path) -> None:
    report = check(oddities.HasOneWriter(), engines=["stepper", "stress"], examples=15, seconds=0.3, folder=tmp_path)

    assert outcomes(report) == [OK, OK], report
    met = report.findings[0].told
    assert "kills in a publish" not in met
    assert "exceptions" not in met


@pytest.mark.concurrent
@pytest.mark.parametrize("adapter", [oddities.PromisesAnHeir(), oddities.HandsOver()], ids=["survives", "hands over"])
def test_and_is_in_what_does(adapter: Adapter) -> None:
    report = check(adapter, engines=["stepper"], examples=100)

    assert report.outcome == VIOLATED, report
    assert "raised FileExistsError" in str(report)


def test_shmstate_itself_is_explored_in_scenarios_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    few = dict(list(explored_stages.QUICK.items())[:2])
    monkeypatch.setattr(checkup, "QUICK", few)

    report = check(ShmstateAdapter(), engines=["explorer"])

    assert outcomes(report) == [OK, OK]


# ---- what is refused


@pytest.mark.parametrize("engines", [["explorers"], ["explorer", "x"], []])
def test_an_engine_that_there_is_not_is_refused(engines: List[str]) -> None:
    with pytest.raises(ValueError, match="is none of explorer, stepper, stress"):
        check(Ring(), engines=engines)


def test_an_adapter_of_the_program_that_runs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ring, "__module__", "__main__")

    with pytest.raises(ValueError, match="Ring is defined in the program that runs"):
        check(Ring(), engines=["stepper"])
    assert check(Double(), engines=["explorer"]).outcome == VIOLATED


def test_an_adapter_that_cannot_be_pickled_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"CannotBePickled cannot be pickled .*: each process gets an adapter of its own"
    ):
        check(oddities.CannotBePickled())


# ---- reports


def report_of(*found: str) -> Report:
    engines = ("explorer", "stepper", "stress")
    return Report("it", [Finding(engine, "", outcome, 0.0, "told") for engine, outcome in zip(engines, found)])


@pytest.mark.parametrize(
    ("found", "outcome"),
    [((OK, OK), OK), ((OK, UNKNOWN), UNKNOWN), ((UNKNOWN, VIOLATED, OK), VIOLATED), ((), UNKNOWN)],
)
def test_a_report_is_as_bad_as_the_worst_that_was_found(found: Any, outcome: str) -> None:
    assert report_of(*found).outcome == outcome


def test_only_ok_is_enough() -> None:
    report_of(OK, OK).require()
    for found in (UNKNOWN, VIOLATED):
        with pytest.raises(Broken, match=rf"(?s)---- explorer: OK, 0.0 s\ntold.*it: {found} \(explorer OK, stepper"):
            report_of(OK, found).require()


def test_what_is_found_is_told_as_it_comes() -> None:
    told: List[Finding] = []

    report = check(Double(), engines=["explorer"], note=told.append)

    assert told == list(report.findings)


# ---- the command


def run(*arguments: str) -> int:
    return command.main(["check", *arguments, "--engine", "explorer"])


@pytest.mark.parametrize(
    ("adapter", "status"),
    [
        ("tests.kit.mended:Ring", 0),
        ("tests.kit.mission:Double", 1),
        ("tests.kit.oddities:HandsOn", 2),
        ("tests.kit.oddities:NoSuch", 3),
    ],
)
def test_the_status_says_what_came_of_it(adapter: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(adapter) == status
    out, err = capsys.readouterr()
    assert (
        (out if status < 3 else err)
        .strip()
        .splitlines()[-1]
        .startswith(("ring of four slots: OK", "DoubleBuffer: VIOLATED", "hands shm.buf to C: UNKNOWN", "NoAdapter"))
    )


WRONG = {
    "ring": "'ring' is not MODULE:NAME, such as my_package.adapters:MyAdapter",
    "tests.kit.mended:": "is not MODULE:NAME",
    "no.such.module:Ring": "there is no module 'no.such.module' here, nor on PYTHONPATH",
    "tests.kit.mended:Rang": "tests.kit.mended has no 'Rang'; it has OfTheMission, Ring, Careless, Renamed",
    "tests.kit.oddities:HERE": "neither an Adapter nor what makes one",
    "tests.kit.oddities:not_an_adapter": "is a str, not a pytest_shmstate.kit.Adapter",
    "tests.kit.oddities:needs_arguments": "raised TypeError",
    "pytest_shmstate.kit.seams.adapter:Adapter": "raised TypeError",
}


@pytest.mark.parametrize("named", WRONG)
def test_what_is_no_adapter_is_told(named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(named) == 3
    assert WRONG[named] in capsys.readouterr().err


def test_a_module_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fails_to_load.py").write_text("1 / 0", "utf-8")
    (tmp_path / "lacks_something.py").write_text("import surely_not_there", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert (run("fails_to_load:Ring"), run("lacks_something:Ring")) == (3, 3)
    told = capsys.readouterr().err
    assert "importing fails_to_load raised ZeroDivisionError: division by zero" in told
    assert "lacks_something cannot be imported: No module named 'surely_not_there'" in told


@pytest.mark.parametrize("named", ["tests.kit.oddities:made", "tests.kit.oddities:an_adapter", "tests.kit.mended:Ring"])
def test_an_adapter_a_class_and_a_function_will_do(named: str) -> None:
    assert type(command.adapter_called(named)) is Ring


def test_a_command_line_that_makes_no_sense_is_not_taken_for_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["check"]) == 3
    assert command.main(["check", "tests.kit.mended:Ring", "--engine", "steam"]) == 3
    assert command.main(["check", "--help"]) == 0
    assert "exit status: 0 it holds; 1 it does not; 2 nobody can tell" in capsys.readouterr().out


def test_a_schedule_is_taken_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["replay", "tests.kit.mission:Double", "explored:one read:1x3,0x12,1x1"]) == 1
    assert "a read returned a torn state" in capsys.readouterr().out
    assert command.main(["replay", "tests.kit.mission:Double", "explored:one read:1x4,0x12"]) == 0
    assert command.main(["replay", "tests.kit.mission:Double", "explored"]) == 3


# ---- the stand-ins


def standing_in() -> Any:
    return in_place(OwnTime(lambda: "", print))


def test_stand_ins_are_put_wherever_the_real_thing_is_known_and_taken_back() -> None:
    module: Any = ModuleType("knows_it_by_another_name")
    module.Block, module.pause = shared_memory.SharedMemory, time.sleep
    real = (shared_memory.SharedMemory, time.sleep, time.monotonic)
    sys.modules[module.__name__] = module
    try:
        with standing_in():
            assert module.Block is not real[0]
            assert module.pause is not real[1]
            kept = (shared_memory.SharedMemory, time.sleep, time.monotonic)
        assert (module.Block, module.pause) == real[:2]
        assert (shared_memory.SharedMemory, time.sleep, time.monotonic) == real
    finally:
        del sys.modules[module.__name__]
    made: Any = kept[0](create=True, size=8)  # who has kept it has the real thing from then on
    assert isinstance(made, real[0])
    made.close()
    made.unlink()


def test_other_threads_have_the_real_time() -> None:
    told: List[float] = []
    with standing_in():
        assert time.time() == 1_700_000_000
        thread = threading.Thread(target=lambda: told.append(time.time()))
        thread.start()
        thread.join()
    assert told[0] > 1_700_000_000


def misuse(kind: Any) -> List[str]:
    """What goes wrong, in words."""
    told = []
    first = kind("kit-misused", create=True, size=16)
    try:
        for attempt in (
            lambda: kind("kit-misused", create=True, size=16),
            lambda: kind("kit-not-there"),
            lambda: kind("kit-misused", create=True, size=0),
            kind,
            lambda: first.buf.__setitem__(slice(0, 4), b"12345"),
            lambda: first.buf[99],
        ):
            with pytest.raises((OSError, ValueError, IndexError)) as caught:
                attempt()
            told.append(type(caught.value).__name__)
        first.buf[0:4] = b"abcd"
        other = kind("kit-misused")
        told.append(str([bytes(other.buf[1:3]), other.buf[0], other.buf[:16].cast("Q")[1], other.name]))
        other.close()
        told.append(str(other.buf))
    finally:
        first.close()
        first.unlink()
    with pytest.raises(FileNotFoundError):
        kind("kit-misused")
    return told


def test_the_stand_in_takes_no_more_than_the_real_thing() -> None:
    real = misuse(shared_memory.SharedMemory)
    with standing_in():
        begin(Blocks(lambda *_: None, lambda *_: None, Copying()))
        stand_in = misuse(shared_memory.SharedMemory)

    assert stand_in == real
