"""Handwritten digits: a small convolutional network, the data, and the metric. `digits.yaml` names all three.

The 1797 images of 8 by 8 pixels are part of scikit-learn, so nothing is downloaded.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import TensorDataset


class DigitNet(nn.Module):
    """Two convolutions and two linear layers; takes images of shape (batch, 1, 8, 8) and returns logits (batch, 10)."""

    def __init__(self, width: int = 32, dropout: float = 0.3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, kernel_size=3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(2 * width * 4 * 4, 4 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def split(name: str, seed: int = 0) -> TensorDataset:
    """Return the "train" (60 %), "eval" or "test" (20 % each) part of the digits, every class with its share."""
    images, labels = load_digits(return_X_y=True)
    train, rest, train_labels, rest_labels = train_test_split(
        images, labels, test_size=0.4, stratify=labels, random_state=seed
    )
    evaluation, test, evaluation_labels, test_labels = train_test_split(
        rest, rest_labels, test_size=0.5, stratify=rest_labels, random_state=seed
    )
    parts = {"train": (train, train_labels), "eval": (evaluation, evaluation_labels), "test": (test, test_labels)}
    pixels, classes = parts[name]
    return TensorDataset(torch.tensor(pixels / 16.0).float().reshape(-1, 1, 8, 8), torch.tensor(classes).long())


def accuracy(prediction) -> dict[str, float]:
    """Return the share of images whose most likely class is the right one."""
    logits, labels = prediction
    return {"accuracy": float((logits.argmax(axis=-1) == labels).mean())}
