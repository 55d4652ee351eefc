"""Losses that are sums, such as those with ``reduction="sum"``: as means in an evaluation, whatever its batch size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .graph import read_loss
from .probe import FEW, evaluated, rows_of

logger: logging.Logger = logging.getLogger("trackside.trainer")


class SumsInEvaluation:
    """Divides the losses of evaluation batches that are sums by their items.

    Before any training, the loss of a few examples is computed once more, with gradients, whose operations show it.

    Args:
        trainer: Has the model and ``loss_items_fn``, with which a loss is taken for a mean.
        model_io: Counts examples.
        loss_of: Returns the loss of a batch; None if it must not be called once more.
    """

    def __init__(self, trainer: Any, model_io: Any, loss_of: Callable[[Any], Any] | None) -> None:
        self._trainer = trainer
        self._model_io = model_io
        self._loss_of = loss_of
        self._is_told = False
        self.begin_run()

    def begin_run(self) -> None:
        """Forget what was found."""
        self._is_sum: bool | None = None

    def divided(self, loss: Tensor, inputs: Any, items: Any, *, is_sum: bool | None) -> Tensor:
        """Return the loss of a batch as a mean.

        Args:
            items: The number of items in the batch; None if it is unknown.
            is_sum: Whether the losses are sums; None if it is not known from training.
        """
        if items is None or self._trainer.loss_items_fn is not None:
            return loss
        if is_sum is None and self._is_sum is None:
            self._is_sum = self._is_sum_of_few(inputs)
        if not (self._is_sum if is_sum is None else is_sum):
            return loss
        self._tell()
        return loss / (items.clamp_min(1) if isinstance(items, Tensor) else max(items, 1))

    def _is_sum_of_few(self, inputs: Any) -> bool:
        """Return whether the loss of a few examples is a sum; False if it cannot be known."""
        if self._loss_of is None:
            return False
        try:
            part = rows_of(inputs, self._model_io.examples_in(inputs), 0, FEW)
            with evaluated(self._trainer, self._model_io, part), torch.enable_grad():
                terms = read_loss(self._loss_of(part)).terms
        except Exception:  # code of the user that only works without gradients, or on whole batches
            return False
        return bool(terms) and all(term.kind == "sum" for term in terms)

    def _tell(self) -> None:
        if not self._is_told and self._trainer.is_world_process_zero():
            self._is_told = True
            logger.warning(
                "the loss is a sum: an evaluation reports it divided by its items (labels that count, or examples), "
                "and does not depend on the batch size; the loss in training records is the sum of an update"
            )
