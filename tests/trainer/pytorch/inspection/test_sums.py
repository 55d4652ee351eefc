"""The evaluation of a loss that is a sum does not depend on the batch size, before and after training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.torch_models import DictDataset
from torch import Tensor, nn
from torch.nn import functional

from trackside import Trainer, TrainingArguments

CLASSES = 4


class Model(nn.Module):
    """Returns outputs, or with labels its own loss: a sum of cross entropies, or of the losses of a CTC."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        torch.manual_seed(0)
        self.layer = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor] | Tensor:
        logits = self.layer(x)
        if labels is None:
            return logits
        if self.kind == "ctc":
            lengths = (labels >= 0).sum(-1)
            log_probabilities, places = logits.log_softmax(-1).transpose(0, 1), torch.full((len(x),), x.shape[1])
            loss = functional.ctc_loss(log_probabilities, labels[labels >= 0], places, lengths, reduction="sum")
        else:
            loss = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")
        return {"loss": loss, "logits": logits}


class Overrides(Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        outputs = model(inputs["x"])
        loss = functional.cross_entropy(outputs, inputs["labels"], reduction="sum")
        return (loss, outputs) if return_outputs else loss


def data(kind: str) -> Any:
    generator = torch.Generator().manual_seed(0)
    if kind in ("tokens", "ctc"):
        labels = torch.tensor([[1, 2, 3, -100, -100, -100], [1, -100, -100, -100, -100, -100]] * 5)
        return DictDataset(x=torch.randn(10, 6, 3, generator=generator), labels=labels)
    x, labels = torch.randn(10, 3, generator=generator), torch.arange(10) % CLASSES
    if kind in ("criterion", "squares"):
        return torch.utils.data.TensorDataset(x, labels if kind == "criterion" else torch.ones(10, CLASSES))
    return DictDataset(x=x, labels=labels)


CRITERIA = {"criterion": nn.CrossEntropyLoss(reduction="sum"), "squares": nn.MSELoss(reduction="sum")}


@pytest.mark.parametrize("kind", ["classes", "tokens", "ctc", "override", *CRITERIA])
def test_eval_loss_is_the_sum_over_its_items_whatever_the_batch_size(kind: str, tmp_path: Any, caplog: Any) -> None:
    rows, found = data(kind), []

    for size in (10, 4):
        options = {"max_steps": 1, "learning_rate": 0.0, "save_strategy": "no", "disable_tqdm": True, "report_to": []}
        args = TrainingArguments(str(tmp_path), per_device_eval_batch_size=size, **options)
        cls = Overrides if kind == "override" else Trainer
        run = cls(Model(kind), args, train_dataset=rows, eval_dataset=rows, loss_fn=CRITERIA.get(kind))
        found.append(run.evaluate()["eval_loss"])
        run.train()
        found.append(run.evaluate()["eval_loss"])

    items = 20 if kind in ("tokens", "ctc") else 10
    batch = torch.utils.data.default_collate([rows[number] for number in range(10)])
    made = Model(kind)
    outputs = made(**batch)["loss"] if kind in ("classes", "tokens", "ctc") else None
    if outputs is None:
        x, labels = batch.values() if isinstance(batch, dict) else batch
        outputs = CRITERIA.get(kind, CRITERIA["criterion"])(made(x), labels)
    assert found == pytest.approx([outputs.item() / items] * 4, rel=1e-5)
    assert caplog.text.count("the loss is a sum") == 2
