from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import IterableDataset, get_worker_info

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError
from trackside.trainer.data.sharding import BatchCut
from trackside.trainer.pytorch.data.factory import make_loader
from trackside.trainer.pytorch.data.loader import batches_per_epoch, iterate_epoch
from trackside.trainer.pytorch.data.stream import ShardedIterable
from trackside.trainer.pytorch.data.workers import seed_worker


class Numbers(IterableDataset):
    """Counts; the epoch is in the hundreds."""

    def __init__(self, count):
        self.count, self.epoch = count, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(range(100 * self.epoch, 100 * self.epoch + self.count))


class SplitsByWorker(Numbers):
    """Splits itself as the documentation of torch shows."""

    def __iter__(self):
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        return iter(range(worker, self.count, workers))


class SaysThatItSplits(SplitsByWorker):
    shards_itself = True


class Augmented(Numbers):
    def __iter__(self):
        for number in super().__iter__():
            yield number, random.random(), np.random.rand(), torch.rand(()).item()


def settings(workers=0, persistent=False):
    return SimpleNamespace(
        dataloader_num_workers=workers,
        dataloader_pin_memory=False,
        dataloader_persistent_workers=persistent,
        dataloader_prefetch_factor=None,
        dataloader_multiprocessing_context=None,
    )


def loader_of(dataset, batch_size, *, workers=0, rank=0, world_size=1, drop_last=False, persistent=False, collate=list):
    return make_loader(
        dataset,
        batch_size=batch_size,
        collate_fn=collate,
        args=settings(workers, persistent),
        seed=1,
        shuffle=True,
        drop_last=drop_last,
        rank=rank,
        world_size=world_size,
    )


class Shuffled(Numbers):
    """Shuffles when it begins and draws as it goes, from the generators that everybody uses."""

    def __iter__(self):
        order = list(super().__iter__())
        random.shuffle(order)
        while order:
            yield order.pop(int(torch.randint(len(order), ())))


def epoch_of(loader, epoch=0, skip=0):
    batches = iterate_epoch(loader, seed=1, epoch=epoch, skip_examples=skip)
    return [(inputs, (examples, examples_of_all)) for inputs, examples, examples_of_all in batches]


def real(ranks):
    """What counts, in the order in which it is trained on."""
    return [x for step in zip(*ranks, strict=True) for batch, (count, _) in step for x in batch[:count]]


SIZES = st.integers(0, 30), st.integers(1, 5), st.integers(1, 4)


