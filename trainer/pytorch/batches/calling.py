"""Errors of batches whose fields are not those that a model's forward takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from trackside.callbacks.errors import TracksideTypeError, did_you_mean

from .._torch_util import signature_of, unwrap


def explain_call(error: TypeError, model: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Raise TracksideTypeError if ``error`` is due to the arguments, and was not raised inside the model."""
    forward = signature_of(model)
    try:
        forward.bind(*inputs, **named)
    except TypeError as misfit:
        taken = [name for name in forward.parameters if name != "kwargs"]
        wrong = next((name for name in named if name not in taken), None)
        near = did_you_mean(wrong, [name for name in taken if name not in named]) if wrong else ""
        if type(unwrap(model)).forward is nn.Module.forward:
            raise TracksideTypeError(
                f"{type(unwrap(model)).__name__} has no forward, and cannot be called; give the trainer a model that "
                "has one, or override compute_loss"
            ) from error
        held = f"{', '.join(named)} by name" if named else f"{len(inputs)} values by position"
        raise TracksideTypeError(
            f"{type(unwrap(model)).__name__}.forward({', '.join(taken)}) was given {held}: {misfit}.{near} "
            f"{_cure(str(misfit), wrong)}"
        ) from error


def _cure(misfit: str, unknown: str | None) -> str:
    """Return what to do about inputs that do not fit the signature of a forward, or of which one is unknown to it."""
    if "missing" in misfit and unknown is None:
        return (
            "It takes what the batch has: a field that is missing there is not in the examples, or the data_collator "
            "leaves it out, as default_data_collator does with texts and None"
        )
    if "positional only" in misfit:
        return "Fields of a dict are given by name: give tuples, which are given by position, or override compute_loss"
    return (
        "loss_fn=... holds labels back from the model: the last of a tuple, or what is called 'labels' or stands in "
        "args.label_names. Anything else a data_collator can drop or rename"
    )
