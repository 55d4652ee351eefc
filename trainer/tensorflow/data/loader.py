"""Batches of arrays in memory, of a tf.data.Dataset of examples, or of a user's dataset of batches.

Every source is a pure function of (seed, epoch), and can start in the middle of an epoch. A batch holds the examples of
all replicas.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import repeat
from operator import itemgetter
from typing import Any, ClassVar, cast

import numpy as np
import tensorflow as tf

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError

from ...data.sharding import BatchCut, derive_seed
from .._compat import slices_of
from .leaves import as_array, different_lengths, examples_in, map_leaves, rows_in, spec_of, unequal
from .pipeline import UserPipeline
from .readers import IteratorReader, Pair, Reader, RowsReader, pair_of, tokens_per_example, unweighted
from .rows_in_order import RowsInOrder
from .shuffling import Shuffling

SHUFFLE_BUFFER_MIB = 256
"""Default bound on the memory of a shuffle buffer."""


class Batches(ABC):
    """A source of batches of one dataset.

    Attributes:
        num_examples: Number of examples in an epoch; None if unknown.
        is_infinite: Whether an epoch never ends.
        is_cut_here: Whether each batch but the last of an epoch has ``batch_size`` examples.
        element_spec: A Pair of nested tf.TensorSpec; the first dimension is that of the batch, of any size.
    """

    num_examples: int | None
    is_infinite: bool = False
    is_cut_here: ClassVar[bool] = True
    element_spec: Pair

    def __init__(
        self,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        shuffle_buffer_mib: int = SHUFFLE_BUFFER_MIB,
    ) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.shuffle_buffer_mib = shuffle_buffer_mib

    @abstractmethod
    def epoch(self, epoch: int, skip_examples: int = 0) -> Iterator[Pair]:
        """Yield the batches of an epoch without its first ``skip_examples`` examples."""

    @abstractmethod
    def as_dataset(self, epoch: int = 0) -> Any:
        """Return the batches of an epoch as a tf.data.Dataset of (features, labels)."""

    def begin(self, epoch: int) -> bool:
        """Take the size of the data in ``epoch``; return whether it is another than was expected."""
        before, self.num_examples = self.num_examples, self._count_examples()
        return before != self.num_examples

    @abstractmethod
    def _count_examples(self) -> int | None:
        """Return the number of examples in an epoch; None if unknown."""

    def reader(self, epoch: int, skip_examples: int) -> Reader | None:
        """Return the batches of an epoch, to be read later; None if their number and sizes are not known before."""
        is_known = self.num_examples is not None or self.is_infinite
        is_counted = tokens_per_example(self.element_spec.features) is not None
        return self._reader(epoch, skip_examples) if is_known and is_counted else None

    def _reader(self, epoch: int, skip_examples: int) -> Reader | None:
        return None

    def num_batches(self) -> int | None:
        """Return the number of batches in an epoch; None if unknown."""
        return None if self.num_examples is None else self._cut().num_batches

    def batches_used(self, examples: int, batches: int) -> int | None:
        """Return the number of an epoch's batches for its first ``examples``, of ``batches`` once; None if unknown."""
        return None if self.num_examples is None else self._cut().num_batches - self._cut(examples).num_batches

    def _cut(self, start: int = 0) -> BatchCut:
        return BatchCut(self.num_examples or 0, self.batch_size, drop_last=self.drop_last, start=start)

    def __len__(self) -> int:
        count = self.num_batches()
        if count is None:
            raise TypeError("the number of batches is not known")
        return count

    def __iter__(self) -> Iterator[Pair]:
        return self.epoch(0)


