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


class Reseeding(Noisy):
    def forward(self, features: Tensor) -> Tensor:
        torch.seed()
        return super().forward(features)


def test_a_seed_from_the_system_is_told_by_name(make_trainer: Any, caplog: pytest.LogCaptureFixture) -> None:
    make_trainer(model=Noisy(lambda: 0.0), max_steps=1).train()
    assert "takes a seed from the system" not in caplog.text

    make_trainer(model=Reseeding(lambda: 0.0), max_steps=1).train()
    assert "a resumed run will differ: Reseeding.forward takes a seed from the system" in caplog.text
