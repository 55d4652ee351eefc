"""What several processes do together in the tests of distribution; also imported to do the same in one process.

What they do with shards is in `fsdp_worker`, what goes wrong in `faults_worker`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from support.torch_models import DictDataset, accuracy, classified, mlp, weights_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from trackside import RankTimeMonitorCallback, Trainer, TrainerCallback, TrainingArguments
from trackside.callbacks.errors import CallbackError
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


# -- the same weights as one process ----------------------------------------------------------------------------------


def plain(folder: Path) -> Any:
    return {
        f"{examples} examples, accumulation {accumulation}": trained(
            folder,
            train_dataset=classified(examples, dtype=torch.float64),
            gradient_accumulation_steps=accumulation,
        )
        for examples in EXAMPLES
        for accumulation in (1, 3)
    }


class TokenModel(nn.Module):
    """Classifies every token; returns the mean loss over the labels that are not -100."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 8).double()
        self.head = nn.Linear(8, 5).double()

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.embedding(input_ids))
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


class SumTrainer(Trainer):
    """Returns ``(loss_sum, weight)`` with weights of its own."""

    def compute_loss(self, model: nn.Module, inputs: Any) -> Any:
        outputs = model(**inputs)["logits"]
        losses = nn.functional.cross_entropy(outputs.transpose(1, 2), inputs["labels"], reduction="none")
        weights = (inputs["labels"] != -100) * (1.0 + inputs["input_ids"] % 3)
        return (losses * weights).sum(), weights.sum()


def tokens(examples: int) -> DictDataset:
    """Rows of which the first 0 to 7 labels count; the last row has none."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, 11, (examples, 7), generator=generator)
    labels = torch.randint(0, 5, (examples, 7), generator=generator)
    for row in range(examples):
        labels[row, (5 * row) % 8 if row + 1 < examples else 0 :] = -100
    return DictDataset(input_ids=input_ids, labels=labels)


def token_weights(folder: Path) -> Any:
    return {
        f"{cls.__name__}, accumulation {accumulation}": trained(
            folder, TokenModel(), cls, train_dataset=tokens(20), loss_fn=None, gradient_accumulation_steps=accumulation
        )
        for cls in (Trainer, SumTrainer)
        for accumulation in (1, 3)
    }


class Stream(IterableDataset[Any]):
    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __iter__(self) -> Any:
        return iter(self.data)


def streams(folder: Path) -> Any:
    data = classified(17, dtype=torch.float64)
    return {"stream": trained(folder, train_dataset=Stream(data), max_steps=6)}


class PlainLoaders(Trainer):
    """Brings its own loaders, which know nothing of ranks."""

    def get_train_dataloader(self) -> Any:
        return DataLoader(self.train_dataset, self.args.per_device_train_batch_size, shuffle=True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        return DataLoader(self.eval_dataset, self.args.per_device_eval_batch_size)


def foreign_loaders(folder: Path) -> Any:
    trainer = make(folder, cls=PlainLoaders, eval_dataset=classified(7, dtype=torch.float64), compute_metrics=accuracy)
    trainer.train()
    metrics = trainer.evaluate()
    return {"own": {**outcome(trainer), "metrics": [metrics["eval_loss"], metrics["eval_accuracy"]]}}


class Peculiar(nn.Module):
    """A tied weight, a parameter without gradient, a frozen one, and batch norm's buffers are elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 6).double()
        self.second = nn.Linear(6, 6).double()
        self.second.weight = self.first.weight
        self.unused = nn.Linear(3, 3).double()
        self.frozen = nn.Linear(6, 3).double().requires_grad_(False)
        self.head = nn.Linear(6, 3).double()

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.second(self.first(features).relu())
        return self.head(hidden) + self.frozen(hidden)


