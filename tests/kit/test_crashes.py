"""The crash and pause matrix: complete, and able to fail."""

from __future__ import annotations

import os
from typing import Iterator, List, Set

import pytest

from pytest_shmstate.kit.seams.adapter import ShmstateAdapter
from pytest_shmstate.kit.stepping.crashes import KINDS, Cell, Matrix, Sizes, crash_matrix, crash_pairs
from pytest_shmstate.kit.stepping.nursery import StepperFailed
from pytest_shmstate.kit.stepping.stepper import Stepper, Violated
from tests.kit.broken_structures import Block, Flag, Locked, Refuses, Ring, Seqlock

IS_THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
GROWING = Sizes(made_for=4096, published=24, larger=9000)


@pytest.fixture
def stepper(shmstate_stepper: Stepper) -> Iterator[Stepper]:
    yield shmstate_stepper
    shmstate_stepper.reset(ShmstateAdapter())


def failures(matrix: Matrix) -> List[str]:
    return [f"{cell.operation}, {cell.kind} before {cell.number}: {cell.failure}" for cell in matrix.failures]


def gates_of(cells: List[Cell], operation: str, kind: str) -> List[str]:
    return [cell.gate for cell in cells if (cell.operation, cell.kind) == (operation, kind)]


@pytest.mark.parametrize("slots", [2, 4] if IS_THOROUGH else [2])
def test_shmstate_survives_whatever_is_done_to_its_writer(stepper: Stepper, slots: int) -> None:
    stepper.reset(ShmstateAdapter(slots=slots))

    matrix = crash_matrix(stepper, sizes=GROWING)

    assert failures(matrix) == []
    for kind in KINDS:
        assert len(gates_of(matrix.cells, "first create", kind)) == 14
        assert len(gates_of(matrix.cells, "take over", kind)) == 14
        assert gates_of(matrix.cells, "publish", kind)[4:] == [
            *("store INTENT", "fill 0" if slots == 2 else "fill 2", "fill 0" if slots == 2 else "fill 2"),
            *(f"store LENGTH {2 % slots}", f"store PUBLISHED {2 % slots}", "store LATEST"),
        ]
        assert {"store INTENT", "rename name"} <= set(gates_of(matrix.cells, "growing publish", kind))
        assert {"store INTENT", "rename name"} <= set(gates_of(matrix.cells, "resize", kind))
        assert gates_of(matrix.cells, "hand over", kind) == ["close"]
        assert gates_of(matrix.cells, "close", kind) == ["store OWNER_PID", "ask for the name", "unlink name", "close"]


def test_a_version_that_was_begun_appears_with_its_last_store_or_with_the_name(stepper: Stepper) -> None:
    stepper.reset(ShmstateAdapter(slots=2))

    cells = crash_matrix(stepper, operations=["publish", "growing publish"], kinds=["kill"], sizes=GROWING).cells

    seen = {(cell.operation, cell.gate): cell.seen for cell in cells}
    assert seen["publish", "store LATEST"] == "1, 1, 3, 3"
    assert seen["growing publish", "rename name"] == "1, 1, 3, 3"
    assert seen["growing publish", "load WAKE"] == "2, 2, 3, 3"


def test_shmstate_shared_survives_whatever_is_done_to_a_writer(stepper: Stepper) -> None:
    stepper.reset(ShmstateAdapter(slots=2, shared=True))

    operations = ["publish", "growing publish", "resize", "hand over", "close"]
    if not IS_THOROUGH:  # a move is a long way; without turns it is enumerated above
        operations = ["publish", "hand over", "close"]

    matrix = crash_matrix(stepper, operations=operations, sizes=GROWING)

    assert failures(matrix) == []
    for kind in KINDS:
        assert "take turn" in gates_of(matrix.cells, "publish", kind)


def test_shmstate_shared_survives_whatever_is_done_to_who_comes(stepper: Stepper) -> None:
    stepper.reset(ShmstateAdapter(slots=2, shared=True))
    operations = ["first create", "take over"] if IS_THOROUGH else ["take over"]

    matrix = crash_matrix(stepper, operations=operations)

    assert failures(matrix) == []
    gates = gates_of(matrix.cells, "take over", "throw")
    assert gates[gates.index("map name") + 1] == "appear"


def test_shmstate_survives_two_deaths_in_a_row(stepper: Stepper) -> None:
    stepper.reset(ShmstateAdapter(slots=2))

    matrix = crash_pairs(stepper, firsts=None if IS_THOROUGH else ["store INTENT", "store LATEST"])

    assert failures(matrix) == []
    firsts: Set[str] = {cell.operation for cell in matrix.cells}
    assert len(firsts) == 2 * (9 if IS_THOROUGH else 2)
    for first in firsts:
        gates = [cell.gate for cell in matrix.cells if cell.operation == first]
        assert gates[-1] == ("store LATEST" if first.endswith("publish") else "load WAKE")


