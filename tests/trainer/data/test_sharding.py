from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.data.sharding import BatchCut, cut_update, derive_seed, share_of

CUTS = st.builds(
    dict,
    num_examples=st.integers(0, 60),
    global_batch_size=st.integers(1, 20),
    drop_last=st.booleans(),
    start=st.integers(0, 70),
)


def positions(world_size: int, **cut) -> list[list[list[int]]]:
    """The positions of every batch of every rank."""
    ranks = [BatchCut(rank=rank, world_size=world_size, **cut) for rank in range(world_size)]
    return [[list(range(*rank.span(index))) for index in range(rank.num_batches)] for rank in ranks]


@given(CUTS, st.integers(1, 5))
def test_every_position_that_is_left_is_in_one_batch_of_one_rank(cut, world_size):
    ranks = positions(world_size, **cut)

    taken = sorted(position for rank in ranks for batch in rank for position in batch)

    left = max(0, cut["num_examples"] - cut["start"])
    if cut["drop_last"]:
        left -= left % cut["global_batch_size"]
    assert taken == list(range(cut["start"], cut["start"] + left))


@given(CUTS, st.integers(1, 5))
def test_all_ranks_have_the_same_number_of_batches_of_nearly_the_same_size(cut, world_size):
    ranks = positions(world_size, **cut)

    for batches in zip(*ranks, strict=True):
        sizes = [len(batch) for batch in batches]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) <= cut["global_batch_size"]


@given(CUTS, st.integers(1, 5))
def test_the_ranks_of_a_batch_follow_each_other_in_the_order_of_the_epoch(cut, world_size):
    ranks = positions(world_size, **cut)

    in_order = [position for batches in zip(*ranks, strict=True) for batch in batches for position in batch]

    assert in_order == sorted(in_order)


@given(st.integers(0, 200), st.integers(1, 9))
def test_shares_cover_the_whole_without_overlap(count, world_size):
    shares = [range(*share_of(count, rank, world_size)) for rank in range(world_size)]

    assert [position for share in shares for position in share] == list(range(count))


def test_counts_add_up_over_the_ranks():
    ranks = [BatchCut(num_examples=7, global_batch_size=6, rank=rank, world_size=3) for rank in range(3)]

    assert [[rank.num_real_examples(index) for rank in ranks] for index in range(2)] == [[2, 2, 2], [1, 0, 0]]
    assert [rank.num_global_examples(1) for rank in ranks] == [1, 1, 1]


@given(CUTS, st.integers(1, 5))
def test_counts_are_those_of_the_batches(cut, world_size):
    for rank in [BatchCut(rank=rank, world_size=world_size, **cut) for rank in range(world_size)]:
        expected = [
            (rank.num_real_examples(index), rank.num_global_examples(index)) for index in range(rank.num_batches)
        ]
        assert list(rank.counts()) == expected


def test_a_seed_is_the_same_everywhere_and_depends_on_every_part():
    assert derive_seed(42, 3) == 7729455570454194084
    assert len({derive_seed(seed, epoch) for seed in range(20) for epoch in range(20)}) == 400
    assert 0 <= derive_seed(1) < 2**63


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 9))
def test_an_update_is_cut_into_the_fewest_equal_micro_batches_that_fit(examples, most, world_size):
    try:
        count, size = cut_update(examples, most=most, world_size=world_size)
    except ArgumentError:
        assert not any(examples % n == 0 and world_size <= examples // n <= most * world_size for n in range(1, 301))
        return

    assert count * size == examples
    assert world_size <= size <= most * world_size
    assert not any(examples % n == 0 and examples // n <= most * world_size for n in range(1, count))


def test_a_global_batch_size_without_a_cut_names_the_nearest_that_have_one():
    with pytest.raises(ArgumentError) as caught:
        cut_update(97, most=16, world_size=3)

    assert "such as 96 or 98" in str(caught.value)
