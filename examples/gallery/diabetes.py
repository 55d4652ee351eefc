"""Predict the course of diabetes with an interval: a network with three outputs, each trained for a quantile.

    python examples/gallery/diabetes.py

442 patients, 10 measurements each, part of scikit-learn. PyTorch, with a loss of its own.
"""

from __future__ import annotations

import torch
from picture import run
from sklearn.datasets import load_diabetes
from torch.utils.data import TensorDataset, random_split

from trackside import Trainer, TrainingArguments

QUANTILES = torch.tensor([0.1, 0.5, 0.9])

features, target = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
data = TensorDataset(features / features.std(0), target / 100)
train_data, eval_data = random_split(data, [342, 100], torch.Generator().manual_seed(0))


def pinball_loss(outputs, labels):
    error = labels[:, None] - outputs
    return torch.maximum(QUANTILES * error, (QUANTILES - 1) * error).mean()


def coverage(prediction):
    low, _, high = prediction.predictions.T
    return {"coverage": float(((low < prediction.label_ids) & (prediction.label_ids < high)).mean())}


def train(folder, max_steps=-1):
    torch.manual_seed(0)
    args = TrainingArguments(
        folder,
        max_steps=max_steps,
        num_train_epochs=20,
        learning_rate=3e-3,
        per_device_train_batch_size=32,
        eval_strategy="epoch",
        save_strategy="no",
        overwrite_output_dir=True,
    )
    trainer = Trainer(
        torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3)),
        args,
        train_dataset=train_data,
        eval_dataset=eval_data,
        loss_fn=pinball_loss,
        compute_metrics=coverage,
    )
    trainer.train()
    return trainer


def draw(trainer, figure):
    prediction = trainer.predict(eval_data)
    order = prediction.predictions[:, 1].argsort()
    low, middle, high = (100 * prediction.predictions[order]).T
    axes = figure.subplots()
    axes.fill_between(range(100), low, high, alpha=0.3, label="10 % to 90 %")
    axes.plot(middle, label="median")
    axes.plot(100 * prediction.label_ids[order], "k.", markersize=3, label="true")
    axes.set(title="course of diabetes", xlabel="patients, by prediction")
    axes.legend(fontsize=8)


if __name__ == "__main__":
    run("diabetes", train, draw)
