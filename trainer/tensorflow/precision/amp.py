"""Mixed precision in float16 with dynamic loss scaling."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from .base import Precision

INITIAL_SCALE = 2.0**15
"""Scale of the first update: that of ``fit``, a default of Keras' LossScaleOptimizer."""

GROWTH_INTERVAL = 2000
"""Finite updates between growths of the scale; also a default of LossScaleOptimizer."""


class LossScalePrecision(Precision):
    """Computation of layers in float16, with dynamic loss scaling.

    Attributes:
        growth_interval: Number of finite updates after which the scale is doubled.

    Source:
        Micikevicius et al. (2018), arXiv:1710.03740, section 3.2.
    """

    is_scaled = True

    def __init__(self, policy: str) -> None:
        super().__init__(policy)
        self.scale: Any = tf.Variable(INITIAL_SCALE, dtype=tf.float32, trainable=False, name="loss_scale")
        self.growth_interval: int = GROWTH_INTERVAL
        self.good_steps: Any = tf.Variable(0, dtype=tf.int32, trainable=False, name="good_steps")

    def begin_as(self, optimizer: Any) -> None:
        """Take scale and growth interval of a LossScaleOptimizer; of another optimizer, nothing."""
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            self.scale.assign(optimizer.dynamic_scale if optimizer.built else optimizer.initial_scale)
            self.growth_interval = optimizer.dynamic_growth_steps

    def scaled(self, loss: Any) -> Any:
        """Return the loss times the scale."""
        return loss * tf.cast(self.scale, loss.dtype)

    def unscaled(self, factor: Any) -> Any:
        """Return the factor on the gradients with the loss scale divided out."""
        return factor / self.scale

    def update(self, is_finite: Any) -> None:
        """Halve the scale if gradients were not finite; double it after `growth_interval` finite updates."""
        good = tf.where(is_finite, self.good_steps + 1, 0)
        grows = good >= self.growth_interval
        grown = tf.where(grows, self.scale * 2.0, self.scale)
        self.scale.assign(tf.where(is_finite, grown, self.scale * 0.5))
        self.good_steps.assign(tf.where(grows, 0, good))

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and its growth counter."""
        return {"scale": float(self.scale.numpy()), "good_steps": int(self.good_steps.numpy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the scale and its growth counter."""
        if state:
            self.scale.assign(state["scale"])
            self.good_steps.assign(state["good_steps"])
