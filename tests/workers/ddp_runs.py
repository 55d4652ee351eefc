"""Entire runs on several ranks: saved, resumed, searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from support.torch_models import classified, mlp
from torch import nn

from trackside import Trainer, TrainingArguments
from workers.ddp_common import make, outcome, trained


def saving(folder: Path) -> Any:
    return {"whole": trained(folder / "saved", save_strategy="steps", save_steps=2, optim="adamw_torch")}


def resuming(folder: Path) -> Any:
    trainer = make(folder / "resumed", optim="adamw_torch")
    trainer.train(resume_from_checkpoint=str(folder / "saved" / "checkpoint-4"))
    return {"resumed": outcome(trainer)}


class Searcher(Trainer):
    """Makes its own models, and is asked for trials."""

    def __init__(self, model: nn.Module, args: TrainingArguments, **options: Any) -> None:
        super().__init__(None, args, model_init=lambda: mlp(dtype=torch.float64), **options)


def search(folder: Path) -> Any:
    """Three trials that the first process chooses; its pruner gives up the second after its first evaluation."""
    import optuna

    ended: list[Any] = []
    data = classified(11, seed=1, dtype=torch.float64)
    trainer = make(folder / "search", cls=Searcher, eval_dataset=data, eval_strategy="epoch")
    trainer.on("on_train_end")(lambda trainer, state, **_: ended.append([state.trial_name, state.global_step]))
    study: dict[str, Any] = {
        "sampler": optuna.samplers.GridSampler({"learning_rate": [0.3, 1e-9, 0.1]}, seed=0),
        "pruner": optuna.pruners.ThresholdPruner(upper=1.16),
    }
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [0.3, 1e-9, 0.1])},
        lambda metrics: metrics["eval_loss"],
        n_trials=3,
        backend="optuna",
        **study,
    )
    return {"best": best.hyperparameters, "objective": best.objective, "ended": ended}
