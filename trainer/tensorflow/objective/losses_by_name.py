"""The loss of each of several outputs over the batches of an evaluation, under the name that Keras gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ...distributed.collectives import Collectives


def by_name(names: Sequence[str], losses: Any, weights: Any) -> dict[str, Any]:
    """Return for each name the sum of its losses in a batch, and the weight of that sum.

    Shapes:
        losses, weights: (names,). What is returned: (2,) for each name.
    """
    losses, weights = tf.cast(losses, tf.float64), tf.cast(weights, tf.float64)
    pairs = tf.stack([tf.math.multiply_no_nan(losses, weights), weights])
    return {name: pairs[:, place] for place, name in enumerate(names)}


class LossesByName:
    """Sums of losses over batches, which stay on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}

    def begin(self) -> None:
        """Begin an evaluation."""
        self._sums = {}

    def add(self, found: Mapping[str, Any]) -> None:
        """Add what `by_name` returned for a batch."""
        for name, pair in found.items():
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def results(self, collectives: Collectives) -> dict[str, float]:
        """Return the mean of each loss over the batches of all processes."""
        sums: dict[str, Any] = {}
        for part in collectives.gather("the losses of the outputs", {n: p.numpy() for n, p in self._sums.items()}):
            for name, pair in part.items():
                sums[name] = sums.get(name, 0.0) + pair
        return {name: float(np.divide(*pair)) for name, pair in sums.items() if pair[1] > 0}
