"""Model inputs and outputs: calling a model on a batch, and finding the loss and the logits in its outputs."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import keras
import tensorflow as tf

from trackside.callbacks.errors import TracksideValueError

from ..base_trainer import check_smoothing
from ..overrides import Overrides
from ..train_step import mixed
from ._compat import call_compute_loss, is_misfit, keras_step, layers_of, sentence_of, with_mask_of
from .data.loader import Batches, first_examples
from .data.readers import unweighted
from .data.stateful import examples_to_build
from .distributed.strategy import DistributedStrategy
from .loss import LossAccumulator, as_tensor, batch_size, sums_of_batch
from .objective.cutting import FEW, depends_on_cut, is_known
from .objective.items import MISUSE, is_of_keras, mean_of_examples, sum_dtype
from .objective.misfits import misfit_of_features
from .objective.outputs import Objective, compiled_objective
from .objective.smoothing import SmoothedCrossentropy
from .objective.sums import Sums
from .precision.policies import apply_policy, is_made_in, policy_for_new_layers
from .tracing import runs_eagerly
from .weights.model_state import undisturbed

logger: logging.Logger = logging.getLogger("trackside.trainer")


class ModelIO:
    """Inputs of a trainer's model and the source of its loss, inspected once before tracing.

    Args:
        trainer: Has model, ``loss_fn`` and ``args``.
        overrides: The documented methods that the trainer overrides.
        strategy: The strategy of the model's variables.

    Attributes:
        loss: ``loss_fn``, or the compiled loss of the model; None without one.
        computes_loss: Whether the model overrides ``compute_loss`` of Keras, which then computes the loss.
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
        given, names = trainer.loss_fn, getattr(model, "output_names", None)
        self.loss: Objective | None = compiled_objective(model) if given is None else Objective(given, names=names)
        self.computes_loss: bool = given is None and keras_step(model, "compute_loss") is not None
        self._takes_labels = model is not None and takes_labels(model)
        self._spreads = model is not None and spreads_features(model)
        has_none = self.loss is None and not self.computes_loss
        self._smooths = has_none and trainer.args.label_smoothing_factor > 0
        if self._smooths:
            self.loss = Objective(SmoothedCrossentropy(trainer.args.label_smoothing_factor), names=names)
        self.has_loss: bool = has_none and not self._smooths and "compute_loss" not in self._overrides
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
            features, _ = first_examples(batches, examples_to_build(model, batches, self._strategy.replicas))
            with self._trainer.args.strategy.scope(), policy_for_new_layers(policy):
                self._trace(features)
        if not is_made_in_it:
            apply_policy(model, policy)
        self._strategy.adopt_variables(model)
        self.inspect()

    def _trace(self, features: Any) -> None:
        """Have the model make its variables as in ``fit``, by a trace, which changes no state of it."""

        def build() -> None:
            self.call(features, None, False)

        if runs_eagerly(self._trainer.model):
            build()
        else:
            tf.function(build, autograph=False).get_concrete_function()

    def check_loss(self) -> None:
        """Raise TracksideValueError if there is no loss for training, or it does not support label smoothing."""
        model = self._trainer.model
        if self.computes_loss:
            check_smoothing(self._trainer.args, f"compute_loss of {type(model).__name__}")
        elif self.loss is not None and not self._smooths:
            check_smoothing(self._trainer.args, "the loss that the model was compiled with")
        evaluates = self._trainer.args.eval_strategy != "no"
        self.refuse_steps("train_step", *(["test_step"] if evaluates else []))
        if self._lacks_loss() and not model.losses and all(map(is_of_keras, layers_of(model))):
            raise self.no_loss()

    def refuse_steps(self, *names: str) -> None:
        """Raise if the model overrides a step of Keras, which is never called, unless the trainer overrides its own.

        Raises:
            TracksideValueError: If it does; the message names the method and what to override.
        """
        model = self._trainer.model
        own = [name for name in names if keras_step(model, name) is not None]
        if own and not self._overrides.any("run_model", "training_step", "prediction_step", "apply_gradients"):
            raise TracksideValueError(
                f"{type(model).__name__} overrides {own[0]}, which TFTrainer never calls, since the step is its own. "
                "Override compute_loss of the model, add_loss in a layer, or run_model or training_step of TFTrainer"
            )

    def _lacks_loss(self) -> bool:
        own = self._overrides.any("run_model", "training_step")
        return self.has_loss and not self._takes_labels and not own

    def tell_of_batch_norm(self) -> None:
        """Warn of a layer of batch normalization whose statistics depend on how an update is divided."""
        accumulates = self._trainer.args.gradient_accumulation_steps > 1
        norm = batch_norm_in(self._trainer.model, accumulates=accumulates)
        if norm and (accumulates or self._strategy.replicas > 1):
            logger.warning("%s", mixed(norm))

    def tell_of_cut(self, batches: Batches) -> None:
        """Warn of a loss that depends on how an update is divided, as the first examples of ``batches`` show it."""
        is_divided = self._trainer.args.gradient_accumulation_steps > 1 or self._strategy.replicas > 1
        own = self._overrides.any("run_model", "training_step", "compute_loss") or self.computes_loss
        if self.loss is None or own or not is_divided or all(map(is_known, keras.tree.flatten(self.loss.loss))):
            return
        with suppress(*MISUSE, tf.errors.OpError, NotImplementedError):  # the step tells what is wrong
            features, labels = first_examples(batches, FEW)
            labels, examples = unweighted(labels)[0], int(batch_size(features))
            if labels is None or examples < 2:
                return
            with self._trainer.args.strategy.scope(), undisturbed(self._trainer.model):
                _, logits = self.call(features, None, False)
            if depends_on_cut(self.loss.items, labels, logits, examples):
                why = f"the loss of a batch, {self.loss.name}, is not the mean of the losses of its parts"
                logger.warning("%s", mixed(why))

    def has_one_sum(self) -> bool:
        """Return whether all losses certainly have the same weights: a single output, and no loss of a layer."""
        model = self._trainer.model
        return len(getattr(model, "outputs", None) or ()) == 1 and not model.losses

    def no_loss(self) -> TracksideValueError:
        """Return the error for a training batch without a loss."""
        if self._lacks_loss():
            name = type(self._trainer.model).__name__
            return TracksideValueError(
                f"{name} has no loss: compile it with one, give TFTrainer loss_fn=..., let its call() take labels and "
                "return (loss, logits), call add_loss() in a layer, or override run_model"
            )
        return TracksideValueError("there are no labels in the training batches, and so no loss")

    def no_gradient(self) -> TracksideValueError:
        """Return the error for a loss without a gradient."""
        name = f"the loss {self.loss.name}" if self.loss is not None else "the loss of run_model or of the model"
        if "compute_loss" in self._overrides:
            name = f"the loss of {type(self._trainer).__name__}.compute_loss(labels, logits)"
        return TracksideValueError(
            f"{name} has no gradient with respect to any trainable variable, so nothing would be learned: it rounds, "
            "compares, takes an argmax, updates a metric or leaves TensorFlow (numpy_function). Compute it of the "
            "outputs with differentiable operations"
        )

    def call(self, features: Any, labels: Any, training: bool) -> tuple[Any, Any]:
        """Return the model's own loss, or None, and the logits in float32."""
        with_labels = self.has_loss and self._takes_labels and labels is not None
        model, spreads = self._trainer.model, self._spreads
        outputs = call_model(model, features, labels, training, with_labels=with_labels, spreads=spreads)
        loss, logits = loss_and_logits(outputs) if with_labels else (None, outputs)
        return loss, in_float32(logits)

    def loss_of(self, labels: Any, logits: Any, sample_weight: Any) -> Any:
        """Return the losses by the loss function, or with label smoothing, as `as_tensor` has them.

        Raises:
            TracksideValueError: If the loss does not accept the labels and outputs; the message describes them.
        """
        assert self.loss is not None
        if self._smooths and isinstance(logits, Mapping) and not isinstance(labels, Mapping):
            logits = logits.get("logits", logits)
        if is_of_keras(self.loss.loss) and any(leaf.dtype == tf.string for leaf in tf.nest.flatten(labels)):
            raise TracksideValueError(
                "the labels are texts, and a loss needs numbers: give each class its number, as pandas.factorize or a "
                "StringLookup layer does"
            )
        try:
            return as_tensor(self.loss.items(labels, logits, sample_weight, batch_size(labels)), labels, logits)
        except MISUSE as error:
            raise TracksideValueError(self.loss.misfit(labels, logits, sample_weight, sentence_of(error))) from (
                None if is_of_keras(self.loss.loss) else error
            )

    def loss_by_model(self, features: Any, labels: Any, logits: Any, sample_weight: Any, training: bool) -> Any:
        """Return the loss of a batch by the ``compute_loss`` of the model, with those of its layers."""
        total = call_compute_loss(self._trainer.model, features, labels, logits, sample_weight, training)
        total = tf.reduce_mean(total) * self._strategy.replicas  # Keras divides by the number of replicas
        items = [mean_of_examples(tf.cast(total, sum_dtype()), batch_size(features))]
        return as_tensor(items, features if labels is None else labels, logits, is_total=True)

    def sums_of(self, loss: Any, logits: Any, features: Any, labels: Any, losses: LossAccumulator) -> Sums | None:
        """Return the sums of what `run_model` returned, with losses of the model's layers; None without any loss."""
        weight, has_none = losses.take_weight(labels, logits), self.loss is None
        return sums_of_batch(loss, logits, features, labels, weight, self._trainer.model, only_layers=has_none)


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
        is_of_keras_alone = "Iterating over" not in str(error)
        text = misfit_of_features(model, features, sentence_of(error).split(". You can")[0])
        raise TracksideValueError(text) from (None if is_of_keras_alone else error)


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
    """Split outputs of a model called with labels: a mapping or object with ``loss``, or (loss, logits, ...).

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

    def cast(leaf: Any) -> Any:
        is_half = getattr(leaf, "dtype", None) in half
        return with_mask_of(leaf, tf.cast(leaf, tf.float32)) if is_half else leaf

    return tf.nest.map_structure(cast, logits)


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
