"""What an Ending does, and when: the exit of processes is tested with what has one, writers and pools."""

from __future__ import annotations

import gc
import os
import sys
from types import FrameType
from typing import Any, List, Optional

import pytest

from shmstate.ending import Ending


class Owner:
    """May be garbage."""


def test_it_comes_once_when_the_owner_is_garbage() -> None:
    owner = Owner()
    done: List[str] = []
    ending = Ending(owner, done.append, "done", priority=0)

    del owner
    gc.collect()
    ending.cancel()

    assert done == ["done"]


def test_it_does_not_come_once_cancelled() -> None:
    owner = Owner()
    done: List[str] = []
    ending = Ending(owner, done.append, "done", priority=0)

    ending.cancel()
    ending.cancel()
    del owner
    gc.collect()

    assert done == []


def test_a_forked_childs_copy_is_not_the_owner() -> None:
    owner = Owner()
    done: List[str] = []
    ending = Ending(owner, done.append, "done", priority=0)

    child = os.fork()
    if not child:
        del owner
        gc.collect()
        os._exit(len(done))

    assert os.waitpid(child, 0)[1] == 0
    ending.cancel()


class CutShort(BaseException):
    """As a Ctrl-C would be."""


class After:
    """Traces, and raises CutShort at the line that comes after ``lines`` others."""

    def __init__(self, lines: int) -> None:
        self.lines = lines

    def __call__(self, _frame: FrameType, event: str, _detail: Any) -> Optional[After]:
        if event == "line":
            self.lines -= 1
            if self.lines < 0:
                raise CutShort
        return self


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_that_cuts_its_making_short_has_nothing_raised_later(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: List[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    before = sys.gettrace()
    lines = 0

    while True:
        owner = Owner()
        done: List[str] = []
        sys.settrace(After(lines))
        try:
            Ending(owner, done.append, "done", priority=0).cancel()
            break
        except CutShort:
            lines += 1
        finally:
            sys.settrace(before)
            del owner
            gc.collect()

    assert raised == []
    assert lines > 10  # it is made of several steps, here and in the standard library
