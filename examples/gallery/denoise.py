"""Clean noisy digits: an autoencoder that sees other noise in every batch, added by its collator.

    python examples/gallery/denoise.py

1797 digits of scikit-learn. PyTorch, with a data_collator.
"""

from __future__ import annotations

import torch
from picture import run
from sklearn.datasets import load_digits
from torch import nn

from trackside import Trainer, TrainingArguments

digits = torch.tensor(load_digits().data / 16, dtype=torch.float32)
train_data, eval_data = list(digits[:1500]), list(digits[1500:])


def with_noise(examples):
    clean = torch.stack(examples)
    return {"noisy": clean + 0.4 * torch.randn_like(clean), "labels": clean}


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 24), nn.ReLU(), nn.Linear(24, 64), nn.Sigmoid()
        )

    def forward(self, noisy, labels=None):
        cleaned = self.layers(noisy)
        loss = None if labels is None else nn.functional.mse_loss(cleaned, labels)
        return {"loss": loss, "cleaned": cleaned, "noisy": noisy}


def train(folder, max_steps=-1):
    torch.manual_seed(0)
    args = TrainingArguments(
        folder,
        max_steps=max_steps,
        num_train_epochs=25,
        learning_rate=3e-3,
        per_device_train_batch_size=64,
        eval_strategy="epoch",
        save_strategy="no",
        overwrite_output_dir=True,
    )
    trainer = Trainer(Autoencoder(), args, data_collator=with_noise, train_dataset=train_data, eval_dataset=eval_data)
    trainer.train()
    return trainer


def draw(trainer, figure):
    prediction = trainer.predict(eval_data[:6])
    cleaned, noisy = prediction.predictions
    rows = {"noisy": noisy, "cleaned": cleaned, "true": prediction.label_ids}
    for axes_of_row, (name, images) in zip(figure.subplots(3, 6), rows.items(), strict=True):
        for axes, image in zip(axes_of_row, images, strict=True):
            axes.imshow(image.reshape(8, 8), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        axes_of_row[0].set_ylabel(name)


if __name__ == "__main__":
    run("denoise", train, draw)
