"""What a trainer makes of a batch, in words: its examples, labels, loss and items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from trackside.callbacks._util.display import Report

from ...train_step import StepContext
from ..loss import as_mean_and_weight
from ..precision.eval_mode import eval_mode
from .first_loss import unknown
from .items import ItemCounter
from .misfit import in_words
from .several import as_one_loss, means_and_weights


@dataclass(frozen=True)
class BatchExplanation:
    """What a trainer found out about a batch; printed, it is a table.

    Attributes:
        batch: The tensors of the batch.
        examples: Number of examples.
        labels: The labels in it.
        withheld: What of the batch the model does not get.
        loss: The loss, and where it is from.
        items: The number of items in the mean, and how it is known.
        doubt: Why the number may be wrong; empty if it is known.
        mixing: How the loss compares the examples of a batch with each other; empty if it is not known to.
    """

    batch: str
    examples: int
    labels: str
    withheld: str
    loss: str
    items: str
    doubt: str
    mixing: str

    def __repr__(self) -> str:
        shown = {item.name: getattr(self, item.name) for item in fields(self)}
        return "\n".join(f"{name:10}{value}" for name, value in shown.items() if value != "")

    def _repr_html_(self) -> str:
        return Report(self)._repr_html_()


def explain_batch(trainer: Any, step: Any, inputs: Any) -> BatchExplanation:
    """Return what the trainer makes of a batch, on the device; the model is called once, in evaluation mode."""
    model_io, precision = step.model_io, step.precision
    counter = ItemCounter(trainer, model_io, lambda part: as_one_loss(step.loss_of(trainer.model, part)))
    interrupted, past = step.context, model_io.past
    step.context = StepContext(count=2)
    try:
        with eval_mode(trainer.model, None), torch.enable_grad(), precision.forward():
            result = step.loss_of(trainer.model, inputs)
            if type(result) is dict:  # of several optimizers
                loss, weight = as_one_loss(result), counter.common_weight(*means_and_weights(result.values()), inputs)
            else:
                loss, weight = as_mean_and_weight(result)
            found = counter.find(loss, inputs, weight)
    finally:
        step.context, model_io.past = interrupted, past
    return BatchExplanation(
        batch=in_words(inputs),
        examples=model_io.examples_in(inputs),
        labels=_labels(model_io, inputs),
        withheld=_withheld(model_io, trainer, inputs),
        loss=f"{float(loss.detach()):g}, {_source(trainer, step, inputs)}",
        items=found.items,
        doubt=unknown(found.doubt) if found.doubt else "",
        mixing=found.mixing,
    )


def _labels(model_io: Any, inputs: Any) -> str:
    labels = model_io.labels_of(inputs)
    if labels is None:
        return f"none (they are named {', '.join(model_io.label_names)}, or the last of a tuple)"
    if isinstance(inputs, Mapping):
        return in_words({name: inputs[name] for name in model_io.label_names if inputs.get(name) is not None})
    return f"the last of the tuple, {in_words(labels)}"


def _withheld(model_io: Any, trainer: Any, inputs: Any) -> str:
    if not isinstance(inputs, Mapping):
        return "the labels" if trainer.loss_fn is not None and model_io.labels_of(inputs) is not None else ""
    return ", ".join(name for name in inputs if name in model_io.withheld)


def _source(trainer: Any, step: Any, inputs: Any) -> str:
    if "compute_loss" in step.overrides:
        return f"by {type(trainer).__name__}.compute_loss"
    if step.model_io.labels_of(inputs) is not None:
        if trainer.loss_fn is not None:
            return f"by loss_fn(outputs, labels), {_name(trainer.loss_fn)}"
        if trainer.args.label_smoothing_factor > 0:
            return "the cross entropy with label smoothing"
    return "the loss in the outputs of the model"


def _name(function: Any) -> str:
    return getattr(function, "__name__", None) or type(function).__name__
