"""Arrays and tensors of a batch: each leaf of nested values, its type, its rows and its tf.TensorSpec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError

from .._compat import unequal_shapes


def map_leaves(function: Callable[..., Any], *nested: Any) -> Any:
    """Return nested values of one structure with ``function`` applied to each leaf that is not None."""
    return tf.nest.map_structure(lambda leaf, *others: None if leaf is None else function(leaf, *others), *nested)


def as_array(leaf: Any) -> Any:
    """Return an array in memory with a type of TensorFlow; float64 as float32, unless Keras computes in float64.

    Raises:
        TracksideTypeError: If TensorFlow has no such type, or if values are masked.
    """
    if np.ma.is_masked(leaf):
        raise TracksideTypeError(
            "an array of the dataset is masked, and the values behind the mask would be used: give its filled(), and "
            "leave the examples out or give them a sample weight of 0"
        )
    array = np.asarray(leaf)
    if array.dtype == object and not all(issubclass(kind, (str, bytes)) for kind in set(map(type, array.flat))):
        array = _typed(array)
    check_type(array.dtype)
    is_double = array.dtype == np.float64 and keras.config.floatx() != "float64"
    return array.astype(np.float32) if is_double else array


def check_type(dtype: Any) -> None:
    """Raise TracksideTypeError if TensorFlow has no such type of an array."""
    try:
        tf.as_dtype(dtype)
    except TypeError:
        cure = "give numbers, such as the days since a date" if dtype.kind in "mM" else "give each column on its own"
        cure = cure if dtype.kind in "mMV" else "convert it to another one, such as float32"
        raise TracksideTypeError(
            f"an array of the dataset has the type {dtype}, which TensorFlow does not have: {cure}"
        ) from None


def _typed(array: Any) -> Any:
    """Return an array of objects as one of numbers.

    Raises:
        TracksideTypeError: If they are not such, as texts among numbers, or lists of several lengths.
    """
    try:
        typed = np.array(array.tolist())
    except ValueError:  # of several lengths
        typed = array
    if typed.dtype.kind in "biufc":
        return typed
    kinds = sorted({type(value).__name__ for value in array.flat})
    raise TracksideTypeError(
        f"an array of the dataset holds objects, {', '.join(kinds)}, that are not all numbers or all texts. Give each "
        "column on its own, as a dict of arrays, or a tf.RaggedTensor for lists of several lengths"
    )


def rows_in(leaf: Any, start: Any, stop: Any) -> Any:
    """Return the rows of a tensor or an array between a start and a stop, on the host or while a function is traced."""
    if not isinstance(leaf, tf.SparseTensor):
        return None if leaf is None else leaf[start:stop]
    shape = leaf.dense_shape
    first = tf.concat([tf.cast([start], shape.dtype), tf.zeros_like(shape[1:])], axis=0)
    return tf.sparse.slice(leaf, first, tf.concat([tf.cast([stop - start], shape.dtype), shape[1:]], axis=0))


def examples_in(pair: Any) -> int:
    """Return the number of examples in a batch on the host."""
    return int(next(leaf for leaf in tf.nest.flatten(pair) if leaf is not None).shape[0])


def spec_of(leaf: Any) -> Any:
    """Return the tf.TensorSpec of an array whose first dimension is that of a batch."""
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        return tf.type_spec_from_value(leaf)
    return tf.TensorSpec((None, *leaf.shape[1:]), tf.as_dtype(leaf.dtype))


def stacked_spec(spec: Any) -> Any:
    """Return the tf.TensorSpec of a stack of any number of elements with ``spec``."""
    return tf.TensorSpec((None, *spec.shape), spec.dtype)


def unequal(error: BaseException) -> TracksideValueError | None:
    """Return the error for examples of different shapes, which are not a batch; None for other errors of TensorFlow."""
    shapes = unequal_shapes(error)
    if shapes is None:
        return None
    return TracksideValueError(
        f"examples of the dataset have different shapes, such as {' and '.join(shapes)}, and are not a batch: pad them "
        "by Dataset.padded_batch in get_train_tfdataset and get_eval_tfdataset, or to one length or size in a map()"
    )


def different_lengths(features: Any, labels: Any, weights: Any) -> TracksideValueError:
    """Return the error for nested arrays of different lengths, or without any array."""
    parts = {"features": features, "labels": labels, "sample_weight": weights}
    leaves = {name: [len(leaf) for leaf in tf.nest.flatten(part) if leaf is not None] for name, part in parts.items()}
    told = "; ".join(f"{name} {', '.join(map(str, found))}" for name, found in leaves.items() if found)
    lengths = sorted({length for found in leaves.values() for length in found})
    return TracksideValueError(f"the arrays of a dataset are of different lengths: {lengths} ({told})")
