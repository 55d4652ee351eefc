"""Keras optimizers with the arithmetic of torch, so that a run has the same results with both."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import keras
import tensorflow as tf

from ._compat import OwnWeightDecay, slot_of, takes_weight_decay


class AdamW(keras.optimizers.AdamW):  # type: ignore[misc]
    """Keras' AdamW with epsilon as in the paper and in torch: added to the square root of the corrected mean.

    Source:
        Loshchilov and Hutter (2019), arXiv:1711.05101, algorithm 2.
    """

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update all variables."""
        shared = _shared[self] = {}
        super().apply(grads, trainable_variables)
        shared.clear()

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its two means."""
        rate, root_share = self._corrected(variable, learning_rate)
        mean, square = (slot_of(self, variable, name).value for name in ("momentum", "velocity"))
        mean.assign_add((gradient - mean) * (1.0 - self.beta_1))
        square.assign_add((gradient * gradient - square) * (1.0 - self.beta_2))
        denominator = tf.sqrt(square) * root_share + self.epsilon
        variable.assign_sub(mean * rate / denominator)

    def _corrected(self, variable: Any, learning_rate: Any) -> tuple[Any, Any]:
        """Return the factors by which an update corrects the mean and the root, once for all variables of a type."""
        dtype, shared = variable.dtype, _shared.get(self, {})
        key = tf.compat.v1.get_default_graph(), dtype, variable.device
        if key not in shared:
            step = tf.cast(self.iterations.value + 1, dtype)
            correction_1, correction_2 = (1.0 - tf.pow(tf.cast(b, dtype), step) for b in (self.beta_1, self.beta_2))
            shared[key] = tf.cast(learning_rate, dtype) / correction_1, tf.math.rsqrt(correction_2)
        found: tuple[Any, Any] = shared[key]
        return found


_shared: WeakKeyDictionary[Any, dict[Any, tuple[Any, Any]]] = WeakKeyDictionary()
"""What the variables of an update in progress share, by optimizer."""


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
