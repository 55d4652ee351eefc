"""The weights of a model by name, whatever its framework."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def named_weights(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and NumPy array of every weight of a PyTorch module or a Keras model.

    Waits for the device and copies; what has neither ``named_parameters`` nor ``weights`` has none.
    """
    if hasattr(model, "named_parameters"):
        for name, parameter in model.named_parameters():
            # NumPy has no bfloat16
            yield name.replace(".", "/"), parameter.detach().float().cpu().numpy()
    else:
        for weight in getattr(model, "weights", ()):
            yield getattr(weight, "path", None) or weight.name, weight.numpy()
