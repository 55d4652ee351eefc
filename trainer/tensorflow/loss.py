"""Loss of a batch: what the methods of a trainer return as a loss, and the sums of an update; see `train_step`."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError

from .data.readers import unweighted
from .objective.class_weights import weights_of
from .objective.items import SUM, Item, are_classes, known_labels, mean_of_examples, sum_dtype
from .objective.misfits import in_words
from .objective.sums import Sums, single_losses, summed, with_penalties

logger: logging.Logger = logging.getLogger("trackside.trainer")


def batch_size(batch: Any) -> Any:
    """Return the number of examples in a batch: the first dimension of its first tensor."""
    first = next(leaf for leaf in tf.nest.flatten(batch) if leaf is not None)
    return first.nrows() if isinstance(first, tf.RaggedTensor) else tf.shape(first)[0]


# -- losses as tensors ------------------------------------------------------------------------------------------------


def as_tensor(items: Sequence[Item], labels: Any, logits: Any, *, is_total: bool = False) -> Any:
    """Return losses as one tensor, which knows its items as long as no operation changes it.

    It has a loss for each example, or element if there is one output, whose mean is that of the batch.

    Args:
        is_total: Whether the losses include those of the model's layers.
    """
    examples = tf.cast(batch_size(labels), sum_dtype())
    if len(items) == 1:
        values = _with_plain_mean(items[0], labels, logits)
    else:
        values = tf.add_n([tf.zeros([batch_size(labels)], sum_dtype()) + _of_examples(i, examples) for i in items])
    values = tf.identity(values)
    values._items = (list(items), is_total)
    return values


def _with_plain_mean(item: Item, labels: Any, logits: Any) -> Any:
    """Return the losses of an item, scaled so that their mean over the labels that count is its mean."""
    values = item.values
    if item.weight is not None or item.reduction == SUM:
        counted = _counted(labels, logits, values)
        size = tf.cast(tf.size(values), values.dtype) if counted is None else tf.reduce_sum(counted)
        values = values * (size if item.reduction == SUM else tf.math.divide_no_nan(size, item.weight))
    return values if item.factor is None else values * item.factor


def _of_examples(item: Item, examples: Any) -> Any:
    values, axes = item.values, list(range(1, item.values.shape.rank or 0))
    if item.reduction == SUM:
        values = tf.reduce_sum(values, axes) * examples
    elif item.weight is None:
        values = tf.reduce_mean(values, axes)
    else:
        values = tf.reduce_sum(values, axes) * tf.math.divide_no_nan(examples, item.weight)
    return values if item.factor is None else values * item.factor


def items_of(loss: Any, labels: Any, logits: Any, examples: Any, sample_weight: Any = None) -> tuple[list[Item], bool]:
    """Return the items of a loss, and whether they include the losses of the model's layers.

    Args:
        loss: What `as_tensor` returned, or a loss of the user's own: of examples or elements, or a single number,
            which is the mean of the batch. It counts unless the label at its position is -100.
        sample_weight: Weights of the examples, if ``loss`` does not contain them.

    Raises:
        TracksideValueError: If a single number is to be weighted.
    """
    known = getattr(loss, "_items", None)
    if known is not None:
        items, is_total = known
        return items, is_total
    losses = tf.cast(loss, sum_dtype())
    if sample_weight is not None:
        losses = _times(losses, sample_weight)
    counted = _counted(labels, logits, losses)
    if losses.shape.rank == 0 and counted is not None:
        weight = tf.reduce_sum(counted)
        return [Item(losses, losses * weight, weight)], False
    if counted is None:
        return [mean_of_examples(losses, examples)], False
    losses = tf.where(counted > 0, losses, 0.0)
    return [Item(losses, tf.reduce_sum(losses), tf.reduce_sum(counted))], False


def sums_of_batch(
    loss: Any, logits: Any, features: Any, labels: Any, sample_weight: Any, model: Any, *, only_layers: bool
) -> Sums | None:
    """Return the sums of the losses of a batch, with those of the model's layers; None without any loss.

    Args:
        loss: What ``run_model`` returned; None without labels.
        only_layers: Whether the losses of layers count without any other.
    """
    items: list[Item] = []
    is_total, examples = False, tf.cast(batch_size(features), sum_dtype())
    if loss is not None:
        items, is_total = items_of(loss, labels, logits, examples, sample_weight)
    if not is_total and (items or only_layers):
        items = with_penalties(items, model, examples)
    return summed(items, examples) if items else None


def losses_of_outputs(loss: Any, features: Any) -> Sums:
    """Return the losses of several outputs by their names, if ``loss`` is what `as_tensor` returned; else none."""
    items, _ = getattr(loss, "_items", None) or ([], False)
    return single_losses(items, tf.cast(batch_size(features), sum_dtype()))


def _times(losses: Any, sample_weight: Any) -> Any:
    if losses.shape.rank == 0:
        raise TracksideValueError(
            "the dataset has sample weights, or class_weight is given, but the loss of a batch is a single number; "
            "return the loss of each example"
        )
    weight = tf.cast(sample_weight, losses.dtype)
    missing = losses.shape.rank - weight.shape.rank
    return losses * tf.reshape(weight, [*tf.unstack(tf.shape(weight)), *[1] * missing]) if missing else losses * weight


def _counted(labels: Any, logits: Any, losses: Any) -> Any:
    """Return 1.0 for every label of a class that is not -100, else 0.0; None if labels are not such classes.

    It has the shape of ``losses``, unless they are a single number, or means of the examples.
    """
    leaves = [leaf for leaf in tf.nest.flatten(labels) if leaf is not None]
    outputs = [leaf for leaf in keras.tree.flatten(logits) if leaf is not None]
    fitting = [output for output in outputs if len(leaves) == 1 and are_classes(leaves[0], output)]
    known = known_labels(leaves[0], fitting[0]) if fitting else None
    if known is None or losses.shape.rank not in (0, known.shape.rank):
        return None
    return tf.cast(known, sum_dtype())


def pair_in(result: Any, trainer: Any) -> tuple[Any, Any]:
    """Return what run_model returned, a loss and the logits.

    Raises:
        TracksideTypeError: If it is something else.
    """
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise TracksideTypeError(
            f"{type(trainer).__name__}.run_model() returned {in_words(result)}; it returns a pair, the loss of each "
            "example (None without labels) and the logits"
        )
    loss, logits = result
    return loss, logits


class LossAccumulator(threading.local):
    """The sums of one update on one replica, while a tf.function is traced.

    MirroredStrategy traces each replica in its own thread, possibly interleaved, so this object is thread-local.

    Attributes:
        counts: 1.0, or 0.0 if this replica's rows are only padding; None if they always count.
        is_whole: Whether the micro-batch is an entire update.
        sample_weight: Weights of the examples of the micro-batch; None without any, or if the loss contains them.
        class_weight: Weights of the classes of labels, in training.
        loss, weight: Sums over the micro-batches.
        gradients: Sums of the gradients over the micro-batches.
        counted: Whether anything counted in the update, a tensor; empty if it certainly did.
        norm: Norm of the update's gradients before clipping, set by the optimizer step.
        skipped: Whether the loss scaler skipped the step.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self, counts: Any = None, *, is_first: bool = True, is_whole: bool = False) -> None:
        """Begin a micro-batch; the first one begins an update."""
        self.counts = counts
        self.is_whole = is_whole
        self.sample_weight: Any = None
        self.class_weight: Any = None
        if is_first:
            self.loss: Any = None
            self.weight: Any = None
            self.gradients: list[Any] | None = None
            self.counted: list[Any] = []
            self.norm: Any = None
            self.skipped: Any = None

    def unweighted(self, labels: Any, class_weight: Any = None) -> Any:
        """Return labels without their sample weights, which are noted here."""
        labels, self.sample_weight = unweighted(labels)
        self.class_weight = class_weight
        return labels

    def take_weight(self, labels: Any, logits: Any) -> Any:
        """Return the weights of examples or labels for a loss that then contains them; None without any."""
        weight, of_classes = self.sample_weight, self.class_weight
        self.sample_weight = self.class_weight = None
        return weight if of_classes is None or labels is None else weights_of(labels, logits, of_classes, weight)

    def add(self, loss_sum: Any, weight: Any) -> tuple[Any, Any]:
        """Add the loss of a micro-batch; return it and its weight, both 0 if they do not count."""
        if self.counts is not None:
            loss_sum, weight = tf.where(self.counts > 0, loss_sum, 0.0), weight * tf.cast(self.counts, weight.dtype)
        self.loss = loss_sum if self.loss is None else self.loss + loss_sum
        self.weight = weight if self.weight is None else self.weight + weight
        return loss_sum, weight

    def add_mean(self, loss: Any, features: Any, nb_instances: Any) -> Any:
        """Add the mean loss of a micro-batch; return its share of the update, 0 if it does not count."""
        share = tf.cast(batch_size(features), sum_dtype()) / tf.cast(nb_instances, sum_dtype())
        return self.add(tf.cast(tf.reduce_mean(loss), sum_dtype()) * share, share)[1]

    def add_gradients(self, gradients: list[Any]) -> list[Any]:
        """Add the gradients of a micro-batch; return the sum."""
        if self.gradients is not None:
            gradients = [a + b for a, b in zip(self.gradients, gradients, strict=True)]
        self.gradients = gradients
        return gradients


