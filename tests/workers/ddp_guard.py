"""Bad batches on one rank only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from support.torch_models import classified
from torch import Tensor, nn

from trackside import LossGuardCallback, Trainer, TrainerCallback
from workers.ddp_common import RANK, WORLD, make, outcome

BAD_STEP = 31


class Disturbed(Trainer):
    """Multiplies the loss of one update on the last rank."""

    factor = 1.0

    def compute_loss(self, model: nn.Module, inputs: Any) -> Tensor:
        loss: Tensor = super().compute_loss(model, inputs)
        is_bad = RANK == WORLD - 1 and self.state.global_step + 1 == BAD_STEP and model.training
        return loss * self.factor if is_bad else loss


class SkipsOnItsOwn(TrainerCallback):
    """Skips one update, on the rank to which it is attached."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_skip_update = state.global_step + 1 == BAD_STEP


def _told(trainer: Trainer) -> dict[str, Any]:
    if not trainer._engine.strategy.is_sharded:
        return outcome(trainer)
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return {"steps": trainer.state.global_step, "losses": losses}


def sharded_guard(folder: Path) -> Any:
    """Do the same with FSDP2."""
    return guard(folder, fsdp="full_shard")


def guard(folder: Path, **args: Any) -> Any:
    """Train with and without a bad update, and with a callback on the first rank only."""
    found = {}
    back = {"non_finite": "roll_back", "spike": "roll_back", "rate_factor": 0.99}
    for name, factor, options in (
        ("clean", 1.0, None),
        ("inf", math.inf, {}),
        ("spike", 100.0, {}),
        ("inf, back", math.inf, back),
        ("spike, back", 100.0, back),
        ("unguarded", math.inf, None),
    ):
        own = None if options is None else LossGuardCallback(**options)
        saves = {"save_strategy": "steps", "save_steps": 10}
        data = classified(240, dtype=torch.float64)
        cls = type("Own", (Disturbed,), {"factor": factor})
        trainer = make(
            folder / name,
            callbacks=[] if own is None else [own],
            cls=cls,
            train_dataset=data,
            eval_dataset=data,
            **saves,
            **args,
        )
        trainer.train()
        bad = [] if own is None else own.bad_steps
        found[name] = {**_told(trainer), "bad": bad, "loss": trainer.evaluate()["eval_loss"]}
    alone = make(folder / "alone", callbacks=[SkipsOnItsOwn()] if RANK == 0 else [], train_dataset=data, **args)
    alone.train()
    return {**found, "alone": {**_told(alone), "bad": [], "loss": alone.evaluate(data)["eval_loss"]}}
