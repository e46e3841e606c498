"""The peers: other ways to hand over the latest state, told to do the same job, in one run.

Each state has a writer's process and a reader's. Three questions:

- How fast? For each size all peers' processes live at once, and take turns. ``publish``: the writer's call. ``read``: of
  a writer that rests; it has published once more before each round. ``new``: each read finds a version that this
  reader has not seen, which is the fair figure for those that keep a copy.
- Torn? A writer that never rests, and a reader that looks at every byte of what it gets.
- Killed? SIGKILL for such a writer; then the reader that was there, and one that comes after, must get a whole state that is
  not older than what was seen. Neither waits longer than ``deadline_seconds``.

What is left in /dev/shm, among System V segments, files and processes is listed after the kill, and after all were closed as
their documentation says. Then it is removed.

    {"baseline", "deadline_seconds", "watch_seconds", "kills", "killed_size",
     "sizes_bytes": {size: bytes},
     "peers": {title: {
        "version", "missing", "how", "leaves_out", "cleared_by", "stays", "answers_itself", "variant",
        "speed": {size: {"publish" | "read" | "new": {"p50", "p99", ..., "ratio": {"ratio", "low", "high"}}, "stale"}},
        "watched": {size: {"found": {what: how often}, "longest", "published"}},
        "killed": {"kills", "attached": {what: how often}, "late": {...}, "lost", "lost_attached", "longest", "left": [...]},
        "closed": [...]}}}

``missing`` is empty, or says why there are no figures. ``found``, ``attached`` and ``late`` count ``whole``, ``torn``,
``older``, ``nothing``, ``blocked``, ``died``, and exceptions by their names; those that are announced have "refused: " before it.
Where something broke there is ``{"failed": why}`` in place of the figures.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Type

from benchmarks.harness import Effort, Take, Tell, interleaved, pooled, ratio
from benchmarks.peers.everyone import ALL
from benchmarks.peers.peer import Peer
from benchmarks.peers.sides import Look
from benchmarks.peers.trial import PATIENCE, Blocked, Company, Process, Trial
from benchmarks.remote import RemoteFailed
from benchmarks.states import SIZES

#: Seconds after which a read counts as stuck.
DEADLINE = 2.0
#: Sizes at which reads are watched for torn data.
WATCHED = ("500 B", "20 KB")
#: Size at which writers are killed: large, since they are to die in the middle of a publish, not between two.
KILLED = "1 MB"

#: What is found where no read ends.
BLOCKED, DIED = "blocked", "died"

Kinds = Sequence[Type[Peer]]


def steps(effort: Effort) -> int:  # noqa: ARG001
    """How many times ``measure`` tells what it does."""
    return len(SIZES) + 2 * len(ALL)


def measure(effort: Effort, tell: Tell, kinds: Kinds = ALL) -> Dict[str, Any]:
    """All of it; the first kind is what the others are compared with."""
    there = [kind for kind in kinds if not kind.missing()]
    told = {kind.title: _introduced(kind) for kind in kinds}
    with ExitStack() as stack:
        companies = {kind.title: stack.enter_context(Company()) for kind in there}
        for label, size in SIZES.items():
            tell(f"peers, {label}")
            for title, figures in speed(there, size, effort, companies).items():
                told[title]["speed"][label] = figures
        for kind in kinds:
            tell(f"{kind.title}, torn data")
            if kind in there:
                for label in effort.of(WATCHED, WATCHED[-1:]):
                    seen = _attempted(watched, kind, SIZES[label], effort.of(2.0, 0.5), companies[kind.title])
                    told[kind.title]["closed"] = seen.pop("left", [])
                    told[kind.title]["watched"][label] = seen
            tell(f"{kind.title}, kill -9")
            if kind in there:
                seen = _attempted(killed, kind, SIZES[KILLED], effort.of(20, 5), companies[kind.title])
                told[kind.title]["killed"] = seen
                companies[kind.title].kill()
    return {
        "baseline": kinds[0].title,
        "deadline_seconds": DEADLINE,
        "watch_seconds": effort.of(2.0, 0.5),
        "kills": effort.of(20, 5),
        "killed_size": KILLED,
        "sizes_bytes": dict(SIZES),
        "peers": told,
    }


def _introduced(kind: Type[Peer]) -> Dict[str, Any]:
    missing = kind.missing()
    return {
        "version": "" if missing else kind.version(),
        "missing": missing,
        "how": kind.how,
        "leaves_out": kind.leaves_out,
        "cleared_by": kind.cleared_by,
        "stays": kind.stays,
        "answers_itself": kind.answers_itself,
        "variant": kind.variant,
        "speed": {},
        "watched": {},
        "killed": {},
        "closed": [],
    }


def _attempted(do: Callable[..., Any], *args: Any) -> Any:
    try:
        return do(*args)
    except Exception as error:  # one that breaks is told of, and the others are measured
        return {"failed": _last_line(error)}


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


class _Turns:
    """One peer's turns at one size: each gives times, and none once something broke."""

    def __init__(self, trial: Trial, effort: Effort, stack: ExitStack) -> None:
        self.broken = ""
        self.stale = 0
        self._news = effort.of(70, 12)
        self._counts: Dict[str, int] = {}
        try:
            stack.enter_context(trial)
            self._writer, self._reader = trial.writer, trial.readers[0]
            self._reader.call("attach")
            for what, side in (("publish", self._writer), ("read", self._reader)):
                # Seventy in each of fifteen rounds are what a p99 needs.
                count = side.call("how_many", effort.of(0.02, 0.005))
                self._counts[what] = min(2000, max(self._news, count))
        except Exception as error:
            self.broken = _last_line(error)

    def take(self, what: str) -> Take:
        """The turn of that name."""
        turn: Take = getattr(self, what)

        def guarded() -> List[float]:
            if self.broken:
                return []
            try:
                return turn()
            except Exception as error:
                self.broken = _last_line(error)
                return []

        return guarded

    def publish(self) -> List[float]:
        times: List[float] = self._writer.call("times", self._counts["publish"])
        return times

    def read(self) -> List[float]:
        self._reader.call("time_of_new")  # past what was published meanwhile: some apply each update
        self._writer.call("publish")
        times: List[float] = self._reader.call("times", self._counts["read"])
        return times

    def new(self) -> List[float]:
        self._reader.call("time_of_new")
        times = []
        for _ in range(self._news):
            version = self._writer.call("publish")
            look = self._reader.call("time_of_new")
            self.stale += look.version != version
            times.append(look.took)
        return times


