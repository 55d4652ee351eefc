"""Seeding for scripts: whatever framework they use."""

from __future__ import annotations

import random
import sys

import numpy as np

from trackside.callbacks._util.imports import is_installed


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python, numpy and every framework that is loaded; where none is yet, the first that is installed.

    Trainers seed themselves from ``args.seed``; this is for what comes before, such as building a model.

    Args:
        seed: A whole number from 0 to 2**32 - 1.
        deterministic: Also choose deterministic algorithms, at a cost in speed.
    """
    random.seed(seed)
    np.random.seed(seed)
    known = ("torch", "tensorflow")
    chosen = [name for name in known if name in sys.modules] or [name for name in known if is_installed(name)][:1]
    if "torch" in chosen:
        from trackside.trainer.pytorch.seeding import set_seed as seed_torch

        seed_torch(seed, deterministic)
    if "tensorflow" in chosen:
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(seed)
        if deterministic:
            tf.config.experimental.enable_op_determinism()
