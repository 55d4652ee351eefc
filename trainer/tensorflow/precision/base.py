"""Precision inside the step: how layers compute, and the scale of the loss."""

from __future__ import annotations

from typing import Any


class Precision:
    """How the numbers of a step are represented, without a loss scale, which bfloat16 does not need.

    Args:
        policy: Keras' name for how layers compute; None to leave them as they are.

    Attributes:
        is_scaled: Whether the loss is scaled, so that an update may be skipped.

    Source:
        https://keras.io/api/mixed_precision/
    """

    is_scaled: bool = False

    def __init__(self, policy: str | None = None) -> None:
        self.policy: str | None = policy

    def scaled(self, loss: Any) -> Any:
        """Return the loss as it goes backward."""
        return loss

    def unscaled(self, factor: Any) -> Any:
        """Return the factor on the gradients with the loss scale divided out."""
        return factor

    def update(self, is_finite: Any) -> None:
        """Adapt the scale after an update."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
