"""Training begins each update in the modes of the first; an optimizer with modes is in the right one everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import schedulefree
import torch
from safetensors.torch import load_file
from support.callback_examples import RaisesAt
from support.torch_models import classified, mlp, weights_of
from torch import nn

from trackside import Trainer, TrainerCallback, TrainingArguments

LOSS = nn.CrossEntropyLoss()
DATA = classified(24)


def trainer_of(tmp_path: Any, model: Any, *, callbacks: Any = (), make: Any = None, cls: Any = Trainer, **options: Any):  # type: ignore[no-untyped-def]
    values = {
        "per_device_train_batch_size": 4, "max_steps": 4, "optim": "sgd", "learning_rate": 0.1, "disable_tqdm": True,
        "lr_scheduler_type": "constant", "max_grad_norm": 0, "save_strategy": "no", "no_cuda": True, **options,
    }  # fmt: skip
    optimizers = (None if make is None else make(model), None)
    args = TrainingArguments(str(tmp_path), **values)
    return cls(
        model, args, train_dataset=DATA, eval_dataset=DATA, loss_fn=LOSS, callbacks=callbacks, optimizers=optimizers
    )


class Samples(TrainerCallback):
    """Leaves the model in evaluation mode."""

    def __init__(self, event: str = "on_step_end") -> None:
        setattr(self, event, self.sample)

    def sample(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        model.eval()


class Watches(TrainerCallback):
    def __init__(self) -> None:
        self.seen: list[list[bool]] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.seen.append([module.training for module in model.modules()])


class Freezes(TrainerCallback):
    """Keeps a part in evaluation mode, from one update on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            model[2].eval()


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin", "on_step_begin", "on_step_end"])
def test_a_callback_that_leaves_evaluation_mode_does_not_change_training(tmp_path: Any, event: str) -> None:
    left, plain = mlp(dropout=0.5), mlp(dropout=0.5)

    trainer_of(tmp_path, left, callbacks=[Samples(event)]).train()
    trainer_of(tmp_path, plain).train()

    assert torch.equal(weights_of(left), weights_of(plain))


def test_a_part_that_was_frozen_for_the_first_update_stays_so(tmp_path: Any) -> None:
    watch = Watches()

    trainer_of(tmp_path, mlp(dropout=0.5), callbacks=[Freezes(0), Samples, watch]).train()

    assert watch.seen == [[True, True, True, False, True]] * 4


def test_a_part_that_is_frozen_later_stays_so(tmp_path: Any) -> None:
    watch = Watches()

    trainer_of(tmp_path, mlp(dropout=0.5), callbacks=[Freezes(2), watch], eval_strategy="steps", eval_steps=1).train()

    assert [modes[3] for modes in watch.seen] == [True, True, False, False]


def schedule_free(model: nn.Module) -> Any:
    return schedulefree.SGDScheduleFree(model.parameters(), lr=0.5)


def by_hand(trainer: Trainer, updates: int) -> tuple[torch.Tensor, list[float]]:
    """Return the weights for evaluation after a loop by hand, and the loss over the data after each update."""
    model, losses = mlp(), []
    optimizer = schedule_free(model)
    for _, (x, y) in zip(range(updates), trainer.get_train_dataloader(), strict=False):
        optimizer.train()
        optimizer.zero_grad()
        LOSS(model(x), y).backward()
        optimizer.step()
        optimizer.eval()
        losses.append(LOSS(model(DATA.tensors[0]), DATA.tensors[1]).item())
    return weights_of(model), losses


@pytest.mark.parametrize("save_async", [True, False])
def test_a_schedule_free_optimizer_trains_evaluates_and_saves_in_its_modes(tmp_path: Any, save_async: bool) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 2}
    trainer = trainer_of(tmp_path, mlp(), make=schedule_free, save_async=save_async, **options)

    trainer.train()

    expected, losses = by_hand(trainer, 4)
    torch.testing.assert_close(weights_of(trainer.model), expected)
    found = [record["eval_loss"] for record in trainer.state.log_history if "eval_loss" in record]
    assert found == pytest.approx(losses, rel=1e-4)
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    torch.testing.assert_close(
        torch.cat([saved[name].flatten() for name in trainer.model.state_dict()]), by_hand(trainer, 2)[0]
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[-1], rel=1e-4)


class OwnSaving(Trainer):
    """Saves by itself, from the live model."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir)


@pytest.mark.parametrize("cls", [Trainer, OwnSaving])
def test_a_schedule_free_run_is_resumed_exactly(tmp_path: Any, cls: Any) -> None:
    options = {"make": schedule_free, "cls": cls, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = trainer_of(tmp_path, mlp(), **options)
    whole.train()

    resumed = trainer_of(tmp_path, mlp(), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))

    assert torch.equal(weights_of(whole.model), weights_of(resumed.model))
    saved = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    assert torch.equal(torch.cat([saved[name].flatten() for name in whole.model.state_dict()]), weights_of(whole.model))


def test_the_best_weights_of_a_schedule_free_run_stay_as_they_were_saved(tmp_path: Any) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "load_best_model_at_end": True}
    trainer = trainer_of(
        tmp_path, mlp(), make=lambda m: schedulefree.SGDScheduleFree(m.parameters(), lr=5.0), max_steps=6, **options
    )

    trainer.train()

    losses = [record["eval_loss"] for record in trainer.state.log_history if "eval_loss" in record]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)


def test_an_exception_leaves_the_weights_for_evaluation(tmp_path: Any) -> None:
    trainer = trainer_of(tmp_path, mlp(), make=schedule_free, callbacks=[RaisesAt(3, KeyError("broken"))])

    with pytest.raises(KeyError):
        trainer.train()

    torch.testing.assert_close(weights_of(trainer.model), by_hand(trainer, 3)[0])
