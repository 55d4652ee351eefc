"""The norm of all weights, in every training record, with either framework."""

from __future__ import annotations

import math
from typing import Any

from trackside import TrainerCallback
from trackside.integrations._base.model_weights import named_weights


class WeightNormsCallback(TrainerCallback):
    """Add ``weight_norm``, the L2 norm of all weights together, to the training records.

    Args:
        each: Add ``weight_norm/NAME`` of every weight too.

    Units:
        Those of the weights.
    """

    role = "observer"

    def __init__(self, each: bool = False) -> None:
        self.each = each

    def metrics_to_log(self, args: Any, state: Any, model: Any = None, **context: Any) -> dict[str, float]:
        """Return the norms. Waits for the device, as every record does."""
        squares = {name: float((weight.astype("float64") ** 2).sum()) for name, weight in named_weights(model)}
        norms = {"weight_norm": math.sqrt(math.fsum(squares.values()))}
        if self.each:
            norms.update({f"weight_norm/{name}": math.sqrt(square) for name, square in squares.items()})
        return norms
