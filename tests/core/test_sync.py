from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from typing import Any, Callable, Iterator, List, Optional, Tuple

import pytest

from shmstate import (
    EncodeError,
    InvalidOption,
    StateNotFound,
    StateReader,
    StateSync,
    StateWriter,
    SyncStats,
    WriterClosed,
)
from shmstate.sync import _Pace
from tests.core.children import PATIENCE, until

HOUR = 3600.0


@pytest.fixture
def pair(name: str) -> Iterator[Tuple[StateWriter, StateReader]]:
    """A writer and a reader of one state."""
    with StateWriter(name) as writer, StateReader(name) as reader:
        yield writer, reader


Pair = Tuple[StateWriter, StateReader]


def heartbeat_of(reader: StateReader) -> int:
    """When the writer last vouched, on the clock of ``published_ns``."""
    return reader._steps.heartbeat()


class Source:
    """A state that counts how often it was taken, and can be told to fail."""

    def __init__(self, value: Any = 0) -> None:
        self.value = value
        self.taken = 0
        self.error: Optional[Exception] = None

    def __call__(self) -> Any:
        self.taken += 1
        if self.error is not None:
            raise self.error
        return self.value


# When a step is due: arithmetic on made-up times.


def step(pace: _Pace, began: float, ended: float) -> int:
    """One step; how many ticks fell out."""
    return pace.begin(began) - 1 + pace.end(ended)


def test_the_first_step_is_due_at_once() -> None:
    assert _Pace(10.0, 0.0, 1.0).wait(1000.0, asked=False) <= 0


def test_the_next_step_is_due_an_interval_after_the_first_began() -> None:
    pace = _Pace(10.0, 0.0, 1.0)

    pace.begin(1000.0)
    pace.end(1003.0)

    assert pace.wait(1003.0, asked=False) == 7.0
    assert pace.wait(1010.0, asked=False) == 0.0


def test_the_first_step_counts_no_overrun() -> None:
    assert max(0, step(_Pace(10.0, 0.0, 1.0), 1000.0, 1001.0)) == 0


def test_a_step_within_its_interval_counts_no_overrun_and_keeps_the_beat() -> None:
    pace = _Pace(10.0, 0.0, 1.0)
    step(pace, 1000.0, 1001.0)

    missed = [step(pace, 1000.0 + 10 * n + 0.5, 1000.0 + 10 * n + 9.0) for n in range(1, 50)]

    assert set(missed) == {0}
    assert pace.next_tick == 1500.0  # no drift, though each began half a second late


@pytest.mark.parametrize(
    ("ended", "missed", "next_tick"), [(1019.0, 0, 1020.0), (1020.0, 1, 1030.0), (1055.0, 4, 1060.0)]
)
def test_ticks_that_pass_during_a_step_are_counted_and_not_made_up_for(
    ended: float, missed: int, next_tick: float
) -> None:
    pace = _Pace(10.0, 0.0, 1.0)
    step(pace, 1000.0, 1001.0)

    assert step(pace, 1010.0, ended) == missed
    assert pace.next_tick == next_tick
    assert pace.wait(ended, asked=False) > 0


@pytest.mark.parametrize(("began", "missed"), [(1010.0, 0), (1019.9, 0), (1020.0, 1), (1049.0, 3)])
def test_ticks_that_pass_before_a_step_can_begin_are_counted_except_the_one_it_stands_for(
    began: float, missed: int
) -> None:
    pace = _Pace(10.0, 0.0, 1.0)
    step(pace, 1000.0, 1001.0)

    assert step(pace, began, began) == missed


def test_a_step_between_ticks_leaves_the_next_tick_where_it_was() -> None:
    pace = _Pace(10.0, 0.0, 1.0)
    step(pace, 1000.0, 1001.0)

    asked = pace.begin(1004.0)

    assert asked == 0
    assert pace.next_tick == 1010.0


def test_being_asked_makes_a_step_due_at_once_or_when_the_minimum_has_passed() -> None:
    pace = _Pace(10.0, 3.0, 1.0)
    step(pace, 1000.0, 1001.0)

    assert pace.wait(1001.0, asked=True) == 2.0
    assert pace.wait(1003.0, asked=True) == 0.0
    assert pace.wait(1001.0, asked=False) == 9.0


def test_being_asked_never_delays_a_tick() -> None:
    pace = _Pace(1.0, 30.0, 1.0)
    step(pace, 1000.0, 1000.5)

    assert pace.wait(1000.5, asked=True) == 0.5