def speed(kinds: Kinds, size: int, effort: Effort, companies: Mapping[str, Company]) -> Dict[str, Dict[str, Any]]:
    """By title: ``publish``, ``read``, ``new``, each with its ratio to the first kind's; ``stale``, reads of a new version that missed it."""
    if not kinds:
        return {}
    with ExitStack() as stack:
        trials = {kind.title: Trial(kind, size, company=companies[kind.title]) for kind in kinds}
        turns = {title: _Turns(trial, effort, stack) for title, trial in trials.items()}
        whats = ("publish", "read", "new")
        variants = {f"{what} {title}": one.take(what) for what in whats for title, one in turns.items()}
        taken = interleaved(variants, effort.of(15, 3))
        for title, one in turns.items():
            if not one.broken:
                _attempted(trials[title].close)
    told: Dict[str, Dict[str, Any]] = {}
    for title, one in turns.items():
        if one.broken:
            told[title] = {"failed": one.broken}
            continue
        told[title] = {"stale": one.stale}
        for what in whats:
            mine, baseline = taken[f"{what} {title}"], taken[f"{what} {kinds[0].title}"]
            told[title][what] = pooled(mine)
            if all(baseline):
                told[title][what]["ratio"] = ratio(mine, baseline)
    return told


def watched(kind: Type[Peer], size: int, seconds: float, company: Optional[Company] = None) -> Dict[str, Any]:
    """What a reader finds while a writer never rests; ``left``: what stays after both closed."""
    with Trial(kind, size, company=company) as trial:
        writer, reader = trial.writer, trial.readers[0]
        reader.call("attach")
        writer.start("without_rest")
        reader.ask("watch", seconds)
        told: Dict[str, Any] = reader.answer(seconds + PATIENCE)
        told["published"] = writer.finish()
        told["found"] = _announced(kind, told["found"])
        return {**told, "left": trial.close()}


def killed(kind: Type[Peer], size: int, kills: int, company: Optional[Company] = None) -> Dict[str, Any]:
    """What two readers find after the writer was killed: one that was there, and one that comes after."""
    attached: Counter[str] = Counter()
    late: Counter[str] = Counter()
    longest, left = 0.0, set()
    for _ in range(kills):
        with Trial(kind, size, readers=2, company=company) as trial:
            looks = _after_kill(trial)
            left.update(trial.over())
        attached[looks[0].found] += 1
        late[looks[1].found] += 1
        longest = max(longest, *(look.took for look in looks))
    return {
        "kills": kills,
        "attached": _announced(kind, attached),
        "late": _announced(kind, late),
        "lost": kills - late["whole"],
        "lost_attached": kills - attached["whole"],
        "longest": longest,
        "left": sorted(left),
    }


def _after_kill(trial: Trial) -> List[Look]:
    """Of the attached reader and of the late one. Both have parted."""
    attached, late = trial.readers
    attached.call("attach")
    trial.writer.start("without_rest")
    seen = attached.call("look_for", 10, 1.0)  # it is under way, wherever it is
    trial.give_up(trial.writer)
    # Both at once, and neither is ended before both were heard: a state may live as long as its readers.
    attached.ask("look")
    late.ask("attach_and_look", seen)
    deadline = time.monotonic() + DEADLINE
    looks = [_answered(one, deadline) for one in (attached, late)]
    for one, look in zip((attached, late), looks):
        if look.found in (BLOCKED, DIED):
            trial.give_up(one)
        else:
            trial.part_with(one)
    return looks


def _answered(reader: Process, deadline: float) -> Look:
    try:
        look: Look = reader.answer(deadline - time.monotonic())
        return look
    except Blocked:
        return Look(BLOCKED, 0, DEADLINE * 1e6)
    except RemoteFailed:  # the process itself is gone
        return Look(DIED, 0, 0.0)


def _announced(kind: Type[Peer], found: Dict[str, int]) -> Dict[str, int]:
    """With those exceptions told apart that the documentation announces."""
    return {f"refused: {what}" if what in kind.refusals else what: count for what, count in sorted(found.items())}
