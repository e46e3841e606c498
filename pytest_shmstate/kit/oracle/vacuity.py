"""What a history met. Judged right and having met nothing, it proves nothing."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Dict, Mapping

from pytest_shmstate.kit.oracle.history import PUBLISH, History
from pytest_shmstate.kit.oracle.row import by_time, ends
from pytest_shmstate.kit.oracle.verdict import OK, UNKNOWN, VACUOUS, Verdict, is_seen

#: Of each thing that a history may meet, how often it did.
Met = Dict[str, int]


def what_was_met(history: History) -> Met:
    """Counts, by name; any engine may add its own.

    publishes    that were begun                     unreturned   publishes that never returned: killed at them
    reads        that returned a state, or none      aftermath    unreturned ones that were seen
    overlaps     reads that met a publish            moves        reads of another version than the same process's last
    writers      processes that published            readers      processes that read
    refusals     operations that were refused        nothing      reads before anything had been published
    """
    in_time = sorted(history, key=by_time)
    publishes = [event for event in in_time if event.operation == PUBLISH]
    reads = [event for event in in_time if is_seen(event)]
    began = [event.began for event in publishes]
    # Of one that never returned nobody knows how long it was at work; that it had begun is certain.
    latest = list(accumulate((event.began if event.ended is None else event.ended for event in publishes), max))
    overlaps = moves = 0
    last: Dict[str, int] = {}
    for read in reads:
        begun = bisect_right(began, ends(read))
        overlaps += begun > 0 and latest[begun - 1] >= read.began
        moves += last.setdefault(read.process, read.version) != read.version
        last[read.process] = read.version
    unreturned = {event.version for event in publishes if event.ended is None}
    return {
        "publishes": len(publishes),
        "reads": len(reads),
        "overlaps": overlaps,
        "moves": moves,
        "writers": len({event.process for event in publishes}),
        "readers": len({event.process for event in reads}),
        "unreturned": len(unreturned),
        "aftermath": len(unreturned & {read.version for read in reads}),
        "refusals": sum(bool(event.error) for event in history),
        "nothing": sum(read.version == 0 for read in reads),
    }


def require(verdict: Verdict, met: Mapping[str, int], **least: int) -> Verdict:
    """The verdict; UNKNOWN in place of OK if something was met less often than it should have been.

    ``require(check(history), what_was_met(history), overlaps=1, moves=10)``. Raises ValueError for what is not counted.
    """
    strange = [name for name in least if name not in met]
    if strange:
        raise ValueError(f"nobody counts {', '.join(strange)}; there are {', '.join(met)}")
    missing = [f"{name} {met[name]} of {number}" for name, number in least.items() if met[name] < number]
    if verdict.outcome != OK or not missing:
        return verdict
    why = f"nothing is wrong, but too little was met to prove anything: {', '.join(missing)}"
    return Verdict(UNKNOWN, VACUOUS, why, (), verdict.level)