class ArrayBatches(Batches):
    """Batches of arrays in memory: nested tuples and dicts of arrays with the same first dimension."""

    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__(**options)
        self.arrays: Pair = map_leaves(as_array, pair_of(dataset))
        leaves = tf.nest.flatten(self.arrays)
        if any(leaf is not None and not leaf.ndim for leaf in leaves):
            raise TracksideTypeError("a part of the dataset is a single value, not an array with one for each example")
        lengths = {len(leaf) for leaf in leaves if leaf is not None}
        if len(lengths) != 1:
            raise different_lengths(self.arrays.features, *unweighted(self.arrays.labels))
        self.num_examples: int | None = self._count_examples()
        self.element_spec: Pair = map_leaves(spec_of, self.arrays)
        self._is_flat = all(isinstance(part, np.ndarray) for part in self.arrays)

    def epoch(self, epoch: int, skip_examples: int = 0) -> Iterator[Pair]:
        """Yield the batches of an epoch; skipping examples costs nothing."""
        reader = self._reader(epoch, skip_examples)
        return (reader.read() for _ in reader)

    def _reader(self, epoch: int, skip_examples: int) -> Reader:
        order, cut = self._order(epoch), self._cut(skip_examples)

        def rows_at(low: int, high: int) -> Pair:
            return self._take(slice(low, high) if order is None else order[low:high])

        return RowsReader(cut, self.element_spec, rows_at)

    def as_dataset(self, epoch: int = 0) -> Any:
        """Return the batches of an epoch as a tf.data.Dataset of (features, labels)."""
        order, leaves = self._order(epoch), tf.nest.flatten(self.arrays)
        indices = tf.data.Dataset.from_tensor_slices(np.arange(self._count_examples()) if order is None else order)

        def rows(index: Any) -> Any:
            taken = tf.numpy_function(lambda i: [leaf[i] for leaf in leaves], [index], [leaf.dtype for leaf in leaves])
            for part, spec in zip(taken, tf.nest.flatten(self.element_spec), strict=True):
                part.set_shape(spec.shape)
            return tuple(tf.nest.pack_sequence_as(self.arrays, taken))

        return indices.batch(self.batch_size, drop_remainder=self.drop_last).map(rows).prefetch(2)

    def _count_examples(self) -> int:
        return len(next(leaf for leaf in tf.nest.flatten(self.arrays) if leaf is not None))

    def _order(self, epoch: int) -> Any:
        if not self.shuffle:
            return None
        return np.random.Generator(np.random.Philox(derive_seed(self.seed, epoch))).permutation(self._count_examples())

    def _take(self, rows: Any) -> Pair:
        if self._is_flat:
            return Pair(self.arrays.features[rows], self.arrays.labels[rows])
        return cast(Pair, map_leaves(itemgetter(rows), self.arrays))


class DatasetBatches(Batches):
    """Batches of a tf.data.Dataset of examples, which is shuffled before it is repeated."""

    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__(**options)
        self.dataset = dataset
        self._pipeline = UserPipeline(self.seed)
        self.num_examples, self.is_infinite = _cardinality(dataset)
        self.element_spec: Pair = pair_of(dataset.batch(1).element_spec)

    def _count_examples(self) -> int | None:
        return _cardinality(self.dataset)[0]

    @cached_property
    def _shuffling(self) -> Shuffling:
        # of the first epoch in a resumed run, too, where it may read examples
        return Shuffling(self._pipeline.of_epoch(self.dataset, 0), self.num_examples, self.shuffle_buffer_mib)

    def epoch(self, epoch: int, skip_examples: int = 0) -> Iterator[Pair]:
        """Yield the batches of an epoch; skipped examples are read, but not used."""
        try:
            for element in self.as_dataset(epoch, skip_examples):
                yield pair_of(element)
        except tf.errors.InvalidArgumentError as error:
            raise unequal(error) or error from None

    def _reader(self, epoch: int, skip_examples: int) -> Reader:
        cut, rows = self._cut(skip_examples), self._rows
        if rows is not None and not (self.shuffle and self._shuffling.by_index):
            indices = self._from(tf.data.Dataset.range(self.num_examples), epoch, skip_examples)
            return RowsReader(cut, self.element_spec, RowsInOrder(rows, indices, skip_examples))
        sizes = repeat(self.batch_size) if self.is_infinite else (size for size, _ in cut.counts())
        return IteratorReader(self.as_dataset(epoch, skip_examples), sizes, self.element_spec, pair_of)

    def as_dataset(self, epoch: int = 0, skip_examples: int = 0) -> Any:
        """Return the batches of an epoch as a tf.data.Dataset of (features, labels)."""
        shuffling = self._shuffling if self.shuffle else None  # which may read examples, before those of the epoch
        dataset = self._pipeline.of_epoch(self.dataset, epoch) if shuffling else self.dataset
        dataset = self._from(dataset, epoch, skip_examples)
        return dataset.batch(self.batch_size, drop_remainder=self.drop_last).prefetch(2)

    def _from(self, dataset: Any, epoch: int, skip_examples: int) -> Any:
        """Return the examples of ``dataset``, or their indices, in the order of an epoch."""
        if self.shuffle:
            dataset = self._shuffling.apply(dataset, derive_seed(self.seed, epoch))
        return dataset.skip(skip_examples) if skip_examples else dataset

    @cached_property
    def _rows(self) -> Pair | None:
        rows = slices_of(self.dataset)
        return None if rows is None else pair_of(rows)


