"""Readers of the rest of an epoch, which give batches to the host, or to a function that does one update or several.

The position in the data is a number of batches, so that a batch need not be on the host to be counted.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trackside.callbacks.errors import TracksideTypeError

from ...data.sharding import BatchCut
from ...train_step import TrainBatch
from .leaves import unequal

LABELS = ("labels", "label", "label_ids")
"""Names of labels among the features."""


class Pair(NamedTuple):
    """Features and labels of an example or a batch; labels are None if there are none."""

    features: Any
    labels: Any


class Weighted(NamedTuple):
    """Labels with sample weights, which stand where labels without weights stand."""

    labels: Any
    weights: Any


def unweighted(labels: Any) -> tuple[Any, Any]:
    """Return labels, and their sample weights or None."""
    return labels if isinstance(labels, Weighted) else (labels, None)


def pair_of(element: Any) -> Pair:
    """Return the features and the labels of an element.

    It is a pair of them, with sample weights as a third part, a dict that includes labels, or features.
    """
    if isinstance(element, Pair):
        return element
    if isinstance(element, (tuple, list)) and len(element) == 2:
        return Pair(*element)
    if isinstance(element, (tuple, list)) and len(element) == 3:
        features, labels, weights = element
        return Pair(features, labels if labels is None or weights is None else Weighted(labels, weights))
    if isinstance(element, Mapping):
        features = dict(element)
        for name in LABELS:
            if name in features:
                return Pair(features, features.pop(name))
        return Pair(features, None)
    if isinstance(element, (tuple, list)) and len(element) == 1:
        return Pair(element[0], None)
    if isinstance(element, (tuple, list)):
        raise TracksideTypeError(
            f"a dataset gives (features, labels) or (features, labels, sample_weight), not {len(element)} parts; nest "
            "the features"
        )
    return Pair(element, None)


class Reader(ABC):
    """Batches that are read later, in order.

    Args:
        sizes: Number of examples of each batch.
        spec: A Pair of nested tf.TensorSpec, the structure of a batch.
        signature: The nested tf.TypeSpec of what `take` returns.
        batch_in: Takes what `take` returned and an index; returns the batch with this index. It is called in order
            while a function is traced, and used with other readers of the same class.

    Attributes:
        tokens: Number of ``input_ids`` of an example; 0 without any, None if it varies.
    """

    def __init__(self, sizes: Iterable[int], spec: Pair, signature: Any, batch_in: Callable[[Any, Any], Pair]) -> None:
        self._sizes = sizes
        self.signature: Any = signature
        self.batch_in: Callable[[Any, Any], Pair] = batch_in
        self.tokens: int | None = tokens_per_example(spec.features)

    def __iter__(self) -> Iterator[TrainBatch]:
        """Yield each batch, unread: its inputs are this reader."""
        for size in self._sizes:
            yield TrainBatch(self, size, size)

    @abstractmethod
    def read(self) -> Pair:
        """Return the next batch."""

    @abstractmethod
    def take(self, count: int) -> Any:
        """Return what a function needs for the next ``count`` batches."""


class IteratorReader(Reader):
    """Reads the batches of a tf.data.Dataset by its iterator.

    Args:
        dataset: The batches.
        pair_of: Returns the Pair of an element.
    """

    def __init__(self, dataset: Any, sizes: Iterable[int], spec: Pair, pair_of: Callable[[Any], Pair]) -> None:
        signature = tf.data.IteratorSpec(dataset.element_spec)
        super().__init__(sizes, spec, signature, lambda taken, index: pair_of(taken.get_next()))
        self._iterator = iter(dataset)
        self._pair_of = pair_of

    def read(self) -> Pair:
        """Return the next batch."""
        try:
            return self._pair_of(self._iterator.get_next())
        except tf.errors.InvalidArgumentError as error:
            raise unequal(error) or error from None

    def take(self, count: int) -> Any:
        """Return the iterator."""
        return self._iterator


class RowsReader(Reader):
    """Reads batches of rows in memory; the rows of several batches are taken at once.

    Args:
        cut: The partition of the rows into batches, all of this process.
        rows_at: Returns a Pair of the rows between a start and a stop.
    """

    def __init__(self, cut: BatchCut, spec: Pair, rows_at: Callable[[int, int], Pair]) -> None:
        size = cut.global_batch_size
        super().__init__((count for count, _ in cut.counts()), spec, spec, partial(_rows_of_batch, size))
        self._cut = cut
        self._next = cut.start
        self._rows_at = rows_at

    def read(self) -> Pair:
        """Return the next batch."""
        taken: Pair = self.take(1)
        return taken

    def take(self, count: int) -> Any:
        """Return the rows of the next batches."""
        start = self._next
        self._next = min(start + count * self._cut.global_batch_size, self._cut.num_examples)
        return self._rows_at(start, self._next)


class HeldReader(Reader):
    """Reads batches that the host holds already.

    Args:
        batches: At least one batch.
    """

    def __init__(self, batches: Sequence[Pair], spec: Pair) -> None:
        super().__init__((), spec, (spec,) * len(batches), lambda taken, index: taken[index])
        self._batches = iter(batches)

    def read(self) -> Pair:
        """Return the next batch."""
        return next(self._batches)

    def take(self, count: int) -> Any:
        """Return the next batches."""
        return tuple(islice(self._batches, count))


def inputs_of(batch: TrainBatch) -> Pair:
    """Return the inputs of a batch; if it is not read yet, it must be the next of its reader."""
    inputs: Pair = batch.inputs.read() if isinstance(batch.inputs, Reader) else batch.inputs
    return inputs


def joined(batches: Sequence[Pair], batch_size: int, spec: Pair) -> RowsReader:
    """Return a reader of batches that the host holds, which have ``batch_size`` rows and the same shapes."""
    rows = tf.nest.map_structure(_concatenated, *batches)
    return RowsReader(BatchCut(batch_size * len(batches), batch_size), spec, lambda start, stop: rows)


def tokens_per_example(features: Any) -> int | None:
    """Return the number of ``input_ids`` in an example's nested tf.TensorSpec; 0 without any, None if it varies."""
    if not isinstance(features, Mapping) or "input_ids" not in features:
        return 0
    shape = features["input_ids"].shape
    sizes = [None] if shape.rank is None else shape[1:]
    return None if None in sizes else math.prod(sizes)


def _rows_of_batch(size: int, rows: Pair, index: Any) -> Pair:
    start = index * size
    made: Pair = tf.nest.map_structure(lambda leaf: None if leaf is None else leaf[start : start + size], rows)
    return made


def _concatenated(*leaves: Any) -> Any:
    if leaves[0] is None:
        return None
    return np.concatenate(leaves) if isinstance(leaves[0], np.ndarray) else tf.concat(leaves, axis=0)
