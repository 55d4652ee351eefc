"""Precision of the training step: dtype policy of layers, and loss scale."""

from __future__ import annotations

import logging
from typing import Any

import keras

logger: logging.Logger = logging.getLogger("trackside.trainer")


class Precision:
    """The number formats of a step, without a loss scale, which bfloat16 does not need.

    Args:
        policy: Name of a Keras dtype policy for the layers; None leaves them unchanged.

    Attributes:
        is_scaled: Whether the loss is scaled, so that an update may be skipped.

    Source:
        https://keras.io/api/mixed_precision/
    """

    is_scaled: bool = False

    def __init__(self, policy: str | None = None) -> None:
        self.policy: str | None = policy

    def begin_as(self, optimizer: Any) -> None:
        """Begin a run with an optimizer as the user gave it; warn if it would scale the loss, which is not done."""
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            logger.warning(
                "LossScaleOptimizer has no effect without fp16=True: the loss is not scaled, and updates whose "
                "gradients are not finite are not skipped"
            )

    def scaled(self, loss: Any) -> Any:
        """Return the loss for the backward pass."""
        return loss

    def unscaled(self, factor: Any) -> Any:
        """Return the factor on the gradients with the loss scale divided out."""
        return factor

    def update(self, is_finite: Any) -> None:
        """Adapt the scale after an update."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
