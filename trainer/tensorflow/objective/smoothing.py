"""Label smoothing, as a loss that counts, weighs and masks labels as those of Keras do."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class SmoothedCrossentropy(keras.losses.SparseCategoricalCrossentropy):  # type: ignore[misc]
    """The cross entropy of logits with labels that are mixed with the uniform distribution.

    Args:
        epsilon: The weight of the uniform distribution, between 0 and 1.

    Source:
        Szegedy et al. (2016), arXiv:1512.00567, section 7.
    """

    def __init__(self, epsilon: float) -> None:
        super().__init__(from_logits=True)
        self.epsilon: float = epsilon

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each label, which is the number of a class, or a distribution over the classes.

        Shapes:
            y_pred: (..., classes); y_true: (...), (..., 1) or (..., classes).
        """
        if y_true.shape.rank == y_pred.shape.rank and y_true.shape[-1] == y_pred.shape[-1]:
            target = keras.losses.categorical_crossentropy(tf.cast(y_true, y_pred.dtype), y_pred, from_logits=True)
        else:
            target = super().call(y_true, y_pred)
        return (1.0 - self.epsilon) * target - self.epsilon * tf.reduce_mean(tf.nn.log_softmax(y_pred), axis=-1)
