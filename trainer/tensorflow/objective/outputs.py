"""The losses of a model's outputs: Keras decides which loss, labels and weights belong to which output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from trackside.callbacks.errors import ArgumentError, TracksideTypeError, did_you_mean

from ...calls import check_call
from ._compat import CompileLoss, FunctionLoss, compiled_loss_weights
from .items import (
    MEAN,
    MISUSE,
    UNREDUCED,
    Item,
    all_known,
    are_classes,
    is_of_keras,
    item_of,
    known_labels,
    mean_of_examples,
)
from .misfits import misfit_of_outputs


class Objective:
    """A loss for the outputs of a model, as ``Model.compile`` takes it, or a function of all labels and outputs.

    Args:
        loss: A Keras loss, its name, a function, or a nested structure of them.
        loss_weights: Factors of the outputs, as ``Model.compile`` takes them.
        names: Names of the model's outputs, if it has names.
        is_compiled: Whether ``loss`` is that of ``Model.compile``, so that it means what it means in ``Model.fit``. A
            function given to the trainer takes all labels and outputs, and its losses are averaged.

    Raises:
        TracksideTypeError: If ``loss`` is none of these.
        ArgumentError: If Keras has no loss of that name, or a weight is that of no loss.
    """

    def __init__(self, loss: Any, loss_weights: Any = None, names: Any = None, *, is_compiled: bool = False) -> None:
        self.loss: Any = loss if is_compiled else checked(loss)
        if isinstance(self.loss, Mapping) and isinstance(loss_weights, Mapping):
            check_weights(loss_weights, list(self.loss))
        self._weights = loss_weights
        self._names = names
        self._is_compiled = is_compiled
        nested = keras.tree.is_nested(self.loss)
        self._is_own = not nested and not isinstance(self.loss, str) and not is_of_keras(self.loss)

    @property
    def name(self) -> str:
        """The name of the loss, for messages."""
        return getattr(self.loss, "__name__", None) or (
            type(self.loss).__name__ if callable(self.loss) else repr(self.loss)
        )

    def items(self, labels: Any, outputs: Any, sample_weight: Any, examples: Any) -> list[Item]:
        """Return the losses of each output that has one.

        A function of the user's own is called as documented, for each output or for all of them together, and if it
        cannot take that, in the other way.
        """
        ways = [self._by_output]
        if self._is_own and any(map(keras.tree.is_nested, (labels, outputs))):
            ways = [self._by_output, self._whole] if self._is_compiled else [self._whole, self._by_output]
        first: Exception | None = None
        for way in ways:
            try:
                found: list[Item] = way(labels, outputs, sample_weight, examples)
                return found if self._is_compiled else [_averaged(item) for item in found]
            except MISUSE as error:
                first = first or error
        assert first is not None
        raise first

    def misfit(self, labels: Any, outputs: Any, sample_weight: Any, said: str) -> str:
        """Return why the losses cannot be computed of a batch, of which TensorFlow or Keras says ``said``."""
        fields = {"labels": labels, "sample_weight": sample_weight, "loss": self.loss, "loss_weights": self._weights}
        return misfit_of_outputs("the loss", fields, outputs, self._names or (), said)

    def _by_output(self, labels: Any, outputs: Any, sample_weight: Any, examples: Any) -> list[Item]:
        if (
            isinstance(labels, Mapping)
            and not keras.tree.is_nested(outputs)
            and list(labels) == list(self._names or ())
        ):
            labels = labels[self._names[0]]  # Keras takes labels by name only if the outputs have names or are several
        losses = LossOfOutputs(self.loss, self._weights, self._names, examples)
        losses(labels, outputs, sample_weight)
        is_single = not keras.tree.is_nested(labels) and not keras.tree.is_nested(outputs)
        return losses.items[:1] if is_single else losses.items  # of several losses of one output, Keras uses the first

    def _whole(self, labels: Any, outputs: Any, sample_weight: Any, examples: Any) -> list[Item]:
        call = self.loss.call if isinstance(self.loss, keras.losses.Loss) else self.loss
        values = tf.convert_to_tensor(call(_all_known(labels, outputs), outputs))
        values = tf.cast(values, keras.config.floatx())
        if values.shape.rank and values.shape[0] not in (None, tf.get_static_value(examples)):
            raise TypeError(f"it returned losses of shape {values.shape}, not a loss for each example")
        if sample_weight is not None:
            weight = tf.reshape(tf.cast(sample_weight, values.dtype), [-1, *[1] * max((values.shape.rank or 1) - 1, 0)])
            values = values * weight
        return [mean_of_examples(values, examples)]


def _all_known(labels: Any, outputs: Any) -> Any:
    """Return the labels of several outputs, each of which is checked where it has numbers of classes."""
    checked_labels = keras.tree.flatten(labels)
    for place, (label, output) in enumerate(zip(checked_labels, keras.tree.flatten(outputs), strict=False)):
        known = known_labels(label, output) if are_classes(label, output) else None
        if known is not None:
            checked_labels[place] = all_known(label, known, output)
    return keras.tree.pack_sequence_as(labels, checked_labels)


class LossOfOutputs(CompileLoss):  # type: ignore[misc]
    """Keras' losses of outputs, which notes the items of each instead of adding up their means.

    Attributes:
        items: The items of each output, once it was called.
    """

    def __init__(self, loss: Any, loss_weights: Any, names: Any, examples: Any) -> None:
        super().__init__(loss, loss_weights, output_names=names)
        self.items: list[Item] = []
        self._examples = examples
        self._found: list[Any] = []
        self._flat_losses: list[Any] = []

    def _build_nested(self, *args: Any) -> None:
        super()._build_nested(*args)
        self._found += self._flat_losses  # Keras makes a metric for each loss that it finds in the attribute
        self._flat_losses = []

    def build(self, y_true: Any, y_pred: Any) -> None:
        """Find the loss of each output."""
        super().build(y_true, y_pred)
        self._flat_losses = [part._replace(loss=self._noting(part), loss_weights=None) for part in self._found]

    @property
    def metrics(self) -> list[Any]:
        """None for each loss, instead of a metric."""
        return [None] * len(self._found)

    def _noting(self, part: Any) -> Callable[..., Any]:
        def note(labels: Any, outputs: Any, sample_weight: Any) -> Any:
            item = item_of(part.loss, labels, outputs, sample_weight, self._examples)
            self.items.append(item._replace(factor=part.loss_weights, name=f"{part.name}_loss"))
            return tf.zeros((), self.dtype)

        return note


def _averaged(item: Item) -> Item:
    """Return unreduced losses as losses of examples, whose mean counts."""
    return item._replace(reduction=MEAN) if item.reduction == UNREDUCED else item


def compiled_objective(model: Any) -> Objective | None:
    """Return the compiled loss of ``model``; None without one."""
    loss = getattr(model, "loss", None)
    if loss is None:
        return None
    return Objective(loss, compiled_loss_weights(model), getattr(model, "output_names", None), is_compiled=True)


def check_weights(loss_weights: Mapping[str, Any], names: list[str]) -> None:
    """Raise ArgumentError if ``loss_weights`` has another name than the losses; Keras takes it for one of these."""
    unknown = [name for name in loss_weights if name not in names]
    if unknown:
        allowed = f"a weight for each of {', '.join(map(repr, names))}.{did_you_mean(str(unknown[0]), names)}"
        raise ArgumentError("loss_weights", dict(loss_weights), allowed)


def checked(loss: Any) -> Any:
    """Return a loss that the user gave to the trainer, with each name and configuration as a loss of Keras.

    Raises:
        TracksideTypeError: If it is not a loss.
        ArgumentError: If Keras has no loss of that name.
    """
    if isinstance(loss, str) or (isinstance(loss, Mapping) and "class_name" in loss):
        try:
            found = keras.losses.get(loss)
        except ValueError:
            if str(loss).lower() in ("crossentropy", "ce"):  # Keras chooses one by the shapes
                return loss
            known = [item for item in dir(keras.losses) if not item.startswith("_")]
            allowed = f"the name of a loss of Keras.{did_you_mean(str(loss), known)}"
            raise ArgumentError("loss_fn", loss, allowed) from None
        return found if isinstance(found, keras.losses.Loss) else FunctionLoss(found, name=str(loss))
    if isinstance(loss, Mapping):
        return {name: part if part is None else checked(part) for name, part in loss.items()}
    if isinstance(loss, (list, tuple)):
        return type(loss)(part if part is None else checked(part) for part in loss)
    if isinstance(loss, type):
        raise TracksideTypeError(f"loss_fn is an instance of a Keras loss, not the class: {loss.__name__}()")
    if not callable(loss) or type(loss).__module__.split(".")[0] == "torch":
        raise TracksideTypeError(f"loss_fn is a Keras loss, its name or a function, not {type(loss).__name__}")
    check_call("loss_fn", loss, "labels", "outputs")
    return loss
