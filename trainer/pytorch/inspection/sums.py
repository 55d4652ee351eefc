"""Losses that are sums, such as those with ``reduction="sum"``: as means in an evaluation, whatever its batch size."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

logger: logging.Logger = logging.getLogger("trackside.trainer")


class SumsInEvaluation:
    """Divides the losses of evaluation batches that are sums by their items.

    Args:
        trainer: Has ``loss_items_fn``, with which a loss is taken for a mean.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._is_told = False

    def divided(self, loss: Tensor, items: Any) -> Tensor:
        """Return the sum of a batch as a mean.

        Args:
            items: The number of items in the batch; None if it is unknown.
        """
        if items is None or self._trainer.loss_items_fn is not None:
            return loss
        if not self._is_told and self._trainer.is_world_process_zero():
            self._is_told = True
            logger.warning(
                "the loss is a sum: an evaluation reports it divided by its items (labels that count, or examples), "
                "and does not depend on the batch size; the loss in training records is the sum of an update"
            )
        return loss / (items.clamp_min(1) if isinstance(items, Tensor) else max(items, 1))
