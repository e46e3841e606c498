"""How gateways and queries end: closed, with their process, in forks of it; and what is left then: nothing."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from contextlib import suppress
from typing import Any, Callable, Iterator, List

import pytest

from shmstate import FleetError, StateWriter, WriterClosed, reclaim
from shmstate.fleet import Changes, FleetQuery, Gateway
from shmstate.layout import SHM_DIR
from tests.core.children import Child, descriptors_before, open_descriptors, say, until, wait_for_the_test
from tests.fleet import others

zenoh = pytest.importorskip("zenoh", reason="needs eclipse-zenoh: the extra `fleet`")

Start = Callable[..., Child]
Endpoint = Callable[[], str]


@pytest.fixture
def place(endpoint: Endpoint) -> str:
    return endpoint()


# Closing.


def test_closing_a_gateway_again_does_nothing_and_it_answers_no_more(place: str, name: str) -> None:
    with StateWriter(name) as writer, FleetQuery(name, connect=[place]) as query:
        writer.publish(1)
        gateway = Gateway("h1", states=[name], listen=[place])
        others.once(query, lambda replies: replies.answers)

        gateway.close()
        gateway.close()

        replies = others.once(query, lambda replies: replies.silent)
        assert replies.answers == ()
        assert "gone" in replies.silent["h1"]
        assert gateway.stats.answers >= 1


@pytest.fixture
def never_answered(place: str) -> Iterator[List[Any]]:
    """Somebody keeps all that is asked, and answers nothing."""
    kept: List[Any] = []
    with others.session(listen=[place]) as answering:
        answering.declare_queryable("shmstate/state/*/*", others.directly(kept.append))
        yield kept
        kept.clear()


def test_a_query_that_is_closed_while_it_is_asked_says_so_at_once(place: str, never_answered: List[Any]) -> None:
    told: List[BaseException] = []
    query = FleetQuery("a", connect=[place], deadline=60)

    def ask() -> None:
        try:
            query.ask()
        except FleetError as error:
            told.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(never_answered) == 3)
    query.close()
    for thread in threads:
        thread.join(20)

    assert [str(error) for error in told] == [
        "query of 'a' could not be asked (while it was asked); was it closed?",
    ] * 3


def test_a_gateway_that_is_closed_while_it_answers_ends_in_seconds(place: str, name: str, start: Start) -> None:
    with StateWriter(name, codec="raw") as writer:
        writer.publish(bytes(8 << 20))
        gateway = Gateway("h1", states=[name], listen=[place])
        greedy = start(others.ask_and_stop, place, name, 12)
        greedy.line()
        greedy.say("now")
        until(lambda: b" T " in _stat(greedy.pid) or b" t " in _stat(greedy.pid))

        closing = threading.Thread(target=gateway.close)
        closing.start()
        closing.join(20)

        assert not closing.is_alive()
        greedy.signal(signal.SIGCONT)


def _stat(pid: int) -> bytes:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read()


def test_gateways_and_queries_come_and_go_in_any_order_and_time(place: str, name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        for turn in range(30):
            gateway = Gateway("h1", states=[name], listen=[place], interval=0.001)
            query = FleetQuery(name, connect=[place])
            asking = threading.Thread(target=_ask_until_closed, args=(query,))
            asking.start()
            for opened in (gateway, query) if turn % 2 else (query, gateway):
                opened.close()
            query.close()
            asking.join(20)
            assert not asking.is_alive()


def _ask_until_closed(query: FleetQuery) -> None:
    try:
        while True:
            query.ask(0.1)
    except FleetError:
        pass


# What is left.


def open_and_close(place: str, name: str) -> None:
    with Gateway("h1", states=[name], listen=[place]), FleetQuery(name, connect=[place]) as query:
        others.once(query, lambda replies: replies.answers)


def tell_what_is_left(place: str, name: str) -> None:
    """Open and close twenty times; tell threads and descriptors after the first time and after the last."""
    with StateWriter(name) as writer:
        writer.publish(1)
        open_and_close(place, name)  # the engine keeps threads of its own from then on
        say(*left())
        for _ in range(20):
            open_and_close(place, name)
        wanted = wait_for_the_test()
        until(lambda: f"{left()[0]} {left()[1]}" == wanted or wanted == "", timeout=10, name=f"{left()}, not {wanted},")
        say(*left())


def left() -> List[int]:
    gc.collect()
    return [len(threading.enumerate()), open_descriptors()]


def test_threads_and_descriptors_are_what_they_were_when_all_is_closed(place: str, name: str, start: Start) -> None:
    child = start(tell_what_is_left, place, name)
    first = child.line()
    child.say(first)

    assert child.line() == first


def test_a_query_that_nobody_has_any_more_is_closed(place: str, name: str) -> None:
    before = descriptors_before()
    query = FleetQuery(name, connect=[place])
    session = query.session

    del query
    gc.collect()

    assert session.is_closed()
    assert open_descriptors() <= before + 20  # the engine's own, if this was the first session


def files_there() -> List[str]:
    return sorted(file for file in os.listdir(SHM_DIR) if file.endswith(".zenoh"))


def files_of(place: str, name: str, shared_memory: bool) -> List[str]:
    """What two sessions make in shared memory that send each other more than the engine's bound for that."""
    before = files_there()
    transport = {"shared_memory": {"enabled": True, "mode": "init"}} if shared_memory else {}
    with StateWriter(name, codec="raw") as writer:
        writer.publish(bytes(100_000))
        if not shared_memory:
            with Gateway("h1", states=[name], listen=[place]), FleetQuery(name, connect=[place]) as query:
                assert others.once(query, lambda replies: replies.answers).only().nbytes == 100_000
                return sorted(set(files_there()) - set(before))
        with others.session(listen=[place], transport=transport), others.session(connect=[place], transport=transport):
            return sorted(set(files_there()) - set(before))


