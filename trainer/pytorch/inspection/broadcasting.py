"""Broadcasting: outputs and labels of shapes (examples, 1) and (examples,), which a loss function compares pairwise."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from .probe import evaluated, rows_of

logger: logging.Logger = logging.getLogger("trackside.trainer")

SOME = 16
"""Number of examples whose loss is computed."""


def tell_of_broadcasting(trainer: Any, model_io: Any, inputs: Any) -> None:
    """Warn if ``trainer.loss_fn`` compares each output with the labels of other examples, because of their shapes.

    The loss of a few examples is computed with their labels and with those of their neighbors, each time as it is and
    for outputs of the shape of the labels.
    """
    size, labels = model_io.examples_in(inputs), model_io.labels_of(inputs)
    if trainer.loss_fn is None or size < 2 or not isinstance(labels, Tensor) or not labels.is_floating_point():
        return  # labels that are classes need no look, which would call the model once more
    part = rows_of(inputs, size, 0, SOME)
    labels = model_io.labels_of(part)
    with evaluated(trainer, model_io, part), torch.no_grad():
        outputs = model_io.call(trainer.model, part, with_labels=False)
        if not is_pairwise(trainer.loss_fn, outputs, labels):
            return
    logger.warning(
        "loss_fn compares every output with every label, since outputs of shape %s are broadcast against labels of "
        "shape %s: the loss is wrong. Give both the same shape, for example by .squeeze(-1) or .unsqueeze(-1)",
        tuple(outputs.shape),
        tuple(labels.shape),
    )


def is_pairwise(loss_fn: Any, outputs: Any, labels: Any) -> bool:
    """Return whether a loss stays the same when the examples exchange their labels, only because of the shapes.

    Example:
        >>> outputs, labels = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.5])
        >>> is_pairwise(lambda outputs, labels: (outputs - labels).abs().mean(), outputs, labels)
        True
        >>> is_pairwise(lambda outputs, labels: (outputs.squeeze(-1) - labels).abs().mean(), outputs, labels)
        False
    """
    if not (isinstance(outputs, Tensor) and isinstance(labels, Tensor)) or abs(outputs.ndim - labels.ndim) != 1:
        return False
    if outputs.numel() != labels.numel() or 1 not in (outputs.shape[-1:] + labels.shape[-1:]):
        return False
    shapes = (outputs, outputs.reshape(labels.shape))
    try:
        losses = [[torch.as_tensor(loss_fn(each, other)) for other in (labels, labels.roll(1, 0))] for each in shapes]
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False  # only one of the shapes is allowed
    same_as_given, same_if_aligned = (torch.allclose(one, two, equal_nan=True) for one, two in losses)
    return same_as_given and not same_if_aligned
