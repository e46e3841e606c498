"""Mutants of who owns a state, how it moves, and what is left of it: found in real processes, step by step."""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple

from pytest_shmstate.kit.power.mutants import MUTANTS
from pytest_shmstate.kit.power.mutation import Edit


class LifetimeMutant(NamedTuple):
    """``guards``: the invariant that it breaks. ``hunt``: the key in HUNTS of what has to find it."""

    about: str
    guards: str
    hunt: str
    edits: Tuple[Edit, ...]


LIFETIME: Dict[str, LifetimeMutant] = {
    "no-lock": LifetimeMutant(
        "an owner takes no lock",
        "O2",
        "a second owner",
        (Edit("ownership", "        _wait_for_lock(fd, _kind(shared), draft)  # O2\n", ""),),
    ),
    "dead-or-alive": LifetimeMutant(
        "a living writer is taken for a dead one",
        "O5",
        "matrix: publish",
        (
            Edit(
                "ownership",
                "return turns.is_anybody_there(fd) or predecessors.is_any_owned(fd) or turns.is_anybody_there(fd)  # O7, P2",
                "return False",
            ),
        ),
    ),
    "adopts-what-it-opened": LifetimeMutant(
        "an heir does not look whether the name still leads to what it has locked",
        "O3",
        "an heir that comes too late",
        (Edit("ownership", "if not leads_to(memory.path_of(name), _inode_of(fd, name)):  # O3", "if False:"),),
    ),
    "removes-what-is-anothers": LifetimeMutant(
        "an owner that closes removes the name, wherever it leads",
        "O4",
        "an owner whose name was taken",
        (Edit("ownership", "if leads_to(segment.path, segment.inode):  # O4", "if True:"),),
    ),
    "draft-stays": LifetimeMutant(
        "the temporary name of a new segment is not removed",
        "O1",
        "matrix: create",
        (Edit("ownership", "        remove_draft(draft)\n        segment.is_new", "        segment.is_new"),),
    ),
    "successors-draft-stays": LifetimeMutant(
        "a move that an exception ends leaves what it had built",
        "S1",
        "matrix: a move",
        (
            Edit(
                "title",
                "            ownership.remove_draft(self._draft)\n",
                "            pass\n",
            ),
        ),
    ),
    "close-keeps-the-name": LifetimeMutant(
        "a state that is closed stays in /dev/shm",
        "O4",
        "a writer closes",
        (Edit("ownership", "            os.unlink(segment.path)", "            pass"),),
    ),
    "reader-never-follows": LifetimeMutant(
        "a reader does not look where the name leads",
        "I8",
        "machine: moves",
        (Edit("attachment", "        if inode in (None, segment.inode, self._stranger):", "        if True:"),),
    ),
    "moves-to-where-it-was": LifetimeMutant(
        "the successor never gets the name",
        "S3",
        "machine: moves",
        (Edit("title", "(os.link if self._is_restored else os.rename)(self._draft, owned.path)", "pass"),),
    ),
    "turn-is-kept": LifetimeMutant(
        "who shares a state keeps the turn when it has published",
        "O6",
        "machine: shared",
        (Edit("title", "            turns.end(self.segment.fd)", "            pass"),),
    ),
    "turn-is-not-waited-for": LifetimeMutant(
        "who shares a state does not wait for the kernel to give it the turn",
        "O6",
        "machine: shared",
        (Edit("turns", "    _lock(fd, _SET_WAITING, fcntl.F_WRLCK, _TURN)", "    pass"),),
    ),
    "nobody-is-seen": LifetimeMutant(
        "those who share a state do not show that they live",
        "O6",
        "matrix: publish, shared",
        (Edit("turns", "    _lock(fd, _SET, fcntl.F_RDLCK, _PRESENCE)", "    pass"),),
    ),
    "last-one-leaves-the-light-on": LifetimeMutant(
        "the last of those who share a state leaves it in /dev/shm",
        "O6",
        "one of two closes",
        (Edit("title", "                ownership.remove_if_dead(left.path, left.name)", "                pass"),),
    ),
    "first-one-turns-it-off": LifetimeMutant(
        "the first of those who share a state that closes removes it",
        "O6",
        "one of two closes",
        (
            Edit(
                "ownership",
                "if turns.is_anybody_there(fd) or not _try_lock(fd, fcntl.LOCK_EX) or not leads_to(path, _inode_of(fd, path)):",
                "if False:",
            ),
            # ... and the other one does not notice, which would give the name back.
            Edit("title", "        return inode is not None\n", "        return True\n"),
        ),
    ),
    "left-where-it-was": LifetimeMutant(
        "who shares a state publishes on into the segment that another has left",
        "O6",
        "one of two moves the state",
        (Edit("title", "        if inode == left.inode:", "        if True:"),),
    ),
    "takes-over-from-the-first-version": LifetimeMutant(
        "a successor begins with version 1",
        "I1",
        "machine: moves",
        (
            Edit(
                "title",
                "layout, identity, content, self.shared, ",
                "layout, identity, content._replace(version=1), self.shared, ",
            ),
        ),
    ),
    "descriptor-is-kept": LifetimeMutant(
        "a writer that shares a state, and whose making is cut short, keeps its descriptor",
        "O6",
        "matrix: create, shared",
        (
            Edit(
                "ownership",
                "        turns.appear(fd)  # O5\n    except BaseException:\n        segment.close()\n        raise",
                "        turns.appear(fd)  # O5\n    finally:\n        pass",
            ),
            Edit(
                "memory",
                "self._kept = kept = weakref.finalize(self, os.close, self.fd)",
                "self._kept = kept = weakref.finalize(os, os.close, self.fd)",
            ),
        ),
    ),
    "move-is-forgotten": LifetimeMutant(
        "a move that an exception ends is forgotten, and how far it came",
        "S3",
        "matrix: a move",
        (
            Edit(
                "publishing",
                "        if moving:\n            settle()\n            version",
                "        if False:\n            version",
            ),
        ),
    ),
}

#: Mutants of the protocol that the other engines have to find too.
_IN_PROCESSES = ("r4-skipped", "w1-dropped", "w3-before-the-payload", "one-slot", "length-after-latest")
_AT_FULL_SPEED = ("r4-skipped", "w1-dropped", "w3-before-the-payload")


def _again(name: str, how: str, hunt: str) -> Tuple[str, LifetimeMutant]:
    mutant = MUTANTS[name]
    return f"{name}, {how}", LifetimeMutant(mutant.about, mutant.guards, hunt, mutant.edits)


LIFETIME.update(_again(name, "in processes", "machine") for name in _IN_PROCESSES)
LIFETIME.update(_again(name, "at full speed", "stress") for name in _AT_FULL_SPEED)
