from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from trackside.trainer.pytorch.data.loader import batches_per_epoch, counted, iterate_epoch, num_examples
from trackside.trainer.pytorch.data.workers import seed_worker
from trackside.trainer.pytorch.snapshot import random_state

NUMBERS = TensorDataset(torch.arange(20))


def numbers_of(loader, epoch=0, skip=0, **options):
    epoch_batches = iterate_epoch(loader, seed=3, epoch=epoch, skip_examples=skip, **options)
    return [batch.inputs[0].tolist() for batch in epoch_batches]


LOADERS = {
    "shuffled": lambda: DataLoader(NUMBERS, 3, shuffle=True),
    "two workers": lambda: DataLoader(NUMBERS, 3, shuffle=True, num_workers=2),
    "its own generator": lambda: DataLoader(NUMBERS, 3, shuffle=True, generator=torch.Generator()),
    "batch sampler": lambda: DataLoader(NUMBERS, batch_sampler=BatchSampler(RandomSampler(NUMBERS), 3, False)),
    "weighted": lambda: DataLoader(NUMBERS, 3, sampler=WeightedRandomSampler([1.0] * 20, 20)),
    "distributed": lambda: DataLoader(NUMBERS, 3, sampler=DistributedSampler(NUMBERS, num_replicas=1, rank=0)),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_of_others_has_an_order_that_is_a_function_of_seed_and_epoch(name):
    loader = LOADERS[name]()
    torch.manual_seed(11)
    first, second = numbers_of(loader, 0), numbers_of(loader, 1)
    torch.manual_seed(12)

    assert numbers_of(LOADERS[name](), 1) == second
    assert numbers_of(LOADERS[name](), 0) == first
    assert first != second


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_of_others_is_resumed_by_reading_and_disturbs_no_random_numbers(name):
    whole = numbers_of(LOADERS[name](), 2)
    before = random_state()

    rest = numbers_of(LOADERS[name](), 2, skip=9)

    assert rest == whole[3:]
    assert str(random_state()) == str(before)
    assert torch.equal(torch.get_rng_state(), before["torch"])


class Augmented(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return index, random.random() + np.random.rand() + torch.rand(()).item()


def test_augmentation_in_the_training_process_goes_on_after_a_resume_as_without_it():
    def go(skip):
        batches = iterate_epoch(DataLoader(Augmented(), 2, shuffle=True), seed=3, epoch=0, skip_examples=skip)
        return [[part.tolist() for part in batch.inputs] for batch in batches]

    assert go(4) == go(0)[2:]


class DrawsAsItGoes(IterableDataset):
    def __iter__(self):
        order = list(range(20))
        while order:
            yield order.pop(random.randrange(len(order)))


ALIKE = {"stream": lambda: DataLoader(DrawsAsItGoes(), 3), "shuffled": lambda: DataLoader(range(20), 3, shuffle=True)}


@pytest.mark.parametrize("read", [partial(iterate_epoch, seed=3, epoch=0), counted], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", ALIKE)
def test_ranks_with_other_random_numbers_get_each_example_of_a_loader_that_shuffles_once(name, read):
    seen = []
    for rank in range(2):
        seed_worker(rank)
        for batch in read(ALIKE[name](), rank=rank, world_size=2):
            seen += batch.inputs[: batch.examples].tolist()

    assert sorted(seen) == list(range(20))
    assert seen != sorted(seen)


def test_ranks_with_batches_of_their_own_augment_them_differently():
    loader = DataLoader(Augmented(), 1, sampler=DistributedSampler(Augmented(), num_replicas=2, rank=0))

    zero, one = ([batch.inputs for batch in iterate_epoch(loader, seed=3, epoch=0, rank=rank)] for rank in range(2))

    assert [batch[0] for batch in zero] == [batch[0] for batch in one]
    assert all(batch[1] != other[1] for batch, other in zip(zero[1:], one[1:], strict=True))


def test_any_iterable_of_batches_will_do():
    batches = [{"x": torch.zeros(2)}, {"x": torch.zeros(2)}, {"x": torch.zeros(1)}]

    rest = list(iterate_epoch(batches, seed=0, epoch=0, skip_examples=2))

    assert rest == [(batches[1], 2, 2), (batches[2], 1, 1)]
    assert list(iterate_epoch(batches, seed=0, epoch=0, skip_examples=99)) == []
    assert list(iterate_epoch([], seed=0, epoch=0)) == []
    assert batches_per_epoch(batches) == 3


def test_ranks_take_turns_with_the_batches_of_a_foreign_loader():
    batches = [{"x": torch.full((size,), float(index))} for index, size in enumerate([2, 2, 2, 2, 1])]
    whole = [list(iterate_epoch(batches, seed=0, epoch=0, rank=rank, world_size=2)) for rank in range(2)]

    rest = list(iterate_epoch(batches, seed=0, epoch=0, skip_examples=4, rank=1, world_size=2))

    assert whole[0] == [(batches[0], 2, 4), (batches[2], 2, 4), (batches[4], 1, 1)]
    assert whole[1] == [(batches[1], 2, 4), (batches[3], 2, 4), (batches[4], 0, 1)]
    assert rest == whole[1][1:]
    assert batches_per_epoch(batches, world_size=2) == 3


def test_a_loader_with_a_distributed_sampler_gives_each_rank_its_own():
    sampler = DistributedSampler(NUMBERS, num_replicas=2, rank=1, shuffle=False)
    loader = DataLoader(NUMBERS, 4, sampler=sampler)

    batches = list(iterate_epoch(loader, seed=0, epoch=0, skip_examples=8, rank=1, world_size=2))

    assert [(inputs[0].tolist(), *counts) for inputs, *counts in batches] == [
        ([9, 11, 13, 15], 4, 8),
        ([17, 19], 2, 4),
    ]
    assert batches_per_epoch(loader, world_size=2) == 3


def test_sizes_of_loaders_of_others():
    assert batches_per_epoch(LOADERS["shuffled"]()) == 7
    assert num_examples(LOADERS["shuffled"]()) == 20
