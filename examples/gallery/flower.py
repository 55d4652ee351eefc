"""Learn a photograph: a network takes a place and returns its colour.

    python examples/gallery/flower.py

The photograph of a flower is part of scikit-learn. PyTorch, with an average of the weights.
"""

from __future__ import annotations

import torch
from picture import run
from sklearn.datasets import load_sample_image
from torch import nn
from torch.utils.data import TensorDataset

from trackside import EMACallback, Trainer, TrainingArguments

photograph = torch.tensor(load_sample_image("flower.jpg")[40:392:6, 120:472:6] / 255, dtype=torch.float32)
SIZE = photograph.shape[:2]
places = torch.cartesian_prod(*(torch.linspace(-1, 1, size) for size in SIZE))
waves = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)) * 8
inputs = torch.cat([(places @ waves).sin(), (places @ waves).cos()], dim=1)
data = TensorDataset(inputs, photograph.reshape(-1, 3))


def train(folder, max_steps=-1):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 3), nn.Sigmoid())
    args = TrainingArguments(
        folder,
        max_steps=max_steps,
        num_train_epochs=25,
        learning_rate=3e-3,
        per_device_train_batch_size=128,
        per_device_eval_batch_size=1024,
        lr_scheduler_type="cosine",
        save_strategy="no",
        overwrite_output_dir=True,
    )
    trainer = Trainer(
        model, args, train_dataset=data, eval_dataset=data, loss_fn=nn.MSELoss(), callbacks=[EMACallback(decay=0.98)]
    )
    trainer.train()
    return trainer


def draw(trainer, figure):
    left, right = figure.subplots(1, 2)
    left.imshow(photograph)
    left.set(title="photograph", xticks=[], yticks=[])
    right.imshow(trainer.predict(data).predictions.reshape(*SIZE, 3))
    right.set(title="learned", xticks=[], yticks=[])


if __name__ == "__main__":
    run("flower", train, draw)
