"""Small real parts for the TensorFlow trainer's tests: models, data, and processes of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from support.fork_process import Fork

try:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
except RuntimeError:  # TensorFlow has started already
    pass

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def mlp(*, dropout: float = 0.0, width: int = 16) -> Any:
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(width, activation="relu")
    return keras.Sequential([keras.layers.Input((6,)), hidden, keras.layers.Dropout(dropout), keras.layers.Dense(3)])


def weights_of(model: Any) -> Any:
    return np.concatenate([np.asarray(variable.value).ravel() for variable in model.trainable_variables])


def run_alone(code: str, *, timeout_s: float = 240, **environ: str) -> str:
    """Run ``code`` in a process of its own, since TensorFlow's devices can be set up once only; return what it said."""
    process = Fork("tensorflow", ["-c", code], Path.cwd(), {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environ})
    try:
        assert process.wait(timeout_s) == 0, process.errors[-3000:]
    finally:
        process.kill()
    return process.output
