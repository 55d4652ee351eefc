"""Gradients of every parameter of the model are those of one update; parameters that come later are trained or told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.torch_models import classified, weights_of
from torch import nn
from torch.optim import SGD

from trackside import Trainer, TrainerCallback, TrainingArguments

LOSS = nn.CrossEntropyLoss()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.head = nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.body(x)))


class At(TrainerCallback):
    """Calls a function with the model and the optimizer before one update."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action = step, action

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.action(model, optimizer)


class Second(TrainerCallback):
    """Steps an optimizer of its own over a part of the model."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.optimizer = SGD(model.body.parameters(), 0.1)

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.optimizer.step()


def unfreeze(model: Any, optimizer: Any) -> None:
    model.requires_grad_(True)


def unfreeze_and_add(model: Any, optimizer: Any) -> None:
    unfreeze(model, optimizer)
    rest = [*model.body.parameters(), *model.norm.parameters()]
    optimizer.add_param_group({"params": rest, "lr": 0.1})


def frozen() -> Net:
    model = Net()
    model.body.requires_grad_(False)
    model.norm.requires_grad_(False)
    return model


@pytest.fixture
def train(tmp_path: Any) -> Any:
    def run(model: Any, callback: Any, *, cls: Any = Trainer, resume: Any = None, **options: Any) -> Trainer:
        names = ("optimizers", "optimizer_cls_and_kwargs")
        given = {name: options.pop(name) for name in names if name in options}
        values = {
            "per_device_train_batch_size": 4, "max_steps": 4, "optim": "sgd", "learning_rate": 0.1, "no_cuda": True,
            "lr_scheduler_type": "constant", "max_grad_norm": 0, "save_strategy": "no", "disable_tqdm": True, **options,
        }  # fmt: skip
        args = TrainingArguments(str(tmp_path), **values)
        trainer = cls(model, args, train_dataset=classified(24), loss_fn=LOSS, callbacks=[callback], **given)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def by_hand(trainer: Trainer, model: Net, step: int, *, weight_decay: float = 0.0) -> torch.Tensor:
    """Return the weights of a loop that unfreezes all before the update after ``step`` of them."""
    rest = [*model.body.parameters(), *model.norm.parameters()]
    decayed = {id(parameter) for parameter in (model.body.weight, model.head.weight)}
    parameters = [{"params": [p], "weight_decay": weight_decay * (id(p) in decayed)} for p in model.parameters()]
    optimizer = SGD(parameters, 0.1)
    for index, (x, y) in enumerate(trainer.get_train_dataloader()):
        if index == 4:
            break
        if index == step:
            for parameter in rest:
                parameter.requires_grad_(True)
        optimizer.zero_grad()
        LOSS(model(x), y).backward()
        optimizer.step()
    return weights_of(model)


@pytest.mark.parametrize("action", [unfreeze, unfreeze_and_add])
@pytest.mark.parametrize("step", [0, 2])
def test_parameters_that_are_unfrozen_later_train_from_that_update_on(train: Any, action: Any, step: int) -> None:
    trainer = train(frozen(), At(step, action))

    torch.testing.assert_close(weights_of(trainer.model), by_hand(trainer, frozen(), step))


def test_unfrozen_parameters_are_told_once_and_decayed_as_if_they_had_been_there(train: Any, caplog: Any) -> None:
    trainer = train(frozen(), At(1, unfreeze), weight_decay=0.5)

    torch.testing.assert_close(weights_of(trainer.model), by_hand(trainer, frozen(), 1, weight_decay=0.5))
    told = [text for text in caplog.messages if "were unfrozen" in text]
    names = "body.weight, body.bias, norm.weight, norm.bias"
    assert told == [f"{names} were unfrozen, and are trained from this update on"]
    assert [len(group["params"]) for group in trainer.optimizer.param_groups] == [2, 4]


def test_unfrozen_parameters_are_clipped_and_accumulated_like_the_others(train: Any) -> None:
    options = {"max_grad_norm": 0.01, "gradient_accumulation_steps": 2, "max_steps": 2}

    late, early = train(frozen(), At(0, unfreeze), **options), train(Net(), At(9, unfreeze), **options)

    torch.testing.assert_close(weights_of(late.model), weights_of(early.model))


@pytest.mark.parametrize("optim", ["adamw_torch", "lion", "adafactor"])
def test_a_resumed_run_goes_on_with_what_was_unfrozen(train: Any, tmp_path: Any, optim: str) -> None:
    options = {"optim": optim, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "learning_rate": 0.01}
    whole = train(frozen(), At(1, unfreeze), **options)

    resumed = train(frozen(), At(1, unfreeze), resume=str(tmp_path / "checkpoint-3"), **options)

    assert torch.equal(weights_of(whole.model), weights_of(resumed.model))


def test_a_layer_that_is_put_in_within_a_run_is_named_since_it_is_not_trained(train: Any, caplog: Any) -> None:
    def replace(model: Any, optimizer: Any) -> None:
        model.head = nn.Linear(model.head.in_features, model.head.out_features)

    train(Net(), At(1, replace))

    assert caplog.text.count("head.weight, head.bias came into the model when the optimizer was made already") == 1


def test_an_optimizer_of_the_users_own_is_left_alone_and_the_parameters_are_named(train: Any, caplog: Any) -> None:
    model = frozen()
    body = model.body.weight.clone()

    train(model, At(1, unfreeze), optimizers=(SGD(model.head.parameters(), 0.1), None))

    assert torch.equal(model.body.weight, body)
    told = [text for text in caplog.messages if "were unfrozen" in text]
    assert len(told) == 1
    assert "body.weight, body.bias, norm.weight, norm.bias were unfrozen, but are not in the optimizer" in told[0]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("make", [Net, frozen])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_that_a_second_optimizer_uses_are_those_of_the_update(
    train: Any, make: Any, accumulation: int
) -> None:
    model = make()
    model.body.requires_grad_(True)
    optimizer = SGD(model.head.parameters(), 0.1)
    options = {
        "gradient_accumulation_steps": accumulation,
        "max_steps": 3,
        "per_device_train_batch_size": 4 // accumulation,
    }

    trainer = train(model, Second(), optimizers=(optimizer, None), **options)

    other = make()
    other.body.requires_grad_(True)
    both = SGD([*other.head.parameters(), *other.body.parameters()], 0.1)
    loader = train(Net(), At(9, unfreeze), max_steps=1).get_train_dataloader()
    for _, (x, y) in zip(range(3), loader, strict=False):
        other.zero_grad()
        LOSS(other(x), y).backward()
        both.step()
    torch.testing.assert_close(weights_of(trainer.model), weights_of(other))


def test_a_part_that_a_callback_unfreezes_for_its_own_optimizer_is_stepped_once(train: Any) -> None:
    class Unfreezes(Second):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            model.body.requires_grad_(True)

    trainer = train(frozen(), Unfreezes())

    model = frozen()
    model.norm.weight.grad = None
    optimizer = SGD([*model.body.parameters(), *model.head.parameters()], 0.1)
    model.body.requires_grad_(True)
    for _, (x, y) in zip(range(4), trainer.get_train_dataloader(), strict=False):
        optimizer.zero_grad()
        LOSS(model(x), y).backward()
        optimizer.step()
    torch.testing.assert_close(weights_of(trainer.model), weights_of(model))


def test_a_module_that_comes_later_has_gradients_of_one_update_only(train: Any) -> None:
    seen = []

    class Adds(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                model.norm = nn.Sequential(model.norm, nn.Linear(4, 4))

        def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            if state.global_step:
                seen.append(model.norm[1].weight.grad.abs().sum().item())

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            assert all(parameter.grad is None for parameter in model.parameters())

    train(Net(), Adds())

    assert len(seen) == 3


def test_a_trained_model_keeps_nothing_of_its_run(train: Any) -> None:
    model = frozen()

    train(model, At(9, unfreeze))

    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())
    assert not model.body.weight.requires_grad


def test_an_optimizer_without_a_common_learning_rate_trains(train: Any) -> None:
    class Both(torch.optim.Optimizer):
        def __init__(self, *optimizers: Any) -> None:
            self.optimizers = optimizers
            super().__init__([group for part in optimizers for group in part.param_groups], {})
            self.param_groups = [group for part in optimizers for group in part.param_groups]

        def step(self, closure: Any = None) -> None:
            for part in self.optimizers:
                part.step()

    model = Net()
    parts = [SGD(model.body.parameters(), 0.1), torch.optim.AdamW([*model.norm.parameters(), *model.head.parameters()])]

    trainer = train(model, At(9, unfreeze), optimizers=(Both(*parts), None), logging_steps=1)

    assert trainer.state.log_history[0]["learning_rate"] == 0.1


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_a_group_that_a_callback_added_is_there_again_after_a_resume(train: Any, schedule: str, tmp_path: Any) -> None:
    options = {"optim": "adamw_torch", "lr_scheduler_type": schedule, "save_strategy": "steps", "save_steps": 2}
    whole = train(frozen(), At(1, unfreeze_and_add), **options)

    resumed = train(frozen(), At(1, unfreeze_and_add), resume=str(tmp_path / "checkpoint-2"), **options)

    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
    assert [len(group["params"]) for group in resumed.optimizer.param_groups] == [1, 1, 4]