def test_without_an_interval_the_heartbeat_is_the_period() -> None:
    pace = _Pace(None, 0.0, 5.0)

    step(pace, 1000.0, 1001.0)

    assert pace.wait(1001.0, asked=False) == 4.0


# One step at a time, by poll().


def test_the_first_poll_publishes_and_returns_the_time_to_the_next(pair: Pair) -> None:
    writer, reader = pair
    sync = StateSync(writer, Source("first"), interval=HOUR)

    left = sync.poll()

    assert reader.get() == "first"
    assert HOUR - PATIENCE < left <= HOUR
    assert sync.stats == SyncStats(published=1)


def test_a_poll_before_anything_is_due_does_nothing(pair: Pair) -> None:
    source = Source()
    sync = StateSync(pair[0], source, interval=HOUR)
    sync.poll()

    sync.poll()

    assert source.taken == 1


def test_a_notification_makes_the_next_poll_publish(pair: Pair) -> None:
    writer, reader = pair
    source = Source("old")
    sync = StateSync(writer, source, interval=HOUR)
    sync.poll()
    source.value = "new"

    sync.notify()
    sync.poll()

    assert reader.get() == "new"


def test_notifications_coalesce_into_one_publish(pair: Pair) -> None:
    source = Source()
    sync = StateSync(pair[0], source, interval=None, heartbeat=HOUR)
    sync.poll()

    for _ in range(100):
        source.value += 1
        sync.notify()
    sync.poll()
    sync.poll()

    assert source.taken == 2
    assert pair[1].get() == 100


def test_a_notification_waits_until_the_minimum_has_passed(pair: Pair) -> None:
    source = Source()
    sync = StateSync(pair[0], source, interval=None, min_interval=HOUR, heartbeat=2 * HOUR)
    sync.poll()
    source.value = 1

    sync.notify()
    left = sync.poll()

    assert HOUR - PATIENCE < left <= HOUR
    assert source.taken == 1


def test_an_unchanged_state_is_not_published_but_vouched_for(pair: Pair) -> None:
    writer, reader = pair
    sync = StateSync(writer, Source("same"), interval=HOUR)
    sync.poll()
    until(lambda: reader.age > 0.01)

    sync.notify()
    sync.poll()

    assert reader.version == 1
    assert heartbeat_of(reader) > reader.read().published_ns + 10_000_000
    assert sync.stats == SyncStats(published=1, unchanged=1)


def test_an_unchanged_state_is_published_again_if_somebody_else_published_in_between(pair: Pair) -> None:
    writer, reader = pair
    sync = StateSync(writer, Source("same"), interval=HOUR)
    sync.poll()
    writer.publish("something else")

    sync.flush()

    assert (reader.get(), reader.version) == ("same", 3)


def test_without_an_interval_the_heartbeat_vouches_without_taking_the_state(pair: Pair) -> None:
    writer, reader = pair
    source = Source()
    sync = StateSync(writer, source, interval=None, heartbeat=0.01)
    sync.poll()
    until(lambda: reader.age > 0.05)

    until(lambda: sync.poll() > 0)

    assert heartbeat_of(reader) > reader.read().published_ns + 50_000_000
    assert source.taken == 1


def test_a_state_that_takes_longer_than_the_interval_makes_ticks_fall_out_and_never_piles_up(pair: Pair) -> None:
    source = Source()

    def slow() -> int:
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 0.03)
        source()
        return source.taken

    sync = StateSync(pair[0], slow, interval=0.01)

    for done in range(1, 5):
        until(lambda: sync.poll() > 0 and source.taken >= done)  # noqa: B023

    assert sync.stats.overruns >= 2 * 4
    assert sync.stats.published == source.taken


def test_a_step_that_fails_is_counted_and_kept_and_gives_no_beat(pair: Pair) -> None:
    writer, reader = pair
    source = Source()
    sync = StateSync(writer, source, interval=HOUR)
    sync.poll()
    heartbeat = heartbeat_of(reader)
    source.error = LookupError("no state today")

    sync.notify()
    sync.poll()

    assert sync.stats == SyncStats(published=1, errors=1)
    assert sync.error is source.error
    assert heartbeat_of(reader) == heartbeat
    assert reader.version == 1


