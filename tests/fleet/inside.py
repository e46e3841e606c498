"""Runs in a host of a test and does what it is told: a line of JSON in, ``[verb, arguments]``, a line of JSON out."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from typing import Any, Callable, Dict, List

import shmstate
from shmstate.fleet import Changes, FleetQuery
from shmstate.plain import jsonable


class Inside:
    """Keeps what it was told to open. Each method is a verb."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._writers: Dict[str, shmstate.StateWriter] = {}

    def publish(self, state: str, value: Any) -> int:
        """The version."""
        if state not in self._writers:
            self._writers[state] = self._stack.enter_context(shmstate.StateWriter(state))
        return self._writers[state].publish(value)

    def open(self, states: str, options: Dict[str, Any]) -> None:
        self._query = self._stack.enter_context(FleetQuery(states, **options))

    def ask(self, deadline: float) -> Dict[str, Any]:
        replies = self._query.ask(deadline)
        answers = [{**answer._asdict(), "value": jsonable(answer.value)} for answer in replies.answers]
        return {**replies._asdict(), "answers": answers, "problems": [list(problem) for problem in replies.problems]}

    def hosts_there(self) -> List[str]:
        return self._query.hosts_there()

    def follow(self) -> None:
        self._changes = self._stack.enter_context(Changes(self._query))

    def next_change(self, timeout: float) -> Dict[str, Any]:
        try:
            change = self._changes.get(timeout)
        except shmstate.WaitTimeout:
            return {"kind": "nothing"}
        answer = change.answer and {**change.answer._asdict(), "value": jsonable(change.answer.value)}
        return {**change._asdict(), "answer": answer}

    def entries(self) -> List[str]:
        return sorted(os.listdir("/dev/shm"))


def main() -> None:
    print(json.dumps("ready"), flush=True)
    with ExitStack() as stack:
        inside = Inside(stack)
        for line in sys.stdin:
            verb, arguments = json.loads(line)
            act: Callable[..., Any] = getattr(inside, verb)
            try:
                answer = [act(*arguments), None]
            except Exception as error:
                answer = [None, f"{type(error).__name__}: {error}"]
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
