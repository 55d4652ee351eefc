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


class OfClass(Net):
    """Counts from the number of its class on."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)


class Loss(nn.CrossEntropyLoss):
    seen = 0

    def __init__(self, *, is_counting: bool) -> None:
        super().__init__()
        self.is_counting = is_counting

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
        (OfClass(), False, torch.optim.SGD, "passes"),
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


class Curriculum(torch.utils.data.Dataset):
    """Counts what is read of it."""

    def __init__(self, *, is_counting: bool = True) -> None:
        self.data, self.read, self.is_counting = classified(16), 0, is_counting

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        self.read += self.is_counting
        return self.data[index]


@pytest.mark.parametrize(
    ("dataset", "named"),
    [
        (Curriculum(), "train_dataset.read"),
        (torch.utils.data.Subset(Curriculum(), range(12)), "train_dataset.dataset.read"),
        (Curriculum(is_counting=False), ""),
    ],
)
def test_a_dataset_that_counts_is_told(make_trainer, caplog, dataset, named):
    make_trainer(train_dataset=dataset, max_steps=4, save_strategy="steps", save_steps=2).train()

    assert caplog.text.count("no checkpoint holds") == bool(named)
    assert f"may go on differently: {named}. Keep it" in caplog.text or not named


def test_an_optimizer_that_the_trainer_holds_itself_is_told(make_trainer, caplog):
    from trackside import Trainer

    class TwoPlayers(Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.other = nn.Linear(2, 2)
            self.other_optimizer = torch.optim.Adam(self.other.parameters())

        def compute_loss(self, model: Any, inputs: Any) -> Any:
            if model.training:
                self.other(torch.ones(1, 2)).sum().backward()
                self.other_optimizer.step()
            return super().compute_loss(model, inputs)

    make_trainer(TwoPlayers, max_steps=4, save_strategy="steps", save_steps=2).train()

    assert "differently: trainer.other, trainer.other_optimizer. Keep it" in caplog.text
