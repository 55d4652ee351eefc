"""Selection of the source of batches for a dataset."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trackside.callbacks.errors import ArgumentError, TracksideTypeError, TracksideValueError

from .._compat import inputs_of
from .batched import IndexedBatches, IteratedBatches, is_iterated
from .leaves import as_array, map_leaves
from .loader import ArrayBatches, Batches, DatasetBatches

logger: logging.Logger = logging.getLogger("trackside.trainer")

BATCHING = ("_BatchDataset", "_ParallelBatchDataset", "_PaddedBatchDataset", "BatchDataset")
UNCHANGED = ("Prefetch", "Options", "Shuffle", "Repeat", "Take", "Skip", "Cache")
"""Parts of the names of datasets that yield what they read."""
PLAIN = (bool, int, float, str, bytes, np.generic)
"""Types of the values in a list that is an array."""
REGROUPING = ("Unbatch", "FlatMap", "Interleave", "Window", "Rebatch", "Group", "Generator")
"""Parts of the names of datasets whose elements are not made of one element each."""


def make_batches(dataset: Any, **options: Any) -> Batches:
    """Return the source of batches of a dataset: a tf.data.Dataset of examples, arrays, or code that gives batches.

    Raises:
        TracksideTypeError: If ``dataset`` is of neither type.
    """
    if isinstance(dataset, Batches):
        return dataset
    if isinstance(dataset, tf.data.Dataset):
        _check_not_nested(dataset)
        _check_not_batched(dataset)
        return DatasetBatches(dataset, **options)
    if isinstance(dataset, keras.utils.PyDataset):
        return IndexedBatches(dataset, **options)
    cure = _instead_of(dataset)
    if not cure and isinstance(dataset, (np.ndarray, tf.Tensor, tf.RaggedTensor, tf.SparseTensor, Mapping, tuple)):
        dataset = without_lists(dataset)
        leaves = tf.nest.flatten(dataset)
        if any(isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)) for leaf in leaves):
            return DatasetBatches(tf.data.Dataset.from_tensor_slices(map_leaves(_as_tensor, dataset)), **options)
        return ArrayBatches(dataset, **options)
    if not cure and is_iterated(dataset):
        return IteratedBatches(dataset, **options)
    raise TracksideTypeError(
        f"a dataset is a tf.data.Dataset of (features, labels), a pair of arrays (or of tuples or dicts of arrays), a "
        f"keras.utils.PyDataset, or a function that returns a generator of batches, not {type(dataset).__name__}{cure}"
    )


def training_options(args: Any) -> dict[str, Any]:
    """Return the options of `make_batches` for training."""
    return {
        "batch_size": args.train_batch_size,
        "seed": args.order_seed,
        "shuffle": args.train_sampling_strategy != "sequential",
        "drop_last": args.dataloader_drop_last,
        "shuffle_buffer_mib": args.shuffle_buffer_mib,
    }


def check_finite(batches: Batches) -> Batches:
    """Return ``batches`` if they are finite; an evaluation over an infinite dataset would never end.

    Raises:
        ArgumentError: If the dataset is infinite.
    """
    if batches.is_infinite:
        raise ArgumentError("eval_dataset", "an infinite tf.data.Dataset", "one that ends; use its take(n)")
    return batches


def check_same_spec(spec: Any, before: Any) -> None:
    """Raise TracksideValueError unless a dataset that takes the place of another in a run has the same types."""
    if spec != before:
        raise TracksideValueError(
            f"the other train_dataset gives {spec}, but the run was prepared for {before}; types and shapes must stay"
        )


def _instead_of(dataset: Any) -> str:
    """Return what to give instead of something that is not a dataset; empty if nothing is known against it."""
    if isinstance(dataset, Iterator):
        return ". It can be read only once: give the function that makes it, without calling it"
    if hasattr(dataset, "columns"):
        frame = ", of frame = table.to_pandas()" if hasattr(dataset, "to_pandas") else ""
        return f". Write a pair of it: (frame[names], frame[label]){frame}"
    if isinstance(dataset, Mapping):
        if any(isinstance(part, tf.data.Dataset) or hasattr(part, "column_names") for part in dataset.values()):
            return f" of several datasets by name. Give one of them, such as dataset[{next(iter(dataset))!r}]"
        return _stacked([*dataset.values()]) if any(isinstance(key, int) for key in dataset) else ""
    if not isinstance(dataset, (tuple, list)):
        return ""
    are_examples = bool(dataset) and all(isinstance(part, (tuple, Mapping)) for part in dataset)
    if isinstance(dataset, tuple):
        return _stacked(dataset) if are_examples and len(dataset) > 3 else ""
    return _stacked(dataset) if are_examples or len(dataset) > 3 else ". Write a pair as a tuple: (features, labels)"


def _stacked(examples: Sequence[Any]) -> str:
    how = "np.stack(examples)"
    if all(isinstance(example, Mapping) for example in examples):
        how = "{name: np.stack([example[name] for example in examples]) for name in examples[0]}"
    elif all(isinstance(example, (tuple, list)) for example in examples):
        how = "tuple(map(np.stack, zip(*examples)))"
    return f" of examples one by one. Stack them: {how}"


def _check_not_nested(dataset: Any) -> None:
    """Raise TracksideTypeError if an element of ``dataset`` holds a dataset."""
    if any(isinstance(spec, tf.data.DatasetSpec) for spec in tf.nest.flatten(dataset.element_spec)):
        raise TracksideTypeError(
            "an element of the dataset holds a dataset, as window() makes it: turn it into tensors by "
            "flat_map(lambda part: part.batch(n)), of each part of a pair and zipped"
        )


def _check_not_batched(dataset: Any) -> None:
    """Raise if ``dataset`` yields batches, which would be batched again.

    Raises:
        TracksideValueError: If it does, whatever follows its batch(). Batches of a fixed size may be examples, such as
            sequences of tokens: they are warned of if another operation follows.
    """
    is_one = int(dataset.cardinality()) == 1 and type(dataset).__name__.strip("_") == "TensorDataset"
    if not (is_one or _is_batched(dataset) or any(word in name for name in _names(dataset) for word in REGROUPING)):
        return
    leading = {spec.shape[:1].as_list()[0] if spec.shape.rank else 0 for spec in tf.nest.flatten(dataset.element_spec)}
    is_last = any(word in type(dataset).__name__ for word in (*BATCHING, *UNCHANGED))
    if _is_batched(dataset) and (is_last or leading == {None}):
        raise TracksideValueError(
            "the dataset gives batches, but TFTrainer makes the batches itself, of args.train_batch_size and "
            "args.eval_batch_size examples; give it the dataset as it is before .batch(...), or .unbatch() it"
        )
    if is_one or _is_batched(dataset) or leading == {None}:
        logger.warning(
            "an element of the dataset, %s, is taken as one example, though it looks like a batch; if it is one, "
            ".unbatch() the dataset",
            dataset.element_spec,
        )


def without_lists(dataset: Any) -> Any:
    """Return nested arrays in which a list of plain values, or of such lists, is an array."""
    if isinstance(dataset, Mapping):
        return {name: without_lists(part) for name, part in dataset.items()}
    if isinstance(dataset, tuple) and not hasattr(dataset, "_fields"):
        return tuple(map(without_lists, dataset))
    if isinstance(dataset, list) and all(isinstance(leaf, PLAIN) for leaf in tf.nest.flatten(dataset)):
        return as_array(dataset)
    return dataset


def _as_tensor(leaf: Any) -> Any:
    return leaf if tf.is_tensor(leaf) else as_array(leaf)


def _names(dataset: Any) -> Iterator[str]:
    """Yield the names of the classes of a dataset and of those that it reads, as far as each gives what it reads."""
    yield type(dataset).__name__
    for part in inputs_of(dataset):
        yield from _names(part)


def _is_batched(dataset: Any) -> bool:
    """Return whether a batch() comes before ``dataset``, and nothing that divides batches or joins them since."""
    name = type(dataset).__name__
    if name in BATCHING:
        return True
    if any(word in name for word in REGROUPING):
        return False
    return any(map(_is_batched, inputs_of(dataset)))
