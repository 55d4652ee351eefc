"""Data and models on several ranks that change in a run, or that the user has prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from support.torch_models import classified, mlp
from torch import nn
from torch.utils.data import DataLoader

from trackside import TrainerCallback
from workers.ddp_common import GLOBAL_BATCH, RANK, WORLD, make, outcome


class Curriculum(TrainerCallback):
    """Gives each epoch other data; with ``uneven``, of another size on each rank."""

    def __init__(self, sizes: tuple[int, ...], uneven: int = 0) -> None:
        self.data = [classified(size + uneven * RANK, dtype=torch.float64) for size in sizes]

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["trainer"].train_dataset = self.data[int(state.epoch)]


class Unfreeze(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            kwargs["model"].requires_grad_(True)


def error_of(action: Any) -> str:
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def resized(folder: Path) -> Any:
    trainer = make(folder, callbacks=[Curriculum((6, 13))])
    trainer.train()
    return outcome(trainer)


def own_loader(folder: Path) -> Any:
    """The ranks take turns, so that an update has the examples of one batch from each."""
    data = classified(18, dtype=torch.float64)
    trainer = make(folder, train_dataset=DataLoader(data, GLOBAL_BATCH // WORLD))
    trainer.train()
    return outcome(trainer)


def resized_unevenly(folder: Path) -> Any:
    return error_of(make(folder, callbacks=[Curriculum((6, 12), uneven=12)]).train)


def unfrozen(folder: Path) -> Any:
    model = mlp(dtype=torch.float64)
    next(model.children()).requires_grad_(False)
    return error_of(make(folder, model, callbacks=[Unfreeze()]).train)


def wrapped_already(folder: Path) -> Any:
    make(folder)  # joins the processes
    model = nn.parallel.DistributedDataParallel(mlp(dtype=torch.float64))
    return error_of(lambda: make(folder, model))
