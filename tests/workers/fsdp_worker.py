"""What several processes do together in the tests of FSDP2."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from support.torch_models import classified, mlp
from torch import Tensor, nn

from trackside import Trainer, TrainerCallback
from workers.ddp_common import RANK, WORLD, main, make, outcome
from workers.ddp_weights import OwnMean, SumTrainer, TokenModel, UnusualModel, few_tokens, tokens


class Layered(nn.Module):
    """Layers in a list, a frozen part and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(RANK)  # the first rank's weights must win
        self.layers = nn.ModuleList([nn.Linear(6, 6).double() for _ in range(2)])
        self.head = nn.Linear(6, 3).double()
        self.register_buffer("shift", torch.zeros(6).double())

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.layers:
            features = layer(features).tanh()
        return self.head(features + self.shift)


def _whole(trainer: Trainer) -> dict[str, Any]:
    found = outcome(trainer) if not trainer._engine.strategy.is_sharded else {"steps": trainer.state.global_step}
    records = [record for record in trainer.state.log_history if "loss" in record]
    return {
        **found,
        "weights": torch.cat([w.flatten() for w in _whole_parameters(trainer)]).tolist(),
        "losses": [record["loss"] for record in records],
        "norms": [record["grad_norm"] for record in records],
    }


def _whole_parameters(trainer: Trainer) -> list[Tensor]:
    weights = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in trainer.model.parameters()]
    return [weight.detach() for weight in weights]


FSDP_CASES: dict[str, dict[str, Any]] = {
    "full_shard": {"fsdp": "full_shard"},
    "shard_grad_op, by size": {"fsdp": "shard_grad_op", "fsdp_config": {"min_num_params": 20}},
    "offload, by class": {"fsdp": "full_shard offload", "fsdp_config": {"transformer_layer_cls_to_wrap": "Linear"}},
}


def sharded(folder: Path) -> Any:
    """The same run with DDP (or alone) and with FSDP2; with few examples and ragged ends."""
    found = {}
    for accumulation in (1, 3):
        values = {"gradient_accumulation_steps": accumulation, "optim": "adamw_torch", "learning_rate": 0.01}
        plain = make(folder, Layered(), **values)
        plain.train()
        found[f"plain, accumulation {accumulation}"] = _whole(plain)
        for name, options in FSDP_CASES.items() if WORLD > 1 else ():
            trainer = make(folder, Layered(), **values, **options)
            trainer.train()
            found[f"{name}, accumulation {accumulation}"] = _whole(trainer)
    return found


def sharded_unusual_models(folder: Path) -> Any:
    """Tied, frozen and unused parameters, and weighted tokens, some ranks having none, in FSDP2."""
    values: dict[str, Any] = {"optim": "adamw_torch", "learning_rate": 0.01, "gradient_accumulation_steps": 3}
    values |= {"fsdp": "full_shard"} if WORLD > 1 else {}
    found = {}
    for name, model, cls, more in (
        ("unusual model", UnusualModel(), Trainer, {}),
        ("tokens", TokenModel(), SumTrainer, {"train_dataset": tokens(20), "loss_fn": None}),
        ("few tokens", OwnMean(sparse=False), Trainer, {"train_dataset": few_tokens(23), "loss_fn": None}),
    ):
        trainer = make(folder, model, cls, **values, **more)
        trainer.train()
        found[name] = _whole(trainer)
    return found


