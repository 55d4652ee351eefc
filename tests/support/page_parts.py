"""What the how-to pages take for granted: a model, its data, a loss and a metric."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset, random_split

images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
train_data, eval_data = random_split(TensorDataset(images, labels), [1500, 297], torch.Generator().manual_seed(0))
cross_entropy = torch.nn.functional.cross_entropy


def make_model():
    """Return a small classifier of digits."""
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def accuracy(prediction):
    """Return the share of images whose most likely class is the right one."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}
