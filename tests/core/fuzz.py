"""Random bytes over a segment, and everything that may be done with it then. Run by test_fuzz.py in a process of its own.

What comes back must be an error of ours, or with a checksum a state that was published, whole. A crash ends this process
by a signal, a hang by its parent's patience, a huge allocation by its limit on memory.
"""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import sys
from collections import Counter
from typing import Any, Callable, Dict, List

import shmstate
from shmstate import ShmStateError, StateReader, StateWriter
from shmstate.layout import HEARTBEAT, INTENT, LATEST, PAGE, SHM_DIR, WAKE, WORD

SLOTS, STRIDE = 3, 2 * PAGE
#: What a word is set to, besides random bits: edges, and what a version or a length may well be.
EDGES = (0, 1, 2, SLOTS, STRIDE - 1, STRIDE, STRIDE + 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)
#: Far more than any state here, far less than a length that was made up.
MOST_MEMORY = 512 << 20


def spoil(fd: int, size: int, dice: random.Random) -> None:
    """Change some bytes of the file: of a word, of the header, or anywhere."""
    for _ in range(dice.randint(1, 4)):
        way = dice.random()
        if way < 0.6:
            hot = (INTENT, LATEST, HEARTBEAT, WAKE, *range(80, 80 + 8 * SLOTS), *range(8), 8, 9)
            value = dice.choice(EDGES) if dice.random() < 0.6 else dice.getrandbits(dice.choice((4, 16, 64)))
            os.pwrite(fd, struct.pack("=Q", value), dice.choice(hot) * WORD)
        else:
            start = dice.randrange(PAGE if way < 0.8 else size)
            os.pwrite(fd, dice.getrandbits(8 * 16).to_bytes(16, "little")[: dice.randint(1, 16)], start)


class Field:
    """One segment under test, with a writer, alive or gone, and a reader that was there before."""

    def __init__(self, name: str, checksum: bool, is_alive: bool) -> None:
        self.name, self.checksum = name, checksum
        self.published: List[bytes] = []
        self.writer = StateWriter(name, codec="raw", slots=SLOTS, max_size=STRIDE, checksum=checksum, grow=False)
        for version in range(1, 6):
            self.publish(bytes([version]) * (version * 1000))
        self.path = f"{SHM_DIR}/shmstate.{name}"
        self.reader = StateReader(name, tries=3)
        if not is_alive:
            self.writer.close(unlink=False)
        with open(self.path, "rb") as file:
            self.image = file.read(PAGE + SLOTS * STRIDE)
        self.fd = os.open(self.path, os.O_RDWR)
        self.is_alive = is_alive

    def publish(self, payload: bytes) -> None:
        self.published.append(payload)
        self.writer.publish(payload)

    def mend(self) -> None:
        os.pwrite(self.fd, self.image, 0)

    def uses(self) -> Dict[str, Callable[[], Any]]:
        reader = self.reader

        def anew() -> Any:
            with StateReader(self.name, tries=3, codec="raw") as late:
                return late.read().value

        def take_over() -> Any:
            with StateWriter(self.name, codec="raw", slots=SLOTS, max_size=STRIDE) as heir:
                heir.close(unlink=False)

        uses: Dict[str, Callable[[], Any]] = {
            "get": reader.get,
            "read": lambda: reader.read().value,
            "read_bytes": reader.read_bytes,
            "version": lambda: self.ignore(reader.version),
            "read_version": lambda: reader.read_version(4).value,
            "read_since": lambda: [snapshot.value for snapshot in reader.read_since(2).snapshots],
            "apply": lambda: self.ignore(reader.apply(bytes)),
            "nbytes": lambda: self.ignore(reader.nbytes),
            "staleness": lambda: self.ignore(reader.staleness),
            "wait": lambda: reader.wait(after=3, timeout=0).value,
            "alive": lambda: self.ignore(reader.writer_alive),
            "attach": anew,
            "list": lambda: self.ignore(shmstate.list_states(self.name)),
            "reclaim": lambda: self.ignore(shmstate.reclaim(self.name, dry_run=True)),
        }
        if self.is_alive:
            uses["publish"] = lambda: self.ignore(self.writer.publish(self.published[2]))
            uses["beat"] = self.writer.beat
        else:
            uses["take over"] = take_over
        return uses

    @staticmethod
    def ignore(_: Any) -> None:
        """What bytes nobody vouches for may be anything, so long as it comes."""

    def judge(self, value: Any) -> None:
        values = value if isinstance(value, list) else [value]
        for one in values:
            if self.checksum and one is not None and one not in self.published:
                raise AssertionError(f"a state that nobody published: {one[:40]!r}, {len(one)} bytes")

    def close(self) -> None:
        os.close(self.fd)
        self.reader.close()
        self.writer.close()
        if os.path.exists(self.path):
            os.unlink(self.path)


def run(prefix: str, seed: int, cases: int) -> Dict[str, Any]:
    """That many cases; returns how often each came to what."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    outcomes: Counter[str] = Counter()
    fields = [Field(f"{prefix}-{c:d}{a:d}", c, a) for c in (False, True) for a in (False, True)]
    try:
        for case in range(cases):
            dice = random.Random(seed * 1_000_003 + case)
            field = fields[case % len(fields)]
            spoil(field.fd, len(field.image), dice)
            for name, use in dice.sample(sorted(field.uses().items()), 4):
                try:
                    field.judge(use())
                    outcomes["a state" if name != "publish" else "published"] += 1
                except ShmStateError as error:
                    outcomes[type(error).__name__] += 1
                except BaseException as error:
                    raise AssertionError(
                        f"seed {seed}, case {case}, {name}: {type(error).__name__}: {error}"
                    ) from error
            field.mend()
    finally:
        for field in fields:
            field.close()
    return dict(outcomes)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
