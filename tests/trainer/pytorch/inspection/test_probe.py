"""Batches of any structure and labels of any type, with other labels in the place of theirs."""

from __future__ import annotations

from collections import UserDict
from typing import NamedTuple

import pytest
import torch
from torch import nn

from trackside import Trainer, TrainingArguments
from trackside.trainer.pytorch.inspection.probe import _with_labels


class Pair(NamedTuple):
    x: torch.Tensor
    labels: torch.Tensor


@pytest.mark.parametrize("make", [Pair, lambda *parts: parts, lambda *parts: list(parts)])
def test_a_sequence_keeps_its_type(make):
    x, labels, other = torch.ones(2), torch.zeros(2), torch.full((2,), 7.0)

    found = _with_labels(make(x, labels), labels, other)

    assert type(found) is type(make(x, labels))
    assert found[0] is x
    assert found[1] is other


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_a_mapping_keeps_its_names(kind):
    x, labels, other = torch.ones(2), torch.zeros(2), torch.full((2,), 7.0)

    found = _with_labels(kind(x=x, labels=labels), labels, other)

    assert (found["x"] is x, found["labels"] is other) == (True, True)


class Masks(nn.Module):
    """Segments images; its loss is a mean, a sum divided by hand, or one whose operations are unknown."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        torch.manual_seed(0)
        self.layer = nn.Conv2d(1, 3, 1)

    def forward(self, image, labels=None):
        logits = self.layer(image)
        each = nn.functional.cross_entropy(logits, labels.long(), reduction="none")
        loss = {"divided": each.sum() / each.numel(), "unknown": each.flatten().cumsum(0)[-1] / each.numel()}
        return {"loss": loss.get(self.kind, nn.functional.cross_entropy(logits, labels.long())), "logits": logits}


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16"])
@pytest.mark.parametrize("kind", ["mean", "divided", "unknown"])
def test_labels_of_every_integer_type_train_and_evaluate_as_int64_do(kind, dtype, tmp_path):
    def evaluated(dtype):
        masks = [torch.full((4, 4), number % 2).to(dtype) for number in range(6)]
        rows = [{"image": torch.full((1, 4, 4), number / 10), "labels": mask} for number, mask in enumerate(masks)]
        options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 1}
        args = TrainingArguments(str(tmp_path), save_strategy="no", disable_tqdm=True, report_to=[], **options)
        trainer = Trainer(Masks(kind), args, train_dataset=rows, eval_dataset=rows)
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        return before, trainer.evaluate()["eval_loss"]

    assert evaluated(getattr(torch, dtype)) == evaluated(torch.int64)