def sharded_saving(folder: Path) -> Any:
    data = classified(7, dtype=torch.float64)
    values = {"fsdp": "full_shard", "optim": "adamw_torch", "learning_rate": 0.01, "eval_dataset": data}
    values |= {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    trainer = make(folder / "shards", Layered(), save_strategy="steps", save_steps=2, **values)
    trainer.train()
    found = {**_whole(trainer), "eval_loss": trainer.evaluate()["eval_loss"]}
    trainer.save_model(str(folder / "final"))
    return found


class SpoilsTheBest(TrainerCallback):
    role = "observer"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == args.max_steps and RANK == 0:
            shutil.rmtree(state.best_model_checkpoint)


def best_is_gone(folder: Path) -> Any:
    """The weights of a run whose best checkpoint is deleted just before its end, and of one that wants no best."""
    found = {}
    for kind, options in (("DDP", {}), ("FSDP", {"fsdp": "full_shard"})):
        values = {"max_steps": 3, "learning_rate": 0.5, "optim": "sgd", **options}
        best = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "load_best_model_at_end": True}
        best |= {"greater_is_better": True, "eval_dataset": classified(7, dtype=torch.float64)}  # the first is the best
        gone = make(folder / "gone" / kind, Layered(), callbacks=[SpoilsTheBest()], **values, **best)
        gone.train()
        last = make(folder / "last" / kind, Layered(), **values)
        last.train()
        found[kind] = {name: _whole(trainer)["weights"] for name, trainer in (("gone", gone), ("last", last))}
        found[kind]["best"] = Path(gone.state.best_model_checkpoint).exists()
    return found


def sharded_resuming(folder: Path) -> Any:
    return _resumed_from_shards(folder, fsdp="full_shard", save_strategy="steps", save_steps=2)


def unsharded_resuming(folder: Path) -> Any:
    return _resumed_from_shards(folder)


def _resumed_from_shards(folder: Path, **options: Any) -> Any:
    trainer = make(folder / "resumed", Layered(), optim="adamw_torch", learning_rate=0.01, **options)
    trainer.train(resume_from_checkpoint=str(folder / "shards" / "checkpoint-4"))
    return _whole(trainer)


class Told(logging.Handler):
    """Keeps what the trainer warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def other_optimizer(folder: Path) -> Any:
    """Resume from AdamW's shards with optimizers that take nothing of its state, and all of it."""
    kinds: dict[str, Any] = {"sgd": {}, "rmsprop": {}, "adamw_torch": {"adam_beta1": 0.5}}
    found = {}
    for name, options in kinds.items():
        told = Told()
        logging.getLogger("trackside").addHandler(told)
        rest = {"learning_rate": 0.01, "fsdp": "full_shard", "optim": name, **options}
        trainer = make(folder / name, Layered(), **rest)
        trainer.train(resume_from_checkpoint=str(folder / "shards" / "checkpoint-4"))
        groups = trainer.optimizer.param_groups
        steps = {float(state["step"]) for state in trainer.optimizer.state.values() if "step" in state}
        found[name] = {**_whole(trainer), "told": told.texts, "steps": sorted(steps), "betas": groups[0].get("betas")}
        logging.getLogger("trackside").removeHandler(told)
    return found


def sharded_bf16(folder: Path) -> Any:
    config = {"mixed_precision": {"param_dtype": "bf16", "reduce_dtype": "fp32"}}
    trainer = make(
        folder, mlp(), train_dataset=classified(17), fsdp="full_shard", fsdp_config=config, learning_rate=0.01
    )
    trainer.train()
    return {"losses": [record["loss"] for record in trainer.state.log_history if "loss" in record]}


class Overflows(Trainer):
    """Has an infinite loss in the second update, on the last rank only."""

    def compute_loss(self, model: nn.Module, inputs: Any) -> Any:
        loss = super().compute_loss(model, inputs)
        return loss * math.inf if self.state.global_step == 1 and RANK == WORLD - 1 else loss


class Held(TrainerCallback):
    role = "observer"

    def __init__(self) -> None:
        self.steps: list[bool] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, skipped: bool = False, **kwargs: Any) -> None:
        self.steps.append(skipped)


def overflow(folder: Path) -> Any:
    found = {}
    for name, options in (("DDP", {}), ("FSDP", {"fsdp": "full_shard"})):
        held = Held()
        trainer = make(folder, mlp(), Overflows, train_dataset=classified(17), fp16=True, callbacks=[held], **options)
        trainer.train()
        weights = torch.cat([w.flatten() for w in _whole_parameters(trainer)])
        scale = trainer._engine.train_step.precision.state_dict()["scale"]
        found[name] = {"held": held.steps, "weights": weights.tolist(), "scale": scale}
    return found


if __name__ == "__main__":
    main(globals())
