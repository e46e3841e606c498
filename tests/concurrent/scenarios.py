"""What happens between real processes, each scenario a program: ``python -m tests.concurrent.scenarios NAME ...``.

A program of its own, because then its standard error is all that its whole process tree says, the tracker included;
it has no threads, so forking is safe; and when it has ended, so has everything that it started. It prints one line
of JSON: what was seen, for the test to judge. Writers publish states that certify themselves (payload.py).
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Callable, Dict, List, Tuple

import shmstate
from pytest_shmstate.kit.oracle.payload import HEAD, payload_of, whole
from shmstate import makers, ownership
from shmstate.layout import INTENT, LATEST, NEW_PREFIX, PREFIX, SHM_DIR

Report = Dict[str, Any]
_PATIENCE = 60.0


# ---- bodies of child processes --------------------------------------------------------------------------------------


def write_flat_out(name: str, slots: int, sizes: List[int], max_size: int, until: Connection) -> None:
    """Publish without rest, one size after the other, until the pipe is closed at its other end."""
    with shmstate.StateWriter(name, codec="raw", slots=slots, max_size=max_size) as writer:
        while not until.poll(0):
            for _ in range(50):
                version = writer.version + 1
                writer.publish_bytes(payload_of(version, sizes[version % len(sizes)]))


def write_growing(name: str, largest: int, until: Connection) -> None:
    """Publish states from 100 bytes to ``largest``, growing by a tenth, again and again."""
    with shmstate.StateWriter(name, codec="raw", max_size=largest) as writer:
        length = 100
        while not until.poll(0):
            writer.publish_bytes(payload_of(writer.version + 1, length))
            length = 100 if length == largest else min(largest, length + length // 10)


def write_in_turn(names: List[str], until: Connection) -> None:
    """Publish the same number in one state after the other, in bursts, until the pipe says something."""
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(shmstate.StateWriter(name)) for name in names]
        number = 0
        while not until.poll(0.0003):
            for _ in range(20):
                number += 1
                for writer in writers:
                    writer.publish(number)


def write_until_killed(name: str) -> None:
    """Publish states of all kinds of sizes for ever."""
    writer = shmstate.StateWriter(name, codec="raw")
    draw = random.Random(os.getpid())
    while True:
        version = writer.version + 1
        writer.publish_bytes(payload_of(version, HEAD.size + draw.choice((0, 100, 5_000, 200_000))))


def read_flat_out(name: str, reads: int, moves: int, largest: int, report: Connection) -> None:
    """Read in every way there is and judge each state, until ``reads`` reads met ``moves`` newer states, and ``largest``.

    With fewer cores than processes, thousands of reads can fall into one rest of the writer's and prove nothing.
    """
    seen: Report = {"reads": 0, "torn": 0, "backwards": 0, "moves": 0, "sizes": 0, "largest": 0}
    lengths = set()
    last = 0
    room = bytearray(max(largest, 1 << 20))
    deadline = time.monotonic() + _PATIENCE
    with shmstate.StateReader(name, timeout=_PATIENCE) as reader:
        while not reader.version:
            os.sched_yield()
        ways = ways_to_read(reader, room)
        while not (seen["reads"] >= reads and seen["moves"] >= moves and seen["largest"] >= largest):
            if time.monotonic() > deadline:
                break
            version, payload = ways[seen["reads"] % len(ways)]()
            seen["reads"] += 1
            seen["torn"] += not whole(payload, version)
            seen["backwards"] += version < last
            seen["moves"] += version > last
            lengths.add(len(payload))
            seen["largest"] = max(lengths)
            last = max(last, version)
        seen["retries"] = reader.retries
    seen["sizes"] = len(lengths)
    report.send(seen)


def ways_to_read(reader: shmstate.StateReader, room: bytearray) -> List[Callable[[], Tuple[int, Any]]]:
    """Each gives a version and the state that is said to be it."""

    def by_its_own_word(read: Callable[[], bytes]) -> Tuple[int, Any]:
        payload = read()  # bytes alone carry no version but the one in them
        return HEAD.unpack_from(payload)[0], payload

    def as_told(snapshot: shmstate.Snapshot) -> Tuple[int, Any]:
        return snapshot.version, snapshot.value

    def by_view() -> Tuple[int, Any]:
        while True:
            with suppress(shmstate.Overwritten), reader.view() as view:
                payload = bytes(view.data)
                if view.valid:
                    return view.version, payload

    def by_version() -> Tuple[int, Any]:
        while True:
            with suppress(shmstate.Overwritten):
                return as_told(reader.read_version(reader.version))

    return [
        by_view,
        by_version,
        lambda: by_its_own_word(lambda: reader.apply(bytes)),
        lambda: by_its_own_word(reader.read_bytes),
        lambda: by_its_own_word(reader.get),
        lambda: as_told(reader.read()),
        lambda: as_told(reader.read_into(room)),
    ]


# ---- scenarios ------------------------------------------------------------------------------------------------------


def race(method: str, writers: int, readers: int, slots: int, reads: int, moves: int, sizes: str) -> Report:
    """``writers`` states, each written flat out, read by ``readers`` processes in all."""
    context = multiprocessing.get_context(method)
    lengths = [int(size) for size in str(sizes).split(",")]
    names = [own(f"race{index}") for index in range(writers)]
    ends, processes, reports = [], [], []
    for name in names:
        theirs, ours = context.Pipe(duplex=False)
        ends.append(ours)
        processes.append(start(context, write_flat_out, name, slots, lengths, max(lengths), theirs))
    for index in range(readers):
        ours, theirs = context.Pipe(duplex=False)
        reports.append(
            (ours, start(context, read_flat_out, names[index % writers], reads, moves, max(lengths), theirs))
        )
    return judge(reports, processes, ends)


def together(method: str, states: int, snapshots: int, again: int) -> Report:
    """Snapshots of several states that one process publishes in turn: at any instant the first is at most one ahead.

    Until there were so many, and so many of these met the writer at work.
    """
    context = multiprocessing.get_context(method)
    names = [own(f"turn{index}") for index in range(states)]
    theirs, ours = context.Pipe(duplex=False)
    process = start(context, write_in_turn, names, theirs)
    seen: Report = {"together": 0, "apart": 0, "wrong": 0, "again": 0}
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(shmstate.StateReader(name, timeout=_PATIENCE)) for name in names]
        while not readers[-1].version:
            os.sched_yield()
        deadline = time.monotonic() + _PATIENCE
        while seen["together"] < snapshots or (seen["again"] < again and time.monotonic() < deadline):
            found = shmstate.snapshot(readers[::-1])
            numbers = [one.value for one in found.snapshots[::-1]]
            in_turn = numbers == sorted(numbers, reverse=True) and numbers[0] - numbers[-1] <= 1
            seen["together" if found.together else "apart"] += 1
            seen["wrong"] += found.together and not in_turn
            seen["again"] += found.sweeps > 1
    ours.send(None)
    process.join(_PATIENCE)
    return {**seen, "exit": process.exitcode}


def growth(method: str, readers: int, largest: int) -> Report:
    """One state that grows from 100 bytes to ``largest`` again and again, under readers that must meet its full size."""
    context = multiprocessing.get_context(method)
    name = own("growth")
    theirs, end = context.Pipe(duplex=False)
    writer = start(context, write_growing, name, largest, theirs)
    reports = []
    for _ in range(readers):
        ours, theirs = context.Pipe(duplex=False)
        reports.append((ours, start(context, read_flat_out, name, 200, 20, largest, theirs)))
    return judge(reports, [writer], [end])


def kills(method: str, times: int, seed: int) -> Report:
    """Kill a writer at random moments; each time the last state must be whole and the next writer must go on from it."""
    context = multiprocessing.get_context(method)
    name = own("kills")
    draw = random.Random(seed)
    seen: Report = {"kills": 0, "torn": 0, "backwards": 0, "undead": 0, "moves": 0, "mid_publish": 0}
    last = 0
    reader = None
    for _ in range(times):
        process = start(context, write_until_killed, name)
        reader = reader or shmstate.StateReader(name, timeout=_PATIENCE)
        while reader.version <= last:  # it has adopted and published
            os.sched_yield()
        for _ in range(draw.randrange(60)):
            last = judge_read(reader, last, seen)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        seen["kills"] += 1
        seen["undead"] += reader.writer_alive
        last = judge_read(reader, last, seen)
        seen["mid_publish"] += intent_ahead(reader)
    with shmstate.StateWriter(name, codec="raw") as successor:
        seen["backwards"] += successor.version < last
    return seen


def kills_at_birth(method: str, times: int, seed: int) -> Report:
    """Kill writers while they start: at once, at random, as soon as the name appears. Whatever is left is whole."""
    context = multiprocessing.get_context(method)
    draw = random.Random(seed)
    seen: Report = {"kills": 0, "born": 0, "corrupt": 0, "drafts_left": 0}
    for index in range(times):
        name = own(f"birth{index}")
        path = os.path.join(SHM_DIR, PREFIX + name)
        process = start(context, write_until_killed, name)
        spin_until = time.perf_counter() + draw.random() * 0.01
        if index % 3 == 1:
            while time.perf_counter() < spin_until:
                os.sched_yield()
        elif index % 3 == 2:
            while not os.path.exists(path):
                os.sched_yield()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        seen["kills"] += 1
        for info in shmstate.list_states(name):
            seen["born"] += 1
            seen["corrupt"] += bool(info.problem)
        seen["drafts_left"] += drafts_left_by(process.pid)
    shmstate.reclaim(own(""))
    return seen


def thousand(states: int, limit: int) -> Report:
    """``states`` writers and as many readers in one process that may have ``limit`` descriptors."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    before = len(os.listdir("/proc/self/fd"))
    writers = [shmstate.StateWriter(own(f"many{index}"), codec="raw") for index in range(states)]
    with_writers = len(os.listdir("/proc/self/fd"))
    for turn in range(5):  # all four slots in use
        for index, writer in enumerate(writers):
            writer.publish_bytes(payload_of(turn + 1, 500 + index % 7))
    readers = [shmstate.StateReader(writer.name) for writer in writers]
    with_readers = len(os.listdir("/proc/self/fd"))
    whole_ones = sum(whole(reader.read_bytes(), 5) for reader in readers)
    infos = shmstate.list_states(own("many"))
    report = {
        "whole": whole_ones,
        "alive": sum(info.alive is True for info in infos),
        "most_memory": max(info.memory for info in infos),
        "descriptors_a_writer": (with_writers - before) / states,
        "descriptors_a_reader": (with_readers - with_writers) / states,
    }
    for handle in [*readers, *writers]:
        handle.close()
    return report