class FiniteLosses:
    """Counts on the device the updates up to the first whose loss is not finite.

    Args:
        step: The training step; has the queue of its updates.

    Attributes:
        done: Number of updates of the run.
    """

    def __init__(self, step: Any) -> None:
        self.done: int = 0
        self._step = step
        self._found: tuple[int, float] | None = None
        self._total: Any = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self._counted: Any = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    def add(self, loss: Any) -> None:
        """Count an update and add its loss; after the first loss that is not finite, add and count nothing."""
        is_on = tf.cast(tf.math.is_finite(self._total.read_value()), tf.float64)
        self._total.assign_add(tf.math.multiply_no_nan(loss, is_on))  # 0 where it is off, whatever the loss is
        self._counted.assign_add(is_on)

    def values(self) -> list[Any]:
        """Return the number of updates counted and the sum of the losses, on the device."""
        return [self._counted.read_value(), self._total.read_value()]

    def note(self, counted: float, total: float) -> None:
        """Note what `values` was after all updates; tell once of a loss that is not finite."""
        if not math.isfinite(total) and self._found is None:
            self._found = self._step.trainer.state.global_step - self.done + int(counted), total
            text = "the loss of update %d is %s; this is told once. The callback terminate_on_nan stops the run"
            logger.warning(text, *self._found)

    def first_non_finite(self, *, wait: bool) -> tuple[int, float] | None:
        """Return the first update whose loss was not finite, and that loss; with ``wait``, look for it."""
        if wait and self._step.queue.is_empty:
            self.note(*(float(value.numpy()) for value in self.values()))
        return self._found