def tell_files(place: str, name: str, shared_memory: str) -> None:
    say(*files_of(place, name, shared_memory == "True"))


def test_a_gateway_makes_no_file_in_shared_memory(place: str, name: str, start: Start) -> None:
    assert start(tell_files, place, name, False).finish().out == "\n"


def test_the_look_for_files_sees_those_of_the_engine_where_it_may_make_them(
    place: str, name: str, start: Start
) -> None:
    finished = start(tell_files, place, name, True).finish()
    for file in finished.out.split():
        path = os.path.join(SHM_DIR, file)
        if os.path.exists(path):
            os.unlink(path)

    assert ".zenoh" in finished.out


# With the process.


def end_without_closing(place: str, name: str, way: str) -> None:
    """Open both, ask, and leave."""
    writer = StateWriter(name)
    writer.publish(1)
    gateway = Gateway("h1", states=[name], listen=[place])
    query = FleetQuery(name, connect=[place])
    say(others.once(query, lambda replies: replies.answers).only().value, gateway.host)
    if way == "exit":
        sys.exit(3)
    if way == "error":
        raise LookupError("uncaught")
    if way == "query alone":
        gateway.close()
    if way == "gateway alone":
        query.close()


WAYS = {"end": 0, "exit": 3, "error": 1, "query alone": 0, "gateway alone": 0}


@pytest.mark.parametrize("way", WAYS)
def test_a_process_that_closes_nothing_ends_all_the_same(place: str, name: str, start: Start, way: str) -> None:
    finished = start(end_without_closing, place, name, way).finish(20)

    assert (finished.code, finished.out) == (WAYS[way], "1 h1\n")
    assert finished.err == "" or way == "error"


def end_while_asked(place: str, name: str) -> None:
    """Leave while another process asks, and a thread publishes."""
    writer = StateWriter(name)
    Gateway("h1", states=[name], listen=[place], interval=0.001, pulse=0.001)

    def publish() -> None:
        with suppress(WriterClosed):
            while True:
                writer.publish(2)

    threading.Thread(target=publish, daemon=True).start()
    say("ready")
    wait_for_the_test()


def ask_without_rest(place: str, name: str) -> None:
    with FleetQuery(name, connect=[place]) as query, Changes(query):
        others.once(query, lambda replies: replies.answers)
        say("ready")
        while os.getppid() != 1:
            query.ask(0.1)


def test_a_process_whose_gateway_is_busy_ends_all_the_same(place: str, name: str, start: Start) -> None:
    for turn in range(4):
        gateway = start(end_while_asked, f"{place}-{turn}", name)
        gateway.line()
        asking = [start(ask_without_rest, f"{place}-{turn}", name) for _ in range(2)]
        for child in asking:
            child.line()

        finished = gateway.finish(20)
        for child in asking:
            child.kill()

        assert (finished.code, finished.out, finished.err) == (0, "", "")


def end_a_child_of_multiprocessing(place: str, name: str, method: str) -> None:
    context = multiprocessing.get_context(method)
    process = context.Process(target=end_without_closing, args=(place, name, "end"))  # type: ignore[attr-defined]
    process.start()
    process.join(20)
    say(process.exitcode)
    process.kill()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_that_closes_nothing_ends_all_the_same(
    place: str, name: str, start: Start, method: str
) -> None:
    assert start(end_a_child_of_multiprocessing, place, name, method).finish().out == "1 h1\n0\n"
    reclaim(name)


# Forks.


def fork_with_both_open(place: str, name: str, way: str) -> None:
    """Fork, and have the child use or leave what it was born with."""
    warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads is the point
    with StateWriter(name) as writer:
        writer.publish(1)
        gateway = Gateway("h1", states=[name], listen=[place])
        query = FleetQuery(name, connect=[place])
        others.once(query, lambda replies: replies.answers)
        pid = os.fork()
        if not pid:
            signal.alarm(10)
            if way == "drop":
                del gateway, query
                gc.collect()
            elif way == "close":
                query.close()
                gateway.close()
            elif way == "ask":
                _say_error(query.ask)
            elif way == "open":
                _say_error(lambda: Gateway("h2", listen=[place + "2"]))
            sys.exit(5)
        say(os.waitpid(pid, 0)[1] >> 8, query.ask(30).only().value)
        query.close()
        gateway.close()


def _say_error(function: Callable[[], object]) -> None:
    try:
        function()
    except FleetError as error:
        say(str(error).replace(str(os.getppid()), "PARENT"))


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("drop", ""),
        ("close", ""),
        ("exit", ""),
        ("ask", "query of 'NAME': belongs to pid PARENT, not to a fork of it\n"),
        (
            "open",
            (
                "gateway 'h2': this is a fork of pid PARENT, which had a session before, and the engine's threads are not"
                " here; fork before that, or start the process anew, as multiprocessing does with 'spawn'\n"
            ),
        ),
    ],
)
def test_a_fork_ends_and_harms_nothing_of_its_parents(place: str, name: str, start: Start, way: str, told: str) -> None:
    finished = start(fork_with_both_open, place, name, way).finish(20)

    assert (finished.out, finished.err) == (told.replace("NAME", name) + "5 1\n", "")
