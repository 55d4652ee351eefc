"""Classify wines by their chemistry, with a weight for each class; a confusion matrix shows what is mixed up.

    python examples/gallery/wine.py

178 wines of three growers, 13 measurements each, part of scikit-learn. PyTorch.
"""

from __future__ import annotations

import torch
from picture import run
from sklearn.datasets import load_wine
from sklearn.metrics import confusion_matrix
from torch.utils.data import TensorDataset, random_split

from trackside import EarlyStoppingCallback, Trainer, TrainingArguments

wine = load_wine()
features = torch.tensor(wine.data, dtype=torch.float32)
features = (features - features.mean(0)) / features.std(0)
labels = torch.tensor(wine.target)
train_data, eval_data = random_split(TensorDataset(features, labels), [118, 60], torch.Generator().manual_seed(0))


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def train(folder, max_steps=-1):
    torch.manual_seed(0)
    args = TrainingArguments(
        folder,
        max_steps=max_steps,
        num_train_epochs=30,
        learning_rate=3e-3,
        eval_strategy="epoch",
        save_strategy="no",
        overwrite_output_dir=True,
    )
    trainer = Trainer(
        torch.nn.Sequential(torch.nn.Linear(13, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)),
        args,
        train_dataset=train_data,
        eval_dataset=eval_data,
        loss_fn=torch.nn.CrossEntropyLoss(weight=1 / torch.bincount(labels).float()),
        compute_metrics=accuracy,
        callbacks=[EarlyStoppingCallback(5)],
    )
    trainer.train()
    return trainer


def draw(trainer, figure):
    prediction = trainer.predict(eval_data)
    counts = confusion_matrix(prediction.label_ids, prediction.predictions.argmax(-1))
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in [((i, j), counts[i, j]) for i in range(3) for j in range(3)]:
        axes.text(column, row, count, ha="center", va="center", color="white" if count > 12 else "black")
    axes.set(title="wines of three growers", xlabel="predicted", ylabel="true", xticks=range(3), yticks=range(3))


if __name__ == "__main__":
    run("wine", train, draw)