class OwnMean(nn.Module):
    """Takes the mean over the tokens by itself, which is not a number where there are none; has an unused parameter."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 8, sparse=sparse).double()
        self.unused = nn.Linear(3, 3).double()
        self.head = nn.Linear(8, 5).double()

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.embedding(input_ids))
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels.clamp_min(0), reduction="none")
        counts = labels != -100
        return {"loss": (losses * counts).sum() / counts.sum(), "logits": logits}


def few_tokens(examples: int) -> DictDataset:
    """Rows of which only every third has tokens that count; there are some in every update."""
    input_ids = tokens(examples).columns["input_ids"]
    return DictDataset(
        input_ids=input_ids, labels=torch.where(torch.arange(examples)[:, None] % 3 == 1, input_ids % 5, -100)
    )


def peculiar(folder: Path) -> Any:
    """With 13 examples, some ranks have nothing to count at the end of an epoch."""
    found = {}
    for accumulation in (1, 3):
        values: dict[str, Any] = {"gradient_accumulation_steps": accumulation}
        for examples in (13, 17):
            data = classified(examples, dtype=torch.float64)
            found[f"{examples} examples, accumulation {accumulation}"] = trained(
                folder, Peculiar(), train_dataset=data, weight_decay=0.1, optim="adamw_torch", **values
            )
        found[f"few tokens, accumulation {accumulation}"] = trained(
            folder, OwnMean(sparse=True), train_dataset=few_tokens(23), loss_fn=None, **values
        )
    return found


def options(folder: Path) -> Any:
    """What may be asked of DDP changes nothing."""
    peculiar = {"model": Peculiar(), "ddp_find_unused_parameters": True}
    small = {"ddp_find_unused_parameters": False, "ddp_bucket_cap_mb": 1, "ddp_broadcast_buffers": False}
    compiled = {"torch_compile": True, "torch_compile_backend": "eager"}
    return {
        "looking for unused parameters": trained(folder, **peculiar),
        "small buckets": trained(folder, **small),
        "compiled": trained(folder, **compiled),
    }


# -- evaluation -------------------------------------------------------------------------------------------------------


class Ragged(nn.Module):
    """Gives outputs whose length depends on the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        longest = int(x.max())
        return {"loss": (self.scale * x).mean(), "logits": x[:, None].expand(-1, longest) * self.scale}


def evaluation(folder: Path) -> Any:
    found: dict[str, Any] = {}
    for examples in (1, 2, 7, 12, 13):
        data = classified(examples, dtype=torch.float64)
        trainer = make(folder, eval_dataset=data, compute_metrics=accuracy)
        metrics = trainer.evaluate()
        output = trainer.predict(data)
        found[f"{examples} examples"] = {
            "metrics": [metrics["eval_loss"], metrics["eval_accuracy"]],
            "predictions": output.predictions.tolist(),
            "labels": output.label_ids.tolist(),
            "order": data.tensors[1].tolist(),
            "num": len(output.predictions),
        }
    numbers = torch.arange(1.0, 12.0)
    ragged = DictDataset(x=numbers, labels=numbers.long())
    predictions = make(folder, Ragged(), loss_fn=None, eval_accumulation_steps=1).predict(ragged).predictions
    found["ragged"] = {"predictions": predictions.tolist()}
    with mock.patch("trackside.trainer.evaluation.evaluation_loop.DEVICE_BYTES", 4096):  # four outputs at most
        predictions = make(folder, Ragged(), loss_fn=None).predict(ragged).predictions
    found["ragged on a small device"] = {"predictions": predictions.tolist()}
    metrics = make(
        folder, eval_dataset=Stream(classified(13, dtype=torch.float64)), compute_metrics=accuracy
    ).evaluate()
    found["stream"] = {"metrics": [metrics["eval_loss"], metrics["eval_accuracy"]]}
    found["buffers"] = _with_buffers(folder)
    return found


def _with_buffers(folder: Path) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    trainer = make(folder, model, train_dataset=classified(12, dtype=torch.float64), num_train_epochs=1)
    trainer.train()
    output = trainer.predict(classified(7, dtype=torch.float64))
    return {"predictions": output.predictions.tolist(), "mean": model[1].running_mean.tolist()}


class Ledger(Trainer):
    """Writes down which examples count in training."""

    def training_step(self, model: nn.Module, inputs: Any) -> Tensor:
        if not self._is_padding:
            self.seen.setdefault(str(int(self.state.epoch)), []).extend(inputs[0][:, 0].long().tolist())
        return super().training_step(model, inputs)


