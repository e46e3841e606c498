"""A long run of everything at once: ``python benchmarks/soak.py [--seconds 600]``.

Twenty states, some with one writer and some shared, grow, shrink, move, are trimmed, lent and waited for, in three writer
processes that are killed again and again and started anew, while two processes read and wait. The process that started
them all keeps count. Exit status 1 unless nothing was torn, stale or left behind, and memory did not grow.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Counter, Dict, List, Tuple

import psutil

import shmstate
from shmstate.layout import NEW_PREFIX, SHM_DIR

STATES, WRITERS, READERS = 20, 3, 2
SHARED = 4  # of the states, by all writers
KILL_EVERY = 2.0


def name_of(prefix: str, state: int) -> str:
    """What state number ``state`` is called."""
    return f"{prefix}.{state:02d}"


def payload_of(state: int, stamp: int, nbytes: int) -> bytes:
    """Bytes that vouch for themselves: state, a stamp, their number, and a checksum of it all."""
    head = b"%d %d %d " % (state, stamp, nbytes)
    body = head + bytes((stamp + i) % 251 for i in range(16)) * (nbytes // 16)
    return zlib.crc32(body).to_bytes(4, "big") + body


def is_whole(payload: bytes, state: int) -> bool:
    """Whether they are some payload of that state's."""
    return payload[4:].split(b" ", 1)[0] == b"%d" % state and zlib.crc32(payload[4:]) == int.from_bytes(
        payload[:4], "big"
    )


def write(prefix: str, me: int, seed: int) -> None:
    """Own or share states, and do all that can be done to them, until killed."""
    dice = random.Random(seed)
    with ExitStack() as stack:
        writers: Dict[int, shmstate.StateWriter] = {}
        for state in range(STATES):
            if state >= SHARED and state % WRITERS != me:
                continue
            options: Dict[str, Any] = {"slots": dice.choice((2, 3, 4, 8))} if state >= SHARED else {"shared": True}
            writer = shmstate.StateWriter(
                name_of(prefix, state), codec="raw", max_size=8192, notify=bool(state % 2), **options
            )
            writers[state] = stack.enter_context(writer)
        stamp = 0
        while True:
            state = dice.choice(list(writers))
            stamp += 1
            act(writers[state], state, stamp, dice)


def act(writer: shmstate.StateWriter, state: int, stamp: int, dice: random.Random) -> None:
    """One thing done to one state."""
    nbytes = dice.choice((0, 100, 1000, 8000, 8000)) if dice.random() < 0.97 else dice.randrange(200_000)
    payload = payload_of(state, stamp, nbytes)
    way = dice.random()
    if way < 0.9:
        writer.publish(payload)
    elif way < 0.97:
        with writer.loan(len(payload)) as view:
            view[:] = payload
    elif way < 0.99:
        if writer.version:
            writer.trim()
    else:
        writer.beat()


