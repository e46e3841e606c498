"""Stress: real processes at full speed over any structure, disturbed at random, and judged afterwards by their logs.

    result = stress(ShmstateAdapter(), seconds=5, kills=3)
    assert result.verdict, str(result)

What stands between operations is only their log: no gate, no lock, no order among processes. What is found depends on
the machine and its luck; what is found is true, and the history that shows it is saved, to be judged again.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from pytest_shmstate.kit.oracle.checkers import check
from pytest_shmstate.kit.oracle.history import Event, Path, save
from pytest_shmstate.kit.oracle.logs import read_logs
from pytest_shmstate.kit.oracle.payload import SHORTEST
from pytest_shmstate.kit.oracle.vacuity import Met, require, what_was_met
from pytest_shmstate.kit.oracle.verdict import ATOMIC, LEVELS, OK, VIOLATED, Verdict
from pytest_shmstate.kit.seams.adapter import Adapter
from pytest_shmstate.kit.stress.crew import Crew, NoAnswer, Plan
from pytest_shmstate.prefixes import unique_prefix
from pytest_shmstate.workers import START_METHODS, WorkerFailed, Workers

#: Rules of a run, beside those of a history.
NO_ANSWER = "no answer"
FAILED = "failed process"
LEFT_BEHIND = "left behind"

_SHM_DIR = "/dev/shm"
_HISTORY = "history.jsonl"


class StressResult(NamedTuple):
    """What came of a run."""

    #: Only OK has passed; UNKNOWN, rule ``vacuous``: too little happened to prove anything.
    verdict: Verdict
    #: Counts, by name: those of ``what_was_met``; ``kills``, ``stops``, ``resizes``, ``handovers`` that were done;
    #: ``at_rest``: reads while a writer stood still; ``attached``: how often readers did; ``begun``: all operations,
    #: those that no log keeps among them.
    met: Met
    #: What the logs hold: all publishes; of each reader's reads of one version in a row the first and the last, and of
    #: these the last so many. Times: nanoseconds since the first.
    history: List[Event]
    #: Where the history was saved; None if nothing is wrong.
    path: Optional[str]
    #: What makes the same plan of disturbances; not the same history.
    seed: int
    #: Of a process that did not answer: where it was.
    stacks: str = ""

    def __repr__(self) -> str:
        return f"<StressResult {self.verdict.outcome} {self.verdict.rule}, {len(self.history)} operations>"

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {number}" for name, number in self.met.items())
        lines = [str(self.verdict), f"met: {counts}", f"seed {self.seed}"]
        if self.path:
            lines.append(f"to judge it again: python -m pytest_shmstate.recheck {self.path}")
        return "\n".join([*lines, self.stacks] if self.stacks else lines)


def stress(
    adapter: Adapter,
    *,
    writers: int = 1,
    readers: int = 2,
    seconds: float = 2.0,
    operations: int = 100_000,
    sizes: Sequence[int] = (64, 1000, 20_000),
    kills: Optional[int] = None,
    stops: int = 2,
    resizes: Optional[int] = None,
    handovers: int = 1,
    level: str = ATOMIC,
    seed: Optional[int] = None,
    start_method: str = "spawn",
    patience: float = 30.0,
    folder: Optional[Path] = None,
) -> StressResult:
    """Publish and read with many processes, kill, stop and resize, and judge what they saw.

    ``seconds``, ``operations``   how long it goes on at most, and how many operations a process does: a writer stops
                                  there, a reader goes on and keeps its last. 40 bytes each, in files under the
                                  temporary directory; a few hundred in memory, when they are judged
    ``sizes``                     of the states, in bytes; the first writer creates for the largest
    ``kills``, ``handovers``      of a writer, whose successor creates again. By default 2 kills, and none where
                                  ``adapter.survives_death`` is False
    ``stops``, ``resizes``        SIGSTOP and SIGCONT of a writer; ``adapter.resize``, by default 2 if there is such a thing
    ``level``                     what is asked of reads, see ``checkers``
    ``patience``                  seconds that a process has for anything it is asked for. One that does not answer is a
                                  verdict, with its stacks
    ``folder``                    where the history is saved if it is wrong; by default a new one

    Ends in about ``seconds``, the start of the processes not counted, and leaves none of them, and nothing of the
    structure. Raises ValueError for what the adapter says cannot be done.
    """
    drawn = random.SystemRandom().getrandbits(32) if seed is None else seed
    plan = Plan(
        adapter,
        writers,
        readers,
        seconds,
        operations,
        tuple(sizes),
        2 * adapter.survives_death if kills is None else kills,
        stops,
        2 * adapter.can_resize if resizes is None else resizes,
        handovers,
        drawn,
        start_method,
        patience,
    )
    _refuse_what_cannot_be(plan, level)
    logs = tempfile.mkdtemp(prefix="shmstate-stress-")
    try:
        return _judged(plan, level, _Outcome(plan, logs), folder)
    finally:
        shutil.rmtree(logs)


def _refuse_what_cannot_be(plan: Plan, level: str) -> None:
    adapter = plan.adapter
    wrong = [
        (plan.writers < 1 or plan.readers < 1, f"writers={plan.writers}, readers={plan.readers}: it takes one of each"),
        (plan.writers > 1 and not adapter.is_shared, f"writers={plan.writers}, but {adapter.title} has one at a time"),
        (plan.kills and not adapter.survives_death, f"kills={plan.kills}, but {adapter.title} does not survive them"),
        (plan.resizes and not adapter.can_resize, f"resizes={plan.resizes}, but {adapter.title} cannot be resized"),
        (min(plan.kills, plan.stops, plan.resizes, plan.handovers) < 0, "nothing can happen less than 0 times"),
        (plan.operations < 1, f"operations={plan.operations} is too few"),
        (not plan.sizes, "sizes is empty"),
        (min(plan.sizes, default=SHORTEST) < SHORTEST, f"sizes={plan.sizes}: states have {SHORTEST} bytes at least"),
        (plan.start_method not in START_METHODS, f"start_method={plan.start_method!r}: {', '.join(START_METHODS)}"),
        (level not in LEVELS, f"level={level!r} is none of {', '.join(LEVELS)}"),
    ]
    reasons = [reason for is_wrong, reason in wrong if is_wrong]
    if reasons:
        raise ValueError(f"stress of {adapter.title}: {'; '.join(reasons)}")


class _Outcome:
    """A run, and what it left: logs, counts, and what went wrong beside them."""

    def __init__(self, plan: Plan, logs: str) -> None:
        self.name = unique_prefix("stress") + "state"
        self.logs = logs
        self.done: Dict[str, int] = {}
        #: Of the run itself: a rule, and a sentence.
        self.failure: Optional[Tuple[str, str]] = None
        self.stacks = ""
        try:
            self._run(plan)
        finally:
            plan.adapter.remove(self.name)
        left = [file for file in os.listdir(_SHM_DIR) if self.name in file]
        if left and not self.failure:
            self.failure = LEFT_BEHIND, f"{plan.adapter.title} left {', '.join(left)} in {_SHM_DIR}: see its remove()"

    def _run(self, plan: Plan) -> None:
        try:
            with Workers() as workers:
                crew = Crew(plan, workers, self.name, self.logs)
                self.done = crew.done
                try:
                    crew.run()
                finally:
                    crew.close()
        except NoAnswer as error:
            self.failure, self.stacks = (NO_ANSWER, str(error)), error.stacks
        except WorkerFailed as error:
            first, _, rest = str(error).partition("\n")
            self.failure, self.stacks = (FAILED, first), rest.strip()


def _judged(plan: Plan, level: str, outcome: _Outcome, folder: Optional[Path]) -> StressResult:
    logged = read_logs(outcome.logs)
    history = _from_the_first(logged.history)
    met = {**what_was_met(history), **outcome.done, "begun": logged.begun}
    verdict = check(history, level, shared=plan.adapter.is_shared)
    if outcome.failure and verdict.outcome != VIOLATED:
        verdict = Verdict(VIOLATED, *outcome.failure, (), level)
    planned = {"kills": plan.kills, "stops": plan.stops, "resizes": plan.resizes, "handovers": plan.handovers}
    verdict = require(verdict, met, publishes=1, reads=1, overlaps=1, moves=1, readers=plan.readers, **planned)
    path = None
    if verdict.outcome != OK:
        kept = os.fspath(folder) if folder is not None else tempfile.mkdtemp(prefix="shmstate-history-")
        os.makedirs(kept, exist_ok=True)
        path = os.path.join(kept, _HISTORY)
        save(history, path, **_header(plan, level, verdict))
    return StressResult(verdict, met, history, path, plan.seed, outcome.stacks)


def _from_the_first(history: Sequence[Event]) -> List[Event]:
    start = history[0].began - 1 if history else 0
    return [
        event._replace(began=event.began - start, ended=None if event.ended is None else event.ended - start)
        for event in history
    ]


def _header(plan: Plan, level: str, verdict: Verdict) -> Dict[str, Any]:
    options = {field: value for field, value in plan._asdict().items() if field not in {"adapter", "seed"}}
    return {
        "title": plan.adapter.title,
        "shared": plan.adapter.is_shared,
        "level": level,
        "unit": "ns",
        "seed": plan.seed,
        "options": options,
        "verdict": str(verdict),
    }
