"""Models with states for each example, as a stateful RNN has, and so with batches of one size."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from trackside.callbacks.errors import ArgumentError, TracksideValueError

from .._compat import input_structure, layers_of
from .loader import ArrayBatches, Batches, DatasetBatches


def stateful_layers(model: Any) -> list[Any]:
    """Return the layers of a model, built or not, that keep states for each example of a batch."""
    return [layer for layer in layers_of(model) if getattr(layer, "stateful", False)]


def examples_to_build(model: Any, batches: Batches, replicas: int) -> int:
    """Return on how many examples to build a model: a micro-batch of one replica if it keeps states of them, else 1."""
    return max(batches.batch_size // replicas, 1) if stateful_layers(model) else 1


def check_batch_size(batches: Batches | None, model: Any, stage: str) -> None:
    """Check that a model with states for each example gets batches of its size only.

    Args:
        stage: "train" or "eval".

    Raises:
        ArgumentError: If the batches have another size.
        TracksideValueError: If the last one is smaller.
    """
    layers = stateful_layers(model)  # others take any batch
    if not layers or not isinstance(batches, (ArrayBatches, DatasetBatches)):
        return
    held = [*tf.nest.flatten(input_structure(model)), *(tf.nest.flatten([layer.states for layer in layers]))]
    sizes = {leaf.shape[0] for leaf in held if getattr(leaf, "shape", None)} - {None}
    if len(sizes) != 1:
        return
    (size,), name = sizes, type(model).__name__
    why = "by its batch_shape, or that of the batch on which it was built"
    if batches.batch_size != size:
        allowed = f"{size}, since {name} takes batches of {size} examples only, {why}"
        raise ArgumentError(f"per_device_{stage}_batch_size", batches.batch_size, allowed)
    rest = (batches.num_examples or 0) % size
    if rest and not batches.drop_last:
        cure = (
            "dataloader_drop_last=True leaves it out" if stage == "train" else "give a dataset without it, as by take()"
        )
        raise TracksideValueError(
            f"{name} takes batches of {size} examples only, {why}, and the last of {batches.num_examples} examples has "
            f"{rest}: {cure}"
        )
