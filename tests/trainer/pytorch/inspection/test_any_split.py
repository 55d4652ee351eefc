"""An update equals that of one large batch however it is split, or the run has said that it cannot know."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fake_ranks import train_on_ranks
from support.torch_models import weights_of
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import default_collate

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
}
STRUCTURES = ("dict", "tuple", "nested")


class Model(nn.Module):
    """Computes its own loss of a dict of tensors or a nested one; of a tuple, the logits."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)  # ranks are threads
        self.embedding = nn.Embedding(11, 4).double()
        self.head = nn.Linear(4, CLASSES).double()
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.loss = loss

    def forward(self, x: Any, labels: Any = None) -> Any:
        logits = self.head(self.embedding(x["ids"] if isinstance(x, dict) else x))
        return logits if labels is None else {"logits": logits, "loss": self.loss(logits, labels)}


def rows(lengths: list[int], structure: str) -> list[Any]:
    """Examples whose first ``length`` labels count."""
    generator = torch.Generator().manual_seed(1)
    found: list[Any] = []
    for length in lengths:
        ids = torch.randint(0, 11, (WIDTH,), generator=generator)
        labels = torch.randint(0, CLASSES - 2, (WIDTH,), generator=generator)
        labels[length:] = -100
        kinds = {
            "dict": {"x": ids, "labels": labels},
            "tuple": (ids, labels),
            "nested": {"x": {"ids": ids}, "labels": labels},
        }
        found.append(kinds[structure])
    return found


class Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def updated(loss: str, data: list[Any], folder: str, *, ranks: int, batch_size: int, accumulation: int) -> Any:
    """Return the weights after one update, its loss, and what was told."""

    def make(arguments: type[TrainingArguments]) -> Trainer:
        model = Model(LOSSES[loss])
        args = arguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            logging_steps=1,
            max_grad_norm=0.5,
            save_strategy="no",
            disable_tqdm=True,
        )
        optimizers = (torch.optim.SGD(model.parameters(), lr=0.5), None)
        is_tuple = isinstance(data[0], tuple)
        trainer = Trainer(
            model,
            args,
            default_collate,
            data,
            optimizers=optimizers,
            loss_fn=(lambda logits, labels: LOSSES[loss](logits, labels)) if is_tuple else None,
        )
        trainer.pop_callback("printer")
        return trainer

    told, logger = Told(), logging.getLogger("trackside.trainer")
    logger.addHandler(told)
    try:
        trainers = train_on_ranks(ranks, make)
    finally:
        logger.removeHandler(told)
    assert {trainer.state.global_step for trainer in trainers} == {1}
    records = trainers[0].state.log_history
    return weights_of(trainers[0].model), records[0].get("loss"), told.messages


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lengths=st.lists(st.integers(0, WIDTH), min_size=1, max_size=9).filter(lambda found: max(found) > 1),
    structure=st.sampled_from(STRUCTURES),
    ranks=st.integers(1, 3),
    accumulation=st.integers(1, 4),
)
def test_an_update_equals_that_of_one_large_batch_or_the_run_has_said_so(
    loss: str,
    lengths: list[int],
    structure: str,
    ranks: int,
    accumulation: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data, folder = rows(lengths, structure), str(tmp_path_factory.mktemp("run"))
    batch_size = math.ceil(len(lengths) / (ranks * accumulation))

    whole, loss_of_whole, _ = updated(loss, data, folder, ranks=1, batch_size=len(lengths), accumulation=1)
    cut, loss_of_cut, told = updated(loss, data, folder, ranks=ranks, batch_size=batch_size, accumulation=accumulation)

    if not any("unknown over how many items" in message for message in told):
        torch.testing.assert_close(cut, whole, rtol=0, atol=1e-10)
        if loss_of_whole is not None and ranks == 1:
            assert loss_of_cut == pytest.approx(loss_of_whole, abs=1e-9)


@pytest.mark.parametrize("loss", ["two means of unequal items", "a mean and a sum", "a root", "divided by a constant"])
def test_where_it_cannot_know_it_says_so_once(loss: str, tmp_path: Any) -> None:
    *_, told = updated(loss, rows([6, 2, 3, 1], "dict"), str(tmp_path), ranks=1, batch_size=1, accumulation=4)

    assert len([message for message in told if "unknown over how many items" in message]) == 1


@pytest.mark.parametrize(
    "loss",
    [
        name
        for name in LOSSES
        if name not in ("two means of unequal items", "a mean and a sum", "a root", "divided by a constant")
    ],
)
def test_where_it_knows_it_says_nothing(loss: str, tmp_path: Any) -> None:
    *_, told = updated(loss, rows([6, 2, 3, 1], "dict"), str(tmp_path), ranks=2, batch_size=1, accumulation=2)

    assert told == []
