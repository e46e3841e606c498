from __future__ import annotations

import asyncio
import functools
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Iterator, List, Tuple

import pytest

import shmstate
from shmstate import ReaderClosed, StateReader, StateWriter, WaitTimeout, WriterGone, futex, publishing, waiting
from shmstate.layout import LATEST, WAKE
from tests.core import children
from tests.core.children import Child, until
from tests.core.stand_in import Bytes, Names, Owner, View, Visitor, layout
from tests.core.test_protocol import NAME, PROTOCOL, Scene, as_it_is, mutant, payload_of, unchanged

Start = Callable[..., Child]

# R6 over the stand-in: a publish or a move before every access; whoever then sleeps is never woken.


def scene_that_notifies(slots: int = 2, weak: bool = False, code: Any = PROTOCOL) -> Scene:
    names = Names(Bytes(layout(slots)))
    owner, visitor = Owner(names, View(names.named, weak)), Visitor(names, View(names.named, weak))
    writer = code.open_publishing(owner, NAME, notify=True)
    play = Scene(
        names, owner, visitor, writer, code.open_reading(visitor, NAME, 5), writer.through(as_it_is, unchanged)
    )
    play.publish(3)
    owner.segment.go_on()
    return play


def by_a_loan(play: Scene) -> None:
    payload = payload_of(play.shared.words[LATEST] + 1)
    lent = play.writer.lend(len(payload), None)
    assert lent is not None
    lent[:] = payload
    play.writer.take_back(len(payload))


def by_a_move(play: Scene) -> None:
    """A publish that moves the state, by a writer that has just taken over."""
    writer = publishing.open_publishing(play.owner, NAME, wanted=layout(3), notify=True)
    writer.through(as_it_is, unchanged)(payload_of(4))


def moved_twice(play: Scene) -> None:
    for _ in range(2):
        play.writer.move(lambda _: layout(2))
    play.publish()


PUBLISHES = {
    "a publish": Scene.publish,
    "a loan": by_a_loan,
    "a publish that moves the state": by_a_move,
    "two moves and a publish": moved_twice,
}


@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("publish", PUBLISHES.values(), ids=PUBLISHES)
def test_nobody_falls_asleep_whom_a_publish_that_is_over_would_have_woken(
    publish: Callable[[Scene], None], weak: bool
) -> None:
    undisturbed = scene_that_notifies(weak=weak)
    undisturbed.reader.rest(3, 1.0)
    assert undisturbed.reading.accesses[-1] == "doze"
    for place in range(len(undisturbed.reading.accesses)):
        play = scene_that_notifies(weak=weak)
        play.reading.once_before(place, functools.partial(publish, play))

        assert play.reader.rest(3, 1.0)

        assert play.reading.accesses[-1] != "doze", f"asleep, though before access {place} it was published"


MUTANTS = {
    "W4 is dropped": [("words[wake_at] = words[wake_at] % MOST_WAKES + 1  # W4", "pass", 2)],
    "WAKE is loaded last": [
        ("count: int = steps.words[WAKE]", "count = 1", 1),
        ("return doze(steps.words, WAKE, count,", "return doze(steps.words, WAKE, steps.words[WAKE],", 1),
    ],
    "LATEST is not looked at": [("latest() > version or", "", 1)],
}


@pytest.mark.parametrize("mutation", MUTANTS)
def test_a_mutant_of_waiting_is_caught(mutation: str) -> None:
    code = mutant(*MUTANTS[mutation])
    caught = False
    for place in range(6):
        play = scene_that_notifies(code=code)
        play.reading.once_before(place, play.publish)
        play.reader.rest(3, 1.0)
        caught = caught or play.reading.accesses[-1] == "doze"
    play = scene_that_notifies(code=code)
    play.publish()
    play.reader.rest(3, 1.0)

    assert caught or play.reading.accesses[-1] == "doze"


@pytest.mark.parametrize("publish", PUBLISHES.values(), ids=PUBLISHES)
def test_every_publish_rings_after_it_can_be_seen(publish: Callable[[Scene], None]) -> None:
    play = scene_that_notifies()
    rung: List[int] = []

    def watch(access: str) -> None:
        if access == "ring":
            rung.append(play.reader.latest())

    play.writing.before = watch
    publish(play)

    assert rung[-1] == 4


