"""Loss of a batch: the losses of examples, and their weights.

The gradient of an update is the gradient of the mean over all items of the update. Therefore each micro-batch of
each replica adds the sum of its losses, divided by a constant, and the gradients are divided by the sum of the weights
when the update is complete. Usually that sum is one, and no division is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from trackside.callbacks.errors import ArgumentError, TracksideTypeError, did_you_mean

IGNORED = -100
"""Label that losses and metrics ignore."""

LossFunction = Callable[[Any, Any], Any]


def batch_size(batch: Any) -> Any:
    """Return the number of examples in a batch: the first dimension of its first tensor."""
    return tf.shape(tf.nest.flatten(batch)[0])[0]


# -- losses of examples -----------------------------------------------------------------------------------------------


def per_example(loss: Any) -> LossFunction:
    """Return a function of (labels, logits) that returns a loss for each example.

    Args:
        loss: A Keras loss, its name, or a function of (labels, logits). A single number as a
            result is the mean of the batch.

    Raises:
        TracksideTypeError: If it is none of these.
    """
    if isinstance(loss, (str, Mapping)) and not callable(loss):
        loss = _loss_named(loss)
    if isinstance(loss, keras.losses.Loss):
        call: LossFunction = loss.call  # before Keras reduces it
        return call
    if isinstance(loss, type):
        raise TracksideTypeError(f"loss_fn is an instance of a Keras loss, not the class: {loss.__name__}()")
    if not callable(loss) or type(loss).__module__.split(".")[0] == "torch":
        raise TracksideTypeError(f"loss_fn is a Keras loss, its name or a function, not {type(loss).__name__}")
    return loss  # type: ignore[no-any-return]


def _loss_named(name: Any) -> Any:
    try:
        return keras.losses.get(name)
    except ValueError:
        known = [item for item in dir(keras.losses) if not item.startswith("_")]
        allowed = f"the name of a loss of Keras.{did_you_mean(str(name), known)}"
        raise ArgumentError("loss_fn", name, allowed) from None


def is_of_keras(loss: LossFunction) -> bool:
    """Return whether a result of `per_example` or `compiled_loss` is a Keras loss."""
    origin = getattr(loss, "__self__", loss)
    module = str(getattr(origin, "__module__", ""))
    return isinstance(origin, _SumOfLosses) or module.split(".")[0] == "keras"


def compiled_loss(model: Any) -> LossFunction | None:
    """Return the compiled loss of ``model``, as one for each example; None without one.

    If each output has a loss, the losses are summed with ``loss_weights``.
    """
    given = getattr(model, "loss", None)
    if given is None:
        return None
    if isinstance(given, (list, tuple)) or (isinstance(given, dict) and "class_name" not in given):
        weights = (model.get_compile_config() or {}).get("loss_weights")
        return _SumOfLosses(given, weights, list(getattr(model, "output_names", None) or ()))
    return per_example(given)


class _SumOfLosses:
    """Sum of the losses of several outputs, in a dict or in a list."""

    def __init__(self, losses: Any, weights: Any, names: list[str]) -> None:
        keys = list(losses) if isinstance(losses, dict) else range(len(losses))
        self.names = names
        self.losses = {key: per_example(losses[key]) for key in keys if losses[key] is not None}
        self.weights = {key: 1.0 if weights is None else weights[key] for key in self.losses}

    def __call__(self, labels: Any, logits: Any) -> Any:
        total: Any = 0.0
        for key, loss in self.losses.items():
            values = loss(self._part(labels, key), self._part(logits, key))
            total = total + self.weights[key] * tf.reduce_mean(values, axis=tuple(range(1, values.shape.rank)))
        return total

    def _part(self, values: Any, key: Any) -> Any:
        if isinstance(values, Mapping):
            return values[self.names[key] if isinstance(key, int) else key]
        return values[key if isinstance(key, int) else self.names.index(key)]


def smoothed_loss(labels: Any, logits: Any, epsilon: float) -> Any:
    """Return the cross entropy of each label with label smoothing; 0 where it is -100.

    Shapes:
        labels: (...); logits: (..., classes).

    Source:
        Szegedy et al. (2016), arXiv:1512.00567, section 7.
    """
    known = tf.where(labels == IGNORED, tf.zeros_like(labels), labels)
    log_probabilities = tf.nn.log_softmax(logits, axis=-1)
    target = -tf.gather(log_probabilities, known, axis=-1, batch_dims=labels.shape.rank)
    return (1.0 - epsilon) * target - epsilon * tf.reduce_mean(log_probabilities, axis=-1)


def safe_labels(labels: Any) -> Any:
    """Return integer labels with 0 instead of -100, which a loss function cannot use as an index."""

    def safe(label: Any) -> Any:
        if not (hasattr(label, "dtype") and label.dtype.is_integer and not label.dtype.is_unsigned):
            return label
        return tf.where(tf.equal(label, tf.cast(IGNORED, label.dtype)), tf.zeros_like(label), label)

    return tf.nest.map_structure(safe, labels)


# -- weights ----------------------------------------------------------------------------------------------------------


def sum_and_weight(losses: Any, labels: Any, features: Any) -> tuple[Any, Any]:
    """Return the sum of the losses that count, and their number.

    A loss counts unless the label at its position is -100. A single number is the mean of a batch; its weight is the
    number of labels that count, or of examples.
    """
    losses = tf.cast(losses, tf.float32)
    counted = _counted(labels)
    if losses.shape.rank == 0:
        weight = tf.cast(batch_size(features), tf.float32) if counted is None else tf.reduce_sum(counted)
        return losses * weight, weight
    if counted is None or losses.shape.rank != counted.shape.rank:
        if losses.shape.rank > 1:
            losses = tf.reduce_mean(losses, axis=list(range(1, losses.shape.rank)))
        if counted is None or counted.shape.rank != 1:
            return tf.reduce_sum(losses), tf.cast(tf.size(losses), tf.float32)
    return tf.reduce_sum(tf.where(counted > 0, losses, 0.0)), tf.reduce_sum(counted)


def _counted(labels: Any) -> Any:
    """Return 1.0 for every integer label that is not -100, else 0.0; None unless the labels are one integer tensor."""
    leaves = tf.nest.flatten(labels)
    if len(leaves) != 1 or leaves[0] is None or not leaves[0].dtype.is_integer or leaves[0].dtype.is_unsigned:
        return None
    label = leaves[0]
    if label.shape.rank and label.shape.rank > 1 and label.shape[-1] == 1:
        label = tf.squeeze(label, -1)
    return tf.cast(tf.not_equal(label, tf.cast(IGNORED, label.dtype)), tf.float32)


class LossAccumulator(threading.local):
    """The sums of one update on one replica, while a tf.function is traced.

    MirroredStrategy traces each replica in its own thread, possibly interleaved, so this object is thread-local.

    Attributes:
        counts: 1.0, or 0.0 if this replica's rows are only padding; None if they always count.
        loss, weight: Sums over the micro-batches.
        gradients: Sums of the gradients over the micro-batches.
        norm: Norm of the update's gradients before clipping, set by the optimizer step.
        skipped: Whether the loss scaler skipped the step.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self, counts: Any = None, *, is_first: bool = True) -> None:
        """Begin a micro-batch; the first one begins an update."""
        self.counts = counts
        if is_first:
            self.loss: Any = None
            self.weight: Any = None
            self.gradients: list[Any] | None = None
            self.norm: Any = None
            self.skipped: Any = None

    def add(self, loss_sum: Any, weight: Any) -> tuple[Any, Any]:
        """Add the loss of a micro-batch; return it and its weight, both 0 if they do not count."""
        if self.counts is not None:
            loss_sum, weight = tf.where(self.counts > 0, loss_sum, 0.0), weight * self.counts
        self.loss = loss_sum if self.loss is None else self.loss + loss_sum
        self.weight = weight if self.weight is None else self.weight + weight
        return loss_sum, weight

    def add_gradients(self, gradients: list[Any]) -> list[Any]:
        """Add the gradients of a micro-batch; return the sum."""
        if self.gradients is not None:
            gradients = [a + b for a, b in zip(self.gradients, gradients, strict=True)]
        self.gradients = gradients
        return gradients
