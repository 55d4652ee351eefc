"""Weight average of a Keras model: weights and other variables of floating point."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from ...base_engine.average import WeightAverage
from . import model_state

LOW_PRECISION = ("float16", "bfloat16")


class TFWeightAverage(WeightAverage):
    """The average of a Keras model's weights."""

    def _weights(self) -> dict[str, Any]:
        self._engine.train_step.queue.flush()
        named = model_state.everything(self._engine.trainer.model)
        variables = {name: value for name, value in named.items() if model_state.is_variable(value)}
        return {name: value for name, value in variables.items() if tf.as_dtype(value.dtype).is_floating}

    def _optimizer_averages(self) -> bool:
        return bool(getattr(self._engine.trainer.optimizer, "use_ema", False))

    def _copied(self, weight: Any, *, as_it_is: bool = False) -> Any:
        value = model_state.held(weight)
        return tf.cast(value, tf.float32) if value.dtype.name in LOW_PRECISION and not as_it_is else value

    def _held(self, weight: Any) -> Any:
        return model_state.held(weight)

    def _mixed(self, average: Any, weight: Any, share: float) -> Any:
        return average + (tf.cast(model_state.held(weight), average.dtype) - average) * tf.cast(share, average.dtype)

    def _assign(self, weight: Any, value: Any) -> None:
        weight.assign(tf.cast(value, weight.dtype))

    def _differs(self, average: Any, weight: Any) -> bool:
        return bool(average.dtype != tf.as_dtype(weight.dtype))

    def _restored(self, value: Any, like: Any) -> Any:
        return tf.constant(np.asarray(value), tf.as_dtype(like.dtype))