# ---- structures that do not


def kinds_of_failures(stepper: Stepper, operations: List[str], kinds: List[str]) -> Set[str]:
    matrix = crash_matrix(stepper, operations=operations, kinds=kinds, bound=60)
    assert matrix.cells
    return {cell.failure.splitlines()[0].split(": ")[1] for cell in matrix.failures}


def test_a_ring_that_is_right_survives(stepper: Stepper) -> None:
    stepper.reset(Ring())

    matrix = crash_matrix(stepper, operations=["take over", "publish"])

    assert failures(matrix) == []
    assert len(gates_of(matrix.cells, "publish", "kill")) == 6


def test_a_flag_that_goes_over_early_loses_the_state_with_its_writer(stepper: Stepper) -> None:
    stepper.reset(Flag(early=True))

    assert "VIOLATED (stale)" in kinds_of_failures(stepper, ["publish"], ["kill"])


def test_readers_of_a_seqlock_wait_for_the_dead_and_that_is_found(stepper: Stepper) -> None:
    stepper.reset(Seqlock())

    assert kinds_of_failures(stepper, ["publish"], ["kill"]) == {"liveness"}
    assert kinds_of_failures(stepper, ["publish"], ["stop"]) == {"liveness"}


def test_readers_that_wait_for_a_stopped_writer_s_lock_are_found(stepper: Stepper) -> None:
    stepper.reset(Locked())

    assert kinds_of_failures(stepper, ["publish"], ["stop"]) == {"liveness"}


class Boasts(Ring):
    def attach(self, name: str) -> Block:
        block = super().attach(name)
        block.writer_alive = True  # type: ignore[attr-defined]
        return block


def test_a_dead_writer_that_is_called_alive_is_found(stepper: Stepper) -> None:
    stepper.reset(Boasts())

    assert kinds_of_failures(stepper, ["publish"], ["kill"]) == {"writer_alive is True, of a writer that is not alive"}
    assert kinds_of_failures(stepper, ["publish"], ["stop"]) == set()


def test_a_structure_that_no_heir_may_have_is_found(stepper: Stepper) -> None:
    stepper.reset(Refuses())

    assert kinds_of_failures(stepper, ["publish"], ["kill"]) == {"heir raised RuntimeError"}


def test_a_seqlock_without_a_mark_is_torn_where_its_writer_died(stepper: Stepper) -> None:
    stepper.reset(Seqlock(marks=False))

    assert kinds_of_failures(stepper, ["publish"], ["kill"]) == {"VIOLATED (integrity)"}


def test_a_recovery_that_is_not_to_be_done_twice_is_found_by_two_deaths(stepper: Stepper) -> None:
    stepper.reset(Seqlock(recovery="bump"))

    matrix = crash_pairs(stepper, firsts=["store name.Q[0]"], bound=60)

    twice = [cell for cell in matrix.failures if cell.operation.endswith("then create")]
    assert twice
    assert "liveness" in twice[0].failure


class Forgets(Ring):
    def remove(self, name: str) -> None:
        pass


def test_what_is_left_behind_is_a_failure(stepper: Stepper) -> None:
    stepper.reset(Forgets())

    assert kinds_of_failures(stepper, ["publish"], ["stop"]) == {"left in /dev/shm"}


# ---- the matrix itself


def test_a_matrix_of_nothing_proves_nothing() -> None:
    with pytest.raises(StepperFailed, match="the matrix is empty"):
        Matrix([]).judge()


def test_a_matrix_is_a_table_and_raises_what_failed_first() -> None:
    cells = [
        Cell("publish", 0, "store INTENT", "kill", "1, 1, 3, 3"),
        Cell("publish", 10, "x", "stop", "", "ring: liveness: it waits\nand more"),
    ]

    assert str(Matrix(cells)).splitlines() == [
        "publish  0   store INTENT  kill  1, 1, 3, 3",
        "publish  10  x             stop  ring: liveness: it waits",
    ]
    with pytest.raises(Violated, match="and more"):
        Matrix(cells).judge()


class Wavers(Ring):
    """Does something else every time, as if it asked for the time."""

    def publish(self, writer: object, payload: bytes) -> None:
        for _ in range(os.urandom(1)[0] % 100):
            writer.words[5] = 0  # type: ignore[attr-defined]


def test_gates_that_are_others_the_second_time_are_an_error(stepper: Stepper) -> None:
    stepper.reset(Wavers())

    with pytest.raises(StepperFailed, match="what it does depends on more than the schedule"):
        crash_matrix(stepper, operations=["publish"] * 3, kinds=["stop"]).judge()
