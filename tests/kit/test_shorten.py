"""Schedules of real processes, taken again: the same comes of them; and made shorter, still breaking the same rule."""

from __future__ import annotations

from typing import Iterator, List, Optional

import pytest

from pytest_shmstate.kit.seams.adapter import Adapter, ShmstateAdapter
from pytest_shmstate.kit.stepping.nursery import StepperFailed
from pytest_shmstate.kit.stepping.process import Done, StillRunning
from pytest_shmstate.kit.stepping.schedules import Diverged, Turn
from pytest_shmstate.kit.stepping.shorten import bound_of, shortened, taken
from pytest_shmstate.kit.stepping.stepper import Stepper, Violated
from tests.kit.broken_structures import Block, Flag, Ring, Seqlock

BOUND = bound_of(())


@pytest.fixture
def stepper(shmstate_stepper: Stepper) -> Iterator[Stepper]:
    yield shmstate_stepper
    assert shmstate_stepper.reset(ShmstateAdapter()) == []


def begin(stepper: Stepper, adapter: Adapter) -> None:
    stepper.reset(adapter)
    stepper.process("writer").do("create", 64)
    for reader in ("reader 1", "reader 2"):
        stepper.process(reader).do("attach")
    for size in (16, 24, 32):
        stepper.process("writer").do("publish", size)
        stepper.process("reader 1").do("read")


def torn(stepper: Stepper) -> Violated:
    """A read in the middle of a publish, by a structure that does not notice; around it much that does not matter."""
    begin(stepper, Seqlock(marks=False))
    writer, reader = stepper.process("writer"), stepper.process("reader 1")
    writer.begin("publish", 40)
    for _ in range(3):
        writer.step()
        stepper.process("reader 2").do("read")
    assert isinstance(reader.do("read"), Done)
    writer.run()
    stepper.process("reader 2").do("detach")
    with pytest.raises(Violated, match="VIOLATED") as caught:
        stepper.judge()
    return caught.value


def test_what_was_taken_is_taken_again_and_comes_to_the_same(stepper: Stepper) -> None:
    violated = torn(stepper)

    again = taken(stepper, violated.turns, bound=BOUND, exactly=True)

    assert (str(again), again and again.turns) == (str(violated), violated.turns)


def test_what_breaks_nothing_comes_to_nothing(stepper: Stepper) -> None:
    begin(stepper, Seqlock())

    assert taken(stepper, list(stepper.turns), bound=BOUND, exactly=True) is None


def test_what_goes_another_way_is_said_to(stepper: Stepper) -> None:
    violated = torn(stepper)
    stepper.reset(Flag(early=False))

    with pytest.raises(Diverged, match="diverged at turn"):
        taken(stepper, violated.turns, bound=BOUND, exactly=True)


def test_a_longer_way_to_the_same_breach_is_made_short(stepper: Stepper) -> None:
    violated = torn(stepper)

    short = shortened(stepper, violated, bound=BOUND, seconds=60)

    # Create, attach, a publish begun and gone on with, a read.
    assert len(violated.turns) > 15
    assert len({turn.process for turn in short.turns}) == 2
    assert len(short.turns) <= 6
    assert rule_of(short) == rule_of(violated)
    assert str(taken(stepper, short.turns, bound=BOUND, exactly=True)) == str(short)


def rule_of(violated: Violated) -> str:
    return str(violated).partition("VIOLATED (")[2].partition(")")[0]


def test_no_time_leaves_it_as_it_is(stepper: Stepper) -> None:
    violated = torn(stepper)

    assert shortened(stepper, violated, bound=BOUND, seconds=0) is violated


def test_an_operation_that_was_done_in_parts_for_nothing_is_done_in_one_go(stepper: Stepper) -> None:
    stepper.reset(Seqlock(marks=False))
    writer, reader = stepper.process("writer"), stepper.process("reader")
    writer.do("create", 64)
    writer.do("publish", 16)
    reader.begin("attach")
    writer.begin("publish", 40)
    reader.run()
    for _ in range(3):
        writer.step()
    reader.do("read")
    with pytest.raises(Violated, match="VIOLATED") as caught:
        stepper.judge()

    short = shortened(stepper, caught.value, bound=BOUND, seconds=60)

    told = [(turn.arguments[0], turn.outcome) for turn in short.turns]
    assert told == [("create", "done"), ("publish", "done"), ("attach", "done"), ("publish", "at"), ("read", "done")]


def test_what_waits_for_ever_still_does(stepper: Stepper) -> None:
    begin(stepper, Seqlock())
    writer, reader = stepper.process("writer"), stepper.process("reader 1")
    writer.begin("publish", 40)
    writer.step(2)
    writer.kill()
    with pytest.raises(StillRunning) as caught:
        reader.do("read", limit=BOUND)
    violated = stepper.violated(f"liveness: {caught.value}")

    short = shortened(stepper, violated, bound=BOUND, seconds=60)

    assert str(short).startswith("seqlock: liveness: ")
    assert len(short.turns) == 4
    assert "kill" not in [turn.action for turn in short.turns]  # nobody waits for one that stands still, either


def test_what_breaks_another_rule_does_not_count(stepper: Stepper) -> None:
    """Of these turns some would do for a torn read, and it is not that which is looked for."""
    torn(stepper)
    violated = stepper.violated("liveness: it had not ended")

    assert shortened(stepper, violated, bound=BOUND, seconds=60) is violated


class TellsTheName(Ring):
    """Its errors have a text of their own in each run."""

    def attach(self, name: str) -> Block:
        self.name = name
        return super().attach(name)

    def read(self, reader: Block) -> Optional[bytes]:
        raise RuntimeError(f"{self.name} is not to be read")


def test_names_are_others_in_each_run_and_do_not_count(stepper: Stepper) -> None:
    stepper.reset(TellsTheName())
    stepper.process("writer").do("create", 64)
    stepper.process("reader").do("attach")
    stepper.process("reader").do("read")
    with pytest.raises(Violated, match="raised RuntimeError") as caught:
        stepper.judge()

    again = taken(stepper, caught.value.turns, bound=BOUND, exactly=True)

    assert "raised RuntimeError: kit-" in str(again)


def create(process: str) -> Turn:
    return Turn(process, "begin", ("create", 64, 0, 1000, ""), (), "done", None)


def attach(process: str) -> Turn:
    return Turn(process, "begin", ("attach", 0, 0, 1000, ""), (), "done", None)


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        ([attach("reader")], "there is nothing to attach to"),
        ([create("writer"), create("another")], "another writes"),
    ],
    ids=["attach before create", "two creators"],
)
def test_what_no_structure_is_asked_for_is_refused(stepper: Stepper, turns: List[Turn], why: str) -> None:
    stepper.reset(Ring())

    with pytest.raises(StepperFailed, match=why):
        taken(stepper, turns, bound=BOUND)


def test_writers_that_share_may_both_create(stepper: Stepper) -> None:
    stepper.reset(ShmstateAdapter(shared=True))

    assert taken(stepper, [create("writer"), create("another")], bound=BOUND) is None