def test_a_state_that_does_not_encode_is_an_error_of_the_step(pair: Pair) -> None:
    source = Source(object())
    sync = StateSync(pair[0], source, interval=HOUR)

    sync.poll()

    assert isinstance(sync.error, EncodeError)
    assert sync.stats.errors == 1


def test_an_exception_of_a_signal_handler_goes_through_the_step(pair: Pair) -> None:
    def raise_it(_number: int, _frame: Any) -> None:
        raise TimeoutError("the handler's")

    def state() -> None:
        signal.raise_signal(signal.SIGUSR1)

    sync = StateSync(pair[0], state, interval=HOUR)
    before = signal.signal(signal.SIGUSR1, raise_it)
    try:
        with pytest.raises(TimeoutError, match="the handler's"):
            sync.poll()
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert sync.error is None
    assert sync.stats.errors == 0


def test_the_same_error_is_logged_once_and_another_again(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    sync = StateSync(pair[0], source, interval=HOUR)

    with caplog.at_level(logging.ERROR, logger="shmstate"):
        for error in [LookupError("one"), LookupError("one"), LookupError("two"), LookupError("two")]:
            source.error = error
            sync.notify()
            sync.poll()

    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["one", "two"]
    assert repr(pair[0].name) in caplog.records[0].getMessage()
    assert sync.stats.errors == 4


def test_after_an_error_the_next_tick_tries_again_and_recovers(pair: Pair) -> None:
    writer, reader = pair
    source = Source("fine")
    source.error = LookupError("not yet")
    sync = StateSync(writer, source, interval=0.001)
    sync.poll()
    assert sync.error is not None
    source.error = None

    until(lambda: sync.poll() and sync.error is None)

    assert reader.get() == "fine"


def test_without_an_interval_an_error_is_tried_again_at_the_heartbeat(pair: Pair) -> None:
    source = Source("fine")
    source.error = LookupError("not yet")
    sync = StateSync(pair[0], source, interval=None, heartbeat=0.001)
    sync.poll()
    source.error = None

    until(lambda: sync.poll() and sync.error is None)

    assert pair[1].get() == "fine"


@pytest.mark.parametrize("interval", [None, 0.005])
@pytest.mark.parametrize("runs_in", ["thread", "task", "own loop"])
def test_a_typed_error_of_the_writer_is_kept_and_logged_once_and_the_steps_go_on(
    pair: Pair,
    interval: Optional[float],
    runs_in: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer, _ = pair
    sync = StateSync(writer, Source("unchanged"), interval=interval, heartbeat=0.005)

    def lose_the_name() -> None:
        def fail(*_: Any) -> Any:
            raise StateNotFound("the name was removed")

        monkeypatch.setattr(StateWriter, "beat", fail)

    def give_it_back() -> None:
        assert isinstance(sync.error, StateNotFound)
        monkeypatch.undo()

    async def in_a_task() -> None:
        async def soon(condition: Callable[[], object]) -> None:
            for _ in range(int(PATIENCE / 0.002)):
                if condition():
                    return
                await asyncio.sleep(0.002)
            raise AssertionError("not in time")

        async with sync:
            await soon(lambda: sync.stats.published)
            lose_the_name()
            await soon(lambda: sync.stats.errors >= 3)
            give_it_back()
            await soon(lambda: sync.error is None)

    if runs_in == "task":
        asyncio.run(in_a_task())
    elif runs_in == "thread":
        with sync:
            until(lambda: sync.stats.published)
            lose_the_name()
            until(lambda: sync.stats.errors >= 3)
            give_it_back()
            until(lambda: sync.error is None)
    else:
        until(lambda: sync.poll() and sync.stats.published)
        lose_the_name()
        until(lambda: sync.poll() and sync.stats.errors >= 3)
        give_it_back()
        until(lambda: sync.poll() and sync.error is None)

    logged = [record for record in caplog.records if record.exc_info]
    assert len(logged) == 1
    assert "was not published; will try again" in logged[0].getMessage()


def test_a_closed_writer_ends_a_loop_of_your_own(pair: Pair) -> None:
    sync = StateSync(pair[0], Source(), interval=HOUR)
    pair[0].close()

    with pytest.raises(WriterClosed):
        sync.poll()


def test_flush_publishes_now_and_raises_what_goes_wrong(pair: Pair) -> None:
    source = Source("now")
    sync = StateSync(pair[0], source, interval=HOUR)

    sync.flush()
    assert pair[1].get() == "now"

    source.error = LookupError("gone")
    with pytest.raises(LookupError, match="gone"):
        sync.flush()
    source.error, source.value = None, object()
    with pytest.raises(EncodeError):
        sync.flush()


def test_flush_answers_a_notification(pair: Pair) -> None:
    source = Source()
    sync = StateSync(pair[0], source, interval=HOUR)
    sync.poll()

    sync.notify()
    sync.flush()
    sync.poll()

    assert source.taken == 2


# A thread.


def test_a_thread_publishes_on_its_timer(pair: Pair) -> None:
    writer, reader = pair
    source = Source()

    with StateSync(writer, source, interval=0.002) as sync:
        until(lambda: reader.version)
        for value in (1, 2, 3):
            source.value = value
            until(lambda: reader.get() == source.value)

    assert sync.stats.published == writer.version >= 4


def test_a_thread_publishes_when_notified_long_before_its_timer(pair: Pair) -> None:
    writer, reader = pair
    source = Source()

    with StateSync(writer, source, interval=HOUR) as sync:
        until(lambda: reader.version)
        source.value = "notified"
        sync.notify()
        until(lambda: reader.get() == "notified")


@pytest.mark.parametrize("interval", [None, HOUR])
def test_leaving_the_block_publishes_the_final_state(pair: Pair, interval: Optional[float]) -> None:
    writer, reader = pair
    source = Source("first")

    with StateSync(writer, source, interval=interval, heartbeat=HOUR):
        until(lambda: reader.version)
        source.value = "last"

    assert reader.get() == "last"


def test_leaving_the_block_ends_the_thread(pair: Pair) -> None:
    before = threading.active_count()

    with StateSync(pair[0], Source(), interval=HOUR):
        assert threading.active_count() == before + 1

    assert threading.active_count() == before


def test_a_final_state_that_cannot_be_published_raises_when_the_block_is_left(pair: Pair) -> None:
    source = Source("fine")

    with pytest.raises(LookupError, match="at the end"), StateSync(pair[0], source, interval=HOUR):
        until(lambda: pair[1].version)
        source.error = LookupError("at the end")

    assert pair[1].get() == "fine"


def test_a_failing_final_publish_never_hides_what_ended_the_block(pair: Pair) -> None:
    source = Source()

    with pytest.raises(KeyError, match="the block's own"), StateSync(pair[0], source, interval=HOUR):
        source.error = LookupError("at the end")
        raise KeyError("the block's own")


def test_an_error_in_the_block_still_publishes_the_final_state(pair: Pair) -> None:
    source = Source("first")

    with pytest.raises(KeyError), StateSync(pair[0], source, interval=HOUR):
        until(lambda: pair[1].version)
        source.value = "last"
        raise KeyError

    assert pair[1].get() == "last"


def test_a_thread_goes_on_after_an_error(pair: Pair) -> None:
    source = Source("fine")
    source.error = LookupError("not yet")

    with StateSync(pair[0], source, interval=0.002) as sync:
        until(lambda: sync.stats.errors >= 3)
        source.error = None
        until(lambda: pair[1].version)
        until(lambda: sync.error is None)


def test_a_closed_writer_ends_the_thread_and_is_told_when_the_block_is_left(pair: Pair) -> None:
    writer, _ = pair

    with pytest.raises(WriterClosed), StateSync(writer, Source(), interval=0.002) as sync:
        until(lambda: sync.stats.published)
        writer.close()
        until(lambda: sync.error is not None)
        assert isinstance(sync.error, WriterClosed)
        assert sync._thread is not None
        sync._thread.join(PATIENCE)
        assert not sync._thread.is_alive()


def test_notifications_from_many_threads_all_lead_to_a_publish_of_what_they_changed(pair: Pair) -> None:
    counts = [0, 0, 0]

    def work(index: int) -> None:
        for _ in range(300):
            counts[index] += 1
            sync.notify()

    with StateSync(pair[0], lambda: list(counts), interval=None, heartbeat=HOUR) as sync:
        threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: pair[1].version and pair[1].get() == [300, 300, 300])


# asyncio.


def test_a_task_publishes_on_its_timer_and_when_notified_and_at_the_end(pair: Pair) -> None:
    writer, reader = pair
    source = Source(0)
    seen: List[Any] = []

    async def main() -> None:
        async with StateSync(writer, source, interval=0.002):
            await until_async(lambda: reader.version)
            source.value = "on the timer"
            await until_async(lambda: reader.get() == "on the timer")
        seen.append(reader.get())
        async with StateSync(writer, source, interval=HOUR) as sync:
            source.value = "notified"
            sync.notify()
            await until_async(lambda: reader.get() == "notified")
            threading.Thread(target=notify_from_a_thread, args=(sync,)).start()
            await until_async(lambda: reader.get() == "from a thread")
            source.value = "at the end"
        seen.append(reader.get())

    def notify_from_a_thread(sync: StateSync) -> None:
        source.value = "from a thread"
        sync.notify()

    asyncio.run(main())

    assert seen == ["on the timer", "at the end"]


async def until_async(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


def test_a_task_lets_other_tasks_run(pair: Pair) -> None:
    turns = []

    async def other() -> None:
        for turn in range(20):
            turns.append(turn)
            await asyncio.sleep(0)

    async def main() -> None:
        async with StateSync(pair[0], Source(), interval=0.001):
            await asyncio.wait_for(other(), PATIENCE)

    asyncio.run(main())

    assert len(turns) == 20


def test_leaving_an_async_block_leaves_no_task(pair: Pair) -> None:
    async def main() -> int:
        async with StateSync(pair[0], Source(), interval=HOUR):
            await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1


def test_an_async_block_raises_its_final_error_but_never_hides_the_blocks_own(pair: Pair) -> None:
    source = Source()
    source.error = LookupError("at the end")

    async def main(error: Optional[Exception]) -> None:
        async with StateSync(pair[0], source, interval=HOUR):
            if error is not None:
                raise error

    with pytest.raises(LookupError, match="at the end"):
        asyncio.run(main(None))
    with pytest.raises(ZeroDivisionError):
        asyncio.run(main(ZeroDivisionError()))


def test_a_closed_writer_ends_the_task(pair: Pair) -> None:
    async def main() -> None:
        async with StateSync(pair[0], Source(), interval=0.002) as sync:
            await until_async(lambda: sync.stats.published)
            pair[0].close()
            await until_async(lambda: isinstance(sync.error, WriterClosed))

    with pytest.raises(WriterClosed):
        asyncio.run(main())


def test_a_cancelled_block_stays_cancelled_and_publishes_its_final_state(pair: Pair) -> None:
    source = Source("first")

    async def work() -> None:
        async with StateSync(pair[0], source, interval=HOUR):
            await until_async(lambda: pair[1].version)
            source.value = "last"
            await asyncio.sleep(HOUR)

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(work())
        await until_async(lambda: source.value == "last")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert pair[1].get() == "last"


def test_a_notification_after_the_loop_has_closed_is_harmless(pair: Pair) -> None:
    syncs = []

    async def main() -> None:
        async with StateSync(pair[0], Source(), interval=HOUR) as sync:
            syncs.append(sync)

    asyncio.run(main())

    syncs[0].notify()


# Options.


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("interval", 0),
        ("interval", -1),
        ("interval", float("nan")),
        ("heartbeat", 0),
        ("heartbeat", float("nan")),
        ("min_interval", -0.1),
        ("min_interval", float("nan")),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(pair: Pair, option: str, value: float) -> None:
    with pytest.raises(InvalidOption, match=f"{option}={value}"):
        StateSync(pair[0], Source(), **{option: value})


@pytest.mark.parametrize("value", [float("inf"), 1e10], ids=["infinite", "300 years"])
@pytest.mark.parametrize("option", ["interval", "heartbeat"])
def test_an_interval_longer_than_a_thread_can_wait_is_refused_or_waited_for(
    pair: Pair, option: str, value: float
) -> None:
    options = {"interval": None, option: value}
    try:
        sync = StateSync(pair[0], Source(), **options)  # type: ignore[arg-type]
    except InvalidOption:
        return

    with sync:
        until(lambda: pair[1].version)
        assert sync._thread is not None
        sync._thread.join(0.05)
        assert sync._thread.is_alive()


def test_a_child_that_is_forked_in_the_middle_of_a_step_can_leave_the_block(pair: Pair) -> None:
    is_asked, may_answer = threading.Event(), threading.Event()

    def state() -> int:
        is_asked.set()
        may_answer.wait()
        return 1

    with StateSync(pair[0], state) as sync:
        is_asked.wait()
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            may_answer.set()
            try:
                sync.__exit__(None, None, None)
            except WriterClosed:
                os._exit(42)
        may_answer.set()
        assert os.waitpid(child, 0)[1] >> 8 == 42
