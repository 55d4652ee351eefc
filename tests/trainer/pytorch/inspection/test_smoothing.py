"""Label smoothing beside a loss that a subclass computes by itself is told, unless the subclass smooths the labels."""

from __future__ import annotations

from typing import Any

import pytest
from support.torch_models import DictDataset
from torch import Tensor, nn, randint
from torch.nn import functional

from trackside import Trainer, TrainingArguments


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Embedding(11, 5)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(input_ids)
        if labels is None:
            return {"logits": logits}
        return {"loss": functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def train(tmp_path: Any, cls: Any, factor: float) -> None:
    data = DictDataset(input_ids=randint(11, (8, 7)), labels=randint(5, (8, 7)))
    args = TrainingArguments(
        str(tmp_path), max_steps=1, save_strategy="no", disable_tqdm=True, label_smoothing_factor=factor
    )
    cls(Tokens(), args, train_dataset=data).train()


class Plain(Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        outputs = model(**inputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]


class Passing(Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        return super().compute_loss(model, inputs, return_outputs)


class Smoothing(Plain):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        return self.smoothed(model(**inputs)["logits"], inputs["labels"])

    def smoothed(self, logits: Tensor, labels: Tensor) -> Tensor:
        by = self.args.label_smoothing_factor
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=by)


@pytest.mark.parametrize(("cls", "factor", "times"), [(Plain, 0.1, 1), (Plain, 0.0, 0), (Passing, 0.1, 0)])
def test_label_smoothing_that_an_override_leaves_out_is_told(tmp_path, caplog, cls, factor, times):
    train(tmp_path, cls, factor)

    assert caplog.text.count("label_smoothing_factor=0.1 has no effect: compute_loss computes") == times


def test_label_smoothing_by_a_method_of_the_subclass_is_not_told(tmp_path, caplog):
    train(tmp_path, Smoothing, 0.1)

    assert "has no effect" not in caplog.text
