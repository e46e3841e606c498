"""What the figures of ``parts.peers`` say of who is first, and of what went wrong with whom."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

from benchmarks.document import micro, times

Data = Mapping[str, Any]
#: What is told of one peer.
Peer = Mapping[str, Any]

#: What is measured, and how one says it.
JOBS = {"publish": "publish", "read": "read", "new": "read of a new value"}
#: Medians that are closer than this are told as level.
LEVEL = 0.05


class Place(NamedTuple):
    """One peer's time for one job at one size, against ours: the median over the rounds, and where nine in ten lie."""

    title: str
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.title} {times(self.ratio)}"


class Race(NamedTuple):
    """One job at one size. Fastest first; ours is none of them."""

    size: str
    job: str
    places: Sequence[Place]

    @property
    def name(self) -> str:
        """As one says it."""
        return f"{JOBS[self.job]}, {self.size}"

    @property
    def faster(self) -> List[Place]:
        """Those that are before us."""
        return [place for place in self.places if place.ratio < 1 - LEVEL]

    @property
    def level(self) -> List[Place]:
        """Those that are with us."""
        return [place for place in self.places if abs(place.ratio - 1) <= LEVEL]


def measured(data: Data) -> Dict[str, Peer]:
    """The peers that were there."""
    return {title: peer for title, peer in data["peers"].items() if not peer["missing"]}


def races(data: Data) -> List[Race]:
    """Of each size and job. Who only sets a variable has not published."""
    found = []
    for size in data["sizes_bytes"]:
        for job in JOBS:
            places = []
            for title, peer in measured(data).items():
                ratio = peer["speed"].get(size, {}).get(job, {}).get("ratio")
                is_ours = title == data["baseline"] or peer.get("variant")
                if ratio and not is_ours and not (job == "publish" and peer["answers_itself"]):
                    places.append(Place(title, **ratio))
            if places:
                found.append(Race(size, job, sorted(places, key=lambda place: place.ratio)))
    return found


def counts(peer: Peer) -> Dict[str, int]:
    """What its reads found, at all sizes, while the writer never rested."""
    found: Dict[str, int] = {}
    for seen in peer["watched"].values():
        for what, count in seen.get("found", {}).items():
            found[what] = found.get(what, 0) + count
    return found


def gave_nothing(peer: Peer) -> Dict[str, int]:
    """Of these, the reads with no state at all."""
    return {what: count for what, count in counts(peer).items() if what not in ("whole", "torn", "older")}


def lost(peer: Peer) -> int:
    """Kills after which one of the readers had no whole last state."""
    return int(max(peer["killed"].get("lost", 0), peer["killed"].get("lost_attached", 0)))


def faults(peer: Peer) -> List[str]:
    """What was seen that a user would call wrong, in words."""
    found, said = counts(peer), []
    if found.get("torn"):
        said.append(f"{found['torn']:,} of {sum(found.values()):,} reads torn")
    if found.get("older"):
        said.append(f"{found['older']:,} reads older than what had been seen")
    if gave_nothing(peer):
        said.append(f"{sum(gave_nothing(peer).values()):,} reads that gave nothing")
    if lost(peer):
        said.append(f"the state lost in {lost(peer)} of {peer['killed']['kills']} kills")
    return said


def copies(data: Data) -> Dict[str, str]:
    """Who reads from a copy of the reader's own, and what a new value of the largest size takes there.

    They are known by large states that are hardly slower to read than small ones, until there is a new one.
    """
    sizes = list(data["sizes_bytes"])
    first, last = sizes[0], sizes[-1]
    found = {}
    for title, peer in measured(data).items():
        small, large, new = (median(peer, *which) for which in ((first, "read"), (last, "read"), (last, "new")))
        if len(sizes) > 1 and small and new and large < 4 * small:
            found[title] = f"{micro(new)} for a new value of {last}"
    return found


def median(peer: Peer, size: str, job: str) -> float:
    """Zero where there is none."""
    return float(peer["speed"].get(size, {}).get(job, {}).get("p50", 0))


def who_is_first(data: Data) -> str:
    """And where we are not, with the figures."""
    ours, run = data["baseline"], races(data)
    first = [race for race in run if not race.faster and not race.level]
    level = [race for race in run if not race.faster and race.level]
    behind = [race for race in run if race.faster]
    said = [f"{ours} is first in {len(first)} of {len(run)}" + (": " if first else ".")]
    said[0] += "; ".join(f"{race.name} (next: {race.places[0]})" for race in first) + ("." if first else "")
    if level:
        with_us = "; ".join(f"{race.name}: {_ranged(race.level)}" for race in level)
        said.append(f"Level with another, within {LEVEL:.0%}, in {len(level)}: {with_us}.")
    if behind:
        before_us = "; ".join(f"{race.name}: {_ranged(race.faster)}" for race in behind)
        said.append(f"Not first in {len(behind)}, where others take less time: {before_us}.")
        said += _of_the_faster(data, [place.title for race in behind for place in race.faster])
        said += _ours_otherwise(data, behind)
    said += [f"{title} gives what the reader has already, unless there is a new value." for title in copies(data)]
    variable = [title for title, peer in measured(data).items() if peer["answers_itself"]]
    if variable:
        said.append(f"Not ranked for publishing: {joined(variable)}. They set a variable, and work at each read.")
    return " ".join(said)


def _ranged(places: Sequence[Place]) -> str:
    return ", ".join(f"{place} (by round {times(place.low)} to {times(place.high)})" for place in places)


def _of_the_faster(data: Data, titles: Sequence[str]) -> List[str]:
    """What those do wrong that are faster somewhere."""
    wrong = {title: faults(data["peers"][title]) for title in dict.fromkeys(titles)}
    unsafe = [f"{title} ({', '.join(found)})" for title, found in wrong.items() if found]
    safe = [title for title, found in wrong.items() if not found]
    said = []
    if unsafe:
        said.append(f"Of these, something went wrong with: {joined(unsafe)}.")
    if safe:
        said.append(f"Nothing wrong was seen with: {joined(safe)}.")
    return said


def _ours_otherwise(data: Data, behind: Sequence[Race]) -> List[str]:
    """What another way to use ours makes of those races: where it is faster than the usual one."""
    said = []
    for title, peer in measured(data).items():
        ratios = {race.name: _ratio(peer, race) for race in behind if peer.get("variant")}
        better = [f"{name}: {times(found)}" for name, found in ratios.items() if found and found < 1 - LEVEL]
        if better:
            said.append(f"There {title} comes to: {'; '.join(better)}.")
    return said


def _ratio(peer: Peer, race: Race) -> float:
    return float(peer["speed"].get(race.size, {}).get(race.job, {}).get("ratio", {}).get("ratio", 0))


def joined(words: Sequence[str]) -> str:
    """As one enumerates; ``none`` if there are none."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]])) or "none"
