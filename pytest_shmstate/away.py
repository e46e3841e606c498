"""A worker's part in the run of its controller.

At home it shares the controller's ledger, and the controller looks at what is left. On another host it shares a ledger
with the workers that are there too (outpost.py), and the last of them to end looks, for the controller to hear of it.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any, Dict, List, Union

from pytest_shmstate import census, messages, outpost, whereabouts
from pytest_shmstate.ending import Before, Ending
from pytest_shmstate.ledger import Ledger, new_folder, remove_folder
from pytest_shmstate.run import Run
from pytest_shmstate.settings import Settings

BEFORE = "before"


class Home:
    """On the controller's own host: nothing has to be sent."""

    #: How the host is called in reports; empty for the controller's own.
    host = ""

    def __init__(self, folder: str, settings: Settings, is_home: bool = True) -> None:
        """``is_home``: that is known. Otherwise the controller cannot be understood, and this is the best guess."""
        self.run = Run.join(folder)
        self.settings = settings
        self._is_home = is_home

    def finish(self) -> str:
        """The last message to the controller."""
        return messages.written(home=self._is_home)

    def close(self) -> None:
        """The process is done with pytest."""
        self.run.close()


class Away:
    """On another host."""

    def __init__(self, order: Dict[str, Any], here: whereabouts.Facts, settings: Settings, worker: str) -> None:
        self.host = str(order["host"] or f"{here['name']} ({worker})")
        mode, source = order["leaks"]
        #: The controller's environment, which may have set the mode, does not reach here.
        self.settings = replace(settings, leaks=mode, leaks_source=source)
        self._here = here
        self._beside_controller = whereabouts.share_memory(order["where"], here)
        self._folder = outpost.folder_of(order["run"], whereabouts.place(here))
        #: Why nobody can say what is left here.
        self._problem = ""
        self._is_member = False
        self._join()

    def _join(self) -> None:
        try:
            with outpost.enter(self._folder):
                self._is_member = True
                self.run = Run.join_elsewhere(self._folder)
                self._before = self._first_look()
        except OSError as error:
            self._problem = f"no ledger can be kept there ({error})"
            self._stay_out()

    def _stay_out(self) -> None:
        """Tests are watched all the same, with a ledger that nobody shares; others need not wait for this worker."""
        if self._is_member:
            self._is_member = False
            with suppress(OSError):
                outpost.go(self._folder)
            self.run.close()
        self.run = Run(new_folder(), own=True, alone=True).open()

    def _first_look(self) -> Before:
        """What the first worker that came saw: others find things that it has made since."""
        path = os.path.join(self._folder, BEFORE)
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                return Before.from_json(json.load(file))
        before = Before.take(self.run, self.settings)
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(before.as_json(), file)
        os.replace(path + ".part", path)  # whoever comes after one that is killed here looks anew
        return before

    def finish(self) -> str:
        """The last message to the controller: with what is left here, if this is the last worker here."""
        found: Dict[str, Any] = {}
        try:
            found = self._leave()
        except OSError as error:
            self._problem = self._problem or f"its worker could not look at the end ({error})"
        return messages.written(where=self._here, host=self.host, problem=self._problem, **found)

    def _leave(self) -> Dict[str, Any]:
        if not self._is_member:
            return {}
        self._is_member = False
        turn = outpost.take_turn(self._folder)
        if turn is None:
            self._problem = f"somebody removed {self._folder} while the tests ran"
            return {}
        with turn:
            outpost.go(self._folder)
            if outpost.members(self._folder):
                return {}  # the last of them will say
            return self._look_at_the_end()

    def _look_at_the_end(self) -> Dict[str, Any]:
        ledger = Ledger(self._folder)
        ledger.refresh()
        workers = {pid: str(name) for _, pid, (name,) in ledger.others.get("worker", ())}
        ending = Ending(
            self.run,
            self.settings,
            self._before,
            residents=_still_there(ledger, list(workers)),
            elsewhere=() if self._beside_controller else None,
        )
        # The controller sees the same /dev/shm, and tells of what is nobody's there.
        findings = ending.look(unattributed=not self._beside_controller)
        named = replace(findings, leaks=tuple(replace(leak, host=self.host) for leak in findings.leaks))
        remove_folder(outpost.take_away(self._folder))
        return {"covers": sorted(workers.values()), "findings": named.as_json()}

    def close(self) -> None:
        """The process is done with pytest; also if the session never came to its end."""
        with suppress(OSError):  # what is still there then is swept by a later run
            self._leave()
        self.run.close()


def _still_there(ledger: Ledger, pids: List[int]) -> List[int]:
    """Of xdist, workers that have ended their session wait until all others have: they may yet clean up at their exit."""
    begun = [ledger.process(pid) for pid in pids]
    return [one.pid for one in begun if one is not None and census.runs(one.pid, one.start)]


Part = Union[Home, Away]


def part_in(workerinput: Dict[str, Any], settings: Settings) -> Part:
    """Join the run that the controller tells of, in the way that fits where this process is."""
    folder = workerinput[messages.FOLDER]
    here = whereabouts.facts(folder)
    try:
        order = messages.read(workerinput.get(messages.TO_WORKER), "the controller")
    except messages.NotUnderstood as problem:
        if here["ledger"] is None:
            # There is no other way to tell a controller that does not listen: this stream is its own.
            print(f"shmstate: host {here['name']}: what is left here is not told: {problem}", file=sys.stderr)  # noqa: T201
        return Home(folder, settings, here["ledger"] is not None)
    if whereabouts.at_home(order["where"], here):
        return Home(folder, settings)
    return Away(order, here, settings, workerinput["workerid"])
