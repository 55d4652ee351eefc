"""How a model is called with a batch, and where the loss and the logits are in what it returns."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from trackside.callbacks.errors import TracksideValueError

MISFITS = (
    "Invalid input shape",
    "expected structure",
    "incompatible with the layer",
    "but it received",
    "missing a required argument",
)
"""Words in which Keras says that a model does not take what it is called with."""


def call_model(model: Any, features: Any, labels: Any, training: bool, *, with_labels: bool, spreads: bool) -> Any:
    """Call the model on features.

    Args:
        with_labels: Hand the labels over: a dict by keyword, anything else as ``labels``.
        spreads: Hand a tuple of features over one by one.

    Raises:
        TracksideValueError: If the model does not take such features; the message says what they are.
    """
    given: dict[str, Any] = {"training": training}
    if with_labels and labels is not None:
        given |= labels if isinstance(labels, Mapping) else {"labels": labels}
    positional = tuple(features) if spreads and isinstance(features, (tuple, list)) else (features,)
    try:
        return model(*positional, **given)
    except (TypeError, ValueError) as error:
        if not any(words in str(error) for words in MISFITS):
            raise
        raise TracksideValueError(_misfit(model, features, sentence_of(error))) from None


def _misfit(model: Any, features: Any, sentence: str) -> str:
    taken = getattr(getattr(model, "_functional", None) or model, "_inputs_struct", None)
    takes = "" if taken is None else f"; it takes {in_words(taken)}"
    what = (
        "If the dataset gives batches, .unbatch() it" if _seem_batched(features, taken) else f"Keras says: {sentence}"
    )
    name = type(model).__name__
    return f"{name} cannot be called on the features of this dataset, {in_words(features)}{takes}. {what}"


def _seem_batched(features: Any, taken: Any) -> bool:
    """Return whether features have a dimension more than what a model takes, where that is known."""
    if taken is None:
        return False
    ranks = [[tf.TensorShape(leaf.shape).rank or 0 for leaf in tf.nest.flatten(nested)] for nested in (features, taken)]
    return len(ranks[0]) == len(ranks[1]) and all(given > wanted for given, wanted in zip(*ranks, strict=True))


def in_words(nested: Any) -> str:
    """Return dtype and shape of nested tensors.

    Example:
        >>> in_words({"x": tf.zeros((2, 3))})
        "{'x': float32 (2, 3)}"
    """
    if isinstance(nested, Mapping):
        return "{" + ", ".join(f"{name!r}: {in_words(part)}" for name, part in nested.items()) + "}"
    if isinstance(nested, (tuple, list)):
        return "(" + ", ".join(map(in_words, nested)) + ")"
    if not hasattr(nested, "dtype"):
        return type(nested).__name__
    sizes = ["batch" if size is None and place == 0 else str(size or "any") for place, size in enumerate(nested.shape)]
    return f"{tf.as_dtype(nested.dtype).name} ({', '.join(sizes)})"


def sentence_of(error: BaseException) -> str:
    """Return what Keras says in bold in the midst of an error, or else all it says: on one line, without full stop."""
    found = re.search(r"\x1b\[1m(.*?)\x1b\[0m", str(error), re.DOTALL)
    return " ".join((found.group(1) if found else str(error)).split()).removesuffix(".")


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
