"""Gradients of an update: those that exist, those of several sums of losses as one, and their norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trackside.callbacks.errors import TracksideTypeError

from .items import MEAN, SUM
from .sums import mean_of_sums


def gradients_in(step: Any, *batch: Any) -> list[Any]:
    """Return the gradients of a micro-batch by the trainer's training_step, overridden or not.

    Args:
        batch: Features, labels, and the divisor of sums of losses.

    Raises:
        TracksideTypeError: If it returns something else, or gradients of its own without a loss.
    """
    result, number = step.trainer.training_step(*batch), len(step.variables)
    if isinstance(result, (list, tuple)) and len(result) == 2 and isinstance(result[0], (list, tuple)):
        result = _of_mean(step, result[0], result[1], batch[0], batch[2])
    elif step.losses.loss is None:
        raise TracksideTypeError(
            f"{type(step.trainer).__name__}.training_step() has no loss: return a pair, the gradients of the mean loss "
            "of the batch and that loss, or call super().training_step()"
        )
    if isinstance(result, (list, tuple)) and result and len(result) % number == 0:
        return list(result)
    found = f"{len(result)} values" if isinstance(result, (list, tuple)) else type(result).__name__
    raise TracksideTypeError(
        f"{type(step.trainer).__name__}.training_step() returned {found}; it returns the gradients of the {number} "
        "trainable variables, as super().training_step() does"
    )


def _of_mean(step: Any, gradients: Sequence[Any], loss: Any, features: Any, nb_instances: Any) -> list[Any]:
    """Return gradients of the mean loss of a batch as those of its share of the update, to which it adds the loss."""
    share = step.losses.add_mean(loss, features, nb_instances)
    if len(gradients) != len(step.variables):
        return list(gradients)
    step.lacking = without_gradient([gradients])
    return [step.precision.scaled(part * tf.cast(share, part.dtype)) for part in dense([gradients], step.variables)]


def without_gradient(found: Sequence[Sequence[Any]]) -> frozenset[int]:
    """Return the indices of the variables that have no gradient of any sum of losses, and so are left as they are."""
    lacking = [all(gradient is None for gradient in gradients) for gradients in zip(*found, strict=True)]
    return frozenset(index for index, lacks in enumerate(lacking) if lacks)


def dense(found: Sequence[Sequence[Any]], variables: Sequence[Any]) -> list[Any]:
    """Return the gradients of one sum after those of the other, as tensors; zeros where there is none."""
    return [
        tf.zeros(variable.shape, variable.dtype) if gradient is None else tf.convert_to_tensor(gradient)
        for gradients in found
        for gradient, variable in zip(gradients, variables, strict=True)
    ]


def update_of(
    gradients: Sequence[Any], loss: Any, weight: Any, reductions: Sequence[str], reference: float
) -> tuple[list[Any], Any, Any]:
    """Return the gradients of an update, its loss, and a factor by which the gradients are still to be multiplied.

    Args:
        gradients: The gradients of each sum, one sum after the other.
        loss, weight: The sums, divided by ``reference``.
    """
    if reductions == (MEAN,):
        share = tf.where(weight > 0, 1.0 / tf.maximum(weight, 1e-12), 0.0)
        return list(gradients), loss * share, share
    means = mean_of_sums(loss, weight, reductions)
    means = tf.where(weight > 0, means, 0.0) if SUM not in reductions else means
    shares = tf.where(weight > 0, 1.0 / tf.maximum(weight, 1e-12), 0.0)
    whole = [how != MEAN for how in reductions] if len(reductions) > 1 else reductions[0] != MEAN
    shares = tf.reshape(tf.where(whole, reference, shares), [-1])
    count = len(gradients) // len(reductions)
    of_sums = [gradients[start : start + count] for start in range(0, len(gradients), count)]
    joint = [
        tf.add_n([part * tf.cast(shares[index], part.dtype) for index, part in enumerate(parts)])
        for parts in zip(*of_sums, strict=True)
    ]
    scaled = [how == SUM for how in reductions] if len(reductions) > 1 else reductions[0] == SUM
    loss = tf.reduce_sum(tf.where(scaled, means * reference, means))
    return joint, loss, tf.ones_like(loss)


def global_norm(gradients: Sequence[Any]) -> Any:
    """Return the joint L2 norm of gradients of any types of numbers, in float32."""
    if any(gradient.dtype != tf.float32 for gradient in gradients):
        widest = tf.float64 if any(gradient.dtype == tf.float64 for gradient in gradients) else tf.float32
        gradients = [tf.cast(gradient, widest) for gradient in gradients]
    return tf.cast(tf.linalg.global_norm(gradients), tf.float32)


def existing(
    gradients: Sequence[Any], variables: Sequence[Any], lacking: frozenset[int]
) -> tuple[list[Any], list[Any]]:
    """Return gradients and variables, without those whose indices are ``lacking``."""
    kept = [index for index in range(len(variables)) if index not in lacking]
    return [gradients[index] for index in kept], [variables[index] for index in kept]


def keras_scaled(gradients: Sequence[Any], optimizer: Any) -> list[Any]:
    """Return gradients times the ``loss_scale_factor`` of a Keras optimizer, by which it divides them."""
    factor = getattr(optimizer, "loss_scale_factor", None)
    return [gradient if factor is None else gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]
