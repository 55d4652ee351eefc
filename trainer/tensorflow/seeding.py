"""Seeding of all random number generators of a TensorFlow run."""

from __future__ import annotations

import random

import numpy as np
import tensorflow as tf

from ._compat import global_seed_generator


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python, numpy and TensorFlow, including its global generator.

    Args:
        seed: A non-negative integer.
        deterministic: Also make TensorFlow choose deterministic kernels, and turn off its rewriting of sums, whose
            order varies between traces; both are slower.
    """
    global_seed_generator()  # made before, since Keras draws its seed from Python's generator
    random.seed(seed)
    np.random.seed(seed % 2**32)
    tf.random.set_seed(seed)
    tf.random.set_global_generator(tf.random.Generator.from_seed(seed))
    if deterministic:
        tf.config.experimental.enable_op_determinism()
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
