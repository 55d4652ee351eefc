"""Generators of a model's own resume to the bit; a seed from the system is told."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.torch_models import classified, weights_of
from torch import Tensor, nn

from trackside import Trainer, TrainingArguments


class Noisy(nn.Module):
    def __init__(self, draw: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.draws, self.layer = {"one": [draw]}, nn.Linear(6, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features + (self.draws["one"][0]() if self.training else 0.0))


def made(folder: Path, in_loss: bool) -> Trainer:
    own, rng = torch.Generator().manual_seed(3), np.random.default_rng(3)
    old, python = np.random.RandomState(3), random.Random(3)

    def draw() -> Any:
        return torch.rand((), generator=own) + rng.random() + float(old.rand()) + python.random()

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits * (draw() if in_loss else 1.0), labels)

    saves: dict[str, Any] = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "learning_rate": 0.1}
    args = TrainingArguments(str(folder), eval_strategy="steps", eval_steps=3, disable_tqdm=True, use_cpu=True, **saves)
    data = classified(32)
    model = Noisy((lambda: 0.0) if in_loss else draw)
    return Trainer(model, args, train_dataset=data, eval_dataset=data, loss_fn=loss)


@pytest.mark.parametrize("in_loss", [False, True])
def test_a_resumed_run_goes_on_with_generators_of_the_model_and_the_loss(in_loss: bool, tmp_path: Path) -> None:
    whole, resumed = made(tmp_path, in_loss), made(tmp_path, in_loss)
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))

    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))


class Pictures(torch.utils.data.Dataset):
    """A dataset that augments by a generator of its own, and by one in a transform."""

    def __init__(self) -> None:
        self.data, self.rng, self.transform = classified(32), np.random.default_rng(0), random.Random(0).random

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        features, label = self.data[index]
        return features + self.rng.random() + self.transform(), label


class Streamed(torch.utils.data.IterableDataset):
    def __init__(self) -> None:
        self.pictures, self.order = Pictures(), np.random.RandomState(0)

    def __iter__(self) -> Any:
        return map(self.pictures.__getitem__, self.order.permutation(32))


class WithLoader(Trainer):
    def get_train_dataloader(self) -> Any:
        options = {"num_workers": self.args.dataloader_num_workers, "collate_fn": self.data_collator}
        return torch.utils.data.DataLoader(self.train_dataset, 8, shuffle=True, **options)


def of_data(folder: Path, how: str, seen: list[Any], *, workers: int) -> Trainer:
    own = torch.Generator().manual_seed(0)

    def collate(examples: list[Any]) -> Any:
        features, labels = torch.utils.data.default_collate(examples)
        return features + torch.rand((), generator=own), labels

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels)

    class Seeing(Noisy):
        def forward(self, features: Tensor) -> Tensor:
            seen.append(features)
            return super().forward(features)

    saves: dict[str, Any] = {"max_steps": 10, "save_strategy": "steps", "save_steps": 6, "learning_rate": 0.1}
    args = TrainingArguments(str(folder), dataloader_num_workers=workers, disable_tqdm=True, use_cpu=True, **saves)
    data, kind = Streamed() if how == "stream" else Pictures(), WithLoader if how == "own loader" else Trainer
    return kind(Seeing(lambda: 0.0), args, train_dataset=data, data_collator=collate, loss_fn=loss)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["map", "stream", "own loader"])
def test_a_resumed_run_goes_on_with_generators_of_the_data_and_the_collator(how, workers, tmp_path):
    whole: list[Any] = []
    resumed: list[Any] = []
    of_data(tmp_path, how, whole, workers=workers).train()

    of_data(tmp_path, how, resumed, workers=workers).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))

    assert torch.equal(torch.stack(resumed[-4:]), torch.stack(whole[-4:]))
    assert len({float(features[0, 0]) for features in whole}) == len(whole)


def test_generators_that_are_others_than_those_of_the_checkpoint_are_told(tmp_path, caplog):
    of_data(tmp_path, "map", [], workers=0).train()
    trainer = of_data(tmp_path, "map", [], workers=0)
    trainer.train_dataset.rng = np.random.RandomState(0)

    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))

    told = [record.message for record in caplog.records if "random number generators" in record.message]
    assert len(told) == 1
    assert "now they refer to 3, and 2 of them are restored" in told[0]


class Reseeding(Noisy):
    def forward(self, features: Tensor) -> Tensor:
        torch.seed()
        return super().forward(features)


def test_a_seed_from_the_system_is_told_by_name(make_trainer: Any, caplog: pytest.LogCaptureFixture) -> None:
    make_trainer(model=Noisy(lambda: 0.0), max_steps=1).train()
    assert "takes a seed from the system" not in caplog.text

    make_trainer(model=Reseeding(lambda: 0.0), max_steps=1).train()
    assert "a resumed run will differ: Reseeding.forward takes a seed from the system" in caplog.text