class OwnBatches(Batches):
    """Batches of a tf.data.Dataset that a subclass built in ``get_train_tfdataset`` or a related method.

    Args:
        build: Returns the dataset of batches; called at the beginning of each epoch.
    """

    is_cut_here = False

    def __init__(self, build: Callable[[int], Any], **options: Any) -> None:
        super().__init__(**options)
        self._build = build
        self._pipeline = UserPipeline(self.seed)
        self._begun: tuple[int, Any] = (-1, None)
        dataset = self.as_dataset()
        if not isinstance(dataset, tf.data.Dataset):
            raise TracksideTypeError(f"a tf.data.Dataset of batches is needed, not {type(dataset).__name__}")
        self.num_examples: int | None = None
        self._num_batches, self.is_infinite = _cardinality(dataset)
        self.element_spec: Pair = map_leaves(_any_batch, pair_of(dataset.element_spec))

    def begin(self, epoch: int) -> bool:
        """Build the dataset of ``epoch``, which may have another number of batches."""
        self._begun = epoch, self.as_dataset(epoch)
        before, self._num_batches = self._num_batches, _cardinality(self._begun[1])[0]
        return before != self._num_batches

    def _count_examples(self) -> None:
        return None

    def num_batches(self) -> int | None:
        """Return the number of batches in an epoch; None if unknown."""
        return self._num_batches

    def epoch(self, epoch: int, skip_examples: int = 0) -> Iterator[Pair]:
        """Yield the batches of an epoch, without those of the skipped examples."""
        begun, self._begun = self._begun, (-1, None)
        for element in begun[1] if begun[0] == epoch else self.as_dataset(epoch):
            pair = pair_of(element)
            if skip_examples > 0:
                skip_examples -= examples_in(pair)
                continue
            yield pair

    def as_dataset(self, epoch: int = 0) -> Any:
        """Return the batches of an epoch as the user built them; for training, with the random numbers of the epoch."""
        if not self.shuffle:
            return self._build(epoch)
        with self._pipeline.building(epoch):
            dataset = self._build(epoch)
        return self._pipeline.of_epoch(dataset, epoch) if isinstance(dataset, tf.data.Dataset) else dataset


def first_examples(batches: Batches, most: int) -> Pair:
    """Return the first examples of a batch as tensors, for building a model, or looking at its loss."""
    batch = next(batches.epoch(0), None)
    if batch is None:
        raise TracksideValueError("the dataset is empty")
    rows = map_leaves(lambda leaf: rows_in(leaf, 0, most), batch)
    return cast(Pair, map_leaves(lambda leaf: leaf if tf.is_tensor(leaf) else tf.convert_to_tensor(leaf), rows))


def num_examples(batches: Any) -> int | None:
    """Return the number of examples in batches or in a dataset; None if unknown."""
    if isinstance(batches, Batches):
        return batches.num_examples
    if isinstance(batches, tf.data.Dataset):
        return _cardinality(batches)[0]
    return len(tf.nest.flatten(batches)[0])


def _cardinality(dataset: Any) -> tuple[int | None, bool]:
    """Return the number of elements of a tf.data.Dataset, None if unknown, and whether it is infinite."""
    count = int(dataset.cardinality())
    return count if count >= 0 else None, count == tf.data.INFINITE_CARDINALITY


def _any_batch(spec: Any) -> Any:
    return spec_of(spec) if isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None else spec
