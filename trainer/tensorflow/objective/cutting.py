"""Whether the loss of a batch depends on how the batch is cut into micro-batches, found out on a few examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .items import is_of_keras

FEW = 8
"""Examples on which a loss is looked at."""

OF_BATCHES = ("dice", "tversky", "circle")
"""Losses of Keras that compare the elements of a batch."""


def is_known(loss: Any) -> bool:
    """Return whether a loss, or the loss of that name, is one of Keras with a value for each example.

    Example:
        >>> is_known("mse"), is_known(keras.losses.Dice())
        (True, False)
    """
    if loss is None or isinstance(loss, str):
        return str(loss).lower() not in OF_BATCHES
    name = getattr(loss, "__name__", None) or type(loss).__name__
    return is_of_keras(loss) and name.lower() not in OF_BATCHES


def depends_on_cut(items_of: Callable[..., Sequence[Any]], labels: Any, outputs: Any, examples: int) -> bool:
    """Return whether the loss of a batch is another than the mean of the losses of its parts.

    Args:
        items_of: Returns the losses of a batch, as `Objective.items` does.
    """

    def means(*places: int) -> Any:
        found = [_sums_of(items_of, labels, outputs, *span) for span in pairwise(places)]
        totals, weights = np.sum(found, axis=0)
        return totals / np.where(weights == 0, 1.0, weights)

    whole, parts = means(0, examples), means(*sorted({0, 1, examples // 2, examples}))
    return not np.allclose(whole, parts, rtol=1e-3, atol=1e-6, equal_nan=True)


def _sums_of(items_of: Callable[..., Sequence[Any]], labels: Any, outputs: Any, begin: int, end: int) -> Any:
    """Return the sums and the weights of the losses of a part of a batch, of shape (2, losses)."""

    def rows(leaf: Any) -> Any:
        return None if leaf is None else leaf[begin:end]

    part = (keras.tree.map_structure(rows, nested) for nested in (labels, outputs))
    size = end - begin
    found = items_of(*part, None, tf.constant(size))
    weights = [size if item.weight is None else item.weight for item in found]
    return np.array([[float(item.total) for item in found], [float(weight) for weight in weights]])
