"""Tests that fork, and whose child leaves the test by an exit or an exception.

a child leaves by exit
a child leaves by exit what its parent removes
a child leaves by an exception: it goes on through pytest, to its end
a child leaves by an exception what its parent removes
a fixtures child leaves by exit
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, Callable, Iterator

import pytest

from tests.plugin.innocent import bodies
from tests.plugin.innocent.parts import SHM, new_name

MAIN = os.getpid()
#: Without the thread that hears the controller, the child of a worker waits for its next test for ever.
ALONE = pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="xdist's worker cannot be left by a fork")


class Unexpected(BaseException):
    """An exception that nothing here catches."""


def raise_(error: BaseException) -> None:
    raise error


EXITS = {
    "success": lambda: os._exit(0),
    "failure": lambda: os._exit(3),
    "signal": lambda: os.kill(os.getpid(), signal.SIGKILL),
}
RAISES = {
    "error": lambda: raise_(ValueError("in the child")),
    "exit": lambda: sys.exit(3),
    "interrupt": lambda: raise_(KeyboardInterrupt()),
    "unexpected": lambda: raise_(Unexpected()),
    "skip": lambda: pytest.skip("in the child"),
}


def fork(act: Callable[..., Any], *args: Any) -> None:
    """Do it in a fork, which does not come back, and wait for its end. A fork of a fork does nothing."""
    if os.getpid() != MAIN:
        return
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        act(*args)
        raise AssertionError("the child came back")
    os.waitpid(child, 0)


def make_and_leave(leave: Callable[[], None], name: str = "") -> None:
    """Remove what the child made, or leave a named file to the parent."""
    bodies.make_and_remove()
    if name:
        with open(os.path.join(SHM, name), "wb") as file:
            file.write(b"the child's")
    leave()


def remove(name: str) -> None:
    if os.getpid() == MAIN:
        os.unlink(os.path.join(SHM, name))


@pytest.mark.parametrize("how", sorted(EXITS))
def test_a_child_leaves_by_exit(how: str) -> None:
    fork(make_and_leave, EXITS[how])


@pytest.mark.parametrize("how", sorted(EXITS))
def test_a_child_leaves_by_exit_what_its_parent_removes(how: str) -> None:
    name = new_name("forked")
    fork(make_and_leave, EXITS[how], name)
    remove(name)


@ALONE
@pytest.mark.parametrize("how", sorted(RAISES))
def test_a_child_leaves_by_an_exception(how: str) -> None:
    fork(make_and_leave, RAISES[how])


@ALONE
@pytest.mark.parametrize("how", sorted(RAISES))
def test_a_child_leaves_by_an_exception_what_its_parent_removes(how: str) -> None:
    name = new_name("forked")
    fork(make_and_leave, RAISES[how], name)
    remove(name)


@pytest.fixture(scope="module")
def forked_name() -> Iterator[str]:
    name = new_name("forked")
    fork(make_and_leave, EXITS["success"], name)
    yield name
    remove(name)


@pytest.mark.parametrize("number", range(2))
def test_a_fixtures_child_leaves_by_exit(forked_name: str, number: int) -> None:
    assert forked_name
