"""Map-style datasets, streams and loaders that grow or shrink between epochs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from trackside import Trainer, TrainerCallback, TrainingArguments


class Buffer(Dataset):
    """A replay buffer; example ``i`` is ``i``."""

    def __init__(self, size=4):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index >= self.size:
            raise IndexError(index)
        return torch.ones(3) * index, torch.zeros(1)

    def grow(self, by):
        self.size += by


class Tensors(TensorDataset):
    pass


class Stream(IterableDataset):
    def __init__(self, size=4):
        self.size = size

    def __len__(self):
        return self.size

    def __iter__(self):
        return ((torch.ones(3) * index, torch.zeros(1)) for index in range(self.size))

    def grow(self, by):
        self.size += by


def grown(dataset, by):
    if isinstance(dataset, TensorDataset):
        size = len(dataset) + by
        dataset.tensors = torch.arange(float(size)).view(-1, 1).expand(-1, 3), torch.zeros(size, 1)
    else:
        dataset.grow(by)


class Grow(TrainerCallback):
    def __init__(self, by):
        self.by = by

    def on_epoch_begin(self, args, state, control, trainer, **kwargs):
        if state.global_step:
            grown(trainer.train_dataset, self.by)


class Seen(Trainer):
    """Keeps the examples of each epoch."""

    def compute_loss(self, model, inputs):
        epoch = self.state.epoch
        seen = vars(self).setdefault("_seen", {})
        seen.setdefault(int(epoch), []).extend(inputs[0][:, 0].int().tolist())
        return nn.functional.mse_loss(model(inputs[0]), inputs[1])


class OwnLoader(Seen):
    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_size=4, shuffle=True)


def make(tmp_path, dataset, by=4, cls=Seen, epochs=3, **options):
    args = TrainingArguments(
        tmp_path,
        num_train_epochs=epochs,
        per_device_train_batch_size=4,
        learning_rate=1e-6,
        disable_tqdm=True,
        save_strategy="no",
        **options,
    )
    return cls(nn.Linear(3, 1), args, train_dataset=dataset, callbacks=[Grow(by)])


def first_tensors():
    return torch.arange(4.0).view(-1, 1).expand(-1, 3), torch.zeros(4, 1)


@pytest.mark.parametrize(
    ("make_dataset", "cls", "options"),
    [
        (Buffer, Seen, {}),
        (Buffer, Seen, {"dataloader_num_workers": 1}),
        (Buffer, Seen, {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}),
        (Buffer, OwnLoader, {}),
        (lambda: TensorDataset(*first_tensors()), Seen, {}),
        (lambda: Tensors(*first_tensors()), Seen, {}),
        (Stream, Seen, {}),
        (Stream, Seen, {"dataloader_num_workers": 1}),
    ],
)
def test_a_dataset_that_grows_is_seen_whole_in_every_epoch(tmp_path, make_dataset, cls, options):
    trainer = make(tmp_path, make_dataset(), cls=cls, **options)

    trainer.train()

    assert {epoch: sorted(seen) for epoch, seen in trainer._seen.items()} == {
        epoch: list(range(4 * (epoch + 1))) for epoch in range(3)
    }
    assert trainer.state.max_steps == trainer.state.global_step == 6


@pytest.mark.parametrize("make_dataset", [lambda: Buffer(12), lambda: Stream(12)])
def test_a_dataset_that_shrinks_is_not_read_beyond_its_end(tmp_path, make_dataset):
    trainer = make(tmp_path, make_dataset(), by=-4)

    trainer.train()

    assert [sorted(trainer._seen[epoch]) for epoch in range(3)] == [list(range(size)) for size in (12, 8, 4)]
    assert trainer.state.global_step == 6


class Sentences(Buffer):
    def __getitem__(self, index):
        if index >= self.size:
            raise IndexError(index)
        return {"input_ids": [index] * (1 + index % 3)}


def test_lengths_of_a_dataset_that_grows_are_measured_again(tmp_path):
    class Lengths(Trainer):
        def compute_loss(self, model, inputs):
            vars(self).setdefault("_seen", []).append([len(row["input_ids"]) for row in inputs])
            return model(torch.ones(1, 3)).mean()

        def batch_size_of(self, batch):
            return len(batch)

    trainer = make(tmp_path, Sentences(4), by=32, cls=Lengths, epochs=2, group_by_length=True)
    trainer.data_collator = list

    trainer.train()

    lengths = [length for batch in trainer._seen[1:] for length in batch]
    groups = [lengths[start : start + 9] for start in range(0, 36, 9)]
    assert sorted(lengths) == [1] * 12 + [2] * 12 + [3] * 12
    assert sum(group == sorted(group, reverse=True) for group in groups) >= 2  # all but two, which swap an example


def test_a_replay_buffer_that_grows_in_the_first_event_is_planned_from_the_beginning(tmp_path):
    dataset = Buffer(1)
    trainer = make(tmp_path, dataset, by=0, epochs=2, lr_scheduler_type="linear", logging_steps=1)

    @trainer.on("on_epoch_begin")
    def fill(sender, state, **kwargs):
        dataset.size = 8

    trainer.train()

    rates = [record["learning_rate"] for record in trainer.state.log_history if "learning_rate" in record]
    assert trainer.state.global_step == 4
    np.testing.assert_allclose(rates, [1e-6 * (1 - step / 4) for step in range(4)], atol=1e-15)


def test_a_schedule_of_the_user_stays_and_the_run_says_so(tmp_path, caplog):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    args = TrainingArguments(
        tmp_path, num_train_epochs=2, per_device_train_batch_size=4, disable_tqdm=True, save_strategy="no"
    )
    trainer = Seen(model, args, train_dataset=Buffer(), callbacks=[Grow(4)], optimizers=(optimizer, schedule))

    trainer.train()

    assert trainer.lr_scheduler is schedule
    assert "the schedule, which is yours, stays as it was made" in caplog.text
