"""Checks of what the constructor of a trainer gets: names of arguments, and values in the wrong place."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from trackside.callbacks._util.deprecation import Deprecation
from trackside.callbacks.errors import CallbackError, TracksideTypeError, did_you_mean

from ..optim.given import check_given
from .base import BaseTrainingArguments
from .coercion import check_set, converted

P = ParamSpec("P")
Self = TypeVar("Self")
Args = TypeVar("Args", bound=BaseTrainingArguments)

INSTEAD = {
    "peft_config": "give the model that peft.get_peft_model returns",
    "max_seq_length": "cut the examples in data_collator",
}
"""Arguments of other trainers, with the alternatives here."""


def names_arguments(
    constructor: Callable[Concatenate[Self, P], None],
) -> Callable[Concatenate[Self, P], None]:
    """Return a constructor that names the nearest argument in its error for an unknown one."""
    known = [name for name in inspect.signature(constructor).parameters if name != "self"]

    @functools.wraps(constructor)
    def checked(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        for name in kwargs.keys() - known:
            raise TracksideTypeError(f"{type(self).__name__}() has no argument {name!r}{_advice(name, known)}")
        constructor(self, *args, **kwargs)

    return checked


def _advice(name: str, known: Sequence[str]) -> str:
    if name in INSTEAD:
        return f": {INSTEAD[name]}"
    if name in {item.name for item in dataclasses.fields(BaseTrainingArguments)}:
        return ": it is a field of the training arguments, args"
    return f".{did_you_mean(name, known)}"


def arguments_of(args: Args | None, wanted: type[Args]) -> Args:
    """Return ``args``, or the default arguments.

    Raises:
        TracksideTypeError: If ``args`` are not of the class ``wanted``.
        ArgumentError: If a field was set to what it does not allow.
    """
    args = wanted() if args is None else args
    if not isinstance(args, wanted):
        raise TracksideTypeError(f"args needs {wanted.__name__}; it got {type(args).__name__}")
    check_set(args)
    return args


MODEL_PATH = Deprecation(
    name="train(model_path=...)", instead="resume_from_checkpoint", since="0.1.0", removed_in="1.0.0"
)


def resume_argument(resume_from_checkpoint: Any, others: Mapping[str, Any]) -> Any:
    """Return the ``resume_from_checkpoint`` of train(), which may be given under its former name ``model_path``.

    Raises:
        TracksideTypeError: If train() does not take the argument; the message has the nearest.
        ArgumentError: If the value is not one of the field of that name.
    """
    for name in others:
        if name != "model_path":
            near = did_you_mean(name, ["resume_from_checkpoint", "trial"])
            raise TracksideTypeError(f"train() has no argument {name!r}.{near}")
    if "model_path" in others:
        MODEL_PATH.warn(stacklevel=2)
    given = others.get("model_path") if resume_from_checkpoint is None else resume_from_checkpoint
    return None if given is None else converted(BaseTrainingArguments, "resume_from_checkpoint", given)


def check_parts(callbacks: Any, optimizers: Any, model_init: Any) -> None:
    """Check the arguments that the trainers share.

    Raises:
        CallbackError: If callbacks are not a list of callbacks.
        TracksideTypeError: If optimizers are not a pair.
        ArgumentError: If there are some beside model_init.
    """
    check_callbacks(callbacks)
    check_pair(optimizers)
    check_given(optimizers, model_init)


def check_callbacks(callbacks: Any) -> None:
    """Check that callbacks are a list.

    Raises:
        CallbackError: If not.
    """
    if callbacks is None:
        return
    if isinstance(callbacks, (str, type, Mapping)) or not hasattr(callbacks, "__iter__"):
        what = repr(callbacks) if isinstance(callbacks, (str, type)) else type(callbacks).__name__
        hint = "; names with options go into the training arguments" if isinstance(callbacks, (str, Mapping)) else ""
        raise CallbackError(f"callbacks is a list of callbacks, not {what}{hint}")


def check_pair(optimizers: Any) -> None:
    """Check that optimizers are a pair.

    Raises:
        TracksideTypeError: If not.
    """
    if not isinstance(optimizers, (tuple, list)) or len(optimizers) != 2:
        found = f"{len(optimizers)} values" if isinstance(optimizers, (tuple, list)) else type(optimizers).__name__
        raise TracksideTypeError(f"optimizers is a pair, (optimizer, schedule), each of which may be None; not {found}")
    for part in optimizers:
        if isinstance(part, type):
            raise TracksideTypeError(f"optimizers has the class {part.__name__}; give an instance of it")
    if inspect.isroutine(optimizers[0]) or isinstance(optimizers[0], functools.partial):
        raise TracksideTypeError(
            "optimizers has a function; give the optimizer that it makes, or override create_optimizer"
        )
