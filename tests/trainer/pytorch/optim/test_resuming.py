"""Restoring torch's optimizers and schedules under other options, groups and classes."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from trackside.callbacks.errors import TracksideValueError
from trackside.trainer.optim.lr_schedules import step_schedule
from trackside.trainer.pytorch.optim.resuming import TorchMadeOptimizer
from trackside.trainer.pytorch.optim.several import Optimizers


def model_of(*, head: str = "head", frozen: bool = False) -> nn.Module:
    torch.manual_seed(0)
    model = nn.ModuleDict({"body": nn.Linear(3, 4), head: nn.Linear(4, 2)})
    model["body"].requires_grad_(not frozen)
    return model


def run(model: nn.Module, optimizer: Any, schedule: Any, steps: int) -> None:
    for _ in range(steps):
        hidden = model["body"](torch.ones(2, 3))
        list(model.children())[1](hidden).square().mean().backward()
        optimizer.step()
        step_schedule(schedule)
        optimizer.zero_grad()


def saved(content: Any) -> Any:
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def go_on(first: Any, then: Any, *, models: Any = None, steps: int = 4) -> tuple[Any, Any, list[str], list[Any]]:
    """Run ``first``, restore it into ``then``; return the new optimizer and schedule, what is said, and the old."""
    old_model, new_model = models or (model_of(), model_of())
    old_optimizer, old_schedule = first(old_model)
    before = TorchMadeOptimizer(old_optimizer, old_schedule, old_model).record
    run(old_model, old_optimizer, old_schedule, steps)
    optimizer, schedule = then(new_model)
    made = TorchMadeOptimizer(optimizer, schedule, new_model)
    notes = made.load_optimizer(saved(old_optimizer.state_dict()), before)
    state = None if old_schedule is None else saved(old_schedule.state_dict())
    notes += made.load_schedule(state, before, steps)
    run(new_model, optimizer, schedule, 1)  # never an error from inside
    return optimizer, schedule, notes, [old_optimizer, old_schedule]


def make(cls: Any, schedule: Any = None, **options: Any) -> Any:
    def made(model: nn.Module) -> Any:
        optimizer = cls([each for each in model.parameters() if each.requires_grad], **{"lr": 0.1, **options})
        return optimizer, schedule and schedule(optimizer)

    return made


FLAGS = [
    (partial(make, torch.optim.Adam), {}, {"amsgrad": True}),
    (partial(make, torch.optim.Adam), {"amsgrad": True}, {}),
    (partial(make, torch.optim.RMSprop), {}, {"centered": True, "momentum": 0.9}),
    (partial(make, torch.optim.SGD), {}, {"momentum": 0.9, "nesterov": True}),
    (partial(make, torch.optim.SGD), {"momentum": 0.9}, {}),
    (partial(make, torch.optim.Adagrad), {}, {"lr_decay": 0.1}),
    (partial(make, torch.optim.Adadelta), {}, {"rho": 0.5}),
]


@pytest.mark.parametrize(("cls", "before", "after"), FLAGS)
def test_an_option_that_needs_more_state_gets_it(cls: Any, before: Any, after: Any) -> None:
    optimizer, _, notes, _ = go_on(cls(**before), cls(**after))

    assert notes == []
    assert {name: optimizer.param_groups[0][name] for name in after} == after


CLASSES = [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.NAdam]


@pytest.mark.parametrize("new", CLASSES)
@pytest.mark.parametrize("old", CLASSES)
def test_another_class_takes_the_state_that_fits_or_none(old: Any, new: Any) -> None:
    optimizer, _, notes, _ = go_on(make(old), make(new, lr=0.02))

    assert [group["lr"] for group in optimizer.param_groups] == [0.02]
    assert bool(notes) == (old is not new)


def test_adam_and_adamw_share_their_state() -> None:
    optimizer, _, (note,), _ = go_on(make(torch.optim.Adam), make(torch.optim.AdamW))

    assert "fits and is kept" in note
    assert next(iter(optimizer.state.values()))["step"] == 5


def test_parameters_are_matched_by_name_when_layers_were_frozen() -> None:
    models = (model_of(), model_of(frozen=True))

    optimizer, _, notes, (old, _) = go_on(make(torch.optim.AdamW), make(torch.optim.AdamW), models=models)

    assert notes == []
    weight = models[1]["head"].weight
    assert optimizer.state[weight]["step"] == 5
    assert optimizer.state[weight]["exp_avg"].shape == weight.shape
    assert len(optimizer.state) == 2
    assert len(old.state) == 4


def test_state_of_the_shape_of_another_parameter_is_never_loaded() -> None:
    """A checkpoint without a record has its parameters by position; these may be in another order."""
    model, other = model_of(), model_of()
    optimizer, _ = make(torch.optim.AdamW, weight_decay=0.1)(model)
    run(model, optimizer, None, 2)
    made = TorchMadeOptimizer(torch.optim.AdamW([*other.parameters()][::-1], fused=True), None, other)

    notes = made.load_optimizer(saved(optimizer.state_dict()), None)
    run(other, made.optimizer, None, 1)

    assert notes == [
        "the checkpoint has no optimizer state of head.bias, head.weight, body.bias, body.weight, which begin anew"
    ]
    assert all(state["exp_avg"].shape == parameter.shape for parameter, state in made.optimizer.state.items())


def test_a_new_head_begins_anew_and_is_named() -> None:
    models = (model_of(), model_of(head="other"))

    optimizer, _, (note,), _ = go_on(make(torch.optim.AdamW), make(torch.optim.AdamW), models=models)

    assert "other.weight, other.bias" in note
    assert optimizer.state[models[1]["other"].weight]["step"] == 1
    assert optimizer.state[models[1]["body"].weight]["step"] == 5


SCHEDULES = [
    (partial(lr_scheduler.StepLR, step_size=2), partial(lr_scheduler.StepLR, step_size=3)),
    (partial(lr_scheduler.ExponentialLR, gamma=0.9), partial(lr_scheduler.ExponentialLR, gamma=0.5)),
    (
        partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.9**step),
        partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.8**step),
    ),
    (
        partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda step: 0.9),
        partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda step: 0.8),
    ),
    (partial(lr_scheduler.CosineAnnealingLR, T_max=10), partial(lr_scheduler.OneCycleLR, max_lr=0.3, total_steps=20)),
]


@pytest.mark.parametrize(("old", "new"), SCHEDULES)
def test_another_schedule_is_where_it_would_be_had_it_been_there_from_the_beginning(old: Any, new: Any) -> None:
    optimizer, _, (note,), _ = go_on(make(torch.optim.AdamW, old), make(torch.optim.AdamW, new))

    whole, schedule = make(torch.optim.AdamW, new)(model := model_of())
    run(model, whole, schedule, 5)
    assert optimizer.param_groups[0]["lr"] == whole.param_groups[0]["lr"]
    assert optimizer.param_groups[0]["betas"] == whole.param_groups[0]["betas"]
    assert "new schedule" in note


@pytest.mark.parametrize("schedule", [pair[0] for pair in SCHEDULES] + [SCHEDULES[-1][1]])
def test_the_same_schedule_goes_on_where_it_was(schedule: Any) -> None:
    optimizer, _, notes, (old, old_schedule) = go_on(
        make(torch.optim.AdamW, schedule), make(torch.optim.AdamW, schedule)
    )

    old_schedule.step()
    assert notes == []
    assert optimizer.param_groups[0]["lr"] == old.param_groups[0]["lr"]
    assert optimizer.param_groups[0]["betas"] == old.param_groups[0]["betas"]


def test_a_value_that_a_callback_changed_stays_while_its_argument_does() -> None:
    def changed(model: nn.Module) -> Any:
        optimizer, schedule = make(torch.optim.AdamW)(model)
        return optimizer, schedule

    model = model_of()
    old, _ = changed(model)
    before = TorchMadeOptimizer(old, None, model).record
    old.param_groups[0].update(lr=0.03, weight_decay=0.7, note="mine")
    for option, right in ({}, (0.03, 0.7)), ({"lr": 0.2}, (0.2, 0.7)), ({"weight_decay": 0.5}, (0.03, 0.5)):
        optimizer, _ = make(torch.optim.AdamW, **option)(other := model_of())

        TorchMadeOptimizer(optimizer, None, other).load_optimizer(saved(old.state_dict()), before)

        group = optimizer.param_groups[0]
        assert (group["lr"], group["weight_decay"]) == right
        assert group["note"] == "mine"


def several(**options: Any) -> Any:
    def made(model: nn.Module) -> Any:
        body, head = list(model.children())
        adam = torch.optim.Adam(body.parameters(), lr=0.1, **options)
        return Optimizers({"body": adam, "head": torch.optim.SGD(head.parameters(), lr=0.2)}), None

    return made


def test_several_optimizers_are_restored_each_with_its_new_options() -> None:
    optimizer, _, notes, _ = go_on(several(), several(amsgrad=True, betas=(0.5, 0.9)))

    assert notes == []
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.9)
    assert {int(state["step"]) for state in optimizer.parts["body"].state.values()} == {5}


def test_a_schedule_that_has_ended_is_named() -> None:
    short = partial(lr_scheduler.OneCycleLR, max_lr=0.3, total_steps=2)

    with pytest.raises(TracksideValueError, match="OneCycleLR cannot go to update 4"):
        go_on(make(torch.optim.SGD, momentum=0.9), make(torch.optim.SGD, short, momentum=0.9))


def test_a_checkpoint_without_a_record_gets_the_new_options() -> None:
    model = model_of()
    old, schedule = make(torch.optim.AdamW, SCHEDULES[0][0])(model)
    run(model, old, schedule, 4)
    optimizer, schedule = make(torch.optim.AdamW, SCHEDULES[0][0], weight_decay=0.5)(other := model_of())
    made = TorchMadeOptimizer(optimizer, schedule, other)

    made.load_optimizer(saved(old.state_dict()), None)
    made.load_schedule({"last_epoch": 4}, None, 4)

    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    assert optimizer.param_groups[0]["lr"] == old.param_groups[0]["lr"]
