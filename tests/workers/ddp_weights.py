"""Training on several ranks that must end with the weights of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from support.arrays import accuracy
from support.torch_models import DictDataset, SumTrainer, TokenModel, classified, mlp
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trackside import Trainer
from workers.ddp_common import EXAMPLES, Stream, make, outcome, trained


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


class UnusualModel(nn.Module):
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


def unusual_models(folder: Path) -> Any:
    """With 13 examples, some ranks have nothing to count at the end of an epoch."""
    found = {}
    for accumulation in (1, 3):
        values: dict[str, Any] = {"gradient_accumulation_steps": accumulation}
        for examples in (13, 17):
            data = classified(examples, dtype=torch.float64)
            found[f"{examples} examples, accumulation {accumulation}"] = trained(
                folder, UnusualModel(), train_dataset=data, weight_decay=0.1, optim="adamw_torch", **values
            )
        found[f"few tokens, accumulation {accumulation}"] = trained(
            folder, OwnMean(sparse=True), train_dataset=few_tokens(23), loss_fn=None, **values
        )
    return found


def options(folder: Path) -> Any:
    """What may be asked of DDP changes nothing."""
    unusual = {"model": UnusualModel(), "ddp_find_unused_parameters": True}
    small = {"ddp_find_unused_parameters": False, "ddp_bucket_cap_mb": 1, "ddp_broadcast_buffers": False}
    compiled = {"torch_compile": True, "torch_compile_backend": "eager"}
    return {
        "looking for unused parameters": trained(folder, **unusual),
        "small buckets": trained(folder, **small),
        "compiled": trained(folder, **compiled),
    }


def bf16(folder: Path) -> Any:
    return {"bf16": trained(folder, mlp(), train_dataset=classified(17), bf16=True)}
