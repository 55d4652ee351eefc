"""Functions that a user gives: whether they can be called as they will be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Any

from trackside.callbacks._util.signatures import misfit, parameters_of, signature_of
from trackside.callbacks.errors import TracksideTypeError

METRIC = ". Give a function of an EvalPrediction, such as lambda p: {'name': metric(p.predictions, p.label_ids)}"


def check_call(
    name: str, function: Any, *values: str, keywords: Sequence[str] = (), makes_objects: bool = False
) -> None:
    """Check that a function that a user gave can be called as it will be; None is not checked.

    Args:
        name: The argument that it was given as.
        values: Names of the values that it gets by position, for the message.
        keywords: Names of those that it gets by keyword.
        makes_objects: Whether it may return any object, so that it may be a class, unless its instances are called.

    Raises:
        TracksideTypeError: If not; the message has what it is called with, and what it takes.
    """
    if function is None:
        return
    call = f"{name}({', '.join([*values, *(f'{each}=...' for each in keywords)])})"
    if not callable(function):
        hint = ""
        if not isinstance(function, str) and (hasattr(function, "__getitem__") or hasattr(function, "__iter__")):
            hint = ". Give datasets by name: train_dataset=..., eval_dataset=..."
        raise TracksideTypeError(f"{name} is a function, {call}, not {type(function).__name__}{hint}")
    is_called = isinstance(function, type) and any("__call__" in vars(base) for base in function.__mro__)
    if isinstance(function, type) and (is_called or not makes_objects):
        raise TracksideTypeError(f"{name} is a function or an instance, not the class: {function.__name__}()")
    reason = misfit(function, len(values), keywords)
    if reason and misfit(function, len(values), (*keywords, "compute_result")):
        which = getattr(function, "__qualname__", None) or type(function).__name__
        hint = METRIC if name == "compute_metrics" else ""
        raise TracksideTypeError(
            f"{name} is called as {call}, and {which} takes {parameters_of(function)}: {reason}{hint}"
        )


FUNCTIONS = {
    "compute_metrics": ("prediction",),
    "data_collator": ("examples",),
    "loss_items_fn": ("batch",),
    "preprocess_logits_for_metrics": ("logits", "labels"),
}
"""Functions that a trainer has of its user, with the values that each gets."""


def check_functions(trainer: Any) -> None:
    """Check the functions that a trainer has now, given at its construction or set since.

    Raises:
        TracksideTypeError: If one cannot be called as it will be.
    """
    for name, values in FUNCTIONS.items():
        check_call(name, getattr(trainer, name, None), *values, makes_objects=name == "data_collator")
    make = trainer.model_init
    check_call("model_init", make, *(["trial"] if callable(make) and takes_trial(make) else []))


def takes_trial(model_init: Callable[..., Any]) -> bool:
    """Return whether ``model_init`` takes an argument; keyword-only arguments do not count.

    Example:
        >>> takes_trial(lambda: None), takes_trial(lambda trial: None), takes_trial(lambda *, hidden=8: None)
        (False, True, False)
    """
    by_place = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL}
    signature = signature_of(model_init)
    return signature is not None and any(item.kind in by_place for item in signature.parameters.values())