# ---- what they share ------------------------------------------------------------------------------------------------


def drafts_left_by(pid: int) -> int:
    """How many drafts of a dead process outlive what ``reclaim()`` does with drafts; other tests run beside this one."""
    drafts = [file for file in os.listdir(SHM_DIR) if file.startswith(f"{NEW_PREFIX}{pid}.")]
    return sum(
        makers.maker_is_alive(file) or not ownership.remove_if_dead(f"{SHM_DIR}/{file}", None) for file in drafts
    )


def own(what: str) -> str:
    """A state name of this run's own; the test gives the prefix."""
    return f"{os.environ['SHMSTATE_TEST_PREFIX']}.{what}"


def start(context: Any, target: Callable[..., None], *args: Any) -> Any:
    """Start a child; a daemonic one, so that a scenario that fails ends, and its children with it."""
    process = context.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def judge(reports: List[Tuple[Any, Any]], writers: List[Any], ends: List[Any]) -> Report:
    """Collect what the readers saw, then have the writers stop."""
    seen = []
    for report, process in reports:
        if report.poll(2 * _PATIENCE):
            seen.append(report.recv())
        process.join()
    for end in ends:
        end.send("stop")
    for writer in writers:
        writer.join()
    return {"readers": seen, "exits": [process.exitcode for process in [*writers, *(p for _, p in reports)]]}


def judge_read(reader: shmstate.StateReader, last: int, seen: Report) -> int:
    """Read once, count what is wrong, return the version."""
    snapshot = reader.read()
    seen["torn"] += not whole(snapshot.value, snapshot.version)
    seen["backwards"] += snapshot.version < last
    seen["moves"] += snapshot.version > last
    return max(last, snapshot.version)


def intent_ahead(reader: shmstate.StateReader) -> bool:
    """Whether the dead writer was in the middle of a publish."""
    words = reader._segment.words
    return bool(words[INTENT] != words[LATEST])


def main() -> None:
    """Run the scenario that the command line names; numbers among its arguments are numbers."""
    scenario = globals()[sys.argv[1]]
    arguments = [int(word) if word.isdigit() else word for word in sys.argv[2:]]
    print(json.dumps(scenario(*arguments)))


if __name__ == "__main__":
    main()