def ledger(folder: Path) -> Any:
    numbers = torch.arange(17.0)[:, None].expand(17, 6).double()
    data = TensorDataset(numbers.contiguous(), torch.zeros(17, dtype=torch.long))
    found = {}
    for name, dataset in (("map", data), ("stream", Stream(data))):
        trainer = make(
            folder, cls=Ledger, train_dataset=dataset, dataloader_num_workers=2, max_steps=6, num_train_epochs=2
        )
        trainer.seen = {}
        trainer.train()
        found[name] = {"seen": trainer.seen}
    return found


# -- control ----------------------------------------------------------------------------------------------------------


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

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass


def _save(control: Any) -> None:
    control.should_save = True


def control(folder: Path) -> Any:
    cases: dict[str, tuple[Steering, dict[str, Any]]] = {
        "the first stops": (Steering(0, "on_step_end", 3, lambda control: control.stop("enough")), {}),
        "the last stops": (Steering(WORLD - 1, "on_step_end", 3, lambda control: control.stop("enough")), {}),
        "the first stops at a log": (Steering(0, "on_log", 2, lambda control: control.stop("logged")), {}),
        "the first stops at the start": (Steering(0, "on_train_begin", 0, lambda control: control.stop("no")), {}),
        "the first ends an epoch": (
            Steering(0, "on_step_end", 2, lambda control: setattr(control, "should_epoch_stop", True)),
            {},
        ),
        "the first saves at a log": (Steering(0, "on_log", 2, _save), {"save_strategy": "steps", "save_steps": 100}),
        "the last gets SIGTERM": (
            Steering(WORLD - 1, "on_step_end", 2, lambda control: os.kill(os.getpid(), signal.SIGTERM)),
            {"save_strategy": "steps", "save_steps": 100},
        ),
    }
    found = {}
    for name, (callback, values) in cases.items():
        out = folder / name.replace(" ", "-")
        trainer = make(out, callbacks=[callback], **values)
        trainer.train()
        found[name] = {
            "steps": trainer.state.global_step,
            "reason": trainer.state.stop_reason,
            "epoch": trainer.state.epoch,
            "checkpoints": sorted(path.name for path in out.glob("checkpoint-*")),
        }
    return found


def agreements(folder: Path) -> Any:
    """Count what is agreed on without a callback that may steer at steps, and with one, over 6 updates."""
    counts = {}
    for name, callbacks in (("nobody", []), ("somebody", [Steering(0, "on_step_end", 99, _save)])):
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
        loss = self._mean_loss(self.compute_loss(model, inputs), inputs)
        (loss * self._window.share).backward()
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
        monitor = RankTimeMonitorCallback(per_rank=True)
        trainer = make(folder, cls=cls, callbacks=[monitor], logging_steps=2, num_train_epochs=3, **values)
        trainer.train()
        records = [record for record in trainer.state.log_history if "loss" in record]
        found[name] = {"records": records, "warned": [text for text in heard if "holds up" in text]}
    return found


def lonely_monitor(folder: Path) -> Any:
    try:
        make(folder, callbacks=[RankTimeMonitorCallback()] if RANK == 0 else []).train()
    except CallbackError as error:
        return {"error": str(error)}
    return {}


# -- checkpoints ------------------------------------------------------------------------------------------------------


def saving(folder: Path) -> Any:
    return {"whole": trained(folder / "saved", save_strategy="steps", save_steps=2, optim="adamw_torch")}


def resuming(folder: Path) -> Any:
    trainer = make(folder / "resumed", optim="adamw_torch")
    trainer.train(resume_from_checkpoint=str(folder / "saved" / "checkpoint-4"))
    return {"resumed": outcome(trainer)}


# -- the step ---------------------------------------------------------------------------------------------------------


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


def bf16(folder: Path) -> Any:
    return {"bf16": trained(folder, mlp(), train_dataset=classified(17), bf16=True)}


# -- searching --------------------------------------------------------------------------------------------------------


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


def write(folder: Path, found: Any) -> None:
    (folder / f"rank{RANK}.json").write_text(json.dumps(found))


def main(known: dict[str, Any]) -> None:
    """Do what the command line names, after the folder that the results go into."""
    folder = Path(sys.argv[1])
    write(folder, {name: known[name](folder) for name in sys.argv[2:]})


if __name__ == "__main__":
    main(globals())
