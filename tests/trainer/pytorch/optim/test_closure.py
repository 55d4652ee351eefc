"""Optimizers that compute an update several times train as by hand, and are resumed exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.torch_models import classified, mlp, weights_of
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import StepLR

from trackside import Trainer, TrainingArguments
from trackside.callbacks.errors import UnsupportedError
from trackside.trainer.pytorch.optim.closure import needs_closure

LOSS = nn.CrossEntropyLoss()
DATA = classified(24, dtype=torch.float64)


def make(tmp_path: Any, model: Any, *, optimizers: Any = (None, None), **options: Any) -> Trainer:
    values = {
        "per_device_train_batch_size": 4, "max_steps": 4, "logging_steps": 1, "max_grad_norm": 0, "disable_tqdm": True,
        "save_strategy": "no", "no_cuda": True, "lr_scheduler_type": "constant", **options,
    }  # fmt: skip
    return Trainer(
        model, TrainingArguments(str(tmp_path), **values), train_dataset=DATA, loss_fn=LOSS, optimizers=optimizers
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_optimizer_with_a_closure_trains_as_by_hand(tmp_path: Any, accumulation: int) -> None:
    model, other = mlp(dtype=torch.float64), mlp(dtype=torch.float64)
    optimizer = LBFGS(model.parameters(), lr=0.1, max_iter=5, line_search_fn="strong_wolfe")
    size = 4 // accumulation
    options = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": size}
    trainer = make(tmp_path, model, optimizers=(optimizer, None), **options)

    trainer.train()

    by_hand = LBFGS(other.parameters(), lr=0.1, max_iter=5, line_search_fn="strong_wolfe")
    losses = []
    for _, (x, y) in zip(range(4), make(tmp_path, mlp(dtype=torch.float64)).get_train_dataloader(), strict=False):

        def closure(x: Any = x, y: Any = y) -> Any:
            by_hand.zero_grad()
            loss = LOSS(other(x), y)
            loss.backward()
            return loss

        losses.append(float(by_hand.step(closure)))  # the loss of the first evaluation
    torch.testing.assert_close(weights_of(model), weights_of(other), rtol=1e-4, atol=1e-5)
    found = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert found == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize(("cls", "needs"), [(SGD, False), (Adam, False), (LBFGS, True)])
def test_only_an_optimizer_that_must_have_a_closure_gets_one(cls: Any, needs: bool) -> None:
    optimizer = cls(mlp(dtype=torch.float64).parameters(), 0.1)

    assert needs_closure(optimizer) is needs
    StepLR(optimizer, 2)
    assert needs_closure(optimizer) is needs


class SharpnessAware(torch.optim.SGD):
    """Moves the weights along the gradient that it finds, and steps from there by that of its closure."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is not None, "a closure is needed"
        moved = []
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                moved.append(parameter.grad * 0.5)
                parameter.add_(moved[-1])
            self.zero_grad()
            closure()
            for parameter, by in zip(self.param_groups[0]["params"], moved, strict=True):
                parameter.sub_(by)
        super().step()


class SharpnessAwareToo(SharpnessAware):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step, by the loss at other weights."""
        if closure is None:
            raise ValueError("a closure is needed")
        super().step(closure)


@pytest.mark.parametrize("cls", [SharpnessAware, SharpnessAwareToo])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_optimizer_that_calls_its_closure_at_moved_weights_trains_as_by_hand(
    tmp_path: Any, accumulation: int, cls: Any
) -> None:
    model, other = mlp(dtype=torch.float64), mlp(dtype=torch.float64)
    options = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 4 // accumulation}
    optimizer, by_hand = cls(model.parameters(), lr=0.1), cls(other.parameters(), lr=0.1)

    make(tmp_path, model, optimizers=(optimizer, None), **options).train()

    for _, (x, y) in zip(range(4), make(tmp_path, mlp(dtype=torch.float64)).get_train_dataloader(), strict=False):

        @torch.enable_grad()
        def closure(x: Any = x, y: Any = y) -> None:
            by_hand.zero_grad()
            LOSS(other(x), y).backward()

        closure()
        by_hand.step(closure)
    torch.testing.assert_close(weights_of(model), weights_of(other), rtol=1e-4, atol=1e-5)


def test_a_run_with_a_closure_is_resumed_exactly(tmp_path: Any) -> None:
    def trainer() -> Trainer:
        model = mlp(dtype=torch.float64)
        options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        return make(tmp_path, model, optimizers=(LBFGS(model.parameters(), 0.1, max_iter=3), None), **options)

    whole, resumed = trainer(), trainer()
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))

    assert torch.equal(weights_of(whole.model), weights_of(resumed.model))


def test_a_closure_is_refused_where_an_update_can_be_computed_only_once(tmp_path: Any) -> None:
    model = mlp(dtype=torch.float64)
    options = {"optimizers": (LBFGS(model.parameters()), None), "auto_find_batch_size": True}

    with pytest.raises(UnsupportedError, match="LBFGS needs a closure"):
        make(tmp_path, model, **options).train()
