"""Calling a model on a batch, and finding its labels and items."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from trackside.callbacks.errors import TracksideTypeError

from ..overrides import Overrides
from ._torch_util import operations_in, signature_of, unwrap
from .batches.calling import explain_call
from .batches.example_counter import ExampleCounter
from .batches.label_rule import LabelRule
from .batches.model_outputs import loss_or_none, output_at


class ModelIO:
    """Inputs and outputs of a trainer's model and of an overridden compute_loss, inspected once before the steps.

    Args:
        trainer: Has model, ``loss_fn`` and ``args``.
        overrides: The documented methods that the trainer overrides.

    Attributes:
        model: The user's own model, without wrappers.
        label_names: Names of the labels in a batch that is a dict.
        rule: The rule by which labels count in the mean loss; corrected by `inspection` once a loss was computed.
        ignored_outputs: Names of outputs that are not predictions.
        loss_takes_outputs, loss_takes_items: Whether compute_loss takes ``return_outputs``, and whether an overridden
            one takes ``num_items_in_batch``.
        has_own_loss: Whether compute_loss is overridden.
        computes_loss: Whether the model takes labels and may compute its loss.
        withheld: Names that the model does not get if the trainer computes the loss.
        flos_of, counts_flos: Counts the floating point operations of a batch; whether they are counted.
        past, examples_in: The memory of ``past_index``, and a function from a batch to its number of examples.
    """

    def __init__(self, trainer: Any, overrides: Overrides) -> None:
        self._trainer = trainer
        self._overrides = overrides
        self.examples_in: ExampleCounter = ExampleCounter(trainer)
        self._rule_of: tuple[int, int] = (0, 0)
        self.inspect()

    def inspect(self) -> None:
        """Inspect the trainer's current model; reset the memory of ``past_index``."""
        trainer, args = self._trainer, self._trainer.args
        self.model: nn.Module = nn.Module() if trainer.model is None else unwrap(trainer.model)
        model = self.model
        config = getattr(model, "config", None)
        names, takes_any = forward_parameters(model)
        is_qa = "QuestionAnswering" in type(model).__name__
        usual = ["start_positions", "end_positions"] if is_qa else ["labels"]
        self.label_names: list[str] = args.label_names or usual
        makes_inputs = bool(getattr(config, "is_encoder_decoder", False))  # from the labels
        withhold = trainer.loss_fn is not None or (args.label_smoothing_factor > 0 and not makes_inputs)
        self._not_taken = [name for name in self.label_names if name not in names and not takes_any]
        self.has_own_loss: bool = "compute_loss" in self._overrides
        self.computes_loss: bool = not (trainer.loss_fn is not None or self.has_own_loss or self._not_taken)
        self.withheld: list[str] = [*self._not_taken, *(self.label_names if withhold else ())]
        self._find_rule(model)
        self.ignored_outputs: list[str] = list(getattr(config, "keys_to_ignore_at_inference", []))
        parameters = inspect.signature(trainer.compute_loss).parameters
        takes_all = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
        self.loss_takes_outputs: bool = "return_outputs" in parameters or takes_all
        self.loss_takes_items: bool = self.has_own_loss and ("num_items_in_batch" in parameters or takes_all)
        self.flos_of: Callable[[Any], int] | None = operations_in(model)
        self.counts_flos: bool = "floating_point_ops" in self._overrides or self.flos_of is not None
        self.past: Any = None

    def _find_rule(self, model: nn.Module) -> None:
        """Begin with the rule that model and loss declare, unless there is one for them."""
        loss_fn = self._trainer.loss_fn
        if self._rule_of != (id(model), id(loss_fn)):
            self._rule_of = (id(model), id(loss_fn))
            self.rule: LabelRule = LabelRule.declared_by(model, loss_fn)

    def call(self, model: nn.Module, inputs: Any, *, with_labels: bool) -> Any:
        """Call the model, with labels if it takes them, and with the memory of ``past_index``."""
        withheld = self._not_taken if with_labels else self.withheld
        index = self._trainer.args.past_index
        if index >= 0 and self.past is not None and isinstance(inputs, Mapping):
            inputs = {**inputs, "mems": self.past}
        try:
            outputs = call_model(model, inputs, withhold=withheld, with_labels=with_labels)
        except TypeError as error:
            self._explain_labels(inputs, error, with_labels=with_labels)
            raise
        if index >= 0:
            lacks_loss = self._trainer.loss_fn is None and loss_or_none(outputs) is None
            self.past = output_at(outputs, index - 1 if lacks_loss else index)
        return outputs

    def _explain_labels(self, inputs: Any, error: TypeError, *, with_labels: bool) -> None:
        """Raise TracksideTypeError if the model does not take the last of a tuple, which a loss_fn would get."""
        if not with_labels or self._trainer.loss_fn is not None or not isinstance(inputs, (tuple, list)):
            return
        if takes(self.model, inputs[:-1]) and not takes(self.model, inputs):
            raise TracksideTypeError(
                f"{type(self.model).__name__} has no loss: it takes {len(inputs) - 1} of the {len(inputs)} parts of "
                "the batch, without the labels, the last. Give the trainer loss_fn=..., which is called as "
                "loss_fn(outputs, labels), or override compute_loss"
            ) from error

    def labels_of(self, inputs: Any) -> Any:
        """Return the labels in a batch: by name in a dict or an object, last in a tuple; None if there are none."""
        if isinstance(inputs, (tuple, list)):
            return inputs[-1] if len(inputs) > 1 else None
        is_map = isinstance(inputs, Mapping)
        named = [inputs.get(name) if is_map else getattr(inputs, name, None) for name in self.label_names]
        found = tuple([label for label in named if label is not None])
        return None if not found else found[0] if len(found) == 1 else found

    def count_items(self, inputs: Any) -> Any:
        """Return the number of items in the mean loss of a batch."""
        return self.rule.count(self.labels_of(inputs), inputs, self.examples_in)


def takes(model: nn.Module, inputs: Sequence[Any]) -> bool:
    """Return whether the signature of ``model.forward`` takes ``inputs`` by position."""
    try:
        signature_of(model).bind(*inputs)
    except TypeError:
        return False
    return True


def forward_parameters(model: nn.Module) -> tuple[list[str], bool]:
    """Return the argument names of ``model.forward``, and whether it takes any other names."""
    parameters = signature_of(model).parameters
    names = [name for name, item in parameters.items() if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)]
    return names, any(item.kind is item.VAR_KEYWORD for item in parameters.values())


# -- the call ---------------------------------------------------------------------------------------------------------


def call_model(model: nn.Module, batch: Any, *, withhold: Sequence[str] = (), with_labels: bool) -> Any:
    """Call the model on a batch: a dict by keyword, a tuple by position, its last part only ``with_labels``.

    Raises:
        TracksideTypeError: If its forward does not accept the entries of the batch; the message has both.
    """
    inputs: tuple[Any, ...] = ()
    named: dict[str, Any] = {}
    if isinstance(batch, (tuple, list)):
        inputs = tuple(batch if with_labels or len(batch) == 1 else batch[:-1])
    elif isinstance(batch, Mapping):
        named = {name: value for name, value in batch.items() if name not in withhold}
    else:
        inputs = (batch,)
    try:
        return model(*inputs, **named)
    except TypeError as error:
        explain_call(error, model, inputs, named)
        raise
