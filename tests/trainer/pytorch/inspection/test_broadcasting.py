"""A loss_fn that compares every output with every label, because of their shapes, is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from trackside import Trainer, TrainingArguments
from trackside.callbacks.errors import TracksideValueError
from trackside.trainer.pytorch.inspection import observer

TEXT = "loss_fn compares every output with every label"


def huber(outputs: Any, labels: Any) -> Any:
    return (outputs - labels).abs().clamp_min(0.1).mean()


def trained(tmp_path: Any, loss_fn: Any, *, width: int = 1, labels: Any = None) -> Trainer:
    torch.manual_seed(0)
    features = torch.randn(8, 4)
    labels = features.sum(1) if labels is None else labels
    args = TrainingArguments(str(tmp_path), max_steps=2, save_strategy="no", disable_tqdm=True)
    data = torch.utils.data.TensorDataset(features, labels)
    trainer = Trainer(nn.Linear(4, width), args, train_dataset=data, loss_fn=loss_fn)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("loss_fn", "labels", "is_told"),
    [
        (huber, None, True),
        (functional.smooth_l1_loss, None, True),
        (huber, torch.arange(8.0)[:, None], False),
        (lambda outputs, labels: huber(outputs.squeeze(-1), labels), None, False),
        (lambda outputs, labels: huber(outputs, labels[:, None]), None, False),
        (lambda outputs, labels: functional.cross_entropy(outputs, labels), torch.zeros(8, dtype=torch.long), False),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_outputs_that_are_broadcast_against_labels_are_told(loss_fn, labels, is_told, tmp_path, caplog):
    trained(tmp_path, loss_fn, labels=labels)

    assert (TEXT in caplog.text) is is_told


def test_looking_changes_neither_weights_nor_random_numbers(tmp_path, monkeypatch):
    def noisy(outputs: Any, labels: Any) -> Any:
        return huber(outputs.squeeze(-1), labels) * torch.rand(())

    looked_at = trained(tmp_path, noisy).model.weight
    monkeypatch.setattr(observer, "tell_of_broadcasting", lambda *_: None)
    not_looked_at = trained(tmp_path / "other", noisy).model.weight

    assert torch.equal(looked_at, not_looked_at)


def test_a_model_without_values_is_refused_by_name(tmp_path):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))

    with pytest.raises(TracksideValueError, match=r"weights of Sequential are on .* meta.*: 0\.weight, 0\.bias"):
        Trainer(model, TrainingArguments(str(tmp_path)))
