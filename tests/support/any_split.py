"""Runs of one update, split over ranks and micro-batches: losses, models and batches of many structures."""

from __future__ import annotations

import logging
import math
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import default_collate
from transformers import BatchEncoding

from trackside import Trainer, TrainingArguments

WIDTH, CLASSES = 6, 5
cross_entropy = functional.cross_entropy


def _mean(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), **options)


def _masked(logits: Tensor, labels: Tensor) -> Tensor:
    mask = labels != -100
    return (cross_entropy(logits.transpose(1, 2), labels, reduction="none") * mask).sum() / mask.sum()


def _one_hot(labels: Tensor) -> Tensor:
    return functional.one_hot(labels.clamp_min(0), CLASSES).double()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "labels": _mean,
    "shifted": lambda logits, labels: _mean(logits[:, :-1], labels[:, 1:]),
    "padded and shifted": lambda logits, labels: _mean(logits, functional.pad(labels, (0, 1), value=-100)[:, 1:]),
    "another label is ignored": lambda logits, labels: _mean(
        logits, labels.masked_fill(labels == -100, 3), ignore_index=3
    ),
    "class weights": lambda logits, labels: _mean(logits, labels, weight=torch.arange(1.0, 6).double()),
    "label smoothing": lambda logits, labels: _mean(logits, labels, label_smoothing=0.1),
    "masked by hand": _masked,
    "selected by hand": lambda logits, labels: cross_entropy(logits[labels != -100], labels[labels != -100]),
    "scaled": lambda logits, labels: 0.5 * _mean(logits, labels),
    "elements": lambda logits, labels: functional.mse_loss(logits.softmax(-1), _one_hot(labels)),
    "by hand": lambda logits, labels: (logits - _one_hot(labels)).square().mean(),
    "of examples": lambda logits, labels: (logits - _one_hot(labels)).square().mean((1, 2)),
    "a sum": lambda logits, labels: _mean(logits, labels, reduction="sum"),
    "several labels": lambda logits, labels: functional.binary_cross_entropy_with_logits(
        logits, _one_hot(labels), pos_weight=torch.arange(1.0, 6).double()
    ),
    "two means of the same items": lambda logits, labels: _mean(logits, labels) + 0.3 * _mean(2 * logits, labels),
    "two means of unequal items": lambda logits, labels: _mean(logits, labels) + logits.square().mean(),
    "a mean and a sum": lambda logits, labels: _mean(logits, labels) + 0.01 * (logits**2).sum(),
    "a root": lambda logits, labels: functional.mse_loss(logits, _one_hot(labels)).sqrt(),
    "divided by a constant": lambda logits, labels: _mean(logits, labels, reduction="sum") / 17.5,
    "pairs": lambda logits, labels: torch.cdist(logits.mean(1), logits.mean(1)).square().mean(),
    "from the mean": lambda logits, labels: (logits - logits.mean(0)).square().mean(),
}
UNKNOWN = ("two means of unequal items", "a mean and a sum", "a root", "divided by a constant")
MIXED = ("pairs", "from the mean")
KNOWN = tuple(name for name in LOSSES if name not in (*UNKNOWN, *MIXED))
OF_LABELS = tuple(name for name in KNOWN[:9] if name != "padded and shifted")
"""Losses that do not depend on how many ignored labels there are."""

Pair = namedtuple("Pair", "x labels")


@dataclass
class Fields:
    """A batch that is a dataclass, which a model takes as it is."""

    x: Any
    labels: Tensor


class Moving(Fields):
    """A batch that moves itself."""

    def to(self, device: Any) -> Moving:
        return Moving(self.x.to(device), self.labels.to(device))


