"""The loss of an evaluation is the mean over what counts, before and after training, however the loss leaves it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from trackside import Trainer, TrainingArguments

WEIGHTS = torch.tensor([1.0, 5.0, 0.2])
LABELS = torch.tensor([0, 0, 0, 2, 1, 1, 2, 0, 2, 1])
X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))


def weighted(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, weight=WEIGHTS)


def ignoring(outputs: Tensor, labels: Tensor) -> Tensor:
    return 2.0 * functional.cross_entropy(outputs, labels, ignore_index=0)


def masked(outputs: Tensor, labels: Tensor) -> Tensor:
    each = functional.cross_entropy(outputs, labels, reduction="none")
    return (each * (labels > 0)).sum() / (labels > 0).sum().clamp(min=1)


def picked(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.mse_loss(outputs[labels > 0], torch.ones(int((labels > 0).sum()), 3))


def summed(outputs: Tensor, labels: Tensor) -> Tensor:
    squares = (outputs[labels > 0] - 1.0).square()
    return squares.sum() / squares.numel()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 3)


class Own(nn.Module):
    """Computes its loss itself."""

    def __init__(self, loss_fn: Any) -> None:
        super().__init__()
        self.layer, self.loss_fn = net(), loss_fn

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layer(x)
        return {"loss": self.loss_fn(logits, labels), "logits": logits}


class Overrides(Trainer):
    """Computes the loss of its model, the layer of an `Own`."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        outputs = model.layer(inputs["x"])
        loss = model.loss_fn(outputs, inputs["labels"])
        return (loss, {"loss": loss, "logits": outputs}) if return_outputs else loss


@pytest.mark.parametrize("way", ["loss_fn", "model", "override"])
@pytest.mark.parametrize("loss_fn", [weighted, ignoring, masked, picked, summed])
def test_eval_loss_is_the_mean_over_what_counts(loss_fn: Any, way: str, tmp_path: Any) -> None:
    rows: Any = [{"x": x, "labels": label} for x, label in zip(X, LABELS, strict=True)]
    rows = torch.utils.data.TensorDataset(X, LABELS) if way == "loss_fn" else rows
    args = TrainingArguments(
        tmp_path, max_steps=1, learning_rate=0.0, per_device_eval_batch_size=4, save_strategy="no", disable_tqdm=True
    )
    cls, model = Overrides if way == "override" else Trainer, net() if way == "loss_fn" else Own(loss_fn)
    trainer = cls(
        model, args, train_dataset=rows, eval_dataset=rows, loss_fn=loss_fn if way == "loss_fn" else None,
        compute_metrics=lambda p: {"off": abs(p.predictions - net()(X).detach().numpy()).max()},
    )  # fmt: skip

    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()

    right = loss_fn(net()(X), LABELS).item()
    assert [before["eval_loss"], after["eval_loss"]] == pytest.approx([right, right], rel=1e-5)
    assert max(before["eval_off"], after["eval_off"]) < 1e-6


NOTHING: dict[str, Callable[[Tensor], Tensor]] = {
    "a sum times 0": lambda outputs: outputs.sum() * 0,
    "0 times a mean": lambda outputs: 0.0 * outputs.mean(),
    "a sum of zeros": lambda outputs: (outputs * 0).sum(),
    "a constant": lambda outputs: torch.zeros((), requires_grad=True),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_a_loss_returns_where_no_label_counts_has_no_weight(name: str, tmp_path: Any) -> None:
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[-1.0], [-1], [-1], [-1], [2], [-1], [3], [-1]])

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        counts = labels > 0
        return nn.functional.mse_loss(outputs[counts], labels[counts]) if counts.any() else NOTHING[name](outputs)

    found = []
    for size in (8, 2):
        torch.manual_seed(0)
        model, data = nn.Linear(2, 1), TensorDataset(x, labels)
        args = TrainingArguments(
            str(tmp_path), per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, save_strategy="no",
            per_device_eval_batch_size=3, train_sampling_strategy="sequential", max_steps=1, logging_steps=1,
            learning_rate=0.1, optim="sgd", max_grad_norm=0, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model, args, train_dataset=data, eval_dataset=data, loss_fn=loss_fn)
        before = trainer.evaluate()["eval_loss"]
        loss = trainer.train().training_loss
        found.append([before, loss, trainer.evaluate()["eval_loss"], *model.weight.flatten().tolist()])

    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[0][0] == pytest.approx(found[0][1], rel=1e-5)
