"""Collectives: whatever sizes, values and exceptions the ranks have, none waits in vain and all end alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_group import FakeGroup

from trackside.callbacks.errors import CollectiveMismatchError, RankError
from trackside.trainer.distributed.collectives import Collectives

RANKS = range(3)


def test_every_rank_gets_all_values_in_their_order():
    found = FakeGroup().run(lambda collectives: collectives.gather("ranks", "x" * collectives.rank))

    assert found == [["", "x", "xx"]] * 3


@pytest.mark.parametrize("has_collect", [True, False])
def test_values_for_the_first_rank_reach_it_alone(has_collect):
    def gathered(collectives: Collectives) -> Any:
        collectives._collect = collectives._collect if has_collect else None
        return collectives.gather_to_first("ranks", "x" * collectives.rank), collectives.gather("sizes", 7)

    found = FakeGroup().run(gathered)

    assert found == [(["", "x", "xx"], [7] * 3), (None, [7] * 3), (None, [7] * 3)]


def test_the_other_ranks_receive_no_value_that_is_for_the_first():
    received: list[Any] = []

    def gathered(collectives: Collectives) -> Any:
        exchange = collectives._exchange
        collectives._exchange = lambda call: [received.append(each.value) or each for each in exchange(call)]
        return collectives.gather_to_first("states", "a large value")

    FakeGroup().run(gathered)

    assert received == [None] * 9


def test_a_value_for_the_first_rank_that_cannot_be_sent_is_an_error_of_all():
    def gathered(collectives: Collectives) -> Any:
        value = (lambda: 0) if collectives.rank == 1 else 0
        try:
            return collectives.gather_to_first("states", value)
        except Exception as error:
            return type(error), str(error), collectives.gather("sizes", 7)

    first, second, third = FakeGroup().run(gathered)

    assert first == third
    assert first[0] is RankError
    assert first[1].startswith("rank 1 failed in 'states, for the first rank': ")
    assert second[0] is not RankError
    assert [each[2] for each in (first, second, third)] == [[7] * 3] * 3


def test_an_error_of_one_rank_is_raised_there_and_told_to_the_others():
    def read(collectives: Collectives) -> Any:
        return collectives.outcome("reading the data", lambda: 1 // (1 - collectives.rank))

    first, second, third = FakeGroup().run(read)

    assert isinstance(second, ZeroDivisionError)
    for other in (first, third):
        assert isinstance(other, RankError)
        assert str(other).startswith("rank 1 failed in 'reading the data': ZeroDivisionError: ")


def test_a_rank_that_fails_meets_those_that_are_in_a_collective_of_the_same_function():
    def evaluate(collectives: Collectives) -> Any:
        if collectives.rank == 2:
            raise OSError("cannot read example 1")
        return collectives.gather("outputs", collectives.rank)

    def trial(collectives: Collectives) -> Any:
        try:
            collectives.outcome("the trial", lambda: evaluate(collectives))
        except Exception as error:
            return type(error), collectives.gather("sizes", 7)

    found = FakeGroup().run(trial)

    assert found == [(RankError, [7] * 3), (RankError, [7] * 3), (OSError, [7] * 3)]


def test_ranks_that_call_different_collectives_are_told_who_called_which():
    found = FakeGroup().run(lambda collectives: collectives.gather("sizes" if collectives.rank == 1 else "outputs", 0))

    for error in found:
        assert type(error) is CollectiveMismatchError
        assert str(error) == (
            "the ranks called different collectives: rank 0, 2 called 'outputs' as collective 1; rank 1 called 'sizes' "
            "as collective 1. Every rank must call the same ones in order"
        )


def test_a_single_rank_exchanges_nothing():
    collectives = Collectives(lambda call: pytest.fail("exchanged"))

    assert collectives.gather("a value", 3) == collectives.outcome("a function", lambda: 3) == [3]
    with pytest.raises(KeyError, match="its own"):
        collectives.outcome("a function", lambda: {}["its own"])


# -- any program ------------------------------------------------------------------------------------------------------


@dataclass
class Step:
    """A step of a program: a collective, or a nested program with an outcome.

    Attributes:
        sizes: The size of the value that each rank gives.
        raises: The ranks that raise before it.
        goes_on: The ranks that go on if it raises.
        strays: The ranks that call it by another name.
        is_for_first: Whether a gather is for the first rank.
        body: The nested program, None for a gather.
    """

    sizes: tuple[int, ...]
    raises: frozenset[int]
    goes_on: frozenset[int]
    strays: frozenset[int]
    is_for_first: bool
    body: list[Step] | None = field(default=None)


def steps(body: st.SearchStrategy[list[Step]] | st.SearchStrategy[None]) -> st.SearchStrategy[list[Step]]:
    few = st.frozensets(st.sampled_from(RANKS), max_size=1)
    sizes = st.tuples(*[st.integers(0, 100)] * len(RANKS))
    return st.lists(
        st.builds(Step, sizes, few | st.just(frozenset()), few, few | st.just(frozenset()), st.booleans(), body),
        max_size=3,
    )


PROGRAMS = st.recursive(steps(st.none()), steps, max_leaves=6)


def runner(program: list[Step], collectives: Collectives, seen: list[Any]) -> Callable[[], int]:
    """Return a function that runs ``program`` on a rank; ``seen`` takes what the rank gathers."""
    rank = collectives.rank

    def take(number: int, step: Step) -> None:
        if rank in step.raises:
            raise ValueError(f"step {number} on rank {rank}")
        name = f"step {number}" + " of another program" * (rank in step.strays)
        if step.body is None and step.is_for_first:
            sizes = [len(value) for value in collectives.gather_to_first(name, b"x" * step.sizes[rank]) or []]
            assert sizes == (list(step.sizes) if rank == 0 else [])
            seen.append(number)
        elif step.body is None:
            seen.append(collectives.gather(name, b"x" * step.sizes[rank]))
        else:
            seen.append(collectives.outcome(name, runner(step.body, collectives, seen)))

    def run() -> int:
        for number, step in enumerate(program):
            try:
                take(number, step)
            except Exception:
                if rank not in step.goes_on:
                    raise
        return len(program)

    return run


@settings(max_examples=200, deadline=None)
@given(program=PROGRAMS)
def test_no_rank_waits_in_vain_and_all_end_alike(program: list[Step]) -> None:
    def whole(collectives: Collectives) -> Any:
        seen: list[Any] = []
        try:
            ended: Any = collectives.outcome("the program", runner(program, collectives, seen))
        except Exception:
            ended = "raised"
        return ended, seen, collectives.gather("the end", len(seen))

    found = FakeGroup().run(whole)

    assert not [error for error in found if isinstance(error, BaseException)]
    assert found[0][0] == found[1][0] == found[2][0]
    assert found[0][2] == found[1][2] == found[2][2]
    if found[0][0] != "raised":
        assert found[0][1] == found[1][1] == found[2][1]
