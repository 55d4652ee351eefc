"""One run after another on a real torch_xla; called as ``xla_worker.py FOLDER`` with PJRT_DEVICE set, writes JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from support.arrays import accuracy
from support.torch_models import DictDataset, classified, mlp, weights_of
from torch import Tensor, nn

from trackside import Trainer, TrainingArguments


class Tied(nn.Module):
    """A classifier of tokens whose head shares its weight with the embedding, with dropout on the device."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 8)
        self.middle = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        hidden = self.other(self.middle(self.embedding(input_ids)).tanh())
        logits = self.head(self.dropout(hidden))
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def tokens(examples: int) -> DictDataset:
    """Rows of which some labels do not count."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, 11, (examples, 7), generator=generator)
    labels = input_ids.roll(-1, 1).clone()
    for row in range(examples):
        labels[row, : row % 6] = -100
    return DictDataset(input_ids=input_ids, labels=labels)


def make(folder: Path, model: nn.Module, **values: Any) -> Trainer:
    defaults = {"output_dir": str(folder), "save_strategy": "no", "disable_tqdm": True, "max_steps": 6}
    defaults |= {"logging_steps": 2, "learning_rate": 0.05, "overwrite_output_dir": True}
    given: dict[str, Any] = {"train_dataset": classified(40), "loss_fn": nn.CrossEntropyLoss()}
    given |= {name: values.pop(name) for name in ("train_dataset", "loss_fn", "optimizers") if name in values}
    args = TrainingArguments(**{**defaults, **values})
    trainer = Trainer(model, args, eval_dataset=classified(13, seed=1), compute_metrics=accuracy, **given)
    trainer.pop_callback("printer")
    return trainer


def trained(folder: Path, model: nn.Module, resume: str | None = None, **values: Any) -> Trainer:
    trainer = make(folder, model, **values)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def outcome(trainer: Trainer) -> dict[str, Any]:
    history = trainer.state.log_history
    return {
        "device": trainer.args.device.type,
        "weights": weights_of(trainer.model).cpu().tolist(),
        "losses": [record["loss"] for record in history if "loss" in record],
        "norms": [record["grad_norm"] for record in history if "grad_norm" in record],
    }


def main(folder: Path, **values: Any) -> dict[str, Any]:
    """Run every case; ``values`` say on which device."""
    text = {"train_dataset": tokens(37), "loss_fn": None, **values}
    found: dict[str, Any] = {}
    for accumulation in (1, 3):
        trainer = trained(folder / "plain", mlp(), gradient_accumulation_steps=accumulation, **values)
        metrics = trainer.evaluate()
        found[f"accumulation {accumulation}"] = outcome(trainer)
        found[f"evaluation {accumulation}"] = [metrics["eval_loss"], metrics["eval_accuracy"]]
    found["tied"] = outcome(trained(folder / "text", Tied(0.0), gradient_accumulation_steps=2, **text))
    model = mlp()
    own = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found["own optimizer"] = outcome(trained(folder / "own", model, optimizers=(own, None), **values))
    found["bf16"] = outcome(trained(folder / "bf16", mlp(), bf16=True, **values))
    whole = trained(folder / "whole", Tied(0.3), save_strategy="steps", save_steps=3, **text)
    again = trained(folder / "again", Tied(0.3), resume=str(folder / "whole" / "checkpoint-3"), **text)
    found["whole"], found["resumed"] = outcome(whole), outcome(again)
    whole.save_model(str(folder / "final"))
    trained(folder / "cpu", mlp(), save_strategy="steps", save_steps=3, no_cuda=True)
    found["from the cpu"] = outcome(
        trained(folder / "cpu2", mlp(), resume=str(folder / "cpu" / "checkpoint-3"), **values)
    )
    return found


def launches(folder: Path) -> dict[str, int]:
    """Return how often 20 updates without a log compiled, launched and read something from the device."""
    from torch_xla.debug import metrics

    trainer = make(folder / "launches", mlp(), max_steps=21, logging_strategy="no", tpu_num_cores=1)
    counts: dict[str, int] = {}

    @trainer.on("on_step_end")
    def count(sender: Any, state: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            metrics.clear_all()
        if state.global_step == 21:
            counts["steps"] = metrics.counter_value("MarkStep") or 0
            for what, metric in (("compilations", "Compile"), ("reads", "TransferFromDevice")):
                counts[what] = (metrics.metric_data(f"{metric}Time") or (0,))[0]

    trainer.train()
    return counts


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    (out / "found.json").write_text(json.dumps({**main(out, tpu_num_cores=1), "launches": launches(out)}))