def test_an_heir_goes_on_counting_where_the_writer_before_it_was() -> None:
    play = scene_that_notifies()
    before = play.shared.words[WAKE]

    publishing.open_publishing(play.owner, NAME, notify=True)

    assert play.shared.words[WAKE] == before + 1


def test_a_writer_that_is_not_to_notify_neither_rings_nor_lets_anybody_sleep() -> None:
    play = scene_that_notifies()
    play.reader.rest(3, 1.0)
    writer = publishing.open_publishing(play.owner, NAME)
    play.writing.go_on()

    writer.through(as_it_is, unchanged)(b"")

    assert "ring" not in play.writing.accesses
    assert not play.reader.rest(4, 1.0)


# For real.


@pytest.fixture(params=[False, True], ids=["polled", "woken"])
def both(request: pytest.FixtureRequest, name: str) -> Iterator[Tuple[StateWriter, StateReader]]:
    with StateWriter(name, notify=request.param) as writer, StateReader(name) as reader:
        yield writer, reader


class Publisher(threading.Thread):
    """Publishes once somebody waits."""

    def __init__(self, publish: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._publish = publish
        self.waits = threading.Event()

    def run(self) -> None:
        self.waits.wait(30)
        self._publish()


@pytest.fixture
def once_it_sleeps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Does something, in a thread, when a reader is about to sleep."""
    threads: List[Publisher] = []

    def arrange(action: Callable[[], object]) -> None:
        thread = Publisher(action)
        thread.start()
        threads.append(thread)
        sleep, wait = time.sleep, futex.wait

        def told_sleep(seconds: float) -> None:
            thread.waits.set()
            sleep(seconds)

        def told_wait(*args: Any) -> bool:
            thread.waits.set()
            return wait(*args)

        monkeypatch.setattr(time, "sleep", told_sleep)
        monkeypatch.setattr(futex, "wait", told_wait)

    yield arrange
    monkeypatch.undo()
    for thread in threads:
        thread.join(30)


def test_wait_gives_what_is_newer_at_once(both: Any) -> None:
    writer, reader = both
    writer.publish("a")

    assert reader.wait(after=0)[:2] == ("a", 1)
    assert reader.wait(after=0, timeout=0)[:2] == ("a", 1)


@pytest.mark.parametrize("after", [None, 1])
def test_wait_sleeps_until_something_newer_is_published(both: Any, once_it_sleeps: Any, after: Any) -> None:
    writer, reader = both
    writer.publish("a")
    once_it_sleeps(lambda: writer.publish("b"))

    assert reader.wait(after=after, timeout=30)[:2] == ("b", 2)


def test_wait_awaits_the_first_publish(both: Any, once_it_sleeps: Any) -> None:
    writer, reader = both
    once_it_sleeps(lambda: writer.publish("a"))

    assert reader.wait()[:2] == ("a", 1)


def test_wait_follows_a_state_that_moves(both: Any, once_it_sleeps: Any) -> None:
    writer, reader = both
    writer.publish("a")

    def move() -> None:
        writer.trim()
        writer.trim()
        writer.publish("b")

    once_it_sleeps(move)

    assert reader.wait(timeout=30)[:2] == ("b", 2)


def test_wait_ends_after_its_timeout(both: Any) -> None:
    writer, reader = both
    writer.publish("a")
    began = time.monotonic()

    with pytest.raises(WaitTimeout, match=f"'{writer.name}': nothing newer than version 1 within 0.3 seconds"):
        reader.wait(after=1, timeout=0.3)

    assert 0.3 <= time.monotonic() - began < 20
    with pytest.raises(TimeoutError):
        reader.wait(timeout=0)


@pytest.mark.parametrize("end", ["close", "leave"])
def test_wait_ends_when_the_writer_does(both: Any, once_it_sleeps: Any, end: str) -> None:
    writer, reader = both
    writer.publish("a")
    once_it_sleeps(lambda: writer.close(unlink=end == "close"))

    with pytest.raises(WriterGone, match=f"'{writer.name}': its writer has closed or died, and nothing newer than"):
        reader.wait()

    assert reader.get() == "a"
    shmstate.reclaim(writer.name)


def test_wait_of_a_dead_writers_state_gives_what_was_published_before(both: Any) -> None:
    writer, reader = both
    writer.publish("a")
    writer.publish("b")
    writer.close()

    assert reader.wait(after=1)[:2] == ("b", 2)
    with pytest.raises(WriterGone):
        reader.wait(after=2)


class LastWords:
    """A state whose writer publishes once more, and is gone, while somebody asks whether it lives."""

    name = "last-words"

    def __init__(self) -> None:
        self.published = 0

    def get_if_newer(self, version: int) -> Any:
        return self.published if self.published > version else None

    @property
    def writer_alive(self) -> bool:
        self.published = 1
        return False


def test_what_is_published_just_before_the_end_is_not_missed() -> None:
    def no_rest(_version: int, _seconds: float) -> bool:
        return False

    async def collect_all() -> List[Any]:
        return [number async for number in waiting.changes(LastWords(), no_rest, int, 0)]

    assert waiting.wait(LastWords(), no_rest, 0, None) == 1
    assert asyncio.run(collect_all()) == [1]


def test_wait_ends_when_the_reader_is_closed(both: Any, once_it_sleeps: Any) -> None:
    writer, reader = both
    writer.publish("a")
    once_it_sleeps(reader.close)

    with pytest.raises(ReaderClosed, match=writer.name):
        reader.wait()


def test_wait_can_be_interrupted(both: Any, once_it_sleeps: Any) -> None:
    writer, reader = both
    writer.publish("a")
    main = threading.main_thread().ident
    assert main is not None
    once_it_sleeps(lambda: signal.pthread_kill(main, signal.SIGINT))

    with pytest.raises(KeyboardInterrupt):
        reader.wait(timeout=30)


def test_a_writer_that_no_longer_notifies_is_looked_at(name: str) -> None:
    first = StateWriter(name, notify=True)
    first.publish("a")
    first.close(unlink=False)
    with StateReader(name) as reader, StateWriter(name) as writer:
        thread = threading.Thread(target=writer.publish, args=("b",))
        thread.start()
        assert reader.wait(after=1, timeout=30).value == "b"
        thread.join()


def test_who_wants_it_among_those_who_share_decides_for_all(name: str) -> None:
    with StateWriter(name, shared=True) as silent, StateWriter(name, shared=True, notify=True) as loud:
        silent.publish(1)
        assert silent._segment.words[WAKE] == 0
        loud.publish(2)
        woken = silent._segment.words[WAKE]
        silent.publish(3)
        assert silent._segment.words[WAKE] == woken + 1
        silent.trim()
        assert loud.version == 3
        loud.publish(4)
        assert loud._segment.words[WAKE] > woken + 1


@pytest.mark.parametrize("machine", ["unknown", "refused"])
def test_where_the_kernel_does_not_help_readers_look(
    name: str, monkeypatch: pytest.MonkeyPatch, machine: str, once_it_sleeps: Any
) -> None:
    if machine == "unknown":
        monkeypatch.setattr(futex, "_MACHINE", "pdp11")
    else:  # as a sandbox does
        monkeypatch.setattr(futex, "_WAIT", 99)
    with StateWriter(name, notify=True) as writer, StateReader(name) as reader:
        writer.publish("a")
        once_it_sleeps(lambda: writer.publish("b"))
        assert reader.wait(timeout=30).value == "b"


def test_a_sleeper_is_woken_and_not_only_found_out(start: Start, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without being woken it would sleep for a minute.
    monkeypatch.setattr(waiting, "LONGEST_SLEEP", 60.0)
    child = start(children.echo, name)
    assert child.line() == "ready"
    with StateReader(name) as reader:
        for number in range(20):
            before = reader.version
            child.say(str(number))
            assert reader.wait(after=before, timeout=25).value == number


def test_a_writer_that_is_killed_before_it_wakes_anybody_is_found_out(start: Start, name: str) -> None:
    child = start(children.publish_and_stop_before_the_ring, name)
    assert child.line() == "1"
    with StateReader(name) as reader:
        found: List[Any] = []
        thread = threading.Thread(target=lambda: found.append(reader.wait(after=1, timeout=25)))
        thread.start()
        child.say("publish")
        thread.join(30)

        assert [snapshot.version for snapshot in found] == [2]
        child.kill()
    shmstate.reclaim(name)


def test_those_who_wait_cost_next_to_nothing(both: Any) -> None:
    writer, reader = both
    writer.publish("a")
    before = resource.getrusage(resource.RUSAGE_THREAD)

    with pytest.raises(WaitTimeout):
        reader.wait(timeout=1.0)

    after = resource.getrusage(resource.RUSAGE_THREAD)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.1


# async for.


async def collect(reader: StateReader, until_version: int, act: Callable[[int], object]) -> List[Any]:
    seen = []
    async for snapshot in reader.changes():
        seen.append(snapshot)
        act(snapshot.version)
        if snapshot.version >= until_version:
            break
    return seen


def test_changes_gives_the_latest_and_then_each_that_is_newer(both: Any) -> None:
    writer, reader = both
    writer.publish(0)
    writer.publish(1)

    seen = asyncio.run(collect(reader, 20, writer.publish))

    assert [snapshot.version for snapshot in seen] == list(range(2, 21))
    assert [snapshot.value for snapshot in seen] == list(range(1, 20))


def test_changes_leaves_the_loop_to_others_and_ends_with_the_writer(both: Any) -> None:
    writer, reader = both
    writer.publish("a")
    ticks = 0

    async def publish() -> None:
        nonlocal ticks
        for number in range(10):
            await asyncio.sleep(0.01)
            ticks += 1
            writer.publish(number)
        writer.close()

    async def both_at_once() -> List[Any]:
        async def follow() -> List[Any]:
            return [snapshot.value async for snapshot in reader.changes()]

        followed = asyncio.ensure_future(follow())
        await publish()
        return await followed

    values = asyncio.run(both_at_once())

    assert ticks == 10
    assert values[0] == "a"
    assert values[-1] == 9
    assert values[1:] == sorted(values[1:])


def test_changes_from_a_version_on(both: Any) -> None:
    writer, reader = both
    writer.publish("a")

    async def first() -> Any:
        async for snapshot in reader.changes(after=1):
            return snapshot.value
        return "nothing came"

    async def run() -> Any:
        waiter = asyncio.ensure_future(first())
        await asyncio.sleep(0.01)
        assert not waiter.done()
        writer.publish("b")
        return await asyncio.wait_for(waiter, 30)

    assert asyncio.run(run()) == "b"


def test_a_task_that_awaits_changes_can_be_cancelled_and_its_thread_ends(both: Any) -> None:
    writer, reader = both
    writer.publish("a")

    async def follow() -> None:
        async for _ in reader.changes(after=1):
            pass

    async def run() -> None:
        waiters = [asyncio.ensure_future(follow()) for _ in range(40)]
        await asyncio.sleep(0.05)
        for waiter in waiters:
            waiter.cancel()
        assert all(
            isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*waiters, return_exceptions=True)
        )

    asyncio.run(run())

    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("shmstate-wait")])


def test_many_iterators_share_few_threads_and_all_of_them_hear(name: str) -> None:
    most = 0

    async def run() -> List[int]:
        nonlocal most
        with StateWriter(name, notify=True) as writer, StateReader(name) as reader:
            writer.publish(0)

            async def first() -> int:
                async for snapshot in reader.changes(after=1):
                    return snapshot.version
                return 0

            waiters = [asyncio.ensure_future(first()) for _ in range(200)]
            for _ in range(200):
                await asyncio.sleep(0)
                most = max(most, len(sleepers()))
            writer.publish(1)
            return await asyncio.wait_for(asyncio.gather(*waiters), 30)

    assert asyncio.run(run()) == [2] * 200
    assert 0 < most <= waiting.MOST_SLEEPERS
    until(lambda: not sleepers())
    # All places are free again.
    until(lambda: waiting._places[0]._value == waiting.MOST_SLEEPERS)


def sleepers() -> List[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("shmstate-wait")]


UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys, threading, gevent
from shmstate import StateReader, StateWriter
with StateWriter(sys.argv[1], notify=True) as writer, StateReader(sys.argv[1]) as reader:
    writer.publish(0)
    found = []
    waiter = threading.Thread(target=lambda: found.append(reader.wait(after=1, timeout=30).value))
    waiter.start()
    ticks = 0
    while ticks < 20:
        gevent.sleep(0.001)
        ticks += 1
    assert not found
    writer.publish("heard")
    waiter.join()
    print(found[0])
"""


def test_waiting_under_gevent_lets_other_greenlets_run(name: str) -> None:
    pytest.importorskip("gevent", reason="gevent is not installed")
    # A sleep in the kernel lasts LONGEST_SLEEP at most, so it is made long enough for the test to notice it.
    program = "import shmstate.waiting; shmstate.waiting.LONGEST_SLEEP = 3600\n" + UNDER_GEVENT
    done = subprocess.run([sys.executable, "-c", program, name], capture_output=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (0, b"heard\n"), done.stderr.decode()
