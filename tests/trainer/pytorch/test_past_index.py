"""Memory of a model (past_index): fed back, resumed, and refused beyond the outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.torch_models import DictDataset, classified, weights_of
from torch import Tensor, nn

from trackside import Trainer

FEATURES, LABELS = classified(20).tensors
LABELLED = DictDataset(x=FEATURES, labels=LABELS)
CrossEntropy = nn.CrossEntropyLoss()


class Remembers(nn.Module):
    """Adds the mean of what it is fed back."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)
        self.had_memory: list[bool] = []

    def forward(self, x: Tensor, labels: Tensor | None = None, mems: Tensor | None = None) -> Any:
        self.had_memory.append(mems is not None)
        logits = self.layer(x) + (0.0 if mems is None else mems.mean())
        return {"loss": None if labels is None else CrossEntropy(logits, labels), "logits": logits, "mems": logits[:2]}


def test_past_index_feeds_an_output_back_within_an_epoch_and_within_an_evaluation(make_trainer):
    options = {"train_dataset": LABELLED, "eval_dataset": LABELLED, "loss_fn": None, "past_index": 2}
    trainer = make_trainer(model=Remembers(), **options, per_device_train_batch_size=5, max_steps=6)

    trainer.train()
    in_training, trainer.model.had_memory = trainer.model.had_memory, []
    trainer.predict(DictDataset(x=FEATURES))

    assert in_training == [False, True, True, True, False, True]
    assert trainer.model.had_memory == [False, True, True]


def test_the_memory_of_past_index_is_resumed_to_the_bit_and_left_alone_by_evaluation(make_trainer, tmp_path):
    def trainer(folder: str, **options: Any) -> Trainer:
        options |= {"train_dataset": LABELLED, "eval_dataset": LABELLED, "loss_fn": None, "past_index": 2}
        options |= {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 0.1}
        return make_trainer(model=Remembers(), output_dir=str(tmp_path / folder), max_steps=5, **options)

    whole, evaluated, resumed = trainer("a"), trainer("b", eval_strategy="steps", eval_steps=1), trainer("a")

    whole.train()
    evaluated.train()
    resumed.train(str(tmp_path / "a" / "checkpoint-2"))

    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
    assert torch.equal(weights_of(evaluated.model), weights_of(whole.model))


def test_a_past_index_beyond_the_outputs_says_what_there_is(make_trainer):
    trainer = make_trainer(model=Remembers(), train_dataset=LABELLED, loss_fn=None, past_index=5)

    with pytest.raises(ValueError, match=r"past_index asks for output 5 .* it gave loss, logits, mems"):
        trainer.train()
