"""Trainers for the programs that run on several ranks, and how those write down what they found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from support.torch_models import classified, mlp, weights_of
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from trackside import Trainer, TrainingArguments
from trackside.trainer.distributed.launcher import detect_launcher

GLOBAL_BATCH = 6
EXAMPLES = (1, 6, 13, 17, 20)
RANK, WORLD = detect_launcher().rank, detect_launcher().world_size


def arguments(folder: Path, **values: Any) -> TrainingArguments:
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": GLOBAL_BATCH // WORLD,
        "per_device_eval_batch_size": GLOBAL_BATCH // WORLD,
        "num_train_epochs": 2,
        "learning_rate": 0.1,
        "optim": "sgd",
        "max_grad_norm": 0.7,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "ddp_timeout": 60,
    }
    return TrainingArguments(**{**defaults, **values})


def make(folder: Path, model: nn.Module | None = None, cls: type[Trainer] = Trainer, **values: Any) -> Trainer:
    names = ("train_dataset", "eval_dataset", "callbacks", "compute_metrics", "loss_fn", "data_collator")
    given = {name: values.pop(name) for name in names if name in values}
    given.setdefault("train_dataset", classified(17, dtype=torch.float64))
    given.setdefault("loss_fn", nn.CrossEntropyLoss())
    trainer = cls(mlp(dtype=torch.float64) if model is None else model, arguments(folder, **values), **given)
    trainer.pop_callback("printer")
    return trainer


def outcome(trainer: Trainer) -> dict[str, Any]:
    records = [record for record in trainer.state.log_history if "loss" in record]
    return {
        "weights": weights_of(trainer.model).tolist(),
        "losses": [record["loss"] for record in records],
        "norms": [record["grad_norm"] for record in records],
        "steps": trainer.state.global_step,
    }


def trained(*args: Any, **values: Any) -> dict[str, Any]:
    trainer = make(*args, **values)
    trainer.train()
    return outcome(trainer)


class Stream(IterableDataset[Any]):
    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __iter__(self) -> Any:
        return iter(self.data)


def write(folder: Path, found: Any) -> None:
    (folder / f"rank{RANK}.json").write_text(json.dumps(found))


def main(known: dict[str, Any]) -> None:
    """Do what the command line names, after the folder that the results go into."""
    folder = Path(sys.argv[1])
    write(folder, {name: known[name](folder) for name in sys.argv[2:]})
