"""What training changes and no checkpoint holds is told once, by name, at the first checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.torch_models import classified
from torch import Tensor, nn


class Net(nn.Module):
    """Keeps a running mean, and how often it was called."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.kind, self.calls, self.factor = kind, 0, 2.0
        self.layer = nn.Linear(6, 3)
        if kind == "attribute":
            self.mean = torch.zeros(3)
        else:
            self.register_buffer("mean", torch.zeros(3), persistent=kind != "not persistent")

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.layer(x)
        if self.kind == "number":
            self.calls += 1
        elif self.kind == "attribute":
            self.mean = 0.9 * self.mean + outputs.detach().mean(0)
        elif self.kind:
            self.mean.mul_(0.9).add_(outputs.detach().mean(0))
        return outputs * self.factor


class WithExtraState(Net):
    def get_extra_state(self) -> Any:
        return {"calls": self.calls}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]


class Loss(nn.CrossEntropyLoss):
    seen = 0

    def __init__(self, *, is_counting: bool) -> None:
        super().__init__()
        self.is_counting, self.seen = is_counting, 0

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        self.seen += self.is_counting
        return super().forward(outputs, labels)


class Counting(torch.optim.SGD):
    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        return super().step(closure)


@pytest.mark.parametrize(
    ("model", "counts", "optimizer", "named"),
    [
        (Net("number"), False, torch.optim.SGD, "calls"),
        (Net("attribute"), False, torch.optim.SGD, "mean"),
        (nn.Sequential(Net("not persistent")), False, torch.optim.SGD, "0.mean"),
        (Net(), True, torch.optim.SGD, "loss_fn.seen"),
        (Net(), False, Counting, "optimizer.steps"),
        (Net(), False, torch.optim.SGD, ""),
        (Net("buffer"), False, torch.optim.SGD, ""),
        (WithExtraState("number"), False, torch.optim.SGD, ""),
        (nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), False, torch.optim.AdamW, ""),
    ],
)
def test_it_is_told_once(make_trainer, caplog, model, counts, optimizer, named):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "train_dataset": classified(16)}
    pair = (optimizer(model.parameters(), 0.1), None)
    trainer = make_trainer(model=model, loss_fn=Loss(is_counting=counts), optimizers=pair, **options)

    trainer.train()

    assert caplog.text.count("no checkpoint holds") == bool(named)
    assert f"may go on differently: {named}. Keep it" in caplog.text or not named
