"""State of an optimizer in a checkpoint: its types are those that the optimizer gave it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.torch_models import DictDataset, classified, mlp, weights_of
from torch import nn

FEATURES, LABELS = classified(40).tensors


class Master(torch.optim.Optimizer):
    """Momentum with float32 master weights, nested state, a step counter and state in int8."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float64)
                    state["master"] = weight.float().clone()
                    state["parts"] = {"momentum": [torch.zeros_like(weight, dtype=torch.float32)]}
                    state["signs"] = torch.zeros_like(weight, dtype=torch.int8)
                    state["mean"] = torch.zeros_like(weight)
                momentum = state["parts"]["momentum"][0].mul_(0.9).add_(weight.grad.float())
                state["signs"].copy_(weight.grad.sign())
                state["mean"].lerp_(weight.grad, 0.1)
                state["step"] += 1
                state["master"].add_(momentum + 0.01 * state["signs"], alpha=-group["lr"])
                weight.copy_(state["master"])


class Bfloat16(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp().bfloat16()

    def forward(self, x: Any) -> Any:
        return self.inner(x.bfloat16()).float()


@pytest.fixture
def masters(make_trainer):
    def make(model: nn.Module | None = None) -> Any:
        model = model or Bfloat16()
        options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "train_dataset": classified(40)}
        return make_trainer(model=model, optimizers=(Master(model.parameters(), 1e-2), None), **options)

    return make


def test_state_of_another_type_than_its_weight_is_resumed_to_the_bit(masters):
    whole, resumed = masters(), masters()

    whole.train()
    resumed.train(f"{whole.args.output_dir}/checkpoint-4")

    types = {name: part.dtype for name, part in next(iter(resumed.optimizer.state.values())).items() if name != "parts"}
    assert types == {
        "step": torch.float64,
        "master": torch.float32,
        "signs": torch.int8,
        "mean": torch.bfloat16,
    }
    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
    for one, other in zip(whole.optimizer.state.values(), resumed.optimizer.state.values(), strict=True):
        assert torch.equal(one["master"], other["master"])
        assert torch.equal(one["parts"]["momentum"][0], other["parts"]["momentum"][0])


def test_state_of_the_type_of_its_weight_follows_a_model_that_is_now_of_another_type(make_trainer):
    data = DictDataset(x=FEATURES, labels=LABELS)

    class Cast(nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            self.inner = mlp().to(dtype)

        def forward(self, x: Any, labels: Any = None) -> Any:
            logits = self.inner(x.to(self.inner[0].weight.dtype)).float()
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    options = {"train_dataset": data, "loss_fn": None, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    wide = make_trainer(model=Cast(torch.float32), **options)
    narrow = make_trainer(model=Cast(torch.bfloat16), **options)

    wide.train()
    narrow.train(f"{wide.args.output_dir}/checkpoint-2")

    assert {part["exp_avg"].dtype for part in narrow.optimizer.state.values()} == {torch.bfloat16}


def test_a_learning_rate_that_is_a_number_of_numpy_is_resumed(make_trainer):
    def trainer(steps: int) -> Any:
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), np.logspace(-1, -2, 3)[0])
        options = {"max_steps": steps, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
        return make_trainer(model=model, optimizers=(optimizer, None), **options)

    trainer(2).train()
    resumed = trainer(4)
    resumed.train(resume_from_checkpoint=True)

    assert [group["lr"] for group in resumed.optimizer.param_groups] == [0.1]