@given(*SIZES, st.integers(0, 35))
def test_each_example_that_is_left_comes_once_over_all_ranks_in_order(count, batch_size, world_size, skip):
    loaders = [loader_of(Numbers(count), batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]

    ranks = [epoch_of(loader, skip=skip) for loader in loaders]

    assert real(ranks) == list(range(skip, count))
    assert all(len(batch) == max(1, counts[0]) for rank in ranks for batch, counts in rank)
    assert all(sum(counts[0] for _, counts in step) == step[0][1][1] for step in zip(*ranks, strict=True))


@given(*SIZES)
def test_dropping_the_last_leaves_only_whole_batches(count, batch_size, world_size):
    loaders = [
        loader_of(Numbers(count), batch_size, rank=rank, world_size=world_size, drop_last=True)
        for rank in range(world_size)
    ]

    ranks = [epoch_of(loader) for loader in loaders]

    whole = batch_size * world_size
    assert real(ranks) == list(range(count // whole * whole))
    assert all(len(batch) == batch_size for rank in ranks for batch, _ in rank)


@given(*SIZES, st.integers(1, 5), st.integers(1, 4), st.integers(0, 6))
def test_an_epoch_goes_on_without_loss_on_other_ranks(count, batch_size, world_size, other_size, other_ranks, steps):
    def ranks_of(size, ranks, skip):
        return [epoch_of(loader_of(Numbers(count), size, rank=r, world_size=ranks), skip=skip) for r in range(ranks)]

    before = real([rank[:steps] for rank in ranks_of(batch_size, world_size, 0)])

    assert before + real(ranks_of(other_size, other_ranks, len(before))) == list(range(count))


@pytest.mark.parametrize("dataset", [Numbers(21), SplitsByWorker(21)], ids=["plain", "splits itself"])
def test_workers_change_neither_order_nor_content(dataset):
    expected = [epoch_of(loader_of(dataset, 2, rank=rank, world_size=2), skip=3) for rank in range(2)]

    for workers in (1, 2):
        ranks = [epoch_of(loader_of(dataset, 2, workers=workers, rank=rank, world_size=2), skip=3) for rank in range(2)]
        assert ranks == expected


def test_a_dataset_that_splits_itself_gives_each_example_once():
    def ranks(skip=0):
        loaders = [loader_of(SaysThatItSplits(23), 2, workers=2, rank=rank, world_size=2) for rank in range(2)]
        return [epoch_of(loader, skip=skip) for loader in loaders]

    whole = real(ranks())

    assert sorted(whole) == list(range(23))
    assert real(ranks(skip=12)) == whole[12:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_hugging_face_stream_gives_each_example_once(workers):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"x": list(range(22))}).to_iterable_dataset(num_shards=4)

    ranks = [epoch_of(loader_of(dataset, 3, workers=workers, rank=rank, world_size=2)) for rank in range(2)]

    assert sorted(row["x"] for row in real(ranks)) == list(range(22))


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_hear_of_the_epoch(persistent):
    loader = loader_of(Numbers(5), 2, workers=2, persistent=persistent)

    epochs = [[batch for batch, _ in epoch_of(loader, epoch, skip)] for epoch, skip in ((0, 0), (1, 0), (3, 3))]

    assert epochs == [[[0, 1], [2, 3], [4]], [[100, 101], [102, 103], [104]], [[303, 304]]]


def test_random_numbers_in_workers_follow_from_seed_epoch_and_position():
    def run(workers, rank=0, epoch=0, skip=0):
        loader = loader_of(Augmented(16), 2, workers=workers, rank=rank, world_size=2, collate=with_draw)
        return [batch for batch, _ in epoch_of(loader, epoch, skip)]

    one_worker = run(1)

    assert run(2) == one_worker
    assert run(2, skip=8) == one_worker[2:]
    numbers = [example[1:] for rank in range(2) for batch, _ in run(2, rank) for example in batch]
    numbers += [example[1:] for batch, _ in run(2, epoch=1) for example in batch]
    draws = [draw for rank in range(2) for _, draw in run(2, rank)]
    assert len(set(numbers)) == len(numbers)
    assert len(set(draws)) == len(draws)


def with_draw(examples):
    return examples, random.random()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_dataset_that_shuffles_itself_gives_each_example_once_and_goes_on_where_it_was(workers):
    def ranks(skip=0):
        loaders = [loader_of(Shuffled(23), 2, workers=workers, rank=rank, world_size=2) for rank in range(2)]
        read = []
        for rank, loader in enumerate(loaders):  # as each of the processes has seeded itself
            seed_worker(rank)
            read.append(epoch_of(loader, skip=skip))
        return read

    whole = real(ranks())

    assert sorted(whole) == list(range(23))
    assert whole[:3] != [0, 1, 2]
    assert real(ranks(skip=8)) == whole[8:]


def test_reading_in_the_training_process_does_not_shift_its_random_numbers():
    loader = loader_of(Augmented(8), 2)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = random.gauss(0, 1), np.random.randn(), torch.randn(()).item()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)

    epoch_of(loader)

    assert (random.gauss(0, 1), np.random.randn(), torch.randn(()).item()) == expected


def test_a_stream_has_a_length_only_where_its_dataset_has_one():
    class Sized(Numbers):
        def __len__(self):
            return self.count

    assert batches_per_epoch(loader_of(Numbers(7), 2)) is None
    assert batches_per_epoch(loader_of(Sized(7), 2)) == 4
    assert batches_per_epoch(loader_of(Sized(7), 2, drop_last=True)) == 3
    assert batches_per_epoch(loader_of(Sized(7), 1, world_size=3)) == 3


@pytest.mark.parametrize(("says", "found"), [(7, ""), (9, "gave 7 in an epoch"), (4, "has more")])
def test_a_length_that_is_wrong_is_told_once(says, found, caplog):
    class Sized(Numbers):
        def __len__(self):
            return says

    loader = loader_of(Sized(7), 2)
    for _ in range(2):
        assert sum(batch.examples for batch in iterate_epoch(loader, seed=0, epoch=0)) == 7

    assert caplog.text.count(f"the length of Sized is {says}, but it {found}") == bool(found)


def test_what_can_be_read_only_once_is_refused():
    with pytest.raises(TracksideTypeError, match="a dataset of type generator can be read only once"):
        loader_of((x for x in range(3)), 2)


def test_a_stream_that_is_split_by_rank_already_is_refused():
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"x": [1, 2]}).to_iterable_dataset(num_shards=2)
    split = pytest.importorskip("datasets.distributed").split_dataset_by_node(dataset, rank=0, world_size=2)

    with pytest.raises(TracksideValueError, match="already split by rank"):
        ShardedIterable(split, BatchCut(0, 2, rank=0, world_size=2))


@pytest.mark.parametrize("skip", [4, 8, 12])
def test_workers_resume_with_a_generator_that_the_collator_has_and_the_dataset_draws_from(skip):
    own = torch.Generator().manual_seed(0)

    def draw():
        return torch.rand((), generator=own).item()

    class Reader:
        def __getitem__(self, index):
            return index + draw()

    class Stream(IterableDataset):
        def __iter__(self):  # the class hides the generator from a search of what the stream refers to
            return iter(Reader()[index] for index in range(24))

    def batches(skip):
        stream = ShardedIterable(Stream(), BatchCut(0, 4), 0, collate)
        stream.set_epoch(0, skip)
        loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2, collate_fn=collate)
        return list(loader)

    def collate(batch):
        return [example + draw() for example in batch.inputs]

    assert batches(skip) == batches(0)[skip // 4 :]
