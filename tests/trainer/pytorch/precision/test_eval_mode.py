"""After an evaluation every module is in the mode in which it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.torch_models import classified
from torch import nn

from trackside import Trainer, TrainerCallback, TrainingArguments
from trackside.trainer.pytorch.precision.eval_mode import eval_mode


class Merges(nn.Linear):
    """Merges something into its weights in evaluation mode, as LoRA layers do."""

    is_merged = False

    def train(self, mode: bool = True) -> Any:
        self.is_merged = not mode
        return super().train(mode)


class Frozen(nn.BatchNorm1d):
    """Stays in evaluation mode."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)), Frozen(4), Merges(4, 3))


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_every_module_is_put_back_into_its_own_mode(root: bool, dtype: Any) -> None:
    model = network().train(root)
    model[1].eval()
    model[1][1].train()
    model[3].eval()
    before = [module.training for module in model.modules()]

    with eval_mode(model, dtype):
        within = [module.training for module in model.modules()]

    assert not any(within)
    assert [module.training for module in model.modules()] == before
    assert model[3].is_merged


def test_a_module_with_its_own_train_is_asked_to_go_back() -> None:
    model = network().train()

    with eval_mode(model, None):
        assert model[3].is_merged

    assert not model[3].is_merged
    assert not model[2].training


class FreezeBody(TrainerCallback):
    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        model[1].requires_grad_(False).eval()


def test_a_frozen_part_stays_in_eval_mode_through_evaluations(tmp_path: Any) -> None:
    model, data = network(), classified(16)
    args = TrainingArguments(
        str(tmp_path), max_steps=4, eval_strategy="steps", eval_steps=1, save_strategy="no", disable_tqdm=True
    )

    Trainer(
        model, args, train_dataset=data, eval_dataset=data, loss_fn=nn.CrossEntropyLoss(), callbacks=[FreezeBody]
    ).train()

    assert not model[1].training
    assert model.training
    assert model[1][0].running_mean.tolist() == [0.0] * 4
