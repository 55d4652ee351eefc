"""Batches that Python code makes: a ``keras.utils.PyDataset``, a function that returns a generator, or an iterable.

Their batches stay as they are. Random numbers that the code draws from numpy and Python in training are a function of
(seed, epoch), and of the index in a PyDataset, so that a run can start in the middle of an epoch.
"""

from __future__ import annotations

import itertools
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError

from ...data.sharding import derive_seed
from .host_stream import HostStream
from .leaves import as_array, examples_in, map_leaves
from .loader import Batches
from .readers import Pair, pair_of

logger: logging.Logger = logging.getLogger("trackside.trainer")

SEEN = 2
"""Number of batches from which the shapes are taken, as in Keras."""
END = -1
"""Stands for the index of a batch in the seed of what is drawn at the end of an epoch."""


class PythonBatches(Batches):
    """Batches of Python code, each for all replicas together."""

    is_cut_here = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.num_examples: int | None = None
        self._stream: HostStream = HostStream()
        self._position = (0, 0)
        self._is_training = "seed" in options
        self.element_spec: Pair = common_spec(self._first())

    @abstractmethod
    def _first(self) -> list[Pair]:
        """Return a few batches, from which the shapes are taken."""

    @abstractmethod
    def _elements(self, epoch: int, skip_batches: int) -> Iterator[Any]:
        """Yield what the code gives in an epoch, without its first batches."""

    def epoch(self, epoch: int, skip_examples: int = 0) -> Iterator[Pair]:
        """Yield the batches of an epoch, without those of the skipped examples."""
        examples, batches = self._position
        is_counted = bool(skip_examples) and skip_examples == examples
        for element in self._elements(epoch, batches if is_counted else 0):
            pair = self._checked(as_pair(element))
            if skip_examples > 0 and not is_counted:
                skip_examples -= examples_in(pair)
                continue
            yield pair

    def as_dataset(self, epoch: int = 0) -> Any:
        """Return the batches of an epoch as a tf.data.Dataset of (features, labels)."""
        signature = tuple(part for part in self.element_spec if part is not None)
        return tf.data.Dataset.from_generator(
            lambda: (tuple(part for part in pair if part is not None) for pair in self.epoch(epoch)),
            output_signature=signature if len(signature) > 1 else signature[0],
        )

    def batches_used(self, examples: int, batches: int) -> int | None:
        """Return the number of an epoch's batches that were used, and begin after them."""
        self._position = examples, batches
        return batches

    def _count_examples(self) -> None:
        return None

    def _drawn(self, function: Callable[[], Any], *parts: int) -> Any:
        """Return what ``function`` returns, which draws by a seed of ``parts`` in training."""
        if not self._is_training:
            return function()
        if parts:
            self._stream.restart(self.seed, *parts)
        with self._stream.in_place():
            return function()

    def _checked(self, pair: Pair) -> Pair:
        try:
            fits = map_leaves(_fits, pair, self.element_spec)
        except (TypeError, ValueError):
            fits = [False]
        if all(fit is not False for fit in tf.nest.flatten(fits)):
            return pair
        raise TracksideValueError(
            f"a batch of train_dataset or eval_dataset has {described(pair)}, and the first ones have "
            f"{described(self.element_spec)}. Sizes may differ where they differ among the first batches: let one of "
            "them have another size, or give a tf.data.Dataset.from_generator with an output_signature"
        )


class IndexedBatches(PythonBatches):
    """The batches of a ``keras.utils.PyDataset``, in an order of indices that is a function of (seed, epoch).

    It is read in this thread, one batch at a time; ``on_epoch_end`` is called after each epoch of training, and in a
    resumed run as often as before.
    """

    def __init__(self, dataset: Any, **options: Any) -> None:
        self.dataset = dataset
        self._ended = 0
        super().__init__(**options)
        self._stream.seed_also(dataset.__getitem__)
        self.is_infinite: bool = self.num_batches() is None
        if getattr(dataset, "workers", 1) > 1 or getattr(dataset, "use_multiprocessing", False):
            logger.warning(
                "%s is read in the thread of training: workers and use_multiprocessing have no effect. A "
                "tf.data.Dataset reads in parallel",
                type(dataset).__name__,
            )

    def _first(self) -> list[Pair]:
        count = self.num_batches()
        if count == 0:
            raise TracksideValueError(f"{type(self.dataset).__name__} has no batch")
        indices = sorted({0, 1, SEEN} if count is None else {0, min(1, count - 1), count - 1})
        with HostStream().in_place():  # what is drawn here is drawn nowhere else
            return [as_pair(self.dataset[index]) for index in indices]

    def num_batches(self) -> int | None:
        """Return the number of batches in an epoch; None if it never ends."""
        try:
            count = self.dataset.num_batches
        except NotImplementedError:
            raise TracksideTypeError(
                f"{type(self.dataset).__name__} has no length: give it __len__(), or num_batches=None if it never ends"
            ) from None
        return None if count is None else int(count)

    def begin(self, epoch: int) -> bool:
        """End the epochs before ``epoch``, after which there may be another number of batches."""
        before = self.num_batches()
        self._end(epoch)
        return before != self.num_batches()

    def _elements(self, epoch: int, skip_batches: int) -> Iterator[Any]:
        number, count = skip_batches, self.num_batches()
        try:
            for index in itertools.islice(self._order(epoch), skip_batches, None):
                number += 1
                yield self._drawn(partial(self.dataset.__getitem__, index), epoch, index)
        finally:
            if self._is_training and number == count:
                self._end(epoch + 1)

    def _order(self, epoch: int) -> Iterable[int]:
        count = self.num_batches()
        if count is None:
            return itertools.count()
        if not self.shuffle:
            return range(count)
        order = np.random.Generator(np.random.Philox(derive_seed(self.seed, epoch))).permutation(count)
        return [int(index) for index in order]

    def _end(self, epoch: int) -> None:
        """Call ``on_epoch_end`` of each epoch before ``epoch`` for which it was not called yet."""
        while self._ended < epoch:
            self._drawn(self.dataset.on_epoch_end, self._ended, END)
            self._ended += 1


