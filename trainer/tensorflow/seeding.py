"""Seeding of all random number generators of a TensorFlow run."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import tensorflow as tf

from ..data.sharding import derive_seed


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python, numpy and TensorFlow, including its global generator.

    Args:
        seed: A non-negative integer.
        deterministic: Also make TensorFlow choose deterministic kernels, and turn off its rewriting of sums, whose
            order varies between traces; both are slower.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    tf.random.set_seed(seed)
    tf.random.set_global_generator(tf.random.Generator.from_seed(seed))
    if deterministic:
        tf.config.experimental.enable_op_determinism()
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})


def seed_generators(model: Any) -> list[Any]:
    """Return the state variables of the model's own generators, such as those of dropout.

    Keras does not save them.
    """
    weights = {id(variable) for variable in model.weights}
    states = [variable for variable in model.variables if id(variable) not in weights]
    return [variable for variable in states if variable.path.endswith("seed_generator_state")]


def seed_model(model: Any, seed: int) -> None:
    """Seed the model's own generators by ``seed`` and their positions in the model."""
    for index, state in enumerate(seed_generators(model)):
        state.assign(np.array([derive_seed(seed, index) % 2**31, 0], dtype=np.uint32))
