"""Compatibility with Keras' losses and compiled metrics: private names, each with a fallback."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

FunctionLoss: Any = keras.losses.MeanSquaredError.__base__
"""Keras' loss around a function of labels and outputs, which it brings to one rank."""


try:
    from keras.src.trainers.compile_utils import CompileLoss as _CompileLoss
    from keras.src.trainers.compile_utils import CompileMetrics as _CompileMetrics
except ImportError as error:  # pragma: no cover
    raise ImportError(f"Keras {keras.__version__} has no CompileLoss; install one that setup.cfg allows") from error

CompileLoss: Any = _CompileLoss
"""Keras' assignment of losses, labels and weights to the outputs of a model."""

CompileMetrics: Any = _CompileMetrics
"""Keras' assignment of metrics to the outputs of a model."""


def same_rank(first: Any, second: Any) -> tuple[Any, Any]:
    """Return two tensors of the same rank, if their ranks differ by a last dimension of 1."""
    one, other = first.shape.rank, second.shape.rank
    if one == other + 1 and first.shape[-1] == 1:
        return (first, tf.expand_dims(second, -1)) if other == 1 else (tf.squeeze(first, -1), second)
    if other == one + 1 and second.shape[-1] == 1:
        return (tf.expand_dims(first, -1), second) if one == 1 else (first, tf.squeeze(second, -1))
    return first, second


def compilation_of(model: Any) -> Any:
    """Return an object that is another one after each ``Model.compile`` with a loss; None without a loss."""
    return getattr(model, "_compile_loss", getattr(model, "loss", None))


def compiled_loss_weights(model: Any) -> Any:
    """Return the ``loss_weights`` with which a model was compiled; None without any."""
    compiled: Any = getattr(model, "_compile_loss", None)
    if hasattr(compiled, "_user_loss_weights"):
        return compiled._user_loss_weights
    return (model.get_compile_config() or {}).get("loss_weights")


def compiled_with(model: Any) -> dict[str, Any]:
    """Return the arguments of ``Model.compile`` as the user gave them; empty if they are unknown."""
    given = getattr(getattr(model, "_compile_config", None), "config", None)
    return dict(given) if isinstance(given, dict) else {}


def compiled_metrics(model: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    """Return the metrics of a model as compiled, None without any, and what they were made of.

    The second is ``metrics``, ``weighted_metrics`` and the names of the outputs.
    """
    compiled: Any = getattr(model, "_compile_metrics", None)
    if not hasattr(compiled, "_user_metrics") or not hasattr(compiled, "_user_weighted_metrics"):
        return None, (None, None, None)
    return compiled, (compiled._user_metrics, compiled._user_weighted_metrics, compiled.output_names)


def metrics_of_compilation(model: Any) -> list[Any]:
    """Return those of ``Model.metrics`` that ``Model.compile`` made: of the loss, and of the metrics given to it."""
    compiled = [getattr(model, name, None) for name in ("_loss_tracker", "_compile_metrics")]
    return [*compiled, *getattr(getattr(model, "_compile_loss", None), "metrics", ())]
