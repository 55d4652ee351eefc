"""The loss of a batch: what each example's loss is, and how much it weighs.

The gradient of an update is the gradient of the mean over everything in the update. Each micro-batch of each replica
therefore adds the sum of its losses, divided by a constant, and the sum of the weights divides the gradients when the
update is complete. Where that sum is one, which is the rule, nothing is left to divide.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from trackside.callbacks.errors import ArgumentError, TracksideTypeError, did_you_mean

IGNORED = -100
"""The label that is in no loss and no metric."""

LossFunction = Callable[[Any, Any], Any]


def batch_size(batch: Any) -> Any:
    """Return the examples in a batch: the first dimension of its first tensor."""
    return tf.shape(tf.nest.flatten(batch)[0])[0]


# -- losses of examples -----------------------------------------------------------------------------------------------


def per_example(loss: Any) -> LossFunction:
    """Return a function of (labels, logits) that gives a loss for each example.

    Args:
        loss: A Keras loss, its name, or a function of (labels, logits). Where it returns a single number, that is
            taken as the mean of the batch.

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
    """Return whether a function that `per_example` or `compiled_loss` gave is one of Keras' own."""
    origin = getattr(loss, "__self__", loss)
    module = str(getattr(origin, "__module__", ""))
    return isinstance(origin, _SumOfLosses) or module.split(".")[0] == "keras"


def compiled_loss(model: Any) -> LossFunction | None:
    """Return the loss that ``model`` was compiled with, as one for each example; None without one.

    One loss for each output, with ``loss_weights``, is summed up.
    """
    given = getattr(model, "loss", None)
    if given is None:
        return None
    if isinstance(given, (list, tuple)) or (isinstance(given, dict) and "class_name" not in given):
        weights = (model.get_compile_config() or {}).get("loss_weights")
        return _SumOfLosses(given, weights, list(getattr(model, "output_names", None) or ()))
    return per_example(given)


class _SumOfLosses:
    """One loss for each of several outputs, in a dict or in a list."""

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
    """Return whole-number labels with 0 in the place of -100, which no loss function could look up."""

    def safe(label: Any) -> Any:
        if not (hasattr(label, "dtype") and label.dtype.is_integer and not label.dtype.is_unsigned):
            return label
        return tf.where(tf.equal(label, tf.cast(IGNORED, label.dtype)), tf.zeros_like(label), label)

    return tf.nest.map_structure(safe, labels)


# -- weights ----------------------------------------------------------------------------------------------------------


def sum_and_weight(losses: Any, labels: Any, features: Any) -> tuple[Any, Any]:
    """Return the sum of the losses that count, and how many they are.

    A loss counts by its place in the labels: not where the label is -100. A single number is the mean of a batch and
    weighs as much as the labels that count, or as the examples.
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
    """Return 1.0 for every whole-number label that is not -100; None unless the labels are one such tensor."""
    leaves = tf.nest.flatten(labels)
    if len(leaves) != 1 or leaves[0] is None or not leaves[0].dtype.is_integer or leaves[0].dtype.is_unsigned:
        return None
    label = leaves[0]
    if label.shape.rank and label.shape.rank > 1 and label.shape[-1] == 1:
        label = tf.squeeze(label, -1)
    return tf.cast(tf.not_equal(label, tf.cast(IGNORED, label.dtype)), tf.float32)


class LossAccumulator(threading.local):
    """The sums of one update on one replica, while a tf.function is traced.

    MirroredStrategy traces each replica in a thread of its own, and may do so in turns: hence thread-local.

    Attributes:
        counts: 1.0, or 0.0 where this replica's rows are only there to keep step; None: they count.
        loss, weight: Sums over the micro-batches.
        gradients: Their sum over the micro-batches.
        norm: Norm of the update's gradients before clipping, when the optimizer has stepped.
        skipped: Whether the loss scaler skipped the step.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self, counts: Any = None, *, is_first: bool = True) -> None:
        """Begin a micro-batch, and with the first one an update."""
        self.counts = counts
        if is_first:
            self.loss: Any = None
            self.weight: Any = None
            self.gradients: list[Any] | None = None
            self.norm: Any = None
            self.skipped: Any = None

    def add(self, loss_sum: Any, weight: Any) -> tuple[Any, Any]:
        """Add the loss of a micro-batch; return it with its weight, as far as it counts."""
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
