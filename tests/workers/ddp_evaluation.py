"""Evaluation on several ranks, and the examples that each of them sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import torch
from support.arrays import accuracy
from support.torch_models import DictDataset, classified
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from trackside import Trainer
from workers.ddp_common import Stream, make


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


class SeenExamples(Trainer):
    """Writes down which examples count in training."""

    def training_step(self, model: nn.Module, inputs: Any) -> Tensor:
        if not self._engine.train_step.context.is_padding:
            self.seen.setdefault(str(int(self.state.epoch)), []).extend(inputs[0][:, 0].long().tolist())
        return super().training_step(model, inputs)


def examples_seen(folder: Path) -> Any:
    numbers = torch.arange(17.0)[:, None].expand(17, 6).double()
    data = TensorDataset(numbers.contiguous(), torch.zeros(17, dtype=torch.long))
    found = {}
    for name, dataset in (("map", data), ("stream", Stream(data))):
        trainer = make(
            folder, cls=SeenExamples, train_dataset=dataset, dataloader_num_workers=2, max_steps=6, num_train_epochs=2
        )
        trainer.seen = {}
        trainer.train()
        found[name] = {"seen": trainer.seen}
    return found
