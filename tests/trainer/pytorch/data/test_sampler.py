from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trackside.callbacks.errors import TracksideValueError
from trackside.trainer.data.sharding import BatchCut
from trackside.trainer.pytorch.data.sampler import EpochBatchSampler, epoch_order, length_grouped_order

SIZES = st.integers(0, 40), st.integers(1, 6), st.integers(1, 4)


def sampler_of(num_examples, batch_size, *, rank=0, world_size=1, global_batch_size=None, drop_last=False, **options):
    cut = BatchCut(num_examples, global_batch_size or batch_size * world_size, rank, world_size, drop_last)
    return EpochBatchSampler(cut, **options)


def real_batches(world_size, *args, epoch=0, skip=0, **kwargs):
    """The batches of all ranks in the order in which they are trained on, without padding."""
    samplers = [sampler_of(*args, rank=rank, world_size=world_size, **kwargs) for rank in range(world_size)]
    for sampler in samplers:
        sampler.set_epoch(epoch, skip)
    steps = list(zip(*(enumerate(sampler) for sampler in samplers), strict=True))
    return [
        [batch[: sampler.cut.num_real_examples(index)] for sampler, (index, batch) in zip(samplers, step, strict=True)]
        for step in steps
    ]


def flat(steps):
    return [index for step in steps for batch in step for index in batch]


@given(*SIZES, st.integers(0, 3))
def test_each_example_comes_exactly_once_over_all_ranks(num_examples, batch_size, world_size, epoch):
    steps = real_batches(world_size, num_examples, batch_size, seed=1, epoch=epoch)

    assert sorted(flat(steps)) == list(range(num_examples))
    assert flat(steps) == epoch_order(num_examples, seed=1, epoch=epoch).tolist()


@given(*SIZES, st.booleans())
def test_dropping_the_last_leaves_only_whole_batches(num_examples, batch_size, world_size, shuffle):
    steps = real_batches(world_size, num_examples, batch_size, seed=1, shuffle=shuffle, drop_last=True)

    assert all(len(batch) == batch_size for step in steps for batch in step)
    assert len(steps) == num_examples // (batch_size * world_size)


@given(*SIZES, st.integers(0, 45), st.booleans())
def test_what_is_left_after_skipping_is_the_tail_of_the_order(num_examples, batch_size, world_size, skip, by_length):
    lengths = [(7 * i) % 11 for i in range(num_examples)] if by_length else None
    options = {"seed": 3, "epoch": 2, "lengths": lengths}

    whole = flat(real_batches(world_size, num_examples, batch_size, **options))

    assert flat(real_batches(world_size, num_examples, batch_size, skip=skip, **options)) == whole[skip:]


@given(*SIZES, st.integers(1, 6), st.integers(1, 4), st.integers(0, 10))
def test_an_epoch_goes_on_without_loss_on_other_ranks_with_another_batch_size(
    num_examples, batch_size, world_size, other_batch_size, other_world_size, steps_before
):
    before = flat(real_batches(world_size, num_examples, batch_size, seed=5)[:steps_before])
    after = flat(real_batches(other_world_size, num_examples, other_batch_size, seed=5, skip=len(before)))

    assert before + after == epoch_order(num_examples, seed=5, epoch=0).tolist()


@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.integers(0, 5))
def test_with_a_global_batch_size_the_batches_of_all_ranks_are_the_same_on_any_number_of_them(
    num_examples, global_batch_size, world_size, other_world_size, skip
):
    def steps(ranks):
        size = -(-global_batch_size // ranks)
        real = real_batches(ranks, num_examples, size, seed=5, skip=skip, global_batch_size=global_batch_size)
        return [[index for batch in step for index in batch] for step in real]

    assert steps(world_size) == steps(other_world_size)


@given(*SIZES, st.integers(0, 45), st.booleans())
def test_lengths_and_counts_are_what_the_batches_are(num_examples, batch_size, world_size, skip, drop_last):
    sampler = sampler_of(
        num_examples, batch_size, seed=0, drop_last=drop_last, rank=world_size - 1, world_size=world_size
    )
    assert len(list(sampler)) == len(sampler) == sampler.cut.num_batches

    sampler.set_epoch(0, skip)
    batches = list(sampler)

    assert len(batches) == sampler.cut.num_batches
    for index, (batch, counts) in enumerate(zip(batches, sampler.cut.counts(), strict=True)):
        assert counts == (sampler.cut.num_real_examples(index), sampler.cut.num_global_examples(index))
        assert len(batch) == max(1, counts[0])


def test_evaluation_goes_in_the_order_of_the_dataset():
    assert real_batches(2, 7, 2, seed=0, shuffle=False) == [[[0, 1], [2, 3]], [[4, 5], [6]]]
    assert real_batches(3, 7, 2, seed=0, shuffle=False)[-1] == [[6], [], []]


def test_the_order_depends_on_seed_and_epoch_alone():
    torch.manual_seed(7)
    state = torch.get_rng_state()

    orders = [epoch_order(50, seed=seed, epoch=epoch).tolist() for seed, epoch in ((1, 0), (1, 1), (2, 0), (1, 0))]

    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_holds_examples_of_similar_length_and_the_longest_comes_first():
    lengths = torch.randint(1, 100, (400,), generator=torch.Generator().manual_seed(0)).tolist()

    order = length_grouped_order(lengths, seed=1, epoch=1)

    spread = [max(part) - min(part) for part in torch.tensor(lengths)[order][:392].view(-1, 8).tolist()]
    assert sorted(order.tolist()) == list(range(400))
    assert lengths[order[0]] == max(lengths)
    assert sum(spread) / len(spread) < 20
    assert not torch.equal(order, length_grouped_order(lengths, seed=1, epoch=2))


def test_what_is_told_while_iterating_changes_only_the_next_iteration():
    sampler = sampler_of(6, 2, seed=0)
    batches = iter(sampler)
    first = [next(batches)]

    sampler.set_epoch(4, 2)

    assert [index for batch in first + list(batches) for index in batch] == epoch_order(6, seed=0, epoch=0).tolist()
    assert len(list(sampler)) == 2


def test_sizes_that_make_no_batches_are_refused():
    with pytest.raises(TracksideValueError, match="global_batch_size=0, rank=0, world_size=1 make no batches"):
        BatchCut(3, 0)
    with pytest.raises(TracksideValueError, match="global_batch_size=4, rank=2, world_size=2 make no batches"):
        BatchCut(3, 4, rank=2, world_size=2)
