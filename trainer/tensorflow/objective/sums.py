"""Sums of losses that an update adds up over its micro-batches and replicas, before it divides them by their weights.

Losses with the same weights share a sum, and so do their gradients. Usually there is one sum. Several are needed if the
outputs of a model do not count equally often, as with masks or labels that are -100 in one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from .items import MEAN, SUM, UNREDUCED, Item, sum_dtype


class Sums(NamedTuple):
    """Sums of losses with different weights.

    Attributes:
        totals: The sums, scalar tensors.
        weights: The weight of each.
        reductions: The reduction of each.
        names: The names of the losses, if each has its own sum.
        may_be_empty: Whether all weights may be 0, since each is a number of labels that count, and not of examples.
    """

    totals: list[Any]
    weights: list[Any]
    reductions: tuple[str, ...]
    names: tuple[str, ...] = ()
    may_be_empty: bool = False


def summed(items: Sequence[Item], examples: Any) -> Sums:
    """Return the sums of the losses of a batch.

    Args:
        examples: Number of examples in the batch, a scalar tensor.
    """
    found: dict[Any, list[Any]] = {}
    for index, item in enumerate(items):
        key = item.reduction if item.reduction == SUM or item.weight is None else index
        total = item.total if item.factor is None else item.total * tf.cast(item.factor, item.total.dtype)
        weight = tf.cast(examples, total.dtype) if item.weight is None else item.weight
        if key in found:
            found[key][0] = found[key][0] + total
        else:
            found[key] = [total, weight, item.reduction]
    totals, weights, reductions = zip(*found.values(), strict=True)
    may_be_empty = all(item.reduction != SUM and item.weight is not None for item in items)
    return Sums(list(totals), list(weights), reductions, may_be_empty=may_be_empty)


def single_losses(items: Sequence[Item], examples: Any) -> Sums:
    """Return the loss of each of several outputs, without its factor, as Keras reports them; empty for one output."""
    named = {item.name: item for item in items if item.name} if len(items) > 1 else {}  # of equal names, the last
    weights = [tf.cast(examples, item.total.dtype) if item.weight is None else item.weight for item in named.values()]
    totals, reductions = [item.total for item in named.values()], tuple(item.reduction for item in named.values())
    return Sums(totals, weights, reductions, tuple(named))


def with_penalties(items: Sequence[Item], model: Any, examples: Any) -> list[Item]:
    """Return losses with those of the model's layers: of add_loss, activities and weights.

    Those that layers add when they are called are means over the batch, as Keras takes them. Penalties on weights are
    the same for every part of an update; they count with the first mean over examples, or by themselves, so that they
    count where no label does.
    """
    losses, found = list(model.losses), list(items)
    on_weights = sum(variable.regularizer is not None for variable in model.trainable_weights)
    of_calls, of_weights = losses[: len(losses) - on_weights], losses[len(losses) - on_weights :]
    if of_weights:
        penalty = _added(of_weights)
        of_examples = (item.reduction == MEAN and item.weight is None for item in found)
        index = next((index for index, is_one in enumerate(of_examples) if is_one), None)
        if index is None:
            of_calls += of_weights
        else:
            item = found[index]
            own = item.total if item.factor is None else item.total * tf.cast(item.factor, item.total.dtype)
            found[index] = item._replace(
                total=own + tf.cast(penalty, own.dtype) * tf.cast(examples, own.dtype), factor=None
            )
    if of_calls:
        mean = _added(of_calls)
        found.append(Item(mean, mean * tf.cast(examples, mean.dtype)))
    return found


def _added(losses: Sequence[Any]) -> Any:
    return tf.add_n([tf.reduce_sum(tf.cast(loss, sum_dtype())) for loss in losses])


def single_sum(sums: Sums) -> Sums:
    """Return several sums as one, divided by their weights; for an update that has no other parts."""
    if len(sums.totals) == 1 or UNREDUCED in sums.reductions:
        return sums
    parts = zip(*sums[:3], strict=True)
    means = [total if how == SUM else tf.math.divide_no_nan(total, weight) for total, weight, how in parts]
    weight = tf.ones_like(means[0])
    if sums.may_be_empty:
        weight = tf.cast(tf.reduce_any([part > 0 for part in sums.weights]), weight.dtype)
    return Sums([tf.add_n(means)], [weight], (MEAN,), may_be_empty=sums.may_be_empty)


def stacked(values: list[Any]) -> Any:
    """Return scalar tensors as one tensor; a single one as it is."""
    return values[0] if len(values) == 1 else tf.stack(values)


def unstacked(values: Any) -> list[Any]:
    """Return the scalar tensors that `stacked` joined."""
    return [values] if values.shape.rank == 0 else tf.unstack(values)


def mean_of_sums(total: Any, weight: Any, reductions: Sequence[str]) -> Any:
    """Return the loss that each sum reports: divided by its weight, unless it is to stay a sum.

    Shapes:
        total, weight: () for one sum, else (sums,).
    """
    if SUM not in reductions:
        return total / tf.maximum(weight, 1e-12)
    is_sum = [how == SUM for how in reductions] if len(reductions) > 1 else reductions[0] == SUM
    return tf.where(is_sum, total, total / tf.maximum(weight, 1e-12))
