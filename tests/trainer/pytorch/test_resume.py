"""A run that was interrupted and resumed is, to the bit, the run that was not."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.arrays import accuracy
from support.callback_examples import StopAt
from support.fake_ranks import train_on_ranks
from support.torch_models import classified, mlp, weights_of
from torch import Tensor, nn
from torch.utils.data import Dataset

from trackside import Trainer, TrainerCallback, TrainingArguments, events
from trackside.callbacks.errors import CheckpointError
from trackside.trainer.base_trainer import checkpoints_of

Make = Callable[..., Trainer]


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Examples with random augmentation from all three generators."""

    def __init__(self, examples: int) -> None:
        self.data = classified(examples)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        features, label = self.data[index]
        noise = torch.rand(6) + random.random() + float(np.random.rand())
        return features + 0.1 * noise, label


class Counting(TrainerCallback):
    """A callback with a state of its own."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def comparable(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return log records without what depends on the clock."""
    timed = ("runtime", "per_second")
    return [{name: value for name, value in record.items() if not name.endswith(timed)} for record in history]


CASES = {
    "plain": {},
    "accumulation, ragged end": {"gradient_accumulation_steps": 3},
    "fp16 with loss scale": {"fp16": True},
    "cosine schedule with warmup": {"lr_scheduler_type": "cosine", "warmup_steps": 4},
    "augmentation in the main process": {"train_dataset": Noisy(43)},
    "augmentation in two workers": {"train_dataset": Noisy(43), "dataloader_num_workers": 2},
    "saved in the foreground": {"save_async": False},
    "commits in the middle of a record": {"logging_steps": 5},
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_a_resumed_run_is_bitwise_the_one_that_was_not_interrupted(
    make_trainer: Make, tmp_path: Path, case: str
) -> None:
    def build(folder: str, *extra: Any) -> tuple[Trainer, Counting]:
        counting = Counting()
        options = {
            "train_dataset": classified(43),
            "output_dir": str(tmp_path / folder),
            "model": mlp(dropout=0.3),
            "eval_dataset": classified(9),
            "compute_metrics": accuracy,
            "callbacks": [counting, *extra],
            "num_train_epochs": 3,
            "logging_steps": 2,
            "save_strategy": "steps",
            "save_steps": 3,
            "eval_strategy": "epoch",
            "learning_rate": 1e-2,
            **CASES[case],
        }
        return make_trainer(**options), counting

    whole, whole_counting = build("whole")
    sent = _sent_by(whole)
    whole.train()

    stop = whole.state.max_steps * 2 // 3 + 1
    interrupted, _ = build("cut", StopAt(stop))
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    checkpoints_of(interrupted).committer.wait()
    resumed, resumed_counting = build("cut")
    sent_again = _sent_by(resumed)
    resumed.train(resume_from_checkpoint=True)

    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
    assert comparable(resumed.state.log_history) == comparable(whole.state.log_history)
    assert resumed_counting.steps == whole_counting.steps == list(range(1, whole.state.max_steps + 1))
    for one, other in zip(_tensors(whole.optimizer), _tensors(resumed.optimizer), strict=True):
        assert torch.equal(one, other)
    after = [event for event in sent_again if event[0] not in ("on_load", "on_train_begin", "on_epoch_begin")]
    assert [event for event in sent if event[0] != "on_epoch_begin"][-len(after) :] == after


def _tensors(optimizer: Any) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


def _sent_by(trainer: Trainer) -> list[tuple[str, int]]:
    sent: list[tuple[str, int]] = []
    for name in events.EVENTS:
        if name not in ("on_save", "on_init_end"):  # listening to on_save would make commits synchronous
            trainer.on(name)(_noting(sent, name))
    return sent


def _noting(sent: list[tuple[str, int]], name: str) -> Callable[..., None]:
    return lambda trainer, state, **rest: sent.append((name, state.global_step))


def test_weights_that_do_not_fit_name_what_is_missing(make_trainer: Make) -> None:
    make_trainer(save_strategy="steps", save_steps=2, max_steps=2).train()

    with pytest.raises(CheckpointError, match=r"do not fit the model: missing .*weight"):
        make_trainer(model=torch.nn.Linear(6, 3), max_steps=4).train(resume_from_checkpoint=True)


def run_on(ranks: int, folder: Path, resume: Path | None = None, *, batch_size: int) -> Trainer:
    """Train on ranks that are threads; return the trainer of the first."""

    models = [mlp().double() for _ in range(ranks)]  # torch's generator is one for all threads

    def make(arguments: type[TrainingArguments]) -> Trainer:
        saves: dict[str, Any] = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4}
        size: dict[str, Any] = {"per_device_train_batch_size": batch_size, "learning_rate": 0.01}
        args = arguments(str(folder), disable_tqdm=True, use_cpu=True, **saves, **size)
        data = classified(24, dtype=torch.float64)
        return Trainer(models.pop(), args, train_dataset=data, loss_fn=nn.functional.cross_entropy)

    return train_on_ranks(ranks, make, resume)[0]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(before: int, after: int, tmp_path: Path) -> None:
    whole = run_on(before, tmp_path / "whole", batch_size=8 // before)
    assert whole.state.global_step == 6
    checkpoint = tmp_path / "whole" / "checkpoint-4"

    same = run_on(after, tmp_path / "same", checkpoint, batch_size=8 // after)
    other = run_on(after, tmp_path / "other", checkpoint, batch_size=8 // before)

    assert same.state.global_step == 6  # batches of all ranks are as large as before
    torch.testing.assert_close(weights_of(same.model), weights_of(whole.model), rtol=0, atol=1e-10)
    updates = 16 * before // (8 * after)  # what is left of two epochs of 24, when 32 examples are seen
    assert (other.state.global_step, other.state.epoch) == (4 + updates, 2.0)
