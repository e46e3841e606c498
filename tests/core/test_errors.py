from __future__ import annotations

import copy
import inspect
import pickle
from typing import List, Type

import pytest

from shmstate import errors
from shmstate.errors import ShmStateError

ALL: List[Type[ShmStateError]] = [value for value in vars(errors).values() if inspect.isclass(value)]


@pytest.mark.parametrize("error", ALL)
def test_every_error_is_a_shmstate_error_with_a_sentence_of_its_own(error: Type[ShmStateError]) -> None:
    assert issubclass(error, ShmStateError)
    assert inspect.getdoc(error) not in [inspect.getdoc(base) for base in error.__mro__[1:]]


@pytest.mark.parametrize("error", ALL)
def test_every_error_pickles_and_copies_with_its_text(error: Type[ShmStateError]) -> None:
    raised = error("state 'x': seen, do")

    for again in (pickle.loads(pickle.dumps(raised)), copy.copy(raised)):
        assert type(again) is error
        assert str(again) == "state 'x': seen, do"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.InvalidName, ValueError),
        (errors.InvalidOption, ValueError),
        (errors.StateNotFound, LookupError),
        (errors.UnknownWorker, errors.StateNotFound),
        (errors.ReadTimeout, TimeoutError),
        (errors.HandleClosed, ValueError),
        (errors.WriterClosed, errors.HandleClosed),
        (errors.ReaderClosed, errors.HandleClosed),
    ],
)
def test_an_error_is_also_what_python_calls_its_kind(error: Type[ShmStateError], kind: Type[Exception]) -> None:
    assert issubclass(error, kind)


def test_no_error_but_those_that_say_so_is_taken_for_an_error_of_python() -> None:
    ordinary = (ValueError, LookupError, OSError, TypeError, RuntimeError)

    assert {error.__name__ for error in ALL if issubclass(error, ordinary)} == {
        "InvalidName",
        "InvalidOption",
        "StateNotFound",
        "UnknownWorker",
        "ReadTimeout",
        "WaitTimeout",
        "HandleClosed",
        "WriterClosed",
        "ReaderClosed",
    }
