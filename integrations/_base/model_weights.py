"""Model weights by name, for models of either framework."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def named_weights(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and a copy of every weight of a model; waits for the device.

    Args:
        model: A PyTorch module or a Keras model. Other objects, without ``named_parameters`` or ``weights``, yield
            nothing.

    Returns:
        An iterator of pairs: a name with slashes, such as ``encoder/weight``, and a NumPy array.
    """
    if hasattr(model, "named_parameters"):
        for name, parameter in model.named_parameters():
            # NumPy has no bfloat16
            yield name.replace(".", "/"), parameter.detach().float().cpu().numpy()
    else:
        for weight in getattr(model, "weights", ()):
            yield getattr(weight, "path", None) or weight.name, weight.numpy()
