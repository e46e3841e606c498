"""Litmus tests: what each memory model allows and forbids, and that the explorer finds all of it and nothing else."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_shmstate.kit.exploring.models import BUFFERED, MODELS, REORDERING, SEQUENTIAL, Model
from tests.kit.litmus import CELLS, Program, explored, interpreted, interpreted_within, loads_of

X, Y = CELLS
FENCE = ("fence",)
_LOAD_X, _LOAD_Y = ("load", X), ("load", Y)


def store(cell: str, value: int = 1) -> Tuple[Any, ...]:
    return ("store", cell, value)


def with_fences(programs: List[Program], *which: int) -> List[Program]:
    """The programs, those that are named with a fence between their two operations."""
    return [[p[0], FENCE, *p[1:]] if number in which else p for number, p in enumerate(programs)]


# Each: the programs, and the outcome that is in question, as what each process loads.
MESSAGE_PASSING: List[Program] = [[store(X), store(Y)], [_LOAD_Y, _LOAD_X]]
STORE_BUFFERING: List[Program] = [[store(X), _LOAD_Y], [store(Y), _LOAD_X]]
LOAD_BUFFERING: List[Program] = [[_LOAD_X, store(Y)], [_LOAD_Y, store(X)]]
COHERENCE: List[Program] = [[store(X, 1), store(X, 2)], [_LOAD_X, _LOAD_X]]
OWN_STORES: List[Program] = [[store(X, 1), store(X, 2), _LOAD_X], [store(X, 3)]]
INDEPENDENT_READS: List[Program] = [[store(X)], [store(Y)], [_LOAD_X, _LOAD_Y], [_LOAD_Y, _LOAD_X]]

LITMUS: Dict[str, Tuple[List[Program], Any, Dict[Model, bool]]] = {
    "message passing: the flag is seen, and not the message": (
        MESSAGE_PASSING,
        ((), (1, 0)),
        {SEQUENTIAL: False, BUFFERED: False, REORDERING: True},
    ),
    "... with a fence between the stores alone": (
        with_fences(MESSAGE_PASSING, 0),
        ((), (1, 0)),
        {SEQUENTIAL: False, BUFFERED: False, REORDERING: True},
    ),
    "... with a fence between the loads alone": (
        with_fences(MESSAGE_PASSING, 1),
        ((), (1, 0)),
        {SEQUENTIAL: False, BUFFERED: False, REORDERING: True},
    ),
    "... with both": (
        with_fences(MESSAGE_PASSING, 0, 1),
        ((), (1, 0)),
        {SEQUENTIAL: False, BUFFERED: False, REORDERING: False},
    ),
    "store buffering: neither sees the other's store": (
        STORE_BUFFERING,
        ((0,), (0,)),
        {SEQUENTIAL: False, BUFFERED: True, REORDERING: True},
    ),
    "... with one fence": (
        with_fences(STORE_BUFFERING, 0),
        ((0,), (0,)),
        {SEQUENTIAL: False, BUFFERED: True, REORDERING: True},
    ),
    "... with both fences": (
        with_fences(STORE_BUFFERING, 0, 1),
        ((0,), (0,)),
        {SEQUENTIAL: False, BUFFERED: False, REORDERING: False},
    ),
    "coherence: one cell is seen to go back": (
        COHERENCE,
        ((), (2, 1)),
        {SEQUENTIAL: False, BUFFERED: False, REORDERING: False},
    ),
    "... or forth": (COHERENCE, ((), (1, 2)), {SEQUENTIAL: True, BUFFERED: True, REORDERING: True}),
    "own stores: an older one of its own is loaded": (
        OWN_STORES,
        ((1,), ()),
        {SEQUENTIAL: False, BUFFERED: False, REORDERING: False},
    ),
    "independent reads: two do not agree which store came first": (
        INDEPENDENT_READS,
        ((), (), (1, 0), (1, 0)),
        {SEQUENTIAL: False, BUFFERED: False, REORDERING: True},
    ),
    "... with fences between the loads": (
        with_fences(INDEPENDENT_READS, 2, 3),
        ((), (), (1, 0), (1, 0)),
        {SEQUENTIAL: False, BUFFERED: False, REORDERING: False},
    ),
    # ARM allows it; the models leave it out, and models.py says why that is no matter here.
    "load buffering: each sees what the other stores afterwards": (
        LOAD_BUFFERING,
        ((1,), (1,)),
        {SEQUENTIAL: False, BUFFERED: False, REORDERING: False},
    ),
}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.title.split()[0])
@pytest.mark.parametrize("name", LITMUS)
def test_each_model_allows_and_forbids_what_it_should(name: str, model: Model) -> None:
    programs, outcome, allowed = LITMUS[name]

    assert (outcome in loads_of(explored(programs, model))) == allowed[model]
    assert (outcome in loads_of(interpreted(programs, model))) == allowed[model]


operations = st.one_of(
    st.tuples(st.just("load"), st.sampled_from(CELLS)),
    st.tuples(st.just("store"), st.sampled_from(CELLS), st.integers(1, 3)),
    st.just(FENCE),
)
programs = st.lists(st.lists(operations, max_size=4), min_size=2, max_size=3).filter(lambda ps: sum(map(len, ps)) <= 8)


@given(programs=programs, model=st.sampled_from(MODELS))
@example(programs=INDEPENDENT_READS, model=REORDERING)
@example(programs=with_fences(STORE_BUFFERING, 0), model=BUFFERED)
@example(programs=OWN_STORES, model=REORDERING)
@example(programs=[[_LOAD_X, FENCE, _LOAD_X], [store(X), store(X, 2)]], model=REORDERING)
def test_the_explorer_finds_every_outcome_and_no_other(programs: List[Program], model: Model) -> None:
    assert explored(programs, model) == interpreted(programs, model)


@settings(max_examples=settings.default.max_examples // 4 if settings.default else 25)
@given(programs=programs, model=st.sampled_from(MODELS))
def test_fewer_preemptions_find_nothing_else(programs: List[Program], model: Model) -> None:
    everything = explored(programs, model)
    few = [explored(programs, model, preemptions) for preemptions in (0, 1, 8)]

    assert few[0] <= few[1] <= few[2] == everything


@settings(max_examples=settings.default.max_examples // 2 if settings.default else 50)
@given(programs=programs, preemptions=st.integers(0, 3))
@example(programs=[[FENCE, store(X), store(X, 2)], [_LOAD_X, _LOAD_X]], preemptions=2)
def test_within_a_bound_it_finds_every_outcome_and_no_other(programs: List[Program], preemptions: int) -> None:
    assert explored(programs, SEQUENTIAL, preemptions) == interpreted_within(programs, preemptions)


def test_a_preemption_is_what_finds_a_lost_update() -> None:
    both_load_then_store: List[Program] = [[_LOAD_X, store(X, 1)], [_LOAD_X, store(X, 2)]]
    lost = ((0,), (0,))

    assert lost not in loads_of(explored(both_load_then_store, SEQUENTIAL, preemptions=0))
    assert lost in loads_of(explored(both_load_then_store, SEQUENTIAL, preemptions=1))
