"""Keras optimizers with the arithmetic of torch, so that a run has the same results with both."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from .._compat import OwnWeightDecay, slot_of, takes_weight_decay


class AdamW(keras.optimizers.AdamW):  # type: ignore[misc]
    """Keras' AdamW with epsilon as in the paper and in torch: added to the square root of the corrected mean.

    Source:
        Loshchilov and Hutter (2019), arXiv:1711.05101, algorithm 2.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its two means."""
        step = tf.cast(self.iterations.value + 1, variable.dtype)
        rate = tf.cast(learning_rate, variable.dtype)
        correction_1 = 1.0 - tf.pow(tf.cast(self.beta_1, variable.dtype), step)
        correction_2 = 1.0 - tf.pow(tf.cast(self.beta_2, variable.dtype), step)
        mean, square = (slot_of(self, variable, name).value for name in ("momentum", "velocity"))
        mean.assign_add((gradient - mean) * (1.0 - self.beta_1))
        square.assign_add((gradient * gradient - square) * (1.0 - self.beta_2))
        denominator = tf.sqrt(square) / tf.sqrt(correction_2) + self.epsilon
        variable.assign_sub(mean * (rate / correction_1) / denominator)


class _Coupled(OwnWeightDecay):
    """Base of optimizers that add the weight decay to the gradient; Keras subtracts it from the variable."""

    weight_decay: float | None

    def _with_decay(self, gradient: Any, variable: Any) -> Any:
        if not self.weight_decay or not takes_weight_decay(self, variable):
            return gradient
        return gradient + variable * tf.cast(self.weight_decay, variable.dtype)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable."""
        super().update_step(self._with_decay(gradient, variable), variable, learning_rate)  # type: ignore[misc]


class RMSprop(_Coupled, keras.optimizers.RMSprop):  # type: ignore[misc]
    """Keras' RMSprop, with the weight decay scaled like the gradient, as in torch."""


class Adagrad(_Coupled, keras.optimizers.Adagrad):  # type: ignore[misc]
    """Keras' Adagrad, with the weight decay scaled like the gradient, as in torch."""


class SGD(_Coupled, keras.optimizers.SGD):  # type: ignore[misc]
    """Keras' SGD with a momentum of gradients, as in torch; Keras' own momentum includes past learning rates."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its momentum."""
        step = gradient = self._with_decay(gradient, variable)
        if self.momentum:
            momentum = slot_of(self, variable, "momentum").value
            momentum.assign(momentum * self.momentum + gradient)
            step = gradient + momentum * self.momentum if self.nesterov else momentum.read_value()
        variable.assign_sub(step * tf.cast(learning_rate, variable.dtype))
