"""What is computed of a batch: the model is called, the loss of each example found, the update's gradients made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from trackside.callbacks.errors import TracksideValueError

from .arguments import TFTrainingArguments
from .distributed.strategy import DistributedStrategy
from .loss import LossWindow, compiled_loss, is_of_keras, per_example, safe_labels, smoothed_loss, sum_and_weight
from .model_io import call_model, in_words, loss_and_logits, sentence_of, spreads_features, takes_labels
from .precision import FullPrecision


class Objective:
    """The part of a trainer that knows its model and its loss. All of it runs while a tf.function is traced."""

    args: TFTrainingArguments
    model: Any
    optimizer: Any
    loss_fn: Callable[..., Any] | None
    processes: DistributedStrategy
    precision: FullPrecision
    compute_loss: Callable[..., Any]
    training_step: Callable[..., list[Any]]
    apply_gradients: Callable[..., None]
    has_own: Callable[..., bool]
    check_smoothing: Callable[[str], None]

    def _know_model(self) -> None:
        """Note what the model takes and where its loss comes from."""
        self._loss = per_example(self.loss_fn) if self.loss_fn is not None else compiled_loss(self.model)
        self._takes_labels = takes_labels(self.model)
        self._spreads = spreads_features(self.model)
        self._smooths = self._loss is None and self.args.label_smoothing_factor > 0
        self._model_has_loss = self._loss is None and not self._smooths and not self.has_own("compute_loss")
        self._window = LossWindow()

    def _check_loss(self) -> None:
        """Raise TracksideValueError if there is no loss to train with, or one that cannot be smoothed."""
        if self._loss is not None:
            self.check_smoothing("the loss that the model was compiled with")
        if self._model_has_loss and not self._takes_labels and not self.has_own("run_model", "training_step"):
            raise TracksideValueError(
                f"{type(self.model).__name__} has no loss: compile it with one, give TFTrainer loss_fn=..., let its "
                "call() take labels and return (loss, logits), or override run_model"
            )

    def _run_model(self, features: Any, labels: Any, training: bool) -> tuple[Any, Any]:
        """Return the loss of each example (None without labels) and the logits."""
        with_labels = self._model_has_loss and self._takes_labels and labels is not None
        outputs = call_model(self.model, features, labels, training, with_labels=with_labels, spreads=self._spreads)
        if with_labels:
            loss, logits = loss_and_logits(outputs)
            return loss, _in_float32(logits)
        logits = _in_float32(outputs)
        if labels is None or (self._model_has_loss and not self._takes_labels):
            return None, logits
        return self.compute_loss(labels, logits), logits

    def _loss_of(self, labels: Any, logits: Any) -> Any:
        """Return the loss of each example by the loss function.

        Raises:
            TracksideValueError: If it does not take such labels and outputs; the message says what they are.
        """
        assert self._loss is not None
        try:
            return self._loss(safe_labels(labels), logits)
        except (LookupError, TypeError, ValueError) as error:
            raise TracksideValueError(
                f"the loss cannot be computed of labels {in_words(labels)} and outputs {in_words(logits)}: "
                f"{sentence_of(error)}"
            ) from (None if is_of_keras(self._loss) else error)

    def _smoothed(self, labels: Any, logits: Any) -> Any:
        logits = logits["logits"] if isinstance(logits, Mapping) else logits
        return smoothed_loss(labels, logits, self.args.label_smoothing_factor)

    # -- the update, on a replica ---------------------------------------------------------------------------------

    def _gradients(self, features: Any, labels: Any, nb_instances: Any) -> list[Any]:
        """Return the gradients of the sum of the losses divided by ``nb_instances``, scaled as the precision asks."""
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            per_example_loss, _ = self.run_model(features, labels, True)  # type: ignore[attr-defined]
            if per_example_loss is None:
                raise TracksideValueError("there are no labels in the training batches, and so no loss")
            loss, weight = sum_and_weight(per_example_loss, labels, features)
            loss, weight = loss / nb_instances, weight / nb_instances
            penalties = self.model.losses  # regularisation: once in the mean of the update
            if penalties:
                loss = loss + tf.add_n([tf.cast(value, tf.float32) for value in penalties]) * weight
            loss, _ = self._window.note(loss, weight)
            scaled = self.precision.scaled(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        return [_dense(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True)]

    def _reduced(self, gradients: list[Any]) -> tuple[list[Any], Any]:
        """Return the update's gradients, normalised and clipped, and their norm before clipping.

        The window then holds the update's loss in ``loss``.
        """
        window = self._window
        *gradients, loss, weight = self.processes.sum_replicas([*gradients, window.loss, window.weight])
        share = tf.where(weight > 0, 1.0 / tf.maximum(weight, 1e-12), 0.0)
        window.loss = loss * share
        factor = self.precision.unscaled(share)
        norm = tf.linalg.global_norm(gradients) * factor
        if self.args.max_grad_norm > 0:
            factor = factor * tf.minimum(1.0, self.args.max_grad_norm / (norm + 1e-6))
        return [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients], norm

    def _apply(self, gradients: list[Any], norm: Any) -> Any:
        """Step the optimizer, unless float16 overflowed; return whether it was held back."""
        variables = self.model.trainable_variables
        if not self.precision.is_scaled:
            self.optimizer.apply(gradients, variables)
            return tf.constant(False)
        is_finite = tf.math.is_finite(norm)

        def step() -> Any:
            self.optimizer.apply(gradients, variables)
            return tf.constant(False)

        skipped = tf.cond(is_finite, step, lambda: tf.constant(True))
        self.precision.update(is_finite)
        return skipped

    def _update_on_replica(self, window: Any, rows: Any, nb_instances: Any) -> tuple[Any, Any, Any]:
        """Do a whole update; return its loss, its gradient norm, and whether it was held back."""
        last = len(window) - 1
        for index, batch in enumerate(window):
            (features, labels), counts = self.processes.replica_slice(batch, None if rows is None else rows[index])
            if index == 0:
                self._window.begin()
            self._window.counts = counts
            if index < last:
                self._window.keep(self.training_step(features, labels, nb_instances))
            else:
                self.apply_gradients(features, labels, nb_instances)
        return self._window.loss, self._window.norm, self._window.skipped


def _in_float32(logits: Any) -> Any:
    """Return half-precision outputs in float32, in which losses and metrics are computed."""
    half = (tf.float16, tf.bfloat16)
    return tf.nest.map_structure(
        lambda leaf: tf.cast(leaf, tf.float32) if getattr(leaf, "dtype", None) in half else leaf, logits
    )


def _dense(gradient: Any, variable: Any) -> Any:
    """Return a gradient as a tensor: zeros where the loss does not depend on the variable."""
    if gradient is None:
        return tf.zeros(variable.shape, variable.dtype)
    return tf.convert_to_tensor(gradient)
