from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.pytorch.data.collators import default_data_collator
from trackside.trainer.pytorch.data.factory import example_lengths, make_loader
from trackside.trainer.pytorch.data.loader import batches_per_epoch, iterate_epoch, num_examples
from trackside.trainer.pytorch.data.sampler import epoch_order
from trackside.trainer.pytorch.snapshot import random_state


def settings(**changes):
    values = {"num_workers": 0, "pin_memory": True, "persistent_workers": False, "prefetch_factor": None}
    values |= {"multiprocessing_context": None, **changes}
    return SimpleNamespace(**{f"dataloader_{key}": value for key, value in values.items()})


def loader_of(dataset, batch_size=4, *, collate=default_data_collator, shuffle=True, drop_last=False, **options):
    ranks = {key: options.pop(key) for key in ("rank", "world_size") if key in options}
    return make_loader(
        dataset,
        batch_size=batch_size,
        collate_fn=collate,
        args=options.pop("args", None) or settings(**options),
        seed=1,
        shuffle=shuffle,
        drop_last=drop_last,
        **ranks,
    )


def epoch_of(loader, epoch=0, skip=0):
    batches = iterate_epoch(loader, seed=1, epoch=epoch, skip_examples=skip)
    return [(inputs, (examples, examples_of_all)) for inputs, examples, examples_of_all in batches]


class Items(Dataset):
    def __init__(self, count):
        self.count = count

    def __getitem__(self, index):
        return {"index": index}

    def __len__(self):
        return self.count


class Augmented(Items):
    def __getitem__(self, index):
        return index, random.random(), float(np.random.rand()), torch.rand(()).item()


def same_random_state(one, other):
    return str(one) == str(other) and torch.equal(one["torch"], other["torch"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_ledger_shows_each_example_once_over_ranks_and_workers_in_every_epoch(workers):
    loaders = [loader_of(Items(45), num_workers=workers, rank=rank, world_size=2) for rank in range(2)]

    for epoch in range(2):
        ledger = []
        for step in zip(*(epoch_of(loader, epoch) for loader in loaders), strict=True):
            ledger += [index for batch, (count, _) in step for index in batch["index"][:count].tolist()]

        assert ledger == epoch_order(45, seed=1, epoch=epoch).tolist()


def test_workers_change_neither_order_nor_content_and_persistent_ones_follow_the_epochs():
    def run(**options):
        loader = loader_of(Items(22), **options)
        epochs = [epoch_of(loader, epoch, skip) for epoch, skip in ((0, 0), (1, 0), (2, 9))]
        return [[(batch["index"].tolist(), counts) for batch, counts in epoch] for epoch in epochs]

    expected = run()

    assert run(num_workers=1) == expected
    assert run(num_workers=2, prefetch_factor=3) == expected
    assert run(num_workers=2, persistent_workers=True) == expected


def test_augmentation_in_workers_is_the_same_after_a_resume_and_differs_otherwise():
    def run(workers, rank=0, epoch=0, skip=0):
        loader = loader_of(Augmented(24), 3, num_workers=workers, rank=rank, world_size=2, collate=list)
        return [batch for batch, _ in epoch_of(loader, epoch, skip)]

    whole = run(2)

    assert run(1) == whole
    assert run(2, skip=12) == whole[2:]
    numbers = [
        number for rank in range(2) for epoch in range(2) for b in run(2, rank, epoch) for e in b for number in e[1:]
    ]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("workers", [0, 2])
def test_going_through_an_epoch_leaves_the_random_numbers_of_the_process_alone(workers):
    loader = loader_of(Items(9), num_workers=workers)
    before = random_state()

    epoch_of(loader)
    list(loader)

    assert same_random_state(random_state(), before)


def test_iterating_over_the_loader_gives_plain_batches_of_the_epoch_it_was_told():
    loader = loader_of(Items(10))

    loader.set_epoch(3, 4)

    assert [batch["index"].tolist() for batch in loader] == [
        part.tolist() for part in epoch_order(10, seed=1, epoch=3)[4:].split(4)
    ]
    assert len(loader) == 3


TENSORS = (
    torch.arange(44.0).view(11, 2, 2),
    torch.arange(11),
    torch.arange(11) % 2 == 0,
    torch.arange(11).to(torch.int8),
)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_quick_way_through_a_tensor_dataset_gives_what_the_slow_way_gives(workers, shuffle):
    dataset = TensorDataset(*TENSORS)
    slow = epoch_of(loader_of(dataset, collate=lambda features: default_data_collator(features), shuffle=shuffle))

    quick = epoch_of(loader_of(dataset, shuffle=shuffle, num_workers=workers))

    for (one, counts), (other, other_counts) in zip(slow, quick, strict=True):
        assert type(one) is type(other) is tuple
        assert counts == other_counts
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a, b)
            assert (a.dtype, a.stride()) == (b.dtype, b.stride())


def test_a_batch_taken_the_quick_way_is_a_copy():
    dataset = TensorDataset(torch.zeros(4, 2))

    ((inputs,), _), *_ = epoch_of(loader_of(dataset, shuffle=False))
    inputs += 1

    assert dataset.tensors[0].sum() == 0


def test_a_subclass_of_tensor_dataset_keeps_its_own_items():
    class Doubled(TensorDataset):
        def __getitem__(self, index):
            return tuple(2 * part for part in super().__getitem__(index))

    (((inputs,), _),) = epoch_of(loader_of(Doubled(torch.ones(3)), shuffle=False))

    assert inputs.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [
        ([(np.ones(2, np.float32), 1), (np.zeros(2, np.float32), 0)], tuple),
        ([{"x": [1.0, 2.0], "label": 1}, {"x": [3.0, 4.0], "label": 0}], dict),
    ],
)
def test_tuples_come_as_tuples_and_dicts_as_dicts(dataset, kind):
    ((batch, counts),) = epoch_of(loader_of(dataset))

    assert type(batch) is kind
    assert counts == (2, 2)


