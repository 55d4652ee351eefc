"""The example of a subclass in the reference documentation, on a real dataset: a custom loss.

python examples/subclass.py
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from trackside import EvalPrediction, Trainer, TrainingArguments

CLASS_WEIGHTS = torch.linspace(1.0, 2.0, 10)


def my_custom_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, labels, weight=CLASS_WEIGHTS)


class Digits(nn.Module):
    """A model that takes its images by name and returns a tuple, like those of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.layers(pixels),)


class MyTrainer(Trainer):
    def compute_loss(self, model, inputs):  # type: ignore[no-untyped-def]
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        logits = outputs[0]
        return my_custom_loss(logits, labels)


class DigitsDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self, part: slice) -> None:
        digits = load_digits()
        self.data = TensorDataset(
            torch.tensor(digits.data[part] / 16, dtype=torch.float32), torch.tensor(digits.target[part])
        )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        pixels, label = self.data[index]
        return {"pixels": pixels, "labels": label}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


def main() -> dict[str, float]:
    trainer = MyTrainer(
        model=Digits(),
        args=TrainingArguments(
            output_dir="trainer_output/subclass",
            overwrite_output_dir=True,
            num_train_epochs=10,
            per_device_train_batch_size=32,
            learning_rate=3e-3,
            eval_strategy="epoch",
            save_strategy="no",
        ),
        train_dataset=DigitsDataset(slice(0, 1400)),
        eval_dataset=DigitsDataset(slice(1400, None)),
        compute_metrics=accuracy,
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)

    output = trainer.predict(trainer.eval_dataset)
    expected = my_custom_loss(torch.tensor(output.predictions), torch.tensor(output.label_ids))
    print(
        f"the custom loss computed from the predictions: {float(expected):.4f}; evaluated: {metrics['eval_loss']:.4f}"
    )
    return metrics


if __name__ == "__main__":
    main()
