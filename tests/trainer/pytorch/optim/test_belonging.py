"""An optimizer that does not belong to the model is named before the first update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.torch_models import classified, mlp
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, OneCycleLR

from trackside import Trainer, TrainerCallback, TrainingArguments


def trainer(folder: Any, model: nn.Module, optimizer: Any = None, schedule: Any = None, **given: Any) -> Trainer:
    cls = given.pop("cls", Trainer)
    args = TrainingArguments(str(folder), max_steps=2, save_strategy="no", disable_tqdm=True, report_to=[])
    options: dict[str, Any] = {"loss_fn": nn.functional.cross_entropy, "optimizers": (optimizer, schedule), **given}
    return cls(model, args, train_dataset=classified(8), **options)


class ForAnother(Trainer):
    def create_optimizer(self) -> Any:
        self.optimizer = SGD(mlp().parameters(), lr=0.1)
        return self.optimizer


class Wraps(Trainer):
    """Sets another model after it made the optimizer, as a wrapper that copies its module would."""

    def create_optimizer(self) -> Any:
        super().create_optimizer()
        self.model = mlp()
        return self.optimizer


@pytest.mark.parametrize("cls", [ForAnother, Wraps])
def test_an_optimizer_of_another_model_that_an_override_makes_is_refused(cls: Any, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"none of the parameters of Sequential, so that it would train nothing"):
        trainer(tmp_path, mlp(), cls=cls).train()


@pytest.mark.parametrize("optimizer_cls", [SGD, AdamW])
def test_an_optimizer_that_is_older_than_the_model_is_refused(optimizer_cls: Any, tmp_path: Any) -> None:
    model = mlp()
    run = trainer(tmp_path, model, optimizer_cls(model.parameters(), lr=0.1))
    run.train()

    run.model = mlp()

    with pytest.raises(ValueError, match=rf"the optimizer, {optimizer_cls.__name__}, has none of the parameters"):
        run.train()


def test_an_optimizer_older_than_new_parameters_is_refused(tmp_path: Any) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().clone()))

    with pytest.raises(ValueError, match="would train nothing"):
        trainer(tmp_path, model, optimizer).train()


def test_parameters_in_no_group_are_counted_and_named_once(tmp_path: Any, caplog: Any) -> None:
    model = mlp()

    trainer(tmp_path, model, SGD(model[0].parameters(), lr=0.1)).train()

    assert caplog.text.count("2 of the 4 trainable parameters of Sequential are in no group of the optimizer") == 1
    assert "3.weight, 3.bias" in caplog.text


def test_parameters_that_are_frozen_need_no_group(tmp_path: Any, caplog: Any) -> None:
    model = mlp()
    model[3].requires_grad_(False)

    trainer(tmp_path, model, SGD(model[0].parameters(), lr=0.1)).train()

    assert "in no group" not in caplog.text


class Steps(TrainerCallback):
    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer


def test_parameters_of_an_optimizer_that_a_callback_steps_need_no_group(tmp_path: Any, caplog: Any) -> None:
    model = mlp()
    second = Steps(SGD(model[3].parameters(), lr=0.1))

    trainer(tmp_path, model, SGD(model[0].parameters(), lr=0.1), callbacks=[second]).train()

    assert "in no group" not in caplog.text


def test_parameters_that_the_model_does_not_have_are_told_once(tmp_path: Any, caplog: Any) -> None:
    model, head = mlp(), nn.Linear(2, 2)

    trainer(tmp_path, model, SGD([*model.parameters(), *head.parameters()], lr=0.1)).train()

    assert caplog.text.count("SGD, has 2 parameters that Sequential does not have") == 1


def test_parameters_outside_of_a_frozen_model_may_be_all_that_is_trained(tmp_path: Any, caplog: Any) -> None:
    model = mlp()
    outside = nn.Parameter(torch.zeros(()))
    model.requires_grad_(False)

    trainer(tmp_path, model, SGD([outside], lr=0.1), loss_fn=lambda x, y: x.mean() * outside).train()

    assert outside != 0
    assert "has 1 parameters that Sequential does not have" in caplog.text


def test_optimizers_of_the_trainer_say_nothing(tmp_path: Any, caplog: Any) -> None:
    trainer(tmp_path, mlp()).train()

    assert not [record for record in caplog.records if record.levelname == "WARNING"]


class Both(torch.optim.Optimizer):
    """Several optimizers, whose groups are also its own."""

    def __init__(self, *parts: Any) -> None:
        self.parts_of_the_user = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.param_groups = [group for part in parts for group in part.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts_of_the_user:
            part.step()


@pytest.mark.parametrize("schedule_cls", [lambda made: LambdaLR(made, lambda step: 1.0), ConstantLR])
def test_a_schedule_of_another_optimizer_is_refused(schedule_cls: Any, tmp_path: Any) -> None:
    model = mlp()
    other = schedule_cls(SGD(model.parameters(), lr=0.1))

    for optimizer in (None, SGD(model.parameters(), lr=0.1)):
        with pytest.raises(ValueError, match="changes the rates of another optimizer than the run's"):
            trainer(tmp_path, model, optimizer, other).train()


def test_a_schedule_of_a_part_of_an_optimizer_is_its_own(tmp_path: Any, caplog: Any) -> None:
    model = mlp()
    first, second = SGD(model[0].parameters(), lr=0.1), AdamW(model[3].parameters(), lr=0.1)

    trainer(tmp_path, model, Both(first, second), LambdaLR(first, lambda step: 0.5)).train()

    assert first.param_groups[0]["lr"] == 0.05
    assert "in no group" not in caplog.text


def test_what_is_not_an_optimizer_or_a_schedule_is_named(tmp_path: Any) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    schedule = ConstantLR(optimizer)

    with pytest.raises(TypeError, match=r"the optimizer, ConstantLR, has no zero_grad\(\)"):
        trainer(tmp_path, model, schedule, optimizer).train()
    with pytest.raises(TypeError, match=r"the schedule, function, has no step\(\)"):
        trainer(tmp_path, model, optimizer, lambda made: ConstantLR(made)).train()


class Plain:
    """Descends with the methods of an optimizer, without torch's class."""

    def __init__(self, model: Any) -> None:
        self.param_groups = [{"params": list(model.parameters()), "lr": 0.1}]

    def step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.data -= 0.1 * parameter.grad

    def zero_grad(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


class Steady:
    """A schedule that changes nothing."""

    def step(self) -> None:
        pass

    def get_last_lr(self) -> list[float]:
        return [0.1]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


def test_an_optimizer_of_a_class_of_ones_own_needs_its_schedule(tmp_path: Any) -> None:
    model = mlp()

    able = trainer(tmp_path / "able", model, Plain(model), Steady())
    able.args.save_strategy = "epoch"
    assert able.train().global_step == 2
    assert (tmp_path / "able" / "checkpoint-2").is_dir()
    with pytest.raises(TypeError, match=r"Plain is not a torch\.optim\.Optimizer, for which .* makes a schedule"):
        trainer(tmp_path, model, Plain(model)).train()


def test_a_schedule_that_ends_before_the_run_is_refused(tmp_path: Any) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    schedule = OneCycleLR(optimizer, max_lr=0.1, total_steps=1)

    with pytest.raises(ValueError, match=r"OneCycleLR, cannot be stepped more than total_steps=1 times, and the"):
        trainer(tmp_path, model, optimizer, schedule).train()