def test_a_hugging_face_dataset_is_read_a_batch_at_a_time():
    dataset = pytest.importorskip("datasets").Dataset.from_dict({"x": list(range(6)), "label": [0, 1] * 3})

    batches = [batch["x"].tolist() for batch, _ in epoch_of(loader_of(dataset))]

    assert batches == [part.tolist() for part in epoch_order(6, seed=1, epoch=0).split(4)]


class Told(Items):
    epoch = None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, index):
        return {"epoch": self.epoch}


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_a_dataset_is_told_the_epoch_if_it_wants_to_know(workers, persistent):
    loader = loader_of(Told(3), num_workers=workers, persistent_workers=persistent)

    for epoch in (0, 1, 4):
        ((batch, _),) = epoch_of(loader, epoch)
        assert batch["epoch"].tolist() == [epoch] * 3


def test_sizes_are_known_where_there_is_a_length():
    loader = loader_of(Items(10), drop_last=True)

    assert (batches_per_epoch(loader), num_examples(loader)) == (2, 10)
    assert (batches_per_epoch(iter([])), num_examples([1, 2])) == (None, None)


# -- batches of similar length ----------------------------------------------------------------------------------------


def by_length(column="length"):
    return SimpleNamespace(**vars(settings()), group_by_length=True, length_column_name=column)


def test_grouping_by_length_takes_lengths_from_the_column_or_the_input_ids():
    rows = [{"input_ids": [0] * n, "size": 100 - n} for n in (3, 1, 2)]
    table = pytest.importorskip("datasets").Dataset.from_list(rows)

    assert example_lengths(rows) == [3, 1, 2]
    assert example_lengths(rows, "size") == [97, 99, 98]
    assert example_lengths(table, "size") == [97, 99, 98]
    assert example_lengths([]) == []


def test_grouping_by_length_applies_to_training_only():
    rows = [{"input_ids": [0] * n} for n in range(1, 9)]

    training = [
        len(row["input_ids"])
        for batch, _ in epoch_of(loader_of(rows, 2, collate=list, args=by_length()))
        for row in batch
    ]
    evaluation = loader_of(rows, 8, collate=list, args=by_length(), shuffle=False)

    assert training[0] == 8
    assert all(abs(a - b) <= 7 for a, b in zip(training[::2], training[1::2], strict=True))
    assert epoch_of(evaluation)[0][0] == rows


def test_lengths_that_cannot_be_had_are_asked_for_by_name():
    with pytest.raises(ArgumentError, match=r"group_by_length=True is not allowed: .*'size' \(length_column_name\)"):
        loader_of([(1, 2)], args=by_length("size"))
    with pytest.raises(ArgumentError, match="the dataset has no items to sort"):
        loader_of(iterable(), args=by_length())


def iterable():
    class Stream:
        def __iter__(self):
            return iter([1])

    return Stream()
