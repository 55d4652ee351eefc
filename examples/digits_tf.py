"""Handwritten digits on TensorFlow: the network and the data of digits.py. `digits_tf.yaml` names them.

The 1797 images of 8 by 8 pixels are part of scikit-learn, so nothing is downloaded.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def digit_net(width: int = 32, dropout: float = 0.3) -> keras.Model:
    """Two convolutions and two linear layers; takes images of shape (batch, 8, 8, 1), returns logits (batch, 10)."""
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(width, 3, padding="same"),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
            layers.ReLU(),
            layers.Conv2D(2 * width, 3, padding="same"),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(4 * width, activation="relu"),
            layers.Dropout(dropout),
            layers.Dense(10),
        ]
    )


def split(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
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
    return (pixels / 16.0).astype("float32").reshape(-1, 8, 8, 1), classes


def accuracy(prediction) -> dict[str, float]:
    """Return the share of images whose most likely class is the right one."""
    logits, labels = prediction
    return {"accuracy": float((logits.argmax(axis=-1) == labels).mean())}