class IteratedBatches(PythonBatches):
    """The batches of an iterable that can be read again, or of a function that returns an iterator, in their order."""

    def __init__(self, dataset: Any, **options: Any) -> None:
        self._make: Callable[[], Any] = dataset if callable(dataset) else dataset.__iter__
        self._sized: Any = dataset if hasattr(dataset, "__len__") else None
        super().__init__(**options)
        self._stream.seed_also(self._make)

    def _first(self) -> list[Pair]:
        with HostStream().in_place():
            found = [as_pair(element) for element in itertools.islice(self._iterator(), SEEN)]
        if not found:
            raise TracksideValueError("the dataset gave no batch")
        return found

    def num_batches(self) -> int | None:
        """Return the number of batches in an epoch; None if unknown."""
        return None if self._sized is None else len(self._sized)

    def _iterator(self) -> Iterator[Any]:
        made = self._make()
        if not isinstance(made, Iterable):
            raise TracksideTypeError(
                f"a dataset that is a function returns a generator of batches, not {type(made).__name__}"
            )
        return iter(made)

    def _elements(self, epoch: int, skip_batches: int) -> Iterator[Any]:
        iterator = self._drawn(self._iterator, epoch)
        for number in itertools.count():
            try:
                element = self._drawn(partial(next, iterator))
            except StopIteration:
                return
            if number >= skip_batches:
                yield element


def as_pair(element: Any) -> Pair:
    """Return the features and labels of a batch, as arrays."""
    pair: Pair = map_leaves(as_array, pair_of(element))
    return pair


def common_spec(pairs: list[Pair]) -> Pair:
    """Return the nested tf.TensorSpec of batches; a size that differs among them is None, and so is the first."""

    def of(*leaves: Any) -> Any:
        if not all(leaf.ndim for leaf in leaves):
            raise TracksideTypeError(
                "a dataset that Python code reads gives batches, and this one gives numbers: of examples, make a "
                "tf.data.Dataset, as to_tf_dataset() of a datasets.Dataset does without a batch_size, or arrays"
            )
        shapes = [leaf.shape[1:] for leaf in leaves]
        if len({len(shape) for shape in shapes}) > 1:
            return tf.TensorSpec(None, tf.as_dtype(leaves[0].dtype))
        sizes = [among[0] if len(set(among)) == 1 else None for among in zip(*shapes, strict=True)]
        return tf.TensorSpec((None, *sizes), tf.as_dtype(leaves[0].dtype))

    made: Pair = map_leaves(of, *pairs)
    return made


def described(pair: Pair) -> str:
    """Return the types and shapes of nested arrays or tf.TensorSpecs in words."""
    leaves = [leaf for leaf in tf.nest.flatten(pair) if leaf is not None]
    return ", ".join(f"{tf.as_dtype(leaf.dtype).name} {tuple(leaf.shape)}" for leaf in leaves)


def is_iterated(dataset: Any) -> bool:
    """Return whether a dataset gives its batches again whenever it is asked."""
    is_function = callable(dataset) and not isinstance(dataset, (type, keras.Model))
    is_iterable = isinstance(dataset, Iterable) and not isinstance(dataset, (Iterator, str, bytes, list))
    return is_function or is_iterable


def _fits(leaf: Any, spec: Any) -> bool:
    return bool(tf.as_dtype(leaf.dtype) == spec.dtype and spec.shape.is_compatible_with(leaf.shape))