def collate_to(structure: str) -> Callable[[list[Any]], Any]:
    """Return a collator of rows that are dicts to batches of a structure."""

    def collate(rows: list[Any]) -> Any:
        batch = default_collate(rows)
        if structure == "trimmed":  # to the longest row
            width = max(2, int((batch["labels"] != -100).sum(1).max()))
            batch = {name: value[:, :width] for name, value in batch.items()}
        made: dict[str, Callable[..., Any]] = {
            "tuple": lambda x, labels: (x, labels),
            "list": lambda x, labels: [x, labels],
            "named tuple": Pair,
            "nested": lambda x, labels: {"x": {"ids": [x]}, "labels": labels},
            "encoding": lambda x, labels: BatchEncoding({"x": x, "labels": labels}),
            "fields": Fields,
            "moving": Moving,
        }
        return made.get(structure, dict)(**batch)

    return collate


STRUCTURES = ("dict", "tuple", "list", "named tuple", "nested", "encoding", "fields", "moving", "trimmed")
WITH_LOSS_FN = ("tuple", "list", "named tuple")
MODELS = ("plain", "frozen", "tied", "checkpointed")


class Model(nn.Module):
    """Computes its own loss of a batch; of a tuple, the logits."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], kind: str = "plain") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)  # ranks may be threads
        self.embedding = nn.Embedding(11, 4).double()
        self.hidden = nn.Linear(4, 4).double()
        self.head = nn.Linear(4, CLASSES).double()
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.embedding.weight.requires_grad_(kind != "frozen")
        self.loss, self.kind = loss, kind

    def forward(self, x: Any, labels: Any = None) -> Any:
        if isinstance(x, Fields):
            x, labels = x.x, x.labels
        hidden = self.embedding(x["ids"][0] if isinstance(x, dict) else x)
        hidden = (
            checkpoint(self.hidden, hidden, use_reentrant=False) if self.kind == "checkpointed" else self.hidden(hidden)
        )
        weight = self.embedding.weight[:CLASSES] + self.head.weight if self.kind == "tied" else self.head.weight
        logits = functional.linear(hidden, weight, self.head.bias)
        return logits if labels is None else {"logits": logits, "loss": self.loss(logits, labels)}


def rows(lengths: list[int]) -> list[Any]:
    """Examples whose first ``length`` labels count."""
    generator = torch.Generator().manual_seed(1)
    found: list[Any] = []
    for length in lengths:
        ids = torch.randint(0, 11, (WIDTH,), generator=generator)
        labels = torch.randint(0, CLASSES - 2, (WIDTH,), generator=generator)
        labels[length:] = -100
        found.append({"x": ids, "labels": labels})
    return found


@dataclass
class Split:
    """A run of one update: its loss, data and model, and how it is split."""

    loss: str
    lengths: list[int]
    structure: str = "dict"
    model: str = "plain"
    ranks: int = 1
    accumulation: int = 1

    @property
    def whole(self) -> Split:
        """The same run with one large batch."""
        return Split(self.loss, self.lengths, self.structure, self.model)


def trainer_of(split: Split, folder: str, arguments: type[TrainingArguments] = TrainingArguments) -> Trainer:
    """Return the trainer of a rank."""
    loss, data = LOSSES[split.loss], rows(split.lengths)
    model = Model(loss, split.model)
    args = arguments(
        output_dir=folder,
        per_device_train_batch_size=math.ceil(len(data) / (split.ranks * split.accumulation)),
        gradient_accumulation_steps=split.accumulation,
        max_steps=1,
        logging_steps=1,
        max_grad_norm=0.5,
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    optimizers = (torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5), None)
    given = {"loss_fn": (lambda logits, labels: loss(logits, labels))} if split.structure in WITH_LOSS_FN else {}
    trainer = Trainer(model, args, collate_to(split.structure), data, optimizers=optimizers, **given)
    trainer.pop_callback("printer")
    return trainer


@contextmanager
def told() -> Iterator[list[str]]:
    """Return a context whose value is what a run tells meanwhile about its updates."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler, logger = Handler(logging.WARNING), logging.getLogger("trackside.trainer")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def is_doubted(messages: list[str]) -> bool:
    """Return whether a run has said that its update may differ from that of one large batch."""
    return any("one large batch" in message for message in messages)
