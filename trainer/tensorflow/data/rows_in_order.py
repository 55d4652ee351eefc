"""Rows of arrays in the order in which a tf.data.Dataset gives their indices.

To shuffle indices and take the rows of several batches at once costs less than to shuffle examples, and the order is
the same: it depends on the seed and the number of examples only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from .readers import Pair

READ_AT_ONCE = 4096
"""Indices that are read in one call into TensorFlow."""


class RowsInOrder:
    """Returns the rows between a start and a stop, as `RowsReader` asks for them: each start is the stop before it.

    Args:
        rows: Nested arrays with the same first dimension.
        indices: A tf.data.Dataset of indices of the rows.
        start: The first start.
    """

    def __init__(self, rows: Pair, indices: Any, start: int) -> None:
        self._rows = rows
        self._chunks = iter(indices.batch(READ_AT_ONCE).with_options(_unmeasured()))
        self._held = np.empty(0, np.int64)
        self._first = start

    def __call__(self, start: int, stop: int) -> Pair:
        """Return the rows; the indices before ``stop`` are not kept."""
        while self._first + len(self._held) < stop:
            self._held = np.concatenate([self._held, next(self._chunks)])
        chosen, self._held = np.split(self._held, [stop - self._first])
        self._first = stop
        taken: Pair = tf.nest.map_structure(lambda leaf: None if leaf is None else leaf[chosen], self._rows)
        return taken


def _unmeasured() -> Any:
    """Return options for a pipeline without parts to tune: to measure each of its elements takes half of its time."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return options
