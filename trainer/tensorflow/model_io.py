"""Model inputs and outputs: calling a model on a batch, and finding the loss and the logits in its outputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from trackside.callbacks.errors import TracksideValueError

from ..base_trainer import check_smoothing
from ..engine import Overrides
from ._compat import input_structure, is_misfit, layers_of, sentence_of
from .data.loader import Batches, first_example
from .distributed.strategy import DistributedStrategy
from .loss import LossFunction, compiled_loss, is_of_keras, per_example, safe_labels, smoothed_loss
from .precision.policies import apply_policy, is_made_in, policy_for_new_layers


class ModelIO:
    """Inputs of a trainer's model and the source of its loss, inspected once before tracing.

    Args:
        trainer: Has model, ``loss_fn`` and ``args``.
        overrides: The documented methods that the trainer overrides.
        strategy: The strategy of the model's variables.

    Attributes:
        loss: The loss function: ``loss_fn``, or the compiled loss of the model; None without one.
        has_loss: Whether the model computes its own loss from labels, if it takes them.
        counts_flos: Whether floating point operations can be counted.
    """

    def __init__(self, trainer: Any, overrides: Overrides, strategy: DistributedStrategy) -> None:
        self._trainer = trainer
        self._overrides = overrides
        self._strategy = strategy
        self.inspect()

    def inspect(self) -> None:
        """Inspect the trainer's current model."""
        trainer, model = self._trainer, self._trainer.model
        given = trainer.loss_fn
        self.loss: LossFunction | None = compiled_loss(model) if given is None else per_example(given)
        self._takes_labels = model is not None and takes_labels(model)
        self._spreads = model is not None and spreads_features(model)
        self._smooths = self.loss is None and trainer.args.label_smoothing_factor > 0
        self.has_loss: bool = self.loss is None and not self._smooths and "compute_loss" not in self._overrides
        self.counts_flos: bool = "floating_point_ops" in self._overrides or hasattr(model, "floating_point_ops")

    def build(self, batches: Batches | None, policy: str | None) -> None:
        """Build the model on a batch, unless it is built, apply ``policy``, and inspect it.

        Raises:
            TracksideValueError: If the model is not built, and ``batches`` is None.
        """
        model = self._trainer.model
        is_made_in_it = is_made_in(model, policy)
        if not model.built:
            if batches is None:
                raise TracksideValueError(
                    f"{type(model).__name__} has no weights yet; call it on a batch, or give TFTrainer a dataset"
                )
            features, _ = first_example(batches)
            features = tf.nest.map_structure(tf.convert_to_tensor, features)
            with self._trainer.args.strategy.scope(), policy_for_new_layers(policy):
                self.call(features, None, False)
        if not is_made_in_it:
            apply_policy(model, policy)
        self._strategy.adopt_variables(model)
        self.inspect()

    def check_loss(self) -> None:
        """Raise TracksideValueError if there is no loss for training, or it does not support label smoothing."""
        if self.loss is not None:
            check_smoothing(self._trainer.args, "the loss that the model was compiled with")
        if self.has_loss and not self._takes_labels and not self._overrides.any("run_model", "training_step"):
            raise TracksideValueError(
                f"{type(self._trainer.model).__name__} has no loss: compile it with one, give TFTrainer loss_fn=..., "
                "let its call() take labels and return (loss, logits), or override run_model"
            )

    def call(self, features: Any, labels: Any, training: bool) -> tuple[Any, Any]:
        """Return the model's own loss, or None, and the logits in float32."""
        with_labels = self.has_loss and self._takes_labels and labels is not None
        model, spreads = self._trainer.model, self._spreads
        outputs = call_model(model, features, labels, training, with_labels=with_labels, spreads=spreads)
        loss, logits = loss_and_logits(outputs) if with_labels else (None, outputs)
        return loss, in_float32(logits)

    def loss_of(self, labels: Any, logits: Any) -> Any:
        """Return the loss of each example by the loss function, or with label smoothing.

        Raises:
            TracksideValueError: If the loss does not accept the labels and outputs; the message describes them.
        """
        if self._smooths:
            logits = logits["logits"] if isinstance(logits, Mapping) else logits
            return smoothed_loss(labels, logits, self._trainer.args.label_smoothing_factor)
        assert self.loss is not None
        try:
            return self.loss(safe_labels(labels), logits)
        except (LookupError, TypeError, ValueError) as error:
            raise TracksideValueError(
                f"the loss cannot be computed of labels {in_words(labels)} and outputs {in_words(logits)}: "
                f"{sentence_of(error)}"
            ) from (None if is_of_keras(self.loss) else error)


