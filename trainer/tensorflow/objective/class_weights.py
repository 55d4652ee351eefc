"""Weights of classes, which weigh the losses of their labels in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from trackside.callbacks.errors import ArgumentError

from .items import are_classes, sum_dtype


def checked_class_weight(given: Any) -> dict[int, float] | None:
    """Return a map from classes to weights as the user gave it.

    Raises:
        ArgumentError: If it is something else.
    """
    if given is None:
        return None
    allowed = "a map from the number of a class to its weight, such as {0: 1.0, 1: 2.5}"
    try:
        weights = {float(label): float(weight) for label, weight in dict(given).items()}
    except (TypeError, ValueError):
        raise ArgumentError("class_weight", given, allowed) from None
    if not all(label.is_integer() for label in weights):
        raise ArgumentError("class_weight", given, allowed)
    return {int(label): weight for label, weight in weights.items()}


def weights_of(labels: Any, logits: Any, class_weight: Mapping[int, float], sample_weight: Any = None) -> Any:
    """Return a weight for each label, by its class; 1 for classes that have none.

    Raises:
        ArgumentError: If there are several outputs, or sample weights too, as in Keras; or for a class that the outputs
            do not have.
    """
    allowed = "None for a model with several outputs, or a dataset with sample weights; give sample weights instead"
    leaves, outputs = keras.tree.flatten(labels), keras.tree.flatten(logits)
    if len(leaves) != 1 or len(outputs) != 1 or sample_weight is not None:
        raise ArgumentError("class_weight", dict(class_weight), allowed)
    label, output = leaves[0], outputs[0]
    rank, classes = label.shape.rank, output.shape[-1] if output.shape.rank else None
    if classes and classes > 1 and not set(class_weight) <= set(range(classes)):
        allowed = f"weights of the classes 0 to {classes - 1}, since the model's outputs have {classes}"
        raise ArgumentError("class_weight", dict(class_weight), allowed)
    if rank == output.shape.rank and rank and rank > 1 and label.shape[-1] != 1:
        label = tf.argmax(label, axis=-1)
    elif rank and rank > 1 and label.shape[-1] == 1 and (rank == output.shape.rank or are_classes(label, output)):
        label = tf.squeeze(label, -1)
    label, weights = tf.cast(label, tf.int64), tf.ones(tf.shape(label), sum_dtype())
    for number, weight in class_weight.items():
        weights = tf.where(label == number, tf.cast(weight, weights.dtype), weights)
    return weights
