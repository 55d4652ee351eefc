"""How a model is called with a batch, and where the loss and the logits are in what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ...callbacks.errors import TracksideValueError


def call_model(model: Any, features: Any, labels: Any, training: bool, *, with_labels: bool, spreads: bool) -> Any:
    """Call the model on features.

    Args:
        with_labels: Hand the labels over: a dict by keyword, anything else as ``labels``.
        spreads: Hand a tuple of features over one by one.
    """
    given: dict[str, Any] = {"training": training}
    if with_labels and labels is not None:
        given |= labels if isinstance(labels, Mapping) else {"labels": labels}
    if spreads and isinstance(features, (tuple, list)):
        return model(*features, **given)
    return model(features, **given)


def takes_labels(model: Any) -> bool:
    """Return whether ``model.call`` takes labels and so may return its own loss."""
    return "labels" in inspect.signature(model.call).parameters


def spreads_features(model: Any) -> bool:
    """Return whether ``model.call`` takes several inputs, rather than one that may be a tuple."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    own = {"training", "mask", "labels"}
    names = [n for n, item in inspect.signature(model.call).parameters.items() if item.kind in kinds and n not in own]
    return len(names) > 1


def loss_and_logits(outputs: Any) -> tuple[Any, Any]:
    """Split what a model called with labels returned: a mapping or object with ``loss``, or (loss, logits, ...).

    Raises:
        TracksideValueError: If there is no loss in it.
    """
    if isinstance(outputs, Mapping) and "loss" in outputs:
        rest = {name: value for name, value in outputs.items() if name != "loss" and value is not None}
        return outputs["loss"], next(iter(rest.values())) if len(rest) == 1 else rest
    if isinstance(outputs, (tuple, list)) and len(outputs) > 1:
        return outputs[0], outputs[1] if len(outputs) == 2 else tuple(outputs[1:])
    if getattr(outputs, "loss", None) is not None:
        return outputs.loss, outputs.logits
    raise TracksideValueError(
        f"the model was called with labels= and returned {type(outputs).__name__}, not (loss, logits). Compile it with "
        "a loss, or give TFTrainer loss_fn=..."
    )


def without(logits: Any, ignore_keys: Sequence[str] | None) -> Any:
    """Return logits without the named entries; a single one stands alone."""
    if not isinstance(logits, Mapping):
        return logits
    rest = {name: value for name, value in logits.items() if name not in (ignore_keys or ())}
    return next(iter(rest.values())) if len(rest) == 1 else rest