def read(prefix: str, seed: int, report: str) -> None:
    """Read all states in all ways until SIGTERM; write down what was seen."""
    seen: Counter[str] = collections.Counter()
    ended: List[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    dice = random.Random(seed)
    readers = [shmstate.StateReader(name_of(prefix, state), timeout=30) for state in range(STATES)]
    latest = [0] * STATES
    while not ended:
        state = dice.randrange(STATES)
        reader = readers[state]
        try:
            payload, version = look(reader, dice, seen)
        except (shmstate.NotPublished, shmstate.WaitTimeout, shmstate.WriterGone, shmstate.Overwritten) as error:
            seen[type(error).__name__] += 1
            continue
        seen["reads"] += 1
        seen["torn"] += not is_whole(payload, state)
        seen["stale"] += version < latest[state]
        seen["new"] += version > latest[state]
        latest[state] = max(version, latest[state])
    seen["retries"] = sum(reader.retries for reader in readers)
    Path(report).write_text(json.dumps(seen), encoding="utf-8")


def look(reader: shmstate.StateReader, dice: random.Random, seen: Counter[str]) -> Tuple[bytes, int]:
    """One read, in one of the ways that there are."""
    way = dice.random()
    if way < 0.6:
        snapshot = reader.read()
    elif way < 0.7:
        with reader.view() as view:
            return bytes(view.data), view.version
    elif way < 0.8:
        before = reader.version
        return reader.read_bytes(), before  # at least that one
    elif way < 0.99:
        seen["waits"] += 1
        snapshot = reader.wait(after=reader.version, timeout=0.02)
    else:
        snapshot = reader.read_version(max(reader.version, 1))
    return snapshot.value, snapshot.version


class Soak:
    """The processes, and what is counted of them."""

    def __init__(self, prefix: str, seconds: float, seed: int) -> None:
        self.prefix, self.seconds, self.dice = prefix, seconds, random.Random(seed)
        self.context = multiprocessing.get_context("spawn")
        self.kills = 0
        self.memory: List[Tuple[int, int]] = []
        self.reports = [Path(tempfile.mkstemp(prefix="soak-")[1]) for _ in range(READERS)]

    def start_writer(self, me: int) -> Any:
        """One of the writers, in place of one that was killed."""
        process = self.context.Process(target=write, args=(self.prefix, me, self.dice.getrandbits(32)))
        process.start()
        return process

    def run(self) -> Dict[str, Any]:
        """All of it; returns the counts."""
        writers = [self.start_writer(me) for me in range(WRITERS)]
        readers = [
            self.context.Process(target=read, args=(self.prefix, self.dice.getrandbits(32), str(report)))
            for report in self.reports
        ]
        for reader in readers:
            reader.start()
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            time.sleep(KILL_EVERY * self.dice.random() * 2)
            me = self.dice.randrange(WRITERS)
            if not writers[me].is_alive():
                raise SystemExit(f"writer {me} ended by itself: {writers[me].exitcode}")
            writers[me].kill()
            writers[me].join()
            self.kills += 1
            writers[me] = self.start_writer(me)
            self.memory.append((sum(map(_private, readers)), self.shared()))
        exits = self.stop(writers, readers)
        seen: Counter[str] = collections.Counter()
        for report in self.reports:
            seen.update(json.loads(report.read_text(encoding="utf-8") or "{}"))
            report.unlink()
        return {**seen, "kills": self.kills, "reader exits": exits, "memory": self.growth(), "left": self.left()}

    def shared(self) -> int:
        """Bytes of shared memory behind all states."""
        return sum(state.memory for state in shmstate.list_states(self.prefix))

    def growth(self) -> Dict[str, float]:
        """Memory of the last third of the run against that of the second."""
        third = max(len(self.memory) // 3, 1)
        private, shared = zip(*self.memory)
        return {
            "private": sum(private[-third:]) / max(sum(private[third : 2 * third]), 1),
            "shared": sum(shared[-third:]) / max(sum(shared[third : 2 * third]), 1),
        }

    @staticmethod
    def stop(writers: List[Any], readers: List[Any]) -> List[int]:
        """End all; returns how the readers ended."""
        for writer in writers:
            writer.kill()
        for reader in readers:
            reader.terminate()
        for process in (*writers, *readers):
            process.join()
        return [reader.exitcode for reader in readers]

    def left(self) -> List[str]:
        """What is there after reclaim, of what these processes made."""
        shmstate.reclaim(self.prefix)
        shmstate.reclaim()  # drafts have no name to ask for
        ours = [file for file in os.listdir(SHM_DIR) if self.prefix in file]
        return ours + [file for file in os.listdir(SHM_DIR) if file.startswith(NEW_PREFIX)]


def _private(process: Any) -> int:
    memory = psutil.Process(process.pid).memory_info()
    return int(memory.rss - memory.shared)


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    result = Soak(f"soak{os.getpid()}", arguments.seconds, arguments.seed).run()
    print(json.dumps(result, indent=2))
    holds = (
        not result.get("torn")
        and not result.get("stale")
        and not result["left"]
        and result["reader exits"] == [0] * READERS
        and max(result["memory"].values()) < 1.3
        and min(result.get(met, 0) for met in ("reads", "new", "waits", "kills")) > 0
    )
    print("all of it held" if holds else "it did NOT hold")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
