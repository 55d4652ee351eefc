"""Seeding every random number generator that a TensorFlow run draws from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import tensorflow as tf

from ..data.sharding import derive_seed


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python, numpy and TensorFlow, its global generator included.

    Args:
        seed: A whole number from 0.
        deterministic: Also make TensorFlow choose deterministic kernels, and not rewrite sums of a graph, which it
            does in another order from one trace to the next; at a cost in speed.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    tf.random.set_seed(seed)
    tf.random.set_global_generator(tf.random.Generator.from_seed(seed))
    if deterministic:
        tf.config.experimental.enable_op_determinism()
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})


def seed_generators(model: Any) -> list[Any]:
    """Return the variables that hold the state of the model's own generators, such as those of dropout.

    Keras writes them into none of its files.
    """
    weights = {id(variable) for variable in model.weights}
    states = [variable for variable in model.variables if id(variable) not in weights]
    return [variable for variable in states if variable.path.endswith("seed_generator_state")]


def seed_model(model: Any, seed: int) -> None:
    """Start the model's own generators at a state that depends on ``seed`` and on their place in the model alone."""
    for index, state in enumerate(seed_generators(model)):
        state.assign(np.array([derive_seed(seed, index) % 2**31, 0], dtype=np.uint32))
