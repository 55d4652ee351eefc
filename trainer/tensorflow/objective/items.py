"""A loss of Keras as a sum of losses and their number, by the rules of ``keras.losses.Loss.__call__``.

Keras reduces the losses of a batch to one number at once. The mean over an update of several parts needs the sum and
the number of the losses of each part, with masks, sample weights and ignored classes as Keras has them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from .._compat import keras_mask, with_mask_of
from ._compat import same_rank

IGNORED = -100
"""Label of a class that losses and metrics ignore."""

MEAN, SUM, UNREDUCED = "mean", "sum", "unreduced"
"""Reductions of losses. Of unreduced losses, Keras takes the gradient of the sum, and reports the mean."""

MISUSE = (LookupError, TypeError, ValueError, AttributeError, tf.errors.InvalidArgumentError)
"""Errors of a loss that is called with labels or outputs which it cannot take."""


def sum_dtype() -> Any:
    """Return the dtype in which losses are added up: float32, or float64 for models in float64."""
    return tf.float64 if keras.config.floatx() == "float64" else tf.float32


class Item(NamedTuple):
    """The losses of one output for a batch.

    Attributes:
        values: A loss for each example or element, weighted; 0 where it does not count.
        total: Their sum.
        weight: Number of losses that count; None for the number of examples.
        reduction: `MEAN`, `SUM` or `UNREDUCED`.
        factor: Factor of the loss, such as one of ``loss_weights``; None for 1.
        name: Keras' name of the loss of an output.
    """

    values: Any
    total: Any
    weight: Any = None
    reduction: str = MEAN
    factor: Any = None
    name: str = ""


def item_of(loss: Any, labels: Any, outputs: Any, sample_weight: Any, examples: Any) -> Item:
    """Return the losses of a Keras loss for the labels and outputs that it takes, usually single tensors.

    Args:
        examples: Number of examples in the batch, a scalar tensor.
    """
    if type(loss).__call__ is not keras.losses.Loss.__call__:  # it reduces its losses by its own rule
        return mean_of_examples(_tensor(tf.reduce_mean(loss(labels, outputs, sample_weight))), examples)
    mask = keras_mask(outputs)
    safe, known = _without_ignored(loss, labels, outputs)
    values = called(loss, safe, outputs)
    if known is not None and known.shape.rank != values.shape.rank:
        values, known = called(loss, all_known(labels, known, outputs), outputs), None
    mask = _both(_both(mask, keras_mask(values)), known)
    weighted, weights = _weighted(values, mask, sample_weight)
    if loss.reduction == "sum":
        return Item(weighted, tf.reduce_sum(weighted), reduction=SUM)
    if loss.reduction in ("none", None):
        return Item(weighted, tf.reduce_sum(weighted), _size(weighted), UNREDUCED)
    if loss.reduction == "mean_with_sample_weight" and weights is not None:
        return Item(weighted, tf.reduce_sum(weighted), tf.reduce_sum(weights))
    if mask is None:
        return mean_of_examples(weighted, examples)
    count = tf.reduce_sum(tf.cast(mask, weighted.dtype))
    if mask.shape.rank != weighted.shape.rank:
        count = count * tf.math.divide_no_nan(_size(weighted), _size(mask, weighted.dtype))
    return Item(weighted, tf.reduce_sum(weighted), count)


def mean_of_examples(values: Any, examples: Any) -> Item:
    """Return losses that all count, as the means of the examples; a single number is the mean of a batch."""
    if values.shape.rank == 0 or not _is_per_example(values, examples):
        mean = tf.reduce_mean(values)
        return Item(mean, mean * tf.cast(examples, mean.dtype))
    means = tf.reduce_mean(values, axis=list(range(1, values.shape.rank))) if values.shape.rank != 1 else values
    return Item(values, tf.reduce_sum(means))


def _is_per_example(values: Any, examples: Any) -> bool:
    """Return whether the first dimension of ``values`` is, or may be, that of the batch."""
    return values.shape[0] is None or values.shape[0] == tf.get_static_value(examples)


# -- calling a loss ---------------------------------------------------------------------------------------------------


def called(loss: Any, labels: Any, outputs: Any) -> Any:
    """Return what ``loss.call`` returns for labels and outputs of its dtype, as Keras casts them.

    A function or subclass of the user's own that fails on cast labels, such as indices, gets them as they are.
    """
    dtype = getattr(loss, "dtype", None) or keras.config.floatx()
    outputs = keras.tree.map_structure(lambda leaf: keras.ops.convert_to_tensor(leaf, dtype), outputs)
    if is_sparse(loss):
        return _tensor(loss.call(labels, outputs))
    try:
        cast = keras.tree.map_structure(lambda leaf: keras.ops.convert_to_tensor(leaf, dtype), labels)
        return _tensor(loss.call(cast, outputs))
    except MISUSE as error:
        if is_of_keras(loss):
            raise
        try:
            return _tensor(getattr(loss, "fn", loss.call)(labels, outputs))
        except MISUSE:
            raise error from None


def _tensor(values: Any) -> Any:
    return with_mask_of(values, tf.cast(tf.convert_to_tensor(values), sum_dtype()))


def is_of_keras(loss: Any) -> bool:
    """Return whether a loss, and the function that it wraps, belongs to Keras, or to this package."""
    origins = (loss, getattr(loss, "fn", loss))
    modules = [getattr(origin, "__module__", None) or type(origin).__module__ for origin in origins]
    return all(str(module).split(".")[0] in ("keras", "trackside") for module in modules)


def is_sparse(loss: Any) -> bool:
    """Return whether the labels of a loss are numbers of classes."""
    sparse = keras.losses.sparse_categorical_crossentropy
    return isinstance(loss, keras.losses.SparseCategoricalCrossentropy) or getattr(loss, "fn", None) is sparse


# -- labels that do not count -----------------------------------------------------------------------------------------


def _without_ignored(loss: Any, labels: Any, outputs: Any) -> tuple[Any, Any]:
    """Return labels with 0 instead of -100, which no loss can use as an index, and whether each counts, or None."""
    if not is_sparse(loss) and (is_of_keras(loss) or not are_classes(labels, outputs)):
        return labels, None
    known = known_labels(labels, outputs)
    return (labels, None) if known is None else (tf.where(labels == IGNORED, tf.zeros_like(labels), labels), known)


def are_classes(labels: Any, outputs: Any) -> bool:
    """Return whether labels are numbers of classes by their shape: without the last axis of the outputs, or 1 there."""
    if keras.tree.is_nested(labels) or keras.tree.is_nested(outputs):
        return False
    ranks, last = (labels.shape.rank, outputs.shape.rank), outputs.shape.rank and outputs.shape[-1]
    if None in ranks or last in (None, 0, 1):
        return False
    return bool(ranks[0] + 1 == ranks[1] or (ranks[0] == ranks[1] and labels.shape[-1] == 1))


def known_labels(labels: Any, outputs: Any) -> Any:
    """Return whether each class label is not -100, in the shape of the losses; None where a label cannot be -100."""
    if not isinstance(labels, tf.Tensor) or not labels.dtype.is_integer or labels.dtype.is_unsigned:
        return None
    known = tf.not_equal(labels, tf.cast(IGNORED, labels.dtype))
    is_column = labels.shape.rank == outputs.shape.rank and labels.shape.rank and labels.shape[-1] == 1
    return tf.squeeze(known, -1) if is_column else known


def all_known(labels: Any, known: Any, outputs: Any) -> Any:
    """Return ``labels``, of which a loss leaves none out; at run time, raise InvalidArgumentError if one is -100.

    The check comes before the loss, some of whose kernels fail on such a label with another message.
    """
    classes = outputs.shape[-1] if not keras.tree.is_nested(outputs) else "classes"
    why = (
        f"a label value of {IGNORED}, which cannot be left out of a loss that is not a number for each label (give "
        f"each output a loss by compile(loss=...)), and is outside the valid range of [0, {classes})"
    )
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(known), [why])]):
        return tf.identity(labels)


# -- weights ----------------------------------------------------------------------------------------------------------


def _weighted(values: Any, mask: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Return values times sample weights, 0 where the mask is false, and those weights; None without any."""
    weights = None if sample_weight is None else tf.cast(sample_weight, values.dtype)
    if mask is not None:
        of_mask = tf.cast(mask, values.dtype)
        if weights is not None:
            of_mask, weights = _left_aligned(*same_rank(of_mask, weights))
        weights = of_mask if weights is None else weights * of_mask
    if weights is None:
        return values, None
    values, weights = _left_aligned(*same_rank(values, weights))
    return tf.math.multiply_no_nan(values, weights), weights


def _left_aligned(first: Any, second: Any) -> tuple[Any, Any]:
    """Return tensors of equal rank: the first dimension is that of the batch in both."""
    missing = first.shape.rank - second.shape.rank
    if second.shape.rank and missing > 0:
        second = tf.reshape(second, [*tf.unstack(tf.shape(second)), *[1] * missing])
    elif first.shape.rank and missing < 0:
        first = tf.reshape(first, [*tf.unstack(tf.shape(first)), *[1] * -missing])
    return first, second


def _both(mask: Any, other: Any) -> Any:
    if mask is None or other is None:
        return other if mask is None else mask
    mask, other = _left_aligned(*same_rank(tf.cast(mask, tf.bool), tf.cast(other, tf.bool)))
    return tf.logical_and(mask, other)


def _size(values: Any, dtype: Any = None) -> Any:
    return tf.cast(tf.size(values), dtype or values.dtype)
