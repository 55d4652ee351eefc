"""What ranks agree on and exchange while they train."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from support.torch_models import classified
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from trackside import ControlFilesCallback, StragglerMonitorCallback, Trainer, TrainerCallback
from trackside.callbacks.errors import CallbackError
from workers.ddp_common import RANK, WORLD, make, outcome


class Steering(TrainerCallback):
    """Steers on one rank only, at one event."""

    def __init__(self, rank: int, event: str, step: int, act: Callable[[Any], None]) -> None:
        def steer(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if rank == RANK and state.global_step == step:
                act(control)

        setattr(self, event, steer)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass


class AsksForStop(ControlFilesCallback):
    """Leaves a request to stop itself, when the last rank has done an update."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if RANK == WORLD - 1 and state.global_step == 2:
            (Path(args.output_dir) / ".control" / "stop").touch()


def _save(control: Any) -> None:
    control.should_save = True


def control(folder: Path) -> Any:
    cases: dict[str, tuple[TrainerCallback, dict[str, Any]]] = {
        "the first stops": (Steering(0, "on_step_end", 3, lambda control: control.stop("enough")), {}),
        "the last stops": (Steering(WORLD - 1, "on_step_end", 3, lambda control: control.stop("enough")), {}),
        "the first stops at a log": (Steering(0, "on_log", 2, lambda control: control.stop("logged")), {}),
        "the first stops at the start": (Steering(0, "on_train_begin", 0, lambda control: control.stop("no")), {}),
        "the first ends an epoch": (
            Steering(0, "on_step_end", 2, lambda control: setattr(control, "should_epoch_stop", True)),
            {},
        ),
        "the first saves at a log": (Steering(0, "on_log", 2, _save), {"save_strategy": "steps", "save_steps": 100}),
        "a control file stops": (AsksForStop(every_s=1e-6), {"save_strategy": "steps", "save_steps": 100}),
        "the last gets SIGTERM": (
            Steering(WORLD - 1, "on_step_end", 2, lambda control: os.kill(os.getpid(), signal.SIGTERM)),
            {"save_strategy": "steps", "save_steps": 100},
        ),
        "the last gets SIGTERM in an evaluation": (
            Steering(WORLD - 1, "on_prediction_step", 2, lambda control: os.kill(os.getpid(), signal.SIGTERM)),
            {
                "save_strategy": "steps",
                "save_steps": 100,
                "eval_strategy": "steps",
                "eval_steps": 2,
                "eval_dataset": classified(400, dtype=torch.float64),
            },
        ),
    }
    found = {}
    for name, (callback, values) in cases.items():
        out = folder / name.replace(" ", "-")
        trainer = make(out, callbacks=[callback], on_stop_signal="return", **values)
        trainer.train()
        found[name] = {
            "evaluations": sum("eval_loss" in record for record in trainer.state.log_history),
            "steps": trainer.state.global_step,
            "reason": trainer.state.stop_reason,
            "epoch": trainer.state.epoch,
            "checkpoints": sorted(path.name for path in out.glob("checkpoint-*")),
        }
    return found


def agreements(folder: Path) -> Any:
    """Count what is agreed on without a callback that may steer at steps, and with one, over 6 updates."""
    counts = {}
    for name, callbacks in (("no callbacks", []), ("one callback", [Steering(0, "on_step_end", 99, _save)])):
        trainer = make(folder, callbacks=callbacks, logging_strategy="no")
        counts[name] = 0
        share_reason = trainer._engine.strategy._share_reason

        def count(control: Any, name: str = name, share_reason: Any = share_reason) -> None:
            counts[name] += 1
            share_reason(control)

        trainer._engine.strategy._share_reason = count
        trainer.train()
    return counts


class OwnBackward(Trainer):
    """Goes backward by itself."""

    def training_step(self, model: nn.Module, inputs: Any) -> Tensor:
        step = self._engine.train_step
        loss = step.mean_loss(self.compute_loss(model, inputs), inputs)
        (loss * step.context.weight).backward()
        return loss.detach()


def exchanges(folder: Path) -> Any:
    """Count the collectives, besides those of the gradients, of 6 updates."""
    found = {}
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "accumulated": {"gradient_accumulation_steps": 3, "num_train_epochs": 6},
        "own backward": {"cls": OwnBackward},
        "looking for unused": {"ddp_find_unused_parameters": True},
    }
    for name, values in cases.items():
        trainer = make(folder, **{"callbacks": [], "logging_strategy": "no", **values})
        counted: list[Any] = []
        exchange = trainer._engine.strategy._exchange if WORLD > 1 else None

        def count(numbers: Any, counted: Any = counted, exchange: Any = exchange) -> Any:
            counted.append(numbers)
            return exchange(numbers)

        trainer._engine.strategy._exchange = count
        trainer.train()
        found[name] = {**outcome(trainer), "exchanges": len(counted)}
    return found


def trackers(folder: Path) -> Any:
    out = folder / "tracked"
    make(out, report_to=["tensorboard"], logging_dir=str(out / "runs")).train()
    return {"files": len(list(out.rglob("events*")))}


class Slow(Trainer):
    """Takes 150 ms longer on the last rank, in the forward pass."""

    def compute_loss(self, model: nn.Module, inputs: Any) -> Any:
        time.sleep(0.15 if RANK == WORLD - 1 else 0.0)
        return super().compute_loss(model, inputs)


class SlowData(TensorDataset):
    """Takes 150 ms longer on the last rank to read a micro-batch."""

    def __getitem__(self, index: int) -> Any:
        time.sleep(0.05 if RANK == WORLD - 1 else 0.0)
        return super().__getitem__(index)


def slow_rank(folder: Path) -> Any:
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("trackside.callbacks").addHandler(handler)
    data = classified(24, dtype=torch.float64)
    cases: dict[str, tuple[type[Trainer], dict[str, Any]]] = {
        "forward": (Slow, {"train_dataset": data}),
        "data": (Trainer, {"train_dataset": SlowData(*data.tensors)}),
        "sharded": (Trainer, {"train_dataset": SlowData(*data.tensors), "fsdp": "full_shard", "optim": "adamw_torch"}),
    }
    found = {}
    for name, (cls, values) in cases.items():
        heard.clear()
        monitor = StragglerMonitorCallback(per_rank=True)
        trainer = make(folder, cls=cls, callbacks=[monitor], logging_steps=2, num_train_epochs=3, **values)
        trainer.train()
        records = [record for record in trainer.state.log_history if "loss" in record]
        found[name] = {"records": records, "warned": [text for text in heard if "holds up" in text]}
    return found


def lonely_monitor(folder: Path) -> Any:
    try:
        make(folder, callbacks=[StragglerMonitorCallback()] if RANK == 0 else []).train()
    except CallbackError as error:
        return {"error": str(error)}
    return {}


class Syncs(Trainer):
    """Writes down in which micro-batches DDP exchanges gradients."""

    def training_step(self, model: nn.Module, inputs: Any) -> Tensor:
        self.seen.append([self.state.global_step, bool(model.require_backward_grad_sync)])
        return super().training_step(model, inputs)


def syncs(folder: Path) -> Any:
    trainer = make(folder, cls=Syncs, gradient_accumulation_steps=3, num_train_epochs=3)
    trainer.seen = []
    trainer.train()
    return {"seen": trainer.seen}