# -- the call ---------------------------------------------------------------------------------------------------------


def call_model(model: Any, features: Any, labels: Any, training: bool, *, with_labels: bool, spreads: bool) -> Any:
    """Call the model on features.

    Args:
        with_labels: Whether to pass the labels: a dict by keyword, other labels as ``labels``.
        spreads: Whether to pass a tuple of features as separate arguments.

    Raises:
        TracksideValueError: If the model does not accept the features; the message describes them.
    """
    given: dict[str, Any] = {"training": training}
    if with_labels and labels is not None:
        given |= labels if isinstance(labels, Mapping) else {"labels": labels}
    positional = tuple(features) if spreads and isinstance(features, (tuple, list)) else (features,)
    try:
        return model(*positional, **given)
    except (TypeError, ValueError) as error:
        if not is_misfit(error):
            raise
        raise TracksideValueError(_misfit(model, features, sentence_of(error))) from None


def _misfit(model: Any, features: Any, sentence: str) -> str:
    taken = input_structure(model)
    takes = "" if taken is None else f"; it takes {in_words(taken)}"
    what = (
        "If the dataset gives batches, .unbatch() it" if _seem_batched(features, taken) else f"Keras says: {sentence}"
    )
    name = type(model).__name__
    return f"{name} cannot be called on the features of this dataset, {in_words(features)}{takes}. {what}"


def _seem_batched(features: Any, taken: Any) -> bool:
    """Return whether features have one dimension more than the model's inputs, if those are known."""
    if taken is None:
        return False
    ranks = [[tf.TensorShape(leaf.shape).rank or 0 for leaf in tf.nest.flatten(nested)] for nested in (features, taken)]
    return len(ranks[0]) == len(ranks[1]) and all(given > wanted for given, wanted in zip(*ranks, strict=True))


def in_words(nested: Any) -> str:
    """Return the dtypes and shapes of nested tensors in words.

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
    """Split the outputs of a model called with labels: a mapping or object with ``loss``, or (loss, logits, ...).

    Raises:
        TracksideValueError: If there is no loss in them.
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
    """Return logits without the named entries; a single remaining entry is returned itself."""
    if not isinstance(logits, Mapping):
        return logits
    rest = {name: value for name, value in logits.items() if name not in (ignore_keys or ())}
    return next(iter(rest.values())) if len(rest) == 1 else rest


def in_float32(logits: Any) -> Any:
    """Return half-precision outputs in float32, in which losses and metrics are computed."""
    half = (tf.float16, tf.bfloat16)
    return tf.nest.map_structure(
        lambda leaf: tf.cast(leaf, tf.float32) if getattr(leaf, "dtype", None) in half else leaf, logits
    )


def batch_norm_in(model: Any, *, accumulates: bool) -> str:
    """Return a trainable layer of batch normalization, in words; empty without one.

    Args:
        accumulates: Whether an update has several micro-batches, whose statistics ``synchronized=True`` does not join.
    """
    for layer in layers_of(model):
        is_joined = getattr(layer, "synchronized", False) and not accumulates
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and not is_joined:
            return f"{type(layer).__name__} ({layer.name}) computes statistics over the examples of a micro-batch"
    return ""
