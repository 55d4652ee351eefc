"""Shuffling of a tf.data.Dataset within a bound on memory: by a buffer of examples, or by their indices."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from .._compat import shuffled_by_index

logger: logging.Logger = logging.getLogger("trackside.trainer")

MIB = 2**20
BUFFER_EXAMPLES = 100_000
"""Maximum number of examples in a buffer, which bounds the time before the first step."""
OVERHEAD_BYTES = 128
"""Memory of one tensor of an example in a buffer, beside its values."""
MEASURED = 16
"""Number of examples whose size is measured where the dataset does not declare it."""


class Shuffling:
    """How the examples of a dataset are shuffled, the same in every epoch and after a resume.

    If all of them fit into the buffer, they pass through it. If not, their indices are shuffled, where every
    transformation of the dataset gives the example of an index; they are read in another order then, and none is kept.
    Other datasets pass through a buffer that holds a part of them, which a warning tells if their number is known.

    Args:
        dataset: The dataset of examples, with the random numbers of any epoch.
        num_examples: Their number; None if unknown.
        buffer_mib: Maximum size of the buffer.

    Units:
        buffer_mib: MiB.
    """

    def __init__(self, dataset: Any, num_examples: int | None, buffer_mib: int) -> None:
        held = min(BUFFER_EXAMPLES, max(1, buffer_mib * MIB // bytes_of_example(dataset)))
        self.buffer_examples: int = min(held, num_examples or held)
        exceeds = num_examples is not None and num_examples > held
        self.by_index: bool = exceeds and _has_indices(dataset)
        if exceeds and not self.by_index:
            logger.warning(
                "the training data is not shuffled as a whole: the buffer holds %d of %d examples (at most %d, and at "
                "most shuffle_buffer_mib=%d). Shuffle the files or indices that the dataset is made of, too",
                *(held, num_examples, BUFFER_EXAMPLES, buffer_mib),
            )

    def apply(self, dataset: Any, seed: int) -> Any:
        """Return the examples of ``dataset`` in an order that is a function of ``seed``."""
        if self.by_index:
            return shuffled_by_index(dataset, seed)
        return dataset.shuffle(self.buffer_examples, seed=seed, reshuffle_each_iteration=False)


def bytes_of_example(dataset: Any) -> int:
    """Return the bytes of an example in a buffer: as declared, or the mean over the first examples."""
    leaves = tf.nest.flatten(dataset.element_spec)
    if all(isinstance(leaf, tf.TensorSpec) and _is_sized(leaf) for leaf in leaves):
        return sum(leaf.shape.num_elements() * leaf.dtype.size + OVERHEAD_BYTES for leaf in leaves)
    sizes = [_bytes_in(tf.nest.flatten(example, expand_composites=True)) for example in dataset.take(MEASURED)]
    return math.ceil(sum(sizes) / len(sizes)) if sizes else OVERHEAD_BYTES


def _is_sized(spec: Any) -> bool:
    return bool(spec.shape.is_fully_defined() and spec.dtype not in (tf.string, tf.variant))


def _bytes_in(leaves: Iterable[Any]) -> int:
    return sum(_bytes(leaf) + OVERHEAD_BYTES for leaf in leaves)


def _bytes(leaf: Any) -> int:
    if leaf.dtype == tf.string:
        return int(tf.reduce_sum(tf.strings.length(leaf)))
    return 0 if leaf.dtype == tf.variant else int(tf.size(leaf)) * int(leaf.dtype.size)


def _has_indices(dataset: Any) -> bool:
    """Return whether TensorFlow can read the examples of a dataset in any order; the first of them is read."""
    try:
        return next(iter(shuffled_by_index(dataset, 0)), None) is not None
    except (tf.errors.OpError, AttributeError, ImportError):
        return False
