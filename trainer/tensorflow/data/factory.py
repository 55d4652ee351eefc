"""Selection of the source of batches for a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trackside.callbacks.errors import ArgumentError, TracksideTypeError, TracksideValueError

from .._compat import inputs_of
from .loader import ArrayBatches, Batches, DatasetBatches

BATCHING = ("_BatchDataset", "_ParallelBatchDataset", "_PaddedBatchDataset", "BatchDataset")


def make_batches(dataset: Any, **options: Any) -> Batches:
    """Return the source of batches of a dataset: a tf.data.Dataset of examples, or arrays.

    Raises:
        TracksideTypeError: If ``dataset`` is of neither type.
    """
    if isinstance(dataset, Batches):
        return dataset
    if isinstance(dataset, tf.data.Dataset):
        _check_not_batched(dataset)
        return DatasetBatches(dataset, **options)
    if isinstance(dataset, (np.ndarray, tf.Tensor, Mapping, tuple)):
        return ArrayBatches(dataset, **options)
    raise TracksideTypeError(
        f"a dataset is a tf.data.Dataset of (features, labels), or a pair of arrays (or of tuples or dicts of arrays), "
        f"not {type(dataset).__name__}"
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


def _check_not_batched(dataset: Any) -> None:
    """Raise if ``dataset`` yields batches, which would be batched again."""
    at: Any = dataset
    for _ in range(20):
        name = type(at).__name__
        if name in BATCHING:
            raise TracksideValueError(
                "the dataset gives batches, but TFTrainer makes the batches itself, of args.train_batch_size and "
                "args.eval_batch_size examples; give it the dataset as it is before .batch(...), or .unbatch() it"
            )
        inputs = inputs_of(at)
        if len(inputs) != 1 or not any(word in name for word in ("Prefetch", "Options", "Shuffle", "Repeat", "Take")):
            return
        at = inputs[0]
