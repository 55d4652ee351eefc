"""Entire runs on several ranks: saved, resumed, searched."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import torch
from support.torch_models import classified, mlp
from torch import nn

from trackside import Trainer, TrainingArguments
from trackside.callbacks.errors import ArgumentError, RankError
from workers.ddp_common import RANK, arguments, make, outcome, trained


def saving(folder: Path) -> Any:
    """Save, and note what each rank sends to the first and receives, as digests."""
    trainer = make(folder / "saved", save_strategy="steps", save_steps=2, optim="adamw_torch")
    collectives = trainer._engine.strategy.collectives
    collect, sent, received = collectives._collect, [], []

    def noted(name: str, packed: bytes) -> list[bytes] | None:
        parts = collect(name, packed)
        sent.append(hashlib.sha256(packed).hexdigest())
        received.append(None if parts is None else [hashlib.sha256(part).hexdigest() for part in parts])
        return parts

    collectives._collect = noted
    trainer.train()
    return {"whole": outcome(trainer), "sent": sent, "received": received}


def resuming(folder: Path) -> Any:
    trainer = make(folder / "resumed", optim="adamw_torch")
    trainer.train(resume_from_checkpoint=str(folder / "saved" / "checkpoint-4"))
    return {"resumed": outcome(trainer)}


def saving_on_each_node(folder: Path) -> Any:
    """Train on machines with disks of their own, and go on from there; then say where they see one folder."""
    options = {"save_strategy": "steps", "save_steps": 2, "save_on_each_node": True, "lr_scheduler_type": "constant"}
    disk = Path("/mnt") / "out"
    trained(disk, max_steps=4, **options)
    trainer = make(disk, max_steps=6, **options)
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()
    found = {"there": sorted(path.name for path in disk.iterdir()), "resumed": outcome(trainer)}
    try:
        trained(folder / "seen_by_both", max_steps=2, **options)
    except (ArgumentError, RankError) as error:
        found["refused"] = f"{type(error).__name__}: {error}"
    return found


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


def dropin(folder: Path) -> Any:
    """What scripts for the transformers Trainer do with several processes, before the trainer exists and after."""
    folder.mkdir(parents=True, exist_ok=True)
    args = arguments(folder, ddp_static_graph=True)
    made = folder / "made"
    with args.main_process_first(desc="a cache"):
        was_there = made.exists()
        if RANK == 0:
            time.sleep(0.3)
            made.write_text("by the first")
    trainer = make(folder, ddp_static_graph=True, gradient_accumulation_steps=3)
    trainer.train()
    accelerator = trainer.accelerator
    accelerator.wait_for_everyone()
    return {
        **outcome(trainer),
        "was there": was_there,
        "gathered": accelerator.gather_for_metrics({"x": torch.tensor([RANK, RANK])})["x"].tolist(),
        "objects": accelerator.gather_for_metrics([f"rank {RANK}"], use_gather_object=True),
        "is main": accelerator.is_main_process,
    }
