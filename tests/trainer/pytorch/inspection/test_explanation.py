"""`explain_batch` says what the trainer makes of a batch."""

from __future__ import annotations

from typing import Any

import torch
from support.torch_models import DictDataset, TokenModel, classified, mlp, weights_of
from torch.nn import functional

from trackside import Trainer, TrainingArguments


def tokens() -> DictDataset:
    labels = torch.tensor([[1, 2, -100, -100], [0, 1, 2, 3]])
    return DictDataset(input_ids=torch.arange(8).reshape(2, 4), labels=labels)


def test_it_names_examples_labels_loss_and_items(tmp_path: Any) -> None:
    trainer = Trainer(TokenModel(), TrainingArguments(str(tmp_path)), train_dataset=tokens())

    found = trainer.explain_batch()

    assert found.examples == 2
    assert found.labels == "{'labels': int64 (2, 4)}"
    assert found.items == "6 labels that are not -100"
    assert found.loss.endswith("the loss in the outputs of the model")
    assert found.withheld == found.doubt == ""
    assert repr(found).splitlines()[:2] == [
        "batch     {'input_ids': int64 (2, 4), 'labels': int64 (2, 4)}",
        "examples  2",
    ]
    assert found._repr_html_().startswith("<pre>batch     {'input_ids': int64 (2, 4)")


def test_it_says_what_is_withheld_and_where_the_loss_is_from(tmp_path: Any) -> None:
    trainer = Trainer(
        mlp(), TrainingArguments(str(tmp_path)), train_dataset=classified(8), loss_fn=functional.cross_entropy
    )

    found = trainer.explain_batch()

    assert found.labels == "the last of the tuple, int64 (8)"
    assert found.withheld == "the labels"
    assert "by loss_fn(outputs, labels), cross_entropy" in found.loss


def test_it_says_what_it_does_not_know(tmp_path: Any) -> None:
    trainer = Trainer(
        mlp(),
        TrainingArguments(str(tmp_path)),
        train_dataset=classified(8),
        loss_fn=lambda outputs, labels: functional.cross_entropy(outputs, labels).sqrt(),
    )

    found = trainer.explain_batch()

    assert "it was computed by Sqrt" in found.doubt
    assert "loss_items_fn" in repr(found)


def test_it_trains_nothing_and_changes_no_random_number(tmp_path: Any) -> None:
    model = mlp(dropout=0.5)
    trainer = Trainer(
        model, TrainingArguments(str(tmp_path)), train_dataset=classified(8), loss_fn=functional.cross_entropy
    )
    before, state = weights_of(model).clone(), torch.get_rng_state()

    trainer.explain_batch()

    assert torch.equal(weights_of(model), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
