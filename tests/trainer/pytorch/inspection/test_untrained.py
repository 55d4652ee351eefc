"""Parameters of a loss that no optimizer has are told by name, and others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.torch_models import classified, mlp
from torch import Tensor, nn

from trackside import Trainer, TrainerCallback, TrainingArguments


class Weighted(nn.Module):
    """A loss with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs * self.scale, labels)


class OwnLoss(Trainer):
    """Has a loss with weights, and a teacher, as attributes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.criterion, self.teacher = Weighted(), mlp()

    def compute_loss(self, model: Any, inputs: Any) -> Tensor:
        x, labels = inputs
        with torch.no_grad():
            taught = self.teacher(x)
        x = x.clone().requires_grad_()  # as for an adversarial loss
        return self.criterion(model(x), labels) + nn.functional.mse_loss(model(x), taught)


class StepsIt(TrainerCallback):
    """Has an optimizer for the weights of the loss."""

    def on_train_begin(self, args: Any, state: Any, control: Any, trainer: Any, **kwargs: Any) -> None:
        self.optimizer = torch.optim.SGD(trainer.criterion.parameters(), 0.1)


@pytest.mark.parametrize(
    ("cls", "loss_fn", "callbacks", "name"),
    [
        (Trainer, Weighted(), [], "loss_fn.scale"),
        (Trainer, Weighted().forward, [], "a parameter of shape (3,)"),
        (OwnLoss, None, [], "criterion.scale"),
        (OwnLoss, None, [StepsIt], ""),
        (Trainer, nn.CrossEntropyLoss(), [], ""),
    ],
)
def test_a_parameter_of_the_loss_that_no_optimizer_has_is_told_once(
    cls: Any, loss_fn: Any, callbacks: list[Any], name: str, tmp_path: Path, caplog: Any
) -> None:
    args = TrainingArguments(str(tmp_path), max_steps=2, save_strategy="no", disable_tqdm=True, no_cuda=True)

    cls(mlp(), args, train_dataset=classified(16), loss_fn=loss_fn, callbacks=callbacks).train()

    told = [record.message for record in caplog.records if "which no optimizer has" in record.message]
    assert len(told) == bool(name)
    assert name in "".join(told)
